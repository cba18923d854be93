import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels import conv_downsample, upsample_conv


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("height,width", [(1, 1), (2, 2), (5, 3), (8, 8)])
def test_upsample_conv_is_exact(kernel, height, width):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, height, width).double(), torch.randn(4, 3, kernel, kernel).double(), torch.randn(4).double()
    stock = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=kernel // 2)
    torch.testing.assert_close(upsample_conv(x, weight, bias), stock, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("height,width", [(2, 2), (6, 4), (8, 8)])
def test_conv_downsample_is_exact(kernel, height, width):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 3, height, width).double(), torch.randn(4, 3, kernel, kernel).double(), torch.randn(4).double()
    stock = F.avg_pool2d(F.conv2d(x, weight, bias, padding=kernel // 2), 2)
    torch.testing.assert_close(conv_downsample(x, weight, bias), stock, atol=1e-12, rtol=0)


@pytest.mark.parametrize("op", [upsample_conv, conv_downsample])
def test_gradient(op):
    x, weight = torch.randn(1, 2, 2, 2).double().requires_grad_(), torch.randn(2, 2, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(op, (x, weight))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"upsample_conv: weight must be"):
        upsample_conv(torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 5, 5))
    with pytest.raises(ValueError, match=r"conv_downsample: x must have even"):
        conv_downsample(torch.zeros(1, 2, 3, 4), torch.zeros(2, 2, 3, 3))
