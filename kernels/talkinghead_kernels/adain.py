"""Adaptive instance normalisation (Huang and Belongie 2017).

    y[b, c] = activation(scale[b, c] * (h[b, c] - mean) * rstd + bias[b, c])
    h = x [+ residual],   rstd = 1 / sqrt(var + eps)

mean and (biased) var are over each plane h[b, c]. x and residual are [B, C, H, W]; scale and bias are [B, C],
or [C] for plain affine instance norm. x is float32, bfloat16, float16 or float64; statistics are float32
(float64 for float64 x); scale and bias have the dtype of the statistics or of x. The result has x's dtype
and memory format. Saved for backward: h and the two statistics of each plane.
"""

import math
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor

from . import backend
from .adain_reference import (
    adain_backward_formula,
    adain_backward_reference,
    adain_formula,
    adain_reference,
)
from .formats import FLOAT_DTYPES, empty_like, memory_format_of, stats_dtype, to_dense
from .registration import is_batched, is_transformed, register


@overload
def adain(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    eps: float = ...,
    activation: str | None = ...,
    residual: None = ...,
) -> Tensor: ...


@overload
def adain(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    eps: float = ...,
    activation: str | None = ...,
    *,
    residual: Tensor,
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
        scale, bias: [B, C], or [C] shared by the batch; x's dtype, or float32.
        eps: added to the variance; finite and not negative.
        activation: None or "relu".
        residual: like x; h = x + residual is normalised and also returned.

    Returns:
        y like x; with `residual`, (y, h).

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    direct = _can_skip_dispatcher(x) and torch.is_inference_mode_enabled()
    if residual is None:
        y: Tensor = (_forward if direct else _ADAIN)(x, scale, bias, eps, activation)[0]
        return y
    y, h, *_ = (_add_forward if direct else _ADD_ADAIN)(x, residual, scale, bias, eps, activation)
    return y, h


def _can_skip_dispatcher(x: Tensor) -> bool:
    """Return whether an op's body may be called directly when autograd is off.

    The dispatcher takes a measurable part of the time of small layers.
    """
    return not torch.compiler.is_compiling() and type(x) is Tensor and not is_transformed()


def _check(
    x: Tensor, residual: Tensor | None, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> None:
    shape, dtype, device = x.shape, x.dtype, x.device
    if len(shape) != 4 or dtype not in FLOAT_DTYPES:
        raise ValueError(f"adain: x must be a floating-point [B, C, H, W], got {dtype} {list(shape)}")
    if x.numel() == 0:
        raise ValueError(f"adain: x must not be empty, got {list(shape)}")
    for name, value in (("scale", scale), ("bias", bias)):
        if value.shape != (shape[:2] if value.dim() == 2 else shape[1:2]):
            raise ValueError(
                f"adain: {name} must be [B, C] = {list(shape[:2])} or [C], got {list(value.shape)}"
            )
        if value.dtype != scale.dtype or value.dtype not in (dtype, stats_dtype(x)):
            raise ValueError(
                f"adain: {name} must have x's dtype, or float32 as scale and bias both, got {value.dtype} "
                f"for x {dtype}"
            )
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


def _empty_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return empty mean and rstd."""
    batch, channels = x.shape[:2]
    mean = x.new_empty(batch, channels, dtype=stats_dtype(x))
    return mean, torch.empty_like(mean)


def _per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Return values [B, C] with second stride 1; values shared by the batch have first stride 0."""
    if values.dim() == 1:
        values = values.expand(x.shape[:2])
    return values if values.stride(1) == 1 else values.contiguous()


def _forward(
    x: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> tuple[Tensor, ...]:
    _check(x, None, scale, bias, eps, activation)
    kernel = backend.select_kernel("adain_forward", x)
    if kernel is None:
        return adain_reference(x, scale, bias, eps, activation == "relu")
    x = to_dense(x)
    y, (mean, rstd) = torch.empty_like(x), _empty_stats(x)
    kernel(
        x, None, _per_sample(scale, x), _per_sample(bias, x), eps, activation == "relu", y, None, mean, rstd
    )
    return y, mean, rstd


def _add_forward(
    x: Tensor, residual: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> tuple[Tensor, ...]:
    _check(x, residual, scale, bias, eps, activation)
    kernel = backend.select_kernel("adain_forward", x)
    if kernel is None:
        h = empty_like(x).copy_(x + residual)
        y, mean, rstd = adain_reference(h, scale, bias, eps, activation == "relu")
        return y, h, mean, rstd
    x = to_dense(x)
    y, h, (mean, rstd) = torch.empty_like(x), torch.empty_like(x), _empty_stats(x)
    residual = residual.contiguous(memory_format=memory_format_of(x))
    kernel(
        x, residual, _per_sample(scale, x), _per_sample(bias, x), eps, activation == "relu", y, h, mean, rstd
    )
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
    kernel = backend.select_kernel("adain_backward", h)
    if kernel is None:
        grad_x, grad_scale, grad_bias = adain_backward_reference(
            grad_y, grad_h, h, scale=scale, bias=bias, mean=mean, rstd=rstd, relu=activation == "relu"
        )
    else:
        h = to_dense(h)
        grad_x, (grad_scale, grad_bias) = torch.empty_like(h), _empty_stats(h)
        grad_y = grad_y.contiguous(memory_format=memory_format_of(h))
        if grad_h is not None:
            grad_h = grad_h.contiguous(memory_format=memory_format_of(h))
        relu = activation == "relu"
        kernel(
            grad_y,
            grad_h,
            h,
            _per_sample(scale, h),
            _per_sample(bias, h),
            mean.contiguous(),
            rstd.contiguous(),
            relu,
            grad_x,
            grad_scale,
            grad_bias,
        )
    return grad_x, _reduce_to(grad_scale, scale), _reduce_to(grad_bias, bias)


def _reduce_to(grad: Tensor, values: Tensor) -> Tensor:
    """Return a gradient [B, C] in the shape and dtype of the values that it belongs to."""
    return (grad.sum(0) if values.dim() == 1 else grad).to(values.dtype)


def _backward_fake(
    grad_y: Tensor, grad_h: Tensor | None, h: Tensor, scale: Tensor, bias: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_like(h),
        scale.new_empty(scale.shape),
        bias.new_empty(bias.shape),
    )


def _forward_fake(
    x: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> tuple[Tensor, ...]:
    _check(x, None, scale, bias, eps, activation)
    return empty_like(x), *_empty_stats(x)


def _add_forward_fake(
    x: Tensor, residual: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> tuple[Tensor, ...]:
    _check(x, residual, scale, bias, eps, activation)
    y, h = (empty_like(x) for _ in range(2))
    return y, h, *_empty_stats(x)


def _save(
    ctx: Any,
    h: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    activation: str | None,
) -> None:
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
    if torch.is_grad_enabled():  # for second derivatives
        formula = partial(adain_formula, eps=ctx.eps, relu=ctx.activation == "relu")
        grad, grad_scale, grad_bias = torch.func.vjp(lambda *args: formula(*args)[0], h, scale, bias)[1](
            grad_y
        )
        return grad if grad_h is None else grad + grad_h, grad_scale, grad_bias
    run = _backward if _can_skip_dispatcher(h) and not is_batched(grad_y, grad_h) else _ADAIN_BACKWARD
    # Autograd runs CUDA gradients in its own thread, which does not see the choice of this context.
    with backend.restore_backend(ctx.backend):
        return run(grad_y, grad_h, h, scale, bias, mean, rstd, ctx.activation)


def _autograd(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_gradients(ctx, grad_y, None), None, None)


def _add_autograd(
    ctx: Any, grad_y: Tensor | None, grad_h: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    grad, grad_scale, grad_bias = _gradients(ctx, grad_y, grad_h)
    return grad, grad, grad_scale, grad_bias, None, None


def _run_formula(
    x: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> tuple[Tensor, ...]:
    _check(x, None, scale, bias, eps, activation)
    return adain_formula(x, scale, bias, eps, activation == "relu")


def _run_add_formula(
    x: Tensor, residual: Tensor, scale: Tensor, bias: Tensor, eps: float, activation: str | None
) -> tuple[Tensor, ...]:
    _check(x, residual, scale, bias, eps, activation)
    h = x + residual
    y, mean, rstd = adain_formula(h, scale, bias, eps, activation == "relu")
    return y, h, mean, rstd


def _run_backward_formula(
    grad_y: Tensor,
    grad_h: Tensor | None,
    h: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_scale, grad_bias = adain_backward_formula(
        grad_y, grad_h, h, scale=scale, bias=bias, mean=mean, rstd=rstd, relu=activation == "relu"
    )
    return grad_x, _reduce_to(grad_scale, scale), _reduce_to(grad_bias, bias)


_ADAIN = register(
    "adain(Tensor x, Tensor scale, Tensor bias, float eps, str? activation) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    _run_formula,
    gradient=(_autograd, _save_forward),
)
_ADD_ADAIN = register(
    "add_adain(Tensor x, Tensor residual, Tensor scale, Tensor bias, float eps, str? activation) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    _add_forward,
    _add_forward_fake,
    _run_add_formula,
    gradient=(_add_autograd, _save_add_forward),
)
_ADAIN_BACKWARD = register(
    "adain_backward(Tensor grad_y, Tensor? grad_h, Tensor h, Tensor scale, Tensor bias, Tensor mean, Tensor "
    "rstd, str? activation)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
    _run_backward_formula,
    refusal="is a gradient itself; differentiate that of adain, with create_graph=True",
)
