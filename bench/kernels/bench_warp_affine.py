"""Turned squares of uint8 images against torch's grid_sample and torch.compile."""

import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels.warp_affine import warp_affine_reference

from bench.lib.harness import DEVICE, Case, by_backend, compiled, size

SIDES = {"crop of a face": (160, 128), "picture for detection": (160, 160)}
"""Sides of the images and of the results."""


@pytest.mark.skipif(DEVICE != "cpu", reason="the op is for CPUs")
@pytest.mark.parametrize("pictures", [1, 16])
@pytest.mark.parametrize("name", SIDES)
def test_warp_affine(bench, name, pictures):
    side, result_side = SIDES[name]
    images = [torch.randint(0, 256, (side, side, 3), dtype=torch.uint8) for _ in range(pictures)]
    transform = torch.tensor([[0.98, -0.2, 16.0], [0.2, 0.98, -16.0]], dtype=torch.float64)
    arguments = images, transform.expand(pictures, 2, 3).contiguous(), result_side
    reference = compiled(warp_affine_reference)
    with torch.inference_mode():
        expected = warp_affine_reference(*arguments)
        bench(
            Case(
                "warp_affine",
                "forward",
                name,
                pictures,
                torch.float32,
                size(*images, expected),
                (expected,),
                by_backend(ops.warp_affine, *arguments)
                | {
                    "baseline": lambda: warp_affine_reference(*arguments),
                    "compile": lambda: reference(*arguments),
                },
                tolerance=1e-5,
            )
        )
