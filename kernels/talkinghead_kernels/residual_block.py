"""The pre-activation residual block of the paper as one function of tensors, composed of the other ops.

norm -> act -> [nearest x2] -> conv3x3 -> norm -> act -> conv3x3 -> [average-pool 2], plus the shortcut
[nearest x2] -> conv1x1 -> [average-pool 2], or the identity; nothing after the sum.
"""

import torch.nn.functional as F
from torch import Tensor

from .adain import adain
from .resample import conv_downsample, upsample_conv

Affine = tuple[Tensor, Tensor]
"""Scale and bias of a norm: [B, C] each, or [C]."""
Weights = tuple[Tensor, Tensor | None]
"""Weight and bias of a convolution."""


def residual_block(
    x: Tensor,
    conv1: Weights,
    conv2: Weights,
    shortcut: Weights | None = None,
    norm1: Affine | None = None,
    norm2: Affine | None = None,
    resample: str | None = None,
    first: bool = False,
    negative_slope: float = 0.0,
    eps: float = 1e-4,
) -> Tensor:
    """One residual block.

    Args:
        x: [B, in, H, W].
        conv1, conv2: weight [out, in, 3, 3] and [out, out, 3, 3], each with its bias or None.
        shortcut: weight [out, in, 1, 1] and its bias; None is the identity.
        norm1, norm2: affine of the norm before each convolution; None leaves the norm out.
        resample: None, "up" (x2) or "down" (/2).
        first: leave out the leading norm and activation, as the first block of each network does.
        negative_slope: 0 is ReLU, else LeakyReLU.
        eps: of the norms.

    Returns:
        [B, out, H', W'].

    Raises:
        ValueError: `resample` is unknown, or a shape does not fit.
    """
    if resample not in (None, "up", "down"):
        raise ValueError(f"residual_block: resample must be None, 'up' or 'down', got {resample!r}")
    h = x if first else _activate(x, norm1, negative_slope, eps)
    h = upsample_conv(h, *conv1) if resample == "up" else F.conv2d(h, *conv1, padding=1)
    h = _activate(h, norm2, negative_slope, eps)
    h = conv_downsample(h, *conv2) if resample == "down" else F.conv2d(h, *conv2, padding=1)
    if shortcut is None:
        return h + x
    if resample == "up":
        return h + upsample_conv(x, *shortcut)
    return h + (conv_downsample(x, *shortcut) if resample == "down" else F.conv2d(x, *shortcut))


def _activate(x: Tensor, norm: Affine | None, negative_slope: float, eps: float) -> Tensor:
    if norm is not None:
        y = adain(x, *norm, eps=eps, activation="relu" if negative_slope == 0 else None)
        assert isinstance(y, Tensor)
        return y if negative_slope == 0 else F.leaky_relu(y, negative_slope)
    return F.relu(x) if negative_slope == 0 else F.leaky_relu(x, negative_slope)
