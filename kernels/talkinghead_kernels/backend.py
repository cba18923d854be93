"""Which implementation of an op runs, and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NAMES = ("reference", "cpp", "cuda", "triton")
_chosen: ContextVar[str | None] = ContextVar("talkinghead_kernels_backend", default=None)


def backends() -> dict[str, str | None]:
    """Every backend's name with None where it can run, else the reason why it cannot."""
    return {name: None if name == "reference" else "this version holds the reference form only" for name in NAMES}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the block on one backend.

    Raises:
        ValueError: no such backend.
        RuntimeError: the backend cannot run here; the message says why.
    """
    if name not in NAMES:
        raise ValueError(f"use_backend: name must be one of {', '.join(NAMES)}, got {name!r}")
    reason = backends()[name]
    if reason:
        raise RuntimeError(f"use_backend: {name} cannot run: {reason}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)
