"""Adaptive instance normalisation (Huang and Belongie 2017).

    y[b, c] = activation(scale[b, c] * (h[b, c] - mean) / sqrt(var + eps) + bias[b, c]),   h = x [+ residual]

mean and (biased) var are over each plane h[b, c]. x [B, C, H, W]; scale, bias [B, C], or [C] for plain affine instance norm. Statistics
are fp32 (fp64 for fp64) whatever x is; the result has x's dtype and memory format.
"""

import torch
from torch import Tensor


def adain_reference(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The formula in plain torch, without activation. Group norm with one group a plane is one two-pass op, forward and backward."""
    batch, channels, height, width = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    planes = x.to(wide).reshape(1, batch * channels, height, width)
    flat_scale, flat_bias = (v.to(wide).expand(batch, channels).reshape(-1) for v in (scale, bias))
    y = torch.group_norm(planes, batch * channels, flat_scale, flat_bias, eps).view(x.shape).to(x.dtype)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        y = y.contiguous(memory_format=torch.channels_last)
    return y


def adain(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    eps: float = 1e-4,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Normalise each plane, apply a per-sample affine and an activation.

    Args:
        x: [B, C, H, W], floating point.
        scale, bias: [B, C], or [C] which is shared by the batch.
        eps: added to the variance.
        activation: None or "relu".
        residual: like x; h = x + residual is normalised, and returned too.

    Returns:
        y like x; with `residual`, (y, h).

    Raises:
        ValueError: a shape, dtype or activation is not as above.
    """
    _check(x, scale, bias, activation, residual)
    h = x if residual is None else x + residual
    y = adain_reference(h, scale, bias, eps)
    if activation == "relu":
        y = torch.relu(y)
    return y if residual is None else (y, h)


def _check(x: Tensor, scale: Tensor, bias: Tensor, activation: str | None, residual: Tensor | None) -> None:
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"adain: x must be a floating-point [B, C, H, W], got {x.dtype} {list(x.shape)}")
    for name, value in (("scale", scale), ("bias", bias)):
        if value.shape not in (x.shape[:2], x.shape[1:2]):
            raise ValueError(f"adain: {name} must be [B, C] = {list(x.shape[:2])} or [C], got {list(value.shape)}")
    if activation not in (None, "relu"):
        raise ValueError(f"adain: activation must be None or 'relu', got {activation!r}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"adain: residual must be like x, {list(x.shape)}, got {list(residual.shape)}")
