"""Means of the votes of cells against torch and torch.compile, at the shapes of the landmark network."""

import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels.soft_argmax import soft_argmax_reference

from bench.lib.harness import DEVICE, Case, by_backend, compiled, size

MAPS = {"78 points @8": (78, 8, None), "10 points @32": (10, 32, 0.05)}
"""Points, cells in a row, and reach."""


@pytest.mark.skipif(DEVICE != "cpu", reason="the op is for CPUs")
@pytest.mark.parametrize("pictures", [1, 16])
@pytest.mark.parametrize("name", MAPS)
def test_soft_argmax(bench, name, pictures):
    count, cells, reach = MAPS[name]
    votes = torch.randn(pictures, 3 * count, cells, cells).to(memory_format=torch.channels_last)
    arguments = (votes,) if reach is None else (votes, torch.rand(pictures, count, 2), reach)
    reference = compiled(soft_argmax_reference)
    with torch.inference_mode():
        expected = soft_argmax_reference(*arguments)
        bench(
            Case(
                "soft_argmax",
                "forward",
                name,
                pictures,
                torch.float32,
                size(votes, expected),
                (expected,),
                by_backend(ops.soft_argmax, *arguments)
                | {
                    "baseline": lambda: soft_argmax_reference(*arguments),
                    "compile": lambda: reference(*arguments),
                },
            )
        )
