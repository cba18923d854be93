"""Registration of Python functions as ops of `torch.ops.talkinghead`, with every kind of derivative.

A kernel computes the first gradient in reverse mode. Forward mode, `torch.func`, vmap and second derivatives
run the op's formula in plain torch instead, which torch can differentiate and batch any number of times. An
op without such a formula raises an error that names the op.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

LIBRARY = torch.library.Library("talkinghead", "DEF")
SCHEMA_VERSION = 1
"""Version of the ops' schemas that compiled packages (.pt2) call.

Raise it whenever a package that was compiled before the change could no longer run or would compute something
else: an op is removed or renamed without an alias, its arguments or results change, or their meaning does.
A new op does not raise it.
"""


def register(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    formula: Callable[..., Any] | None = None,
    gradient: tuple[Callable[..., Any], Callable[..., None]] | None = None,
    refusal: str = "",
    constant: bool = False,
) -> torch._ops.OpOverload:
    """Define an op whose body is opaque to compilers and exporters.

    Args:
        schema: torch's schema, "name(Tensor x, ...) -> ...".
        run: the implementation, on every device.
        fake: returns empty results, for tracing.
        formula: the same result in functional torch, differentiable and in any memory format; None for an op
            that works in place.
        gradient: backward and setup_context, as for `torch.library.register_autograd`; None for an op without
            a gradient.
        refusal: the reason why it has none, and what to do instead.
        constant: no gradient flows through the op: reverse mode treats its results as constants, everything
            else raises.

    Returns:
        the op.
    """
    name = schema[: schema.index("(")]
    LIBRARY.define(schema)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"talkinghead::{name}", fake, lib=LIBRARY)
    op = getattr(torch.ops.talkinghead, name).default
    refuse = _refuse(f"{name}: {refusal}")
    LIBRARY.impl(name, formula or refuse, "FuncTorchBatched")
    if "Tensor[]" in schema:  # torch splits the batch for other ops
        LIBRARY.impl(
            name,
            _refuse(f"{name}: takes no gradients of is_grads_batched=True; use torch.func.vmap"),
            "Batched",
        )
    derived = refuse if constant or formula is None else formula
    if constant or formula is None:
        LIBRARY.impl(name, _dispatch_transforms(_skip_autograd(op), derived), "Autograd", with_keyset=True)
    else:
        backward, save = gradient or (refuse, None)
        torch.library.register_autograd(
            f"talkinghead::{name}", backward, setup_context=save, lib=_TransformLibrary(derived)
        )
    return op


def is_transformed() -> bool:
    """Return whether tensors may be dual numbers, or wrapped by `torch.func` or vmap.

    Ops must then go through the dispatcher.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def is_batched(*grads: Tensor | None) -> bool:
    """Return whether gradients are batches, as of `torch.autograd.grad(..., is_grads_batched=True)`."""
    return any(grad is not None and torch._C._functorch.is_legacy_batchedtensor(grad) for grad in grads)


class _TransformLibrary:
    """A stand-in for the library in `register_autograd`.

    The kernels that it registers use the formula for derivatives that autograd does not know.
    """

    ns = LIBRARY.ns

    def __init__(self, derived: Callable[..., Any]) -> None:
        self._derived = derived

    def impl(self, name: str, kernel: Callable[..., Any], key: str, with_keyset: bool) -> None:
        LIBRARY.impl(name, _dispatch_transforms(kernel, self._derived), key, with_keyset=with_keyset)


def _dispatch_transforms(kernel: Callable[..., Any], derived: Callable[..., Any]) -> Callable[..., Any]:
    def kernel_or_formula(keyset: Any, *args: Any) -> Any:
        if is_transformed() and any(map(_is_tracked, pytree.tree_leaves(args))):
            return derived(*args)
        return kernel(keyset, *args)

    return kernel_or_formula


def _is_tracked(value: Any) -> bool:
    """Return whether a transform or forward mode differentiates with respect to a tensor."""
    if not isinstance(value, Tensor):
        return False
    is_in_transform = value.requires_grad and torch._C._are_functorch_transforms_active()
    return is_in_transform or forward_ad.unpack_dual(value).tangent is not None


def _skip_autograd(op: torch._ops.OpOverload) -> Callable[..., Any]:
    def kernel(keyset: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    return kernel


def _refuse(message: str) -> Callable[..., Any]:
    def refuse(*args: Any) -> Any:
        raise NotImplementedError(message)

    return refuse
