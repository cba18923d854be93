"""Callbacks of long work: `progress` wraps a loop, `on_step` is called after training steps."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..errors import TalkingheadError

Item = TypeVar("Item")


class Progress(Protocol):
    """Wrapper of a loop that shows how far it has come; `tqdm.tqdm` is one."""

    def __call__(self, iterable: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        """Return an iterable of the same items.

        Args:
            iterable: of the loop.
            desc: what the loop does, such as "rendering".
            total: number of items, None where it is unknown.
        """


OnStep = Callable[[int, int, Mapping[str, float]], Any]
"""Called with (step, steps, metrics) after a training step; what it returns is ignored."""


@runtime_checkable
class StepsStart(Protocol):
    """Callback of training steps that is also told where they start, such as a progress bar."""

    def start(self, step: int, steps: int) -> None:
        """Show that `step` of `steps` are done, before the first of the others."""


def start_steps(on_step: OnStep | None, step: int, steps: int) -> None:
    """Tell a callback that has a method for it how many steps are done before the first."""
    if isinstance(on_step, StepsStart):
        on_step.start(step, steps)


class _NoProgress:
    """Progress that shows nothing; an object, whose name `help` prints as a default value."""

    def __call__(
        self, iterable: Iterable[Item], /, *, desc: str = "", total: int | None = None
    ) -> Iterable[Item]:
        """Return the iterable unchanged."""
        return iterable

    def __repr__(self) -> str:
        return "no_progress"


no_progress = _NoProgress()


class ProgressCounter:
    """Progress of work that is counted by calls, where there is no loop to wrap.

    Args:
        progress, desc, total: as for `Progress`.
    """

    def __init__(self, progress: Progress, desc: str, total: int) -> None:
        self._steps = iter(progress(range(total), desc=desc, total=total))
        next(self._steps, None)

    def add(self, count: int = 1) -> None:
        """Advance by so many."""
        for _ in range(count):
            next(self._steps, None)


def check_callbacks(progress: object = no_progress, on_step: object = None) -> None:
    """Check what a user gave as `progress` and `on_step`.

    Raises:
        TalkingheadError: one of them cannot be called as such, as when the two are confused.
    """
    if not _accepts(progress, None, desc="", total=None):
        raise TalkingheadError(
            f"progress: {_name(progress)} cannot be called as progress(iterable, desc=..., total=...); "
            "give tqdm.tqdm or a function like it; a function to call after each step is on_step"
        )
    if on_step is not None and (not _accepts(on_step, 1, 1, {}) or _is_loop_wrapper(on_step)):
        raise TalkingheadError(
            f"on_step: {_name(on_step)} cannot be called as on_step(step, steps, metrics); give a function "
            "of these three; a wrapper of loops such as tqdm.tqdm is progress"
        )


def _accepts(function: object, *args: object, **keywords: object) -> bool:
    """Return whether a function can be called with such arguments; True where its signature is unknown."""
    if not callable(function):
        return False
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*args, **keywords)
    except TypeError:
        return False
    return True


def _is_loop_wrapper(function: Any) -> bool:
    """Return whether a function is a class of iterables, such as tqdm, or names the parameters of one."""
    if isinstance(function, type):
        return hasattr(function, "__iter__")
    try:
        return {"desc", "total"} <= set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False


def _name(value: object) -> str:
    return getattr(value, "__qualname__", None) or repr(value)
