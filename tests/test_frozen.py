"""A frozen convolution is torch's own, and so is the gradient of its input."""

import copy

import pytest
import torch
import torch.nn.functional as F

from talkinghead.frozen import FrozenConvolution

CASES = {  # in, out, kernel, stride, padding, groups
    "pointwise": (12, 20, 1, 1, 0, 1),
    "full": (3, 16, 4, 2, 1, 1),
    "depthwise": (16, 16, 5, 1, 2, 16),
    "strided depthwise": (16, 16, 4, 2, 1, 16),
}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("clamp", [None, (0.0, 6.0)])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_torchs(case, clamp, mixed):
    inputs, outputs, kernel, stride, padding, groups = CASES[case]
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, inputs // groups, kernel, kernel), torch.randn(outputs)
    layer = FrozenConvolution(weight, bias, stride, padding, groups, clamp)
    x = torch.randn(2, inputs, 12, 10).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        found = layer(x)
        wanted = F.conv2d(x, weight, bias, stride, padding, groups=groups)
        wanted = wanted if clamp is None else F.hardtanh(wanted, *clamp)
    assert found.dtype == wanted.dtype == (torch.bfloat16 if mixed else torch.float32)
    near = {"atol": 0.15, "rtol": 0.02} if mixed else {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(found, wanted, **near)
    grad = torch.randn_like(found)
    mine, theirs = (torch.autograd.grad(y, x, grad)[0] for y in (found, wanted))
    if mixed:  # near a bound rounding decides whether a number counts
        assert (mine - theirs).norm() < 0.03 * theirs.norm()
    else:
        torch.testing.assert_close(mine, theirs, **near)
    assert mine.dtype == x.dtype and theirs.norm() > 1


def test_it_can_be_copied_after_use():
    layer = FrozenConvolution(torch.randn(8, 8, 3, 3), torch.randn(8), padding=1)
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(layer(x), copy.deepcopy(layer)(x), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in layer.parameters())
