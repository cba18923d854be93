"""The formula of `adain` and of its gradients in plain torch."""

import torch
from torch import Tensor

from .formats import memory_format_of, stats_dtype


def adain_reference(
    x: Tensor, scale: Tensor, bias: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y in x's memory format, mean and rstd, by the formula in plain torch."""
    y, mean, rstd = adain_formula(x, scale, bias, eps, relu)
    return y.contiguous(memory_format=memory_format_of(x)), mean, rstd


def adain_formula(
    x: Tensor, scale: Tensor, bias: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y in any memory format, mean and rstd, differentiable any number of times."""
    # Group norm with one group per plane computes the statistics in one two-pass op.
    batch, channels, height, width = x.shape
    values = x.to(stats_dtype(x))
    planes = values.reshape(1, batch * channels, height * width).contiguous()
    _, mean, rstd = torch.native_group_norm(
        planes, None, None, 1, batch * channels, height * width, batch * channels, eps
    )
    mean, rstd = mean.view(batch, channels), rstd.view(batch, channels)
    # Its own result, scale * h + (bias - scale * mean), is wrong if the mean is far larger than the spread.
    distance = values - mean[:, :, None, None]
    y = torch.addcmul(
        bias.to(values.dtype)[..., None, None], distance, (scale.to(values.dtype) * rstd)[..., None, None]
    )
    return (torch.relu(y) if relu else y).to(x.dtype), mean, rstd


def adain_backward_reference(
    grad_y: Tensor,
    grad_h: Tensor | None,
    h: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of h, in its memory format, scale [B, C] and bias [B, C].

    With n the normalised plane and g the gradient before the affine:
    dh = rstd * scale * (g - mean(g) - n * mean(g * n)).
    """
    grad_x, grad_scale, grad_bias = adain_backward_formula(
        grad_y, grad_h, h, scale=scale, bias=bias, mean=mean, rstd=rstd, relu=relu
    )
    return grad_x.contiguous(memory_format=memory_format_of(h)), grad_scale, grad_bias


def adain_backward_formula(
    grad_y: Tensor,
    grad_h: Tensor | None,
    h: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of h, in any memory format, scale [B, C] and bias [B, C]."""
    dtype = stats_dtype(h)
    mean, rstd, scale, bias = (
        v.to(dtype).expand(h.shape[:2])[:, :, None, None] for v in (mean, rstd, scale, bias)
    )
    normalised = (h.to(dtype) - mean) * rstd
    g = grad_y.to(dtype)
    if relu:
        g = torch.where(normalised * scale + bias <= 0, 0, g)
    grad_bias = g.sum((2, 3), keepdim=True)
    grad_scale = (g * normalised).sum((2, 3), keepdim=True)
    area = h.shape[2] * h.shape[3]
    grad_x = rstd * scale * (g - grad_bias / area - normalised * (grad_scale / area))
    if grad_h is not None:
        grad_x = grad_x + grad_h.to(dtype)
    return grad_x.to(h.dtype), grad_scale[:, :, 0, 0], grad_bias[:, :, 0, 0]
