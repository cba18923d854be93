"""One way to make a Python function an op of `torch.ops.talkinghead`, whatever derivative is asked of it.

A kernel gives the gradient of reverse mode, once. Forward mode, `torch.func`, vmap and second derivatives run the op's form in plain torch
instead, which torch can differentiate and batch any number of times; where there is none, or no meaning, the op refuses by name.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

LIBRARY = torch.library.Library("talkinghead", "DEF")


def register(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    plain: Callable[..., Any] | None = None,
    gradient: tuple[Callable[..., Any], Callable[..., None]] | None = None,
    refusal: str = "",
    constant: bool = False,
) -> torch._ops.OpOverload:
    """Define an op whose body is opaque to compilers and exporters.

    Args:
        schema: in torch's words, "name(Tensor x, ...) -> ...".
        run: what it does, on every device.
        fake: the empty results, for tracing.
        plain: the same in functional torch, differentiable and in any memory format; None for an op that works in place.
        gradient: backward and setup_context, as `torch.library.register_autograd` has them; None for an op without a gradient.
        refusal: why it has none and what to do instead.
        constant: nothing flows through the op: reverse mode takes its results for constants, everything else refuses.
    """
    name = schema[: schema.index("(")]
    LIBRARY.define(schema)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"talkinghead::{name}", fake, lib=LIBRARY)
    op = getattr(torch.ops.talkinghead, name).default
    refuse = _refuse(f"{name}: {refusal}")
    LIBRARY.impl(name, plain or refuse, "FuncTorchBatched")
    if "Tensor[]" in schema:  # for others torch takes the batch apart
        LIBRARY.impl(name, _refuse(f"{name}: takes no gradients of is_grads_batched=True; use torch.func.vmap"), "Batched")
    derived = refuse if constant or plain is None else plain
    if constant or plain is None:
        LIBRARY.impl(name, _guard(_without_gradient(op), derived), "Autograd", with_keyset=True)
    else:
        backward, save = gradient or (refuse, None)
        torch.library.register_autograd(f"talkinghead::{name}", backward, setup_context=save, lib=_Guarded(derived))
    return op


def is_transformed() -> bool:
    """Whether tensors may be dual numbers, or wrapped by `torch.func` or vmap: then ops must go through the dispatcher."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def is_batched(*grads: Tensor | None) -> bool:
    """Whether gradients are batches of gradients, as `torch.autograd.grad(..., is_grads_batched=True)` makes them."""
    return any(grad is not None and torch._C._functorch.is_legacy_batchedtensor(grad) for grad in grads)


class _Guarded:
    """What `register_autograd` takes for the library: there its kernel gives way where a derivative is asked that it does not know."""

    ns = LIBRARY.ns

    def __init__(self, derived: Callable[..., Any]) -> None:
        self._derived = derived

    def impl(self, name: str, kernel: Callable[..., Any], key: str, with_keyset: bool) -> None:
        LIBRARY.impl(name, _guard(kernel, self._derived), key, with_keyset=with_keyset)


def _guard(kernel: Callable[..., Any], derived: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(keyset: Any, *args: Any) -> Any:
        if is_transformed() and any(map(_is_tracked, pytree.tree_leaves(args))):
            return derived(*args)
        return kernel(keyset, *args)

    return guarded


def _is_tracked(value: Any) -> bool:
    """Whether a transform asks for the derivative with respect to a tensor, or forward mode does."""
    if not isinstance(value, Tensor):
        return False
    of_transform = value.requires_grad and torch._C._are_functorch_transforms_active()
    return of_transform or forward_ad.unpack_dual(value).tangent is not None


def _without_gradient(op: torch._ops.OpOverload) -> Callable[..., Any]:
    def kernel(keyset: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    return kernel


def _refuse(message: str) -> Callable[..., Any]:
    def refuse(*args: Any) -> Any:
        raise NotImplementedError(message)

    return refuse
