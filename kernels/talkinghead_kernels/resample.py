"""Resampling folded into the weights of the convolution beside it: exact, and fewer multiplications.

    nearest x2, conv 3x3      = transposed convolution 4x4, stride 2, padding 1, with the box-summed, flipped kernel
    conv 3x3, average-pool 2  = convolution 4x4, stride 2, padding 1, with the box-summed kernel / 4
    1x1 convolutions commute with both and run at the lower resolution

The box sum adds the kernel to its copies shifted by one row, one column and both.
"""

import torch.nn.functional as F
from torch import Tensor


def upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """conv(nearest_x2(x)), same padding.

    Args:
        x: [B, C, H, W].
        weight: [out, C, k, k], k = 1 or 3.
        bias: [out] or None.

    Returns:
        [B, out, 2H, 2W].

    Raises:
        ValueError: the kernel is neither 1x1 nor 3x3.
    """
    if _kernel("upsample_conv", weight) == 1:
        return F.interpolate(F.conv2d(x, weight, bias), scale_factor=2.0, mode="nearest")
    folded = _box_sum(weight).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(x, folded, bias, stride=2, padding=1)


def conv_downsample(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """average_pool_2x2(conv(x)), same padding.

    Args:
        x: [B, C, H, W], H and W even.
        weight: [out, C, k, k], k = 1 or 3.
        bias: [out] or None.

    Returns:
        [B, out, H/2, W/2].

    Raises:
        ValueError: the kernel is neither 1x1 nor 3x3, or H or W is odd.
    """
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise ValueError(f"conv_downsample: x must have even height and width, got {list(x.shape)}")
    if _kernel("conv_downsample", weight) == 1:
        return F.conv2d(F.avg_pool2d(x, 2), weight, bias)
    return F.conv2d(x, _box_sum(weight) / 4, bias, stride=2, padding=1)


def _box_sum(weight: Tensor) -> Tensor:
    rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))


def _kernel(op: str, weight: Tensor) -> int:
    if weight.dim() != 4 or tuple(weight.shape[2:]) not in ((1, 1), (3, 3)):
        raise ValueError(f"{op}: weight must be [out, in, 1, 1] or [out, in, 3, 3], got {list(weight.shape)}")
    return weight.shape[2]
