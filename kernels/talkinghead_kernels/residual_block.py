"""The pre-activation residual block of the paper, composed of the other ops.

norm -> act -> [nearest x2] -> conv3x3 -> norm -> act -> conv3x3 -> [average-pool 2], plus the shortcut
[nearest x2] -> conv1x1 -> [average-pool 2], or the identity; nothing after the sum.

Between two blocks the sum needs no pass of its own: a block can return its two terms (`return_sum=False`),
and the next block, which takes the second as `residual`, adds them in the pass of its first norm.
"""

import torch.nn.functional as F
from torch import Tensor

from .adain import adain
from .packed_conv import conv2d
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
    residual: Tensor | None = None,
    return_sum: bool = True,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute a residual block.

    Args:
        x: [B, in, H, W].
        conv1, conv2: weight [out, in, 3, 3] and [out, out, 3, 3], each with its bias or None.
        shortcut: weight [out, in, 1, 1] and its bias; None is the identity.
        norm1, norm2: affine of the norm before each convolution; None omits the norm.
        resample: None, "up" (x2) or "down" (/2).
        first: omit the leading norm and activation, as in the first block of each network.
        negative_slope: 0 is ReLU, else LeakyReLU.
        eps: added to the variances of the norms.
        residual: like x; the block's input is x + residual.
        return_sum: False returns the two terms of the result instead of their sum.

    Returns:
        [B, out, H', W'], or two such tensors.

    Raises:
        ValueError: `resample` is unknown, or a shape does not fit.
    """
    if resample not in (None, "up", "down"):
        raise ValueError(f"residual_block: resample must be None, 'up' or 'down', got {resample!r}")
    x, h = _norm_and_activate(
        x, residual, None if first else norm1, activate=not first, negative_slope=negative_slope, eps=eps
    )
    h = upsample_conv(h, *conv1) if resample == "up" else conv2d(h, *conv1, padding=1)
    _, h = _norm_and_activate(h, None, norm2, activate=True, negative_slope=negative_slope, eps=eps)
    h = conv_downsample(h, *conv2) if resample == "down" else conv2d(h, *conv2, padding=1)
    if shortcut is not None and resample == "up":
        x = upsample_conv(x, *shortcut)
    elif shortcut is not None:
        x = conv_downsample(x, *shortcut) if resample == "down" else conv2d(x, *shortcut)
    return h + x if return_sum else (h, x)


def _norm_and_activate(
    x: Tensor, residual: Tensor | None, norm: Affine | None, activate: bool, negative_slope: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Return x + residual, and the same after norm and activation."""
    if norm is not None:
        relu = "relu" if activate and negative_slope == 0 else None
        if residual is None:
            h = adain(x, *norm, eps=eps, activation=relu)
        else:
            h, x = adain(x, *norm, eps=eps, activation=relu, residual=residual)
        activate = activate and relu is None
    else:
        h = x = x if residual is None else x + residual
    if activate:
        h = F.relu(h) if negative_slope == 0 else F.leaky_relu(h, negative_slope)
    return x, h
