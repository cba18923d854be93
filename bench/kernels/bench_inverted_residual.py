"""Inverted residual blocks of the landmark networks against torch.conv2d and torch.compile."""

import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels.inverted_residual import inverted_residual_reference

from bench.lib.harness import DEVICE, Case, by_backend, compiled, size

BLOCKS = {
    "24-48-24 k3 @32": (24, 48, 24, 3, 1, 32),
    "24-72-48 k3 /2 @32": (24, 72, 48, 3, 2, 32),
    "48-96-48 k3 @16": (48, 96, 48, 3, 1, 16),
    "48-192-96 k3 /2 @16": (48, 192, 96, 3, 2, 16),
    "96-288-96 k5 @8": (96, 288, 96, 5, 1, 8),
}
"""Channels in, in between and out, k, stride, side: the blocks of the landmark network."""


@pytest.mark.skipif(DEVICE != "cpu", reason="the op is for CPUs")
@pytest.mark.parametrize("pictures", [1, 16])
@pytest.mark.parametrize("block", BLOCKS)
def test_inverted_residual(bench, block, pictures):
    channels, wide, outputs, side, stride, height = BLOCKS[block]
    adds_input = stride == 1
    x = torch.randn(pictures, channels, height, height).to(memory_format=torch.channels_last)
    weights = ops.pack_inverted_residual(
        (torch.randn(wide, channels, 1, 1) / channels**0.5, torch.randn(wide)),
        (torch.randn(wide, 1, side, side) / side, torch.randn(wide)),
        (torch.randn(outputs, wide, 1, 1) / wide**0.5, torch.randn(outputs)),
    )
    baseline_weights = [
        weights.widen.t()[..., None, None].contiguous(),
        weights.filter.t().reshape(wide, 1, side, side).contiguous(),
        weights.narrow.t()[..., None, None].contiguous(),
    ]

    def baseline() -> torch.Tensor:
        widen, filter, narrow = baseline_weights
        y = torch.conv2d(x, widen, weights.widen_bias).relu_()
        y = torch.conv2d(y, filter, weights.filter_bias, stride, side // 2, groups=wide).relu_()
        y = torch.conv2d(y, narrow, weights.narrow_bias)
        return y.add_(x) if adds_input else y

    arguments = x, weights, stride, adds_input
    reference = compiled(inverted_residual_reference)
    with torch.inference_mode():
        expected = baseline()
        pixels = (height * height * channels, expected.shape[2] * expected.shape[3])
        bench(
            Case(
                "inverted_residual",
                "forward",
                block,
                pictures,
                torch.float32,
                size(x, expected),
                (expected,),
                by_backend(ops.inverted_residual, *arguments)
                | {"baseline": baseline, "compile": lambda: reference(*arguments)},
                flops=2 * pictures * wide * (pixels[0] + pixels[1] * (side * side + outputs)),
            )
        )
