import pytest
import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from talkinghead_kernels import convolution

DTYPES = [dtype for dtype, able in convolution._ABLE.items() if able()]
TOLERANCE = {dtype: {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02} for dtype in DTYPES}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (2, 1, 1), (3, 1, 1), (4, 2, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_weight_gives_what_torch_gives(dtype, kernel, stride, padding, bias):
    x = torch.randn(2, 24, 10, 14).to(dtype).to(memory_format=torch.channels_last)
    weight, offset = torch.randn(20, 24, kernel, kernel).to(dtype), torch.randn(20).to(dtype) if bias else None
    with ops.use_backend("reference"):  # else some would be packed for Winograd's
        packed = ops.pack(weight, x.shape, stride, padding)
    assert packed.is_mkldnn and packed.shape == weight.shape
    for given in (x, x[:1], x[:, :, :8, :6].contiguous(memory_format=torch.channels_last)):  # not only what it is packed for
        made = ops.conv2d(given, packed, offset, stride, padding)
        torch.testing.assert_close(made, F.conv2d(given, weight, offset, stride, padding), **TOLERANCE[dtype])
        assert made.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ops.conv2d(given, weight, offset, stride, padding), made, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clamp", [(0.0, 6.0), (0.0, float("inf"))])
def test_a_depthwise_convolution_and_a_clamp(dtype, clamp):
    x = torch.randn(2, 24, 10, 14).to(dtype).to(memory_format=torch.channels_last)
    weight, offset = 2 * torch.randn(24, 1, 3, 3).to(dtype), torch.randn(24).to(dtype)
    wanted = F.conv2d(x, weight, offset, 2, 1, groups=24).clamp(*clamp)
    assert wanted.min() == 0 and wanted.max() > 5
    for given in (weight, ops.pack(weight, x.shape, 2, 1, groups=24)):
        torch.testing.assert_close(ops.conv2d(x, given, offset, 2, 1, 24, clamp), wanted, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_packed_transposed_weight_gives_what_torch_gives(dtype):
    x = torch.randn(2, 24, 10, 14).to(dtype).to(memory_format=torch.channels_last)
    weight, offset = torch.randn(24, 20, 4, 4).to(dtype), torch.randn(20).to(dtype)
    packed = ops.pack(weight, x.shape, 2, 1, transposed=True)
    assert packed.is_mkldnn
    for given in (x, x[:1]):
        wanted = F.conv_transpose2d(given, weight, offset, 2, 1)
        torch.testing.assert_close(ops.conv_transpose2d(given, packed, offset, 2, 1), wanted, **TOLERANCE[dtype])
        torch.testing.assert_close(ops.conv_transpose2d(given, weight, offset, 2, 1), wanted, **TOLERANCE[dtype])


@pytest.mark.parametrize("why", ["no such build", "no such dtype"])
def test_where_nothing_can_be_packed_the_weight_stays(why, monkeypatch):
    weight = torch.randn(8, 8, 3, 3, dtype=torch.float64 if why == "no such dtype" else torch.float32)
    if why == "no such build":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert ops.pack(weight, (1, 8, 4, 4), 1, 1) is weight
