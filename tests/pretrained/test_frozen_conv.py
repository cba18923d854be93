"""Frozen convolutions and their input gradients compared with torch."""

import copy

import pytest
import torch
import torch.nn.functional as F

from talkinghead.pretrained.frozen_conv import FrozenConvolution

CASES = {  # in, out, kernel, stride, padding, groups
    "pointwise": (12, 20, 1, 1, 0, 1),
    "full": (3, 16, 4, 2, 1, 1),
    "depthwise": (16, 16, 5, 1, 2, 16),
    "strided depthwise": (16, 16, 4, 2, 1, 16),
}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("clamp", [None, (0.0, 6.0)])
@pytest.mark.parametrize("case", CASES)
def test_frozen_convolution_equals_torch(case, clamp, mixed):
    inputs, outputs, kernel, stride, padding, groups = CASES[case]
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, inputs // groups, kernel, kernel), torch.randn(outputs)
    layer = FrozenConvolution(weight, bias, stride, padding, groups, clamp)
    x = torch.randn(2, inputs, 12, 10).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        actual = layer(x)
        expected = F.conv2d(x, weight, bias, stride, padding, groups=groups)
        expected = expected if clamp is None else F.hardtanh(expected, *clamp)
    assert actual.dtype == expected.dtype == (torch.bfloat16 if mixed else torch.float32)
    near = {"atol": 0.15, "rtol": 0.02} if mixed else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(actual, expected, **near)
    grad = torch.randn_like(actual)
    actual_grad, expected_grad = (torch.autograd.grad(y, x, grad)[0] for y in (actual, expected))
    if mixed:  # near a bound rounding decides whether a number counts
        assert (actual_grad - expected_grad).norm() < 0.03 * expected_grad.norm()
    else:
        torch.testing.assert_close(actual_grad, expected_grad, **near)
    assert actual_grad.dtype == x.dtype and expected_grad.norm() > 1


def test_frozen_convolution_can_be_copied_after_use():
    layer = FrozenConvolution(torch.randn(8, 8, 3, 3), torch.randn(8), padding=1)
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(layer(x), copy.deepcopy(layer)(x), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
