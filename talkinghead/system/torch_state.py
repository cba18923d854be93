"""The torch settings that this package computes with, whatever the caller has set.

They are: gradients on, no autocast, float32, CPU by default, one thread after a fork. torch keeps these
settings per thread or process. Public functions set them and restore the caller's; a generator restores them
between two items.
"""

import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import TalkingheadError, did_you_mean

log = logging.getLogger(__name__)
# Every module that computes imports this one. Without a handler Python would print the package's warnings
# though the application has not configured logging.
logging.getLogger(__name__.partition(".")[0]).addHandler(logging.NullHandler())
P = ParamSpec("P")
R = TypeVar("R")

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def fork_count() -> int:
    """Return the number of forks since the package was imported; threads do not survive a fork."""
    return _forks


def with_default_torch_state(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function, or each step of a generator function, in `default_torch_state`.

    A keyword argument that the function does not have is a TypeError that names the closest one.
    """
    if inspect.isgeneratorfunction(function):
        return _step_in_default_state(function)
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = [] if takes_any else [name for name in kwargs if name not in parameters]
        if unknown:
            hint = did_you_mean(unknown[0], parameters)
            raise TypeError(f"{function.__name__}() has no argument {unknown[0]!r}{hint}")
        with default_torch_state():
            return function(*args, **kwargs)

    run.sets_torch_state = True  # type: ignore[attr-defined]
    return run


def _step_in_default_state(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        items = function(*args, **kwargs)
        try:
            while True:
                with default_torch_state():
                    try:
                        item = next(items)
                    except StopIteration:
                        return
                yield item
        finally:
            with default_torch_state():
                items.close()

    iterate.sets_torch_state = True  # type: ignore[attr-defined]
    return iterate


@contextmanager
def default_torch_state() -> Iterator[None]:
    """Compute as in a fresh process; takes about ten microseconds where the caller has set nothing.

    The default dtype belongs to the process: where the caller's is not float32, the caller's other threads
    also see float32 meanwhile.

    Raises:
        TalkingheadError: torch cannot do this in a process that was forked from one that used it.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if _float32.users or torch.get_default_dtype() != torch.float32:
            stack.enter_context(_float32)
        if _forks:
            stack.enter_context(_after_fork())
        yield


class _DefaultFloat32:
    """Sets float32 as the default dtype while any thread is inside; the last one restores the caller's."""

    def __init__(self) -> None:
        self.users = 0
        self._previous = torch.float32
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self.users:
                self._previous = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self.users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.users -= 1
            if not self.users:
                torch.set_default_dtype(self._previous)


_float32 = _DefaultFloat32()


@contextmanager
def _after_fork() -> Iterator[None]:
    # the threads of torch's pool do not exist in this process, and torch would wait for them for ever
    threads = torch.get_num_threads()
    if threads > 1:
        log.info(
            "this process was forked from one that used torch: it computes with one thread; start processes "
            "by spawn for all"
        )
        torch.set_num_threads(1)
    try:
        yield
    except RuntimeError as error:
        if "fork" not in str(error):
            raise
        raise TalkingheadError(
            "torch cannot compute this in a process that was forked from one that used it; start the "
            "process by "
            "multiprocessing.get_context('spawn'), or fork before"
        ) from error
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


def from_numpy(array: np.ndarray) -> Tensor:
    """Return an array as a tensor, whatever its strides; memory is shared unless the array is read-only."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
