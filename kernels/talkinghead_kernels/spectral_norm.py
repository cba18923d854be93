"""Spectral normalisation (Miyato et al. 2018) of all layers of a network at once.

Each weight W [out, ...] is treated as a matrix [out, in]. One power iteration moves the unit vectors u [out]
and v [in] towards its first singular pair, u from v, then v from the new u; the normalised weight is
W / sigma with sigma = u . (W v). u and v are constants of the gradient, which is then

    dW = (dW_hat - <dW_hat, W_hat> u v^T) / sigma.

An iteration reads W once: row by row, s_r = w_r . v and t += s_r w_r; then u = s / |s|, v = t / |t|. Norms
and sigma are clamped at eps, so that zero weights stay finite. Weights are float32 (float64 by the reference,
for tests); the results of `normalise` may have a lower precision.
"""

import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend
from .registration import register
from .resample import FORMS, fold, fold_adjoint

EPS = 1e-4


def power_iteration_reference(weight: Tensor, u: Tensor, v: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the next u and v of one layer."""
    matrix = weight.flatten(1)
    u = F.normalize(matrix @ v, dim=0, eps=eps)
    return u, F.normalize(matrix.T @ u, dim=0, eps=eps)


def normalise_reference(weight: Tensor, u: Tensor, v: Tensor, eps: float, form: str) -> tuple[Tensor, Tensor]:
    """Return one layer's weight, divided by its spectral norm and folded, and that norm before clamping."""
    sigma = torch.dot(u, weight.flatten(1) @ v)
    return fold(weight / sigma.clamp_min(eps), form), sigma


def normalise_backward_reference(
    grad: Tensor, weight: Tensor, sigma: Tensor, u: Tensor, v: Tensor, eps: float, form: str
) -> Tensor:
    """Return the gradient of one layer's weight, by the closed form."""
    clamped = sigma.clamp_min(eps)
    grad = fold_adjoint(grad.to(weight.dtype), form)
    # A clamped norm is a constant.
    inner = torch.where(sigma < eps, 0, (grad * weight).sum() / clamped)
    return ((grad - inner * torch.outer(u, v).view(weight.shape)) / clamped).contiguous()


def power_iteration_(
    weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], eps: float = EPS
) -> None:
    """Advance u and v of every layer by one power iteration, in place.

    Call it once per optimiser step of the network that owns them.

    Args:
        weights: float32 tensors [out, ...].
        us, vs: their vectors [out] and [in]; overwritten.
        eps: lower bound of the norms in denominators.

    Raises:
        ValueError: the lists or a vector do not fit; the message names it.
        NotImplementedError: inside `torch.func`, vmap or forward-mode differentiation of an argument; call it
            before.
    """
    with torch.no_grad():
        _POWER_ITERATION(list(weights), list(us), list(vs), eps)


def normalise(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    eps: float = EPS,
    forms: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> list[Tensor]:
    """Return each weight divided by its spectral norm and folded to a form.

    The result is differentiable with respect to the weights.

    Args:
        weights: float32 tensors [out, ...].
        us, vs: their vectors [out] and [in], constants of the gradient.
        eps: lower bound of sigma, so that a zero weight stays finite.
        forms: one of `resample.FORMS` for each weight: "plain", or folded for `upsample_conv` or
            `conv_downsample`. None: all plain.
        dtype: dtype of the results; None is that of the weights.
        memory_format: memory format of the results that have four dimensions.

    Returns:
        tensors shaped like `weights`, or of the shape of their form (`resample.fold`).

    Raises:
        ValueError: the lists, a vector or a form do not fit; the message names it.
    """
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise ValueError(
            "normalise: memory_format must be torch.contiguous_format or torch.channels_last, got "
            f"{memory_format}"
        )
    weights = list(weights)
    forms = ["plain"] * len(weights) if forms is None else list(forms)
    return _NORMALISE(weights, list(us), list(vs), eps, forms, dtype, memory_format == torch.channels_last)[0]


def _check(
    op: str, weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], eps: float
) -> None:
    if not len(weights) == len(us) == len(vs):
        raise ValueError(
            f"{op}: weights, us and vs must have the same length, got {len(weights)}, {len(us)}, {len(vs)}"
        )
    if not weights:
        raise ValueError(f"{op}: weights must hold at least one tensor, got none")
    if not 0 < eps < math.inf:
        raise ValueError(f"{op}: eps must be finite and positive, got {eps}")
    first = weights[0]
    for index, (weight, u, v) in enumerate(zip(weights, us, vs, strict=True)):
        if weight.dim() < 2 or weight.dtype not in (torch.float32, torch.float64) or weight.numel() == 0:
            raise ValueError(
                f"{op}: weights[{index}] must be float32 [out, in, ...], got {weight.dtype} "
                f"{list(weight.shape)}"
            )
        rows = weight.shape[0]
        for name, vector, length in (("us", u, rows), ("vs", v, weight.numel() // rows)):
            if tuple(vector.shape) != (length,):
                raise ValueError(f"{op}: {name}[{index}] must be [{length}], got {list(vector.shape)}")
        for name, tensor in (("weights", weight), ("us", u), ("vs", v)):
            if tensor.dtype != first.dtype or tensor.device != first.device:
                raise ValueError(
                    f"{op}: {name}[{index}] must be {first.dtype} on {first.device} like weights[0], got "
                    f"{tensor.dtype} on {tensor.device}"
                )


def _check_forms(weights: Sequence[Tensor], forms: Sequence[str], dtype: torch.dtype | None) -> None:
    if len(forms) != len(weights):
        raise ValueError(f"normalise: forms must be as many as weights, {len(weights)}, got {len(forms)}")
    for index, (weight, form) in enumerate(zip(weights, forms, strict=True)):
        if form not in FORMS:
            raise ValueError(f"normalise: forms[{index}] must be one of {', '.join(FORMS)}, got {form!r}")
        if form != "plain" and tuple(weight.shape[2:]) != (3, 3):
            raise ValueError(
                f"normalise: weights[{index}] must be [out, in, 3, 3] to be folded, got {list(weight.shape)}"
            )
    if dtype not in (None, *backend.FAST_DTYPES, torch.float64):
        raise ValueError(f"normalise: dtype must be a floating-point dtype, got {dtype}")


def _full_precision(weight: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast, which would make sigma wrong by a percent in bfloat16."""
    device = weight.device.type  # "meta" has no autocast
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _run_power_iteration(weights: list[Tensor], us: list[Tensor], vs: list[Tensor], eps: float) -> None:
    _check("power_iteration_", weights, us, vs, eps)
    kernel = backend.select_kernel("power_iteration_", weights[0])
    if kernel is not None:
        dense_us, dense_vs = [u.contiguous() for u in us], [v.contiguous() for v in vs]
        kernel([w.contiguous() for w in weights], dense_us, dense_vs, eps)
        for vector, dense in zip([*us, *vs], [*dense_us, *dense_vs], strict=True):
            if vector is not dense:
                vector.copy_(dense)
        return
    with _full_precision(weights[0]):
        for weight, u, v in zip(weights, us, vs, strict=True):
            new_u, new_v = power_iteration_reference(weight, u, v, eps)
            u.copy_(new_u)
            v.copy_(new_v)


def _power_iteration_fake(weights: list[Tensor], us: list[Tensor], vs: list[Tensor], eps: float) -> None:
    _check("power_iteration_", weights, us, vs, eps)


def _empty_outputs(
    weights: list[Tensor], forms: list[str], dtype: torch.dtype | None, channels_last: bool
) -> tuple[list[Tensor], Tensor]:
    outputs = []
    for weight, form in zip(weights, forms, strict=True):
        shape = FORMS[form](*weight.shape[:2]) if form != "plain" else weight.shape
        layout = torch.channels_last if channels_last and len(shape) == 4 else torch.contiguous_format
        outputs.append(
            torch.empty(shape, dtype=dtype or weight.dtype, device=weight.device, memory_format=layout)
        )
    length = sum(1 + w.shape[0] + w.numel() // w.shape[0] for w in weights)
    return outputs, weights[0].new_empty(length)


def _run_normalise(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    eps: float,
    forms: list[str],
    dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[list[Tensor], Tensor]:
    _check("normalise", weights, us, vs, eps)
    _check_forms(weights, forms, dtype)
    outputs, constants = _empty_outputs(weights, forms, dtype, channels_last)
    kernel = backend.select_kernel("normalise_forward", weights[0]) if dtype != torch.float64 else None
    if kernel is not None:
        weights, us, vs = ([t.contiguous() for t in tensors] for tensors in (weights, us, vs))
        kernel(weights, us, vs, eps, [list(FORMS).index(form) for form in forms], outputs, constants)
        return outputs, constants
    sigmas = []
    with _full_precision(weights[0]):
        for weight, u, v, form, output in zip(weights, us, vs, forms, outputs, strict=True):
            normalised, sigma = normalise_reference(weight, u, v, eps, form)
            output.copy_(normalised)
            sigmas.append(sigma)
    torch.cat([torch.stack(sigmas), *itertools.chain.from_iterable(zip(us, vs, strict=True))], out=constants)
    return outputs, constants


def _normalise_fake(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    eps: float,
    forms: list[str],
    dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[list[Tensor], Tensor]:
    _check("normalise", weights, us, vs, eps)
    _check_forms(weights, forms, dtype)
    return _empty_outputs(weights, forms, dtype, channels_last)


def _run_normalise_backward(
    grads: list[Tensor], weights: list[Tensor], constants: Tensor, eps: float, forms: list[str]
) -> list[Tensor]:
    is_float64 = grads[0].dtype == torch.float64
    kernel = None if is_float64 else backend.select_kernel("normalise_backward", weights[0])
    if kernel is not None:
        weights = [w.contiguous() for w in weights]
        grads = [
            g if g.dim() == 4 and g.is_contiguous(memory_format=torch.channels_last) else g.contiguous()
            for g in grads
        ]
        results = [torch.empty_like(w) for w in weights]
        kernel(
            grads, weights, constants.contiguous(), eps, [list(FORMS).index(form) for form in forms], results
        )
        return results
    return _backward_formula(grads, weights, constants, eps, forms)


def _normalise_backward_fake(
    grads: list[Tensor], weights: list[Tensor], constants: Tensor, eps: float, forms: list[str]
) -> list[Tensor]:
    return [torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[list[Tensor], Tensor]) -> None:
    weights, _, _, eps, forms, _, _ = inputs
    outputs, constants = output
    # Save the copies of u and v in constants: the next iteration overwrites u and v before backward runs.
    ctx.save_for_backward(constants, *weights)
    ctx.eps, ctx.forms, ctx.backend = eps, forms, backend.current()
    ctx.mark_non_differentiable(constants)
    ctx.output_properties = [(o.shape, o.dtype, o.device) for o in outputs]


def _autograd(ctx: Any, grads: list[Tensor | None], _: Tensor | None) -> tuple[Any, ...]:
    constants, *weights = ctx.saved_tensors
    all_grads = [
        torch.zeros(s, dtype=t, device=d) if g is None else g
        for g, (s, t, d) in zip(grads, ctx.output_properties, strict=True)
    ]
    if torch.is_grad_enabled():  # for second derivatives
        _, us, vs = _split_constants(constants, weights)
        formula = partial(
            _formula,
            us=us,
            vs=vs,
            eps=ctx.eps,
            forms=ctx.forms,
            dtype=ctx.output_properties[0][1],
            channels_last=False,
        )
        (results,) = torch.func.vjp(lambda values: formula(values)[0], weights)[1](all_grads)
    else:
        with backend.restore_backend(ctx.backend):
            results = _NORMALISE_BACKWARD(all_grads, weights, constants, ctx.eps, ctx.forms)
    unused = [None] * len(weights)
    return results, unused, unused, None, None, None, None


def _formula(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    eps: float,
    forms: list[str],
    dtype: torch.dtype | None,
    channels_last: bool,
) -> tuple[list[Tensor], Tensor]:
    _check("normalise", weights, us, vs, eps)
    _check_forms(weights, forms, dtype)
    us, vs = ([vector.detach() for vector in vectors] for vectors in (us, vs))
    with _full_precision(weights[0]):
        pairs = [
            normalise_reference(weight, u, v, eps, form)
            for weight, u, v, form in zip(weights, us, vs, forms, strict=True)
        ]
    vectors = itertools.chain.from_iterable(zip(us, vs, strict=True))
    constants = torch.cat([torch.stack([sigma.detach() for _, sigma in pairs]), *vectors])
    return [weight.to(dtype or weight.dtype) for weight, _ in pairs], constants


def _backward_formula(
    grads: list[Tensor], weights: list[Tensor], constants: Tensor, eps: float, forms: list[str]
) -> list[Tensor]:
    sigmas, us, vs = _split_constants(constants, weights)
    with _full_precision(weights[0]):
        return [
            normalise_backward_reference(grad, weight, sigma, u, v, eps, form)
            for grad, weight, sigma, u, v, form in zip(grads, weights, sigmas, us, vs, forms, strict=True)
        ]


def _split_constants(constants: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return sigma, u and v of every layer from the constants that `normalise` saves."""
    sizes = [length for w in weights for length in (w.shape[0], w.numel() // w.shape[0])]
    sigmas, *vectors = constants.split([len(weights), *sizes])
    return sigmas, vectors[::2], vectors[1::2]


_POWER_ITERATION = register(
    "power_iteration_(Tensor[] weights, Tensor(a!)[] us, Tensor(b!)[] vs, float eps) -> ()",
    _run_power_iteration,
    _power_iteration_fake,
    refusal="works in place, and neither forward-mode differentiation nor torch.func goes through it; call "
    "it before",
)
_NORMALISE = register(
    "normalise(Tensor[] weights, Tensor[] us, Tensor[] vs, float eps, str[] forms, ScalarType? dtype, bool "
    "channels_last)"
    " -> (Tensor[], Tensor)",
    _run_normalise,
    _normalise_fake,
    _formula,
    gradient=(_autograd, _save),
)
_NORMALISE_BACKWARD = register(
    "normalise_backward(Tensor[] grads, Tensor[] weights, Tensor constants, float eps, str[] forms) -> "
    "Tensor[]",
    _run_normalise_backward,
    _normalise_backward_fake,
    _backward_formula,
    refusal="is a gradient itself; differentiate that of normalise, with create_graph=True",
)
