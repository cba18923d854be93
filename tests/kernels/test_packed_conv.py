import pytest
import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from talkinghead_kernels import packed_conv

DTYPES = [dtype for dtype, able in packed_conv._ONEDNN_SUPPORT.items() if able()]
TOLERANCE = {
    dtype: {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    for dtype in DTYPES
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (2, 1, 1), (3, 1, 1), (4, 2, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_weight_equals_torch(dtype, kernel, stride, padding, bias):
    x = torch.randn(2, 24, 10, 14).to(dtype).to(memory_format=torch.channels_last)
    weight, offset = (
        torch.randn(20, 24, kernel, kernel).to(dtype),
        torch.randn(20).to(dtype) if bias else None,
    )
    with ops.use_backend("reference"):  # else some would be packed for Winograd's
        packed = ops.pack(weight, x.shape, stride, padding)
    assert packed.is_mkldnn and packed.shape == weight.shape
    for maps in (
        x,
        x[:1],
        x[:, :, :8, :6].contiguous(memory_format=torch.channels_last),
    ):  # not only what it is packed for
        result = ops.conv2d(maps, packed, offset, stride, padding)
        torch.testing.assert_close(
            result, F.conv2d(maps, weight, offset, stride, padding), **TOLERANCE[dtype]
        )
        assert result.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(
            ops.conv2d(maps, weight, offset, stride, padding), result, **TOLERANCE[dtype]
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clamp", [(0.0, 6.0), (0.0, float("inf"))])
def test_depthwise_convolution_with_clamp(dtype, clamp):
    x = torch.randn(2, 24, 10, 14).to(dtype).to(memory_format=torch.channels_last)
    weight, offset = 2 * torch.randn(24, 1, 3, 3).to(dtype), torch.randn(24).to(dtype)
    expected = F.conv2d(x, weight, offset, 2, 1, groups=24).clamp(*clamp)
    assert expected.min() == 0 and expected.max() > 5
    for variant in (weight, ops.pack(weight, x.shape, 2, 1, groups=24)):
        torch.testing.assert_close(
            ops.conv2d(x, variant, offset, 2, 1, 24, clamp), expected, **TOLERANCE[dtype]
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_transposed_weight_equals_torch(dtype):
    x = torch.randn(2, 24, 10, 14).to(dtype).to(memory_format=torch.channels_last)
    weight, offset = torch.randn(24, 20, 4, 4).to(dtype), torch.randn(20).to(dtype)
    packed = ops.pack(weight, x.shape, 2, 1, transposed=True)
    assert packed.is_mkldnn
    for maps in (x, x[:1]):
        expected = F.conv_transpose2d(maps, weight, offset, 2, 1)
        torch.testing.assert_close(
            ops.conv_transpose2d(maps, packed, offset, 2, 1), expected, **TOLERANCE[dtype]
        )
        torch.testing.assert_close(
            ops.conv_transpose2d(maps, weight, offset, 2, 1), expected, **TOLERANCE[dtype]
        )


@pytest.mark.parametrize("why", ["no such build", "no such dtype"])
def test_unpackable_weight_is_returned_unchanged(why, monkeypatch):
    weight = torch.randn(8, 8, 3, 3, dtype=torch.float64 if why == "no such dtype" else torch.float32)
    if why == "no such build":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert ops.pack(weight, (1, 8, 4, 4), 1, 1) is weight
