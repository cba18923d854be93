import pytest
import talkinghead_kernels as ops
import torch
import torch.nn.functional as F

from talkinghead.training.throughput import count_flops, measure_peak_flops


def test_count_flops_of_convolution_and_gradient():
    x, weight = torch.randn(2, 8, 10, 12), torch.randn(16, 8, 3, 3, requires_grad=True)
    forward = 2 * 2 * 16 * 10 * 12 * 8 * 9
    result, counted = count_flops(lambda: F.conv2d(x, weight, padding=1))
    assert counted == forward and result.shape == (2, 16, 10, 12)
    point = ops.pack(weight[:, :, :1, :1], x.shape)
    assert count_flops(lambda: ops.conv2d(x, point))[1] == forward / 9
    packed = ops.pack(weight, x.shape, padding=1)
    tiles = 2 * 3 * 3
    expected = 2 * 36 * tiles * 16 * 8 if packed.dim() == 3 else forward  # Winograd's, where it is built
    assert count_flops(lambda: ops.conv2d(x, packed, padding=1))[1] == expected
    assert (
        count_flops(lambda: F.conv2d(x, weight, padding=1).sum().backward())[1] == 2 * forward
    )  # x asks for no gradient


def test_count_flops_of_attention():
    query, key, value = (torch.randn(2, n, c, requires_grad=True) for n, c in ((32, 4), (16, 4), (16, 8)))
    forward, backward = 2 * 2 * 32 * 16 * (4 + 8), 2 * 2 * 32 * 16 * (3 * 4 + 2 * 8)
    assert count_flops(lambda: ops.attention(query, key, value))[1] == forward
    assert count_flops(lambda: ops.attention(query, key, value).sum().backward())[1] == forward + backward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measure_peak_flops_is_plausible(dtype):
    assert 1e8 < measure_peak_flops(torch.device("cpu"), dtype) < 1e15
