"""Adaptive instance normalisation (Huang and Belongie 2017).

    y[b, c] = activation(scale[b, c] * (h[b, c] - mean) * rstd + bias[b, c]),   h = x [+ residual],   rstd = 1 / sqrt(var + eps)

mean and (biased) var are over each plane h[b, c]. x, residual [B, C, H, W]; scale, bias [B, C], or [C] for plain affine instance norm.
x is float32, bfloat16, float16 or float64; statistics are float32 (float64 for float64) whatever x is, and scale and bias may have the
statistics' dtype or x's. The result has x's dtype and memory format. Saved for backward: h and the two statistics of each plane.
"""

import math
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor

from . import backend
from .registration import is_batched, is_transformed, register

_DTYPES = (*backend.FAST_DTYPES, torch.float64)


def adain_reference(x: Tensor, scale: Tensor, bias: Tensor, eps: float, relu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The formula in plain torch, in x's memory format: y, mean, rstd."""
    y, mean, rstd = _formula(x, scale, bias, eps, relu)
    return y.contiguous(memory_format=_format(x)), mean, rstd


def _formula(x: Tensor, scale: Tensor, bias: Tensor, eps: float, relu: bool) -> tuple[Tensor, Tensor, Tensor]:
    # group norm with one group a plane finds the statistics in one two-pass op
    batch, channels, height, width = x.shape
    wide = x.to(_wide(x))
    planes = wide.reshape(1, batch * channels, height * width).contiguous()
    _, mean, rstd = torch.native_group_norm(planes, None, None, 1, batch * channels, height * width, batch * channels, eps)
    mean, rstd = mean.view(batch, channels), rstd.view(batch, channels)
    # its own result, scale * h + (bias - scale * mean), is wrong where the mean is far larger than the spread
    distance = wide - mean[:, :, None, None]
    y = torch.addcmul(bias.to(wide.dtype)[..., None, None], distance, (scale.to(wide.dtype) * rstd)[..., None, None])
    return (torch.relu(y) if relu else y).to(x.dtype), mean, rstd


def adain_backward_reference(
    grad_y: Tensor, grad_h: Tensor | None, h: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of h, in its memory format, scale [B, C] and bias [B, C]. With n the normalised plane and g the gradient before the affine:
    dh = rstd * scale * (g - mean(g) - n * mean(g * n))."""
    grad_x, grad_scale, grad_bias = _backward_formula(grad_y, grad_h, h, scale, bias, mean, rstd, relu)
    return grad_x.contiguous(memory_format=_format(h)), grad_scale, grad_bias


def _backward_formula(
    grad_y: Tensor, grad_h: Tensor | None, h: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    wide = _wide(h)
    mean, rstd, scale, bias = (v.to(wide).expand(h.shape[:2])[:, :, None, None] for v in (mean, rstd, scale, bias))
    normalised = (h.to(wide) - mean) * rstd
    g = grad_y.to(wide)
    if relu:
        g = torch.where(normalised * scale + bias <= 0, 0, g)
    grad_bias = g.sum((2, 3), keepdim=True)
    grad_scale = (g * normalised).sum((2, 3), keepdim=True)
    area = h.shape[2] * h.shape[3]
    grad_x = rstd * scale * (g - grad_bias / area - normalised * (grad_scale / area))
    if grad_h is not None:
        grad_x = grad_x + grad_h.to(wide)
    return grad_x.to(h.dtype), grad_scale[:, :, 0, 0], grad_bias[:, :, 0, 0]


@overload
def adain(x: Tensor, scale: Tensor, bias: Tensor, eps: float = ..., activation: str | None = ..., residual: None = ...) -> Tensor: ...


@overload
def adain(
    x: Tensor, scale: Tensor, bias: Tensor, eps: float = ..., activation: str | None = ..., *, residual: Tensor
) -> tuple[Tensor, Tensor]: ...


def adain(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    eps: float = 1e-4,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Normalise each plane, apply a per-sample affine and an activation, in one pass.

    Args:
        x: [B, C, H, W]; float32, bfloat16, float16 or float64; NCHW or channels_last.
        scale, bias: [B, C], or [C] which is shared by the batch; x's dtype, or float32.
        eps: added to the variance; not negative.
        activation: None or "relu".
        residual: like x; h = x + residual is normalised, and returned too.

    Returns:
        y like x; with `residual`, (y, h).

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    direct = _untraced(x) and torch.is_inference_mode_enabled()
    if residual is None:
        y: Tensor = (_forward if direct else _ADAIN)(x, scale, bias, eps, activation)[0]
        return y
    y, h, *_ = (_add_forward if direct else _ADD_ADAIN)(x, residual, scale, bias, eps, activation)
    return y, h


def _untraced(x: Tensor) -> bool:
    """Whether an op's body may be called directly where autograd is off; its way through the dispatcher counts at small layers."""
    return not torch.compiler.is_compiling() and type(x) is Tensor and not is_transformed()


def _check(x: Tensor, residual: Tensor | None, scale: Tensor, bias: Tensor, eps: float, activation: str | None) -> None:
    shape, dtype, device = x.shape, x.dtype, x.device
    if len(shape) != 4 or dtype not in _DTYPES:
        raise ValueError(f"adain: x must be a floating-point [B, C, H, W], got {dtype} {list(shape)}")
    if x.numel() == 0:
        raise ValueError(f"adain: x must not be empty, got {list(shape)}")
    for name, value in (("scale", scale), ("bias", bias)):
        if value.shape != (shape[:2] if value.dim() == 2 else shape[1:2]):
            raise ValueError(f"adain: {name} must be [B, C] = {list(shape[:2])} or [C], got {list(value.shape)}")
        if value.dtype != scale.dtype or value.dtype not in (dtype, _wide(x)):
            raise ValueError(f"adain: {name} must have x's dtype, or float32 as scale and bias both, got {value.dtype} for x {dtype}")
        if value.device != device:
            raise ValueError(f"adain: {name} must be on x's device {device}, got {value.device}")
    if residual is not None and (residual.shape, residual.dtype, residual.device) != (shape, dtype, device):
        raise ValueError(
            f"adain: residual must be like x, {dtype} {list(shape)} on {device},"
            f" got {residual.dtype} {list(residual.shape)} on {residual.device}"
        )
    if not 0 <= eps < math.inf:
        raise ValueError(f"adain: eps must be finite and not negative, got {eps}")
    if activation not in (None, "relu"):
        raise ValueError(f"adain: activation must be None or 'relu', got {activation!r}")


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _format(x: Tensor) -> torch.memory_format:
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _dense(x: Tensor) -> Tensor:
    """x, copied where it is neither NCHW-contiguous nor channels_last."""
    return x if x.is_contiguous() else x.contiguous(memory_format=_format(x))


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Empty mean and rstd."""
    batch, channels = x.shape[:2]
    mean = x.new_empty(batch, channels, dtype=_wide(x))
    return mean, torch.empty_like(mean)


def _rows(values: Tensor, x: Tensor) -> Tensor:
    """[B, C] with second stride 1; what is shared by the batch has first stride 0."""
    if values.dim() == 1:
        values = values.expand(x.shape[:2])
    return values if values.stride(1) == 1 else values.contiguous()


def _forward(x: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None) -> tuple[Tensor, ...]:
    _check(x, None, scale, bias, eps, activation)
    kernel = backend.kernel("adain_forward", x)
    if kernel is None:
        return adain_reference(x, scale, bias, eps, activation == "relu")
    x = _dense(x)
    y, (mean, rstd) = torch.empty_like(x), _statistics(x)
    kernel(x, None, _rows(scale, x), _rows(bias, x), eps, activation == "relu", y, None, mean, rstd)
    return y, mean, rstd


def _add_forward(x: Tensor, residual: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None) -> tuple[Tensor, ...]:
    _check(x, residual, scale, bias, eps, activation)
    kernel = backend.kernel("adain_forward", x)
    if kernel is None:
        h = torch.empty_like(x, memory_format=_format(x)).copy_(x + residual)
        y, mean, rstd = adain_reference(h, scale, bias, eps, activation == "relu")
        return y, h, mean, rstd
    x = _dense(x)
    y, h, (mean, rstd) = torch.empty_like(x), torch.empty_like(x), _statistics(x)
    residual = residual.contiguous(memory_format=_format(x))
    kernel(x, residual, _rows(scale, x), _rows(bias, x), eps, activation == "relu", y, h, mean, rstd)
    return y, h, mean, rstd


def _backward(
    grad_y: Tensor,
    grad_h: Tensor | None,
    h: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    kernel = backend.kernel("adain_backward", h)
    if kernel is None:
        grad_x, grad_scale, grad_bias = adain_backward_reference(grad_y, grad_h, h, scale, bias, mean, rstd, activation == "relu")
    else:
        h = _dense(h)
        grad_x, (grad_scale, grad_bias) = torch.empty_like(h), _statistics(h)
        grad_y = grad_y.contiguous(memory_format=_format(h))
        if grad_h is not None:
            grad_h = grad_h.contiguous(memory_format=_format(h))
        relu = activation == "relu"
        kernel(
            grad_y, grad_h, h, _rows(scale, h), _rows(bias, h), mean.contiguous(), rstd.contiguous(), relu, grad_x, grad_scale, grad_bias
        )
    return grad_x, _narrow(grad_scale, scale), _narrow(grad_bias, bias)


def _narrow(grad: Tensor, values: Tensor) -> Tensor:
    return (grad.sum(0) if values.dim() == 1 else grad).to(values.dtype)


def _backward_fake(
    grad_y: Tensor, grad_h: Tensor | None, h: Tensor, scale: Tensor, bias: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(h, memory_format=_format(h)), scale.new_empty(scale.shape), bias.new_empty(bias.shape)


def _forward_fake(x: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None) -> tuple[Tensor, ...]:
    _check(x, None, scale, bias, eps, activation)
    return torch.empty_like(x, memory_format=_format(x)), *_statistics(x)


def _add_forward_fake(x: Tensor, residual: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None) -> tuple[Tensor, ...]:
    _check(x, residual, scale, bias, eps, activation)
    y, h = (torch.empty_like(x, memory_format=_format(x)) for _ in range(2))
    return y, h, *_statistics(x)


def _save(ctx: Any, h: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, eps: float, activation: str | None) -> None:
    ctx.save_for_backward(h, scale, bias, mean, rstd)
    ctx.eps, ctx.activation, ctx.backend = eps, activation, backend.current()
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, scale, bias, eps, activation = inputs
    _, mean, rstd = output
    _save(ctx, x, scale, bias, mean, rstd, eps, activation)


def _save_add_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, scale, bias, eps, activation = inputs
    _, h, mean, rstd = output
    _save(ctx, h, scale, bias, mean, rstd, eps, activation)


def _gradients(ctx: Any, grad_y: Tensor | None, grad_h: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_y is None:
        return grad_h, None, None
    h, scale, bias, mean, rstd = ctx.saved_tensors
    if torch.is_grad_enabled():  # the gradient is to be differentiated again
        formula = partial(_formula, eps=ctx.eps, relu=ctx.activation == "relu")
        grad, grad_scale, grad_bias = torch.func.vjp(lambda *args: formula(*args)[0], h, scale, bias)[1](grad_y)
        return grad if grad_h is None else grad + grad_h, grad_scale, grad_bias
    run = _backward if _untraced(h) and not is_batched(grad_y, grad_h) else _ADAIN_BACKWARD
    # the engine runs CUDA gradients in a thread of its own, where no choice was made
    with backend.again(ctx.backend):
        return run(grad_y, grad_h, h, scale, bias, mean, rstd, ctx.activation)


def _autograd(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_gradients(ctx, grad_y, None), None, None)


def _add_autograd(ctx: Any, grad_y: Tensor | None, grad_h: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, grad_scale, grad_bias = _gradients(ctx, grad_y, grad_h)
    return grad, grad, grad_scale, grad_bias, None, None


def _plain(x: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None) -> tuple[Tensor, ...]:
    _check(x, None, scale, bias, eps, activation)
    return _formula(x, scale, bias, eps, activation == "relu")


def _add_plain(x: Tensor, residual: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None) -> tuple[Tensor, ...]:
    _check(x, residual, scale, bias, eps, activation)
    h = x + residual
    y, mean, rstd = _formula(h, scale, bias, eps, activation == "relu")
    return y, h, mean, rstd


def _backward_plain(
    grad_y: Tensor,
    grad_h: Tensor | None,
    h: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_scale, grad_bias = _backward_formula(grad_y, grad_h, h, scale, bias, mean, rstd, activation == "relu")
    return grad_x, _narrow(grad_scale, scale), _narrow(grad_bias, bias)


_ADAIN = register(
    "adain(Tensor x, Tensor scale, Tensor bias, float eps, str? activation) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    _plain,
    gradient=(_autograd, _save_forward),
)
_ADD_ADAIN = register(
    "add_adain(Tensor x, Tensor residual, Tensor scale, Tensor bias, float eps, str? activation) -> (Tensor, Tensor, Tensor, Tensor)",
    _add_forward,
    _add_forward_fake,
    _add_plain,
    gradient=(_add_autograd, _save_add_forward),
)
_ADAIN_BACKWARD = register(
    "adain_backward(Tensor grad_y, Tensor? grad_h, Tensor h, Tensor scale, Tensor bias, Tensor mean, Tensor rstd, str? activation)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
    _backward_plain,
    refusal="is a gradient itself; differentiate that of adain, with create_graph=True",
)
