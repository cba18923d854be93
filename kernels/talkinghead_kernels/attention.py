"""Attention of one head.

    out[b, n] = sum_m w[b, n, m] * value[b, m],   w[b, n] = softmax over m of query[b, n] . key[b, m]

query is [B, N, d], key [B, M, d], value [B, M, e], and out [B, N, e]. Scores are not scaled, and their matrix
is never held in full. Scores and sums are float32 for every dtype (float64 for float64); the kernels round
weights to bfloat16 if value is bfloat16. Saved for backward: the arguments, the result and the logarithm of
each query's sum of exponentials. The kernels treat weights below 2^-100 of the largest as 0: products with
smaller numbers would be denormal, which some CPUs compute a hundred times slower.

The kernels are C++. Where they are missing, torch's own attention runs; the formula runs if "reference" is
chosen, or in float64.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend, extension
from .formats import FLOAT_DTYPES, stats_dtype
from .registration import is_transformed, register


def attention_reference(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return out and the logarithm of each query's sum of exponentials [B, N], in plain torch."""
    scores = _widen(query) @ _widen(key).mT
    lse = scores.logsumexp(2)
    return (scores.softmax(2) @ _widen(value)).to(query.dtype), lse


def attention_backward_reference(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value.

    With w the weights and g = grad_out value^T their gradient, that of the scores is
    w * (g - out . grad_out).
    """
    dtype = query.dtype
    grad_out, query, key, value, out = map(_widen, (grad_out, query, key, value, out))
    weights = (query @ key.mT - lse[..., None]).exp()
    scores = weights * (grad_out @ value.mT - (out * grad_out).sum(2, keepdim=True))
    return (scores @ key).to(dtype), (scores.mT @ query).to(dtype), (weights.mT @ grad_out).to(dtype)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Mix values by the softmax of queries times keys; one head, no scale, no mask.

    Args:
        query: [B, N, d]; float32, bfloat16, float16 or float64.
        key: [B, M, d] like query; M at least 1.
        value: [B, M, e] like query.

    Returns:
        [B, N, e] like query, contiguous.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    # Compiled code follows any choice of backend, so it contains the op; torch's own op has no forward mode.
    if torch.compiler.is_compiling():
        use_op = query.device.type == "cpu"
    else:
        use_op = is_transformed() or (
            query.device.type == "cpu" and extension.unavailable_reason("cpu", "attention_forward") is None
        )
    if use_op:
        out: Tensor = _ATTENTION(query, key, value)[0]
        return out
    _check(query, key, value)
    return torch_attention(query, key, value)


def torch_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the same result by torch's own op.

    That op never forms the matrix of scores if the three have equal widths: query and key are padded with
    zeros, which do not change the products.
    """
    padding = (0, max(0, value.shape[2] - query.shape[2]))
    query, key = (F.pad(tensor, padding).unsqueeze(1) for tensor in (query, key))
    return F.scaled_dot_product_attention(query, key, value.unsqueeze(1), scale=1.0).squeeze(1).contiguous()


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    shape, dtype, device = query.shape, query.dtype, query.device
    if len(shape) != 3 or dtype not in FLOAT_DTYPES or shape[2] == 0:
        raise ValueError(f"attention: query must be a floating-point [B, N, d], got {dtype} {list(shape)}")
    if key.dim() != 3 or key.shape[0] != shape[0] or key.shape[2] != shape[2]:
        raise ValueError(
            f"attention: key must be [B, M, d] = [{shape[0]}, M, {shape[2]}], got {list(key.shape)}"
        )
    if key.shape[1] == 0:
        raise ValueError(f"attention: key must have at least one row, got {list(key.shape)}")
    if value.dim() != 3 or value.shape[:2] != key.shape[:2] or value.shape[2] == 0:
        raise ValueError(
            f"attention: value must be [B, M, e] = [{key.shape[0]}, {key.shape[1]}, e], got "
            f"{list(value.shape)}"
        )
    for name, tensor in (("key", key), ("value", value)):
        if (tensor.dtype, tensor.device) != (dtype, device):
            raise ValueError(
                f"attention: {name} must be like query, {dtype} on {device}, got {tensor.dtype} on "
                f"{tensor.device}"
            )


def _widen(x: Tensor) -> Tensor:
    return x.to(stats_dtype(x))


def _select_kernel(name: str, query: Tensor) -> Any:
    # The other backends have no kernel, but networks must run on them: use the formula there.
    return backend.select_kernel(name, query) if backend.current() in (None, "cpp") else None


def _forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    _check(query, key, value)
    kernel = _select_kernel("attention_forward", query)
    if kernel is None:
        out, lse = _run_formula(query, key, value)
        return out.contiguous(), lse.contiguous()
    out, lse = _forward_fake(query, key, value)
    kernel(query.contiguous(), key.contiguous(), value.contiguous(), out, lse)
    return out, lse


def _forward_fake(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    _check(query, key, value)
    batch, queries, _ = query.shape
    lse = query.new_empty(batch, queries, dtype=stats_dtype(query))
    return query.new_empty(batch, queries, value.shape[2]), lse


def _backward(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    kernel = _select_kernel("attention_backward", query)
    if kernel is None:
        grads = _run_backward_formula(grad_out, query, key, value, out, lse)
        return grads[0].contiguous(), grads[1].contiguous(), grads[2].contiguous()
    grads = _backward_fake(grad_out, query, key, value, out, lse)
    kernel(*(tensor.contiguous() for tensor in (grad_out, query, key, value, out, lse)), *grads)
    return grads


def _backward_fake(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.backend = backend.current()
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return None, None, None
    if torch.is_grad_enabled():  # for second derivatives
        return torch.func.vjp(lambda *args: _run_formula(*args)[0], *ctx.saved_tensors[:3])[1](grad_out)
    with backend.restore_backend(ctx.backend):
        return _ATTENTION_BACKWARD(grad_out, *ctx.saved_tensors)


def _run_formula(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    _check(query, key, value)
    with torch.autocast(query.device.type, enabled=False):
        return attention_reference(query, key, value)


def _run_backward_formula(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(query.device.type, enabled=False):
        return attention_backward_reference(grad_out, query, key, value, out, lse)


_ATTENTION = register(
    "attention(Tensor query, Tensor key, Tensor value) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    _run_formula,
    gradient=(_autograd, _save),
)
_ATTENTION_BACKWARD = register(
    "attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse) -> "
    "(Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
    _run_backward_formula,
    refusal="is a gradient itself; differentiate that of attention, with create_graph=True",
)
