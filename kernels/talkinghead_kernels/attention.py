"""Attention of one head.

    out[b, n] = sum_m w[b, n, m] * value[b, m],   w[b, n] = softmax over m of query[b, n] . key[b, m]

query [B, N, d], key [B, M, d], value [B, M, e]; out [B, N, e]. Scores are not scaled, and the matrix of them is never whole. They are
float32, and so are sums, whatever the dtype (float64 for float64); the kernels round weights to bfloat16 where value is that. Saved for
backward: the arguments, the result and the logarithm of each query's sum of exponentials. The kernels count weights below 2^-100 of the
largest as 0: products with numbers so small would be denormal, and those take some CPUs a hundred times as long.

The kernels are C++; elsewhere torch's own attention is the op, and the formula is what runs where "reference" is chosen or in float64.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend, native
from .registration import is_transformed, register

_DTYPES = (*backend.FAST_DTYPES, torch.float64)


def attention_reference(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The formula in plain torch: out, and the logarithm of each query's sum of exponentials [B, N]."""
    scores = _wide(query) @ _wide(key).mT
    lse = scores.logsumexp(2)
    return (scores.softmax(2) @ _wide(value)).to(query.dtype), lse


def attention_backward_reference(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value. With w the weights and g = grad_out value^T theirs, the scores get w * (g - out . grad_out)."""
    dtype = query.dtype
    grad_out, query, key, value, out = (_wide(it) for it in (grad_out, query, key, value, out))
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
    # compiled code may meet any choice of a backend, so it holds the op; torch's own knows no forward mode
    if torch.compiler.is_compiling():
        by_op = query.device.type == "cpu"
    else:
        by_op = is_transformed() or (query.device.type == "cpu" and native.missing("cpu", "attention_forward") is None)
    if by_op:
        out: Tensor = _ATTENTION(query, key, value)[0]
        return out
    _check(query, key, value)
    return torch_attention(query, key, value)


def torch_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same by torch's own op, which never forms the matrix where the three are equally wide: zeros add nothing to a product."""
    missing = (0, max(0, value.shape[2] - query.shape[2]))
    query, key = (F.pad(it, missing).unsqueeze(1) for it in (query, key))
    return F.scaled_dot_product_attention(query, key, value.unsqueeze(1), scale=1.0).squeeze(1).contiguous()


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    shape, dtype, device = query.shape, query.dtype, query.device
    if len(shape) != 3 or dtype not in _DTYPES or shape[2] == 0:
        raise ValueError(f"attention: query must be a floating-point [B, N, d], got {dtype} {list(shape)}")
    if key.dim() != 3 or key.shape[0] != shape[0] or key.shape[2] != shape[2]:
        raise ValueError(f"attention: key must be [B, M, d] = [{shape[0]}, M, {shape[2]}], got {list(key.shape)}")
    if key.shape[1] == 0:
        raise ValueError(f"attention: key must have a row or more, got {list(key.shape)}")
    if value.dim() != 3 or value.shape[:2] != key.shape[:2] or value.shape[2] == 0:
        raise ValueError(f"attention: value must be [B, M, e] = [{key.shape[0]}, {key.shape[1]}, e], got {list(value.shape)}")
    for name, it in (("key", key), ("value", value)):
        if (it.dtype, it.device) != (dtype, device):
            raise ValueError(f"attention: {name} must be like query, {dtype} on {device}, got {it.dtype} on {it.device}")


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _kernel(name: str, query: Tensor) -> Any:
    # the other backends have none, and a network on them is not to fail for it
    return backend.kernel(name, query) if backend.current() in (None, "cpp") else None


def _forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    _check(query, key, value)
    kernel = _kernel("attention_forward", query)
    if kernel is None:
        out, lse = _plain(query, key, value)
        return out.contiguous(), lse.contiguous()
    out, lse = _forward_fake(query, key, value)
    kernel(query.contiguous(), key.contiguous(), value.contiguous(), out, lse)
    return out, lse


def _forward_fake(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    _check(query, key, value)
    batch, queries, _ = query.shape
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    return query.new_empty(batch, queries, value.shape[2]), query.new_empty(batch, queries, dtype=wide)


def _backward(grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kernel = _kernel("attention_backward", query)
    if kernel is None:
        grads = _backward_plain(grad_out, query, key, value, out, lse)
        return grads[0].contiguous(), grads[1].contiguous(), grads[2].contiguous()
    grads = _backward_fake(grad_out, query, key, value, out, lse)
    kernel(*(it.contiguous() for it in (grad_out, query, key, value, out, lse)), *grads)
    return grads


def _backward_fake(grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.backend = backend.current()
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return None, None, None
    if torch.is_grad_enabled():  # the gradient is to be differentiated again
        return torch.func.vjp(lambda *args: _plain(*args)[0], *ctx.saved_tensors[:3])[1](grad_out)
    with backend.again(ctx.backend):
        return _ATTENTION_BACKWARD(grad_out, *ctx.saved_tensors)


def _plain(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    _check(query, key, value)
    with torch.autocast(query.device.type, enabled=False):
        return attention_reference(query, key, value)


def _backward_plain(grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(query.device.type, enabled=False):
        return attention_backward_reference(grad_out, query, key, value, out, lse)


_ATTENTION = register(
    "attention(Tensor query, Tensor key, Tensor value) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    _plain,
    gradient=(_autograd, _save),
)
_ATTENTION_BACKWARD = register(
    "attention_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse) -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
    _backward_plain,
    refusal="is a gradient itself; differentiate that of attention, with create_graph=True",
)
