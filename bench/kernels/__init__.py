"""Speed and memory of the ops: `pytest bench/kernels` from the root of the repository measures, `python -m
bench.lib.report FILE` prints.
"""
