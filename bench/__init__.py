"""Benchmarks: ops, networks, experiments and what needs a GPU; README.md says how each is run."""
