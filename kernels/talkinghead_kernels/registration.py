"""One way to make a Python function an op of `torch.ops.talkinghead`."""

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("talkinghead", "DEF")


def register(schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Define an op whose body is opaque to compilers and exporters.

    Args:
        schema: in torch's words, "name(Tensor x, ...) -> ...".
        run: what it does, on every device.
        fake: the empty results, for tracing.
    """
    name = schema[: schema.index("(")]
    LIBRARY.define(schema)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"talkinghead::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.talkinghead, name).default


def no_second_derivative(op: str) -> None:
    """Say so where a backward op is differentiated, instead of giving silent zeros.

    Args:
        op: name of the backward op.
    """

    def backward(ctx: Any, *grads: Any) -> None:
        raise RuntimeError(f"{op}: double backward is not supported; run the backward without create_graph")

    torch.library.register_autograd(f"talkinghead::{op}", backward, lib=LIBRARY)
