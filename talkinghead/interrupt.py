"""SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal): they end work between two steps, and never cut a save short."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a command to end; Windows has no SIGHUP."""
_CLEANUP_S = 2.0


class _Flag:
    """A signal handler that only notes what it received."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)

    def is_set(self) -> bool:
        return bool(self._received)

    def install(self) -> None:
        global _active
        self._before = _handlers()
        _active = self
        for number in self._before:
            signal.signal(number, self)

    def restore(self) -> None:
        global _active
        _active = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Send the signals that were noted once more, each kind once, to the previous handlers."""
        received, self._received = dict.fromkeys(self._received), []
        for number in received:
            signal.raise_signal(number)


_active: _Flag | None = None
"""The one that holds signals back now."""


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Hold back SIGINT, SIGTERM and SIGHUP, and yield a function that says whether one came, so that work ends between two steps.

    Within another `stop_flag` it is that one's, so that a signal received by the outer stops the inner work too. Outside the main thread,
    which alone receives signals, it does nothing.
    """
    outer = _current()
    if outer is not None or not _in_main_thread():
        yield outer.is_set if outer is not None else lambda: False
        return
    flag = _Flag()
    try:
        flag.install()
        yield flag.is_set
    finally:
        flag.restore()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals act at once, inside a `stop_flag`, as they do outside it; one that was held back acts at the start."""
    flag = _current()
    if flag is None:
        yield
        return
    try:
        flag.restore()
        flag.deliver()
        yield
    finally:
        flag.install()


@contextmanager
def delayed() -> Iterator[None]:
    """Let signals act only after the block, which should take moments."""
    if _current() is not None or not _in_main_thread():
        yield
        return
    flag = _Flag()
    try:
        flag.install()
        yield
    finally:
        flag.restore()
        flag.deliver()


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, so that what is under way is cleaned up.

    Those that follow within two seconds are the same wish, and do not interrupt the cleaning up. Those that are ignored stay so.
    """
    if not _in_main_thread():
        yield
        return
    last = -_CLEANUP_S

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _CLEANUP_S:
            last = now
            raise KeyboardInterrupt

    before = _handlers()
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handlers() -> dict[int, Any]:
    """Return the handlers in force, without those that are not to be replaced: of ignored signals, as under nohup or of a shell's
    background jobs, and any that Python did not install."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return {number: handler for number, handler in handlers.items() if handler is not None and handler is not signal.SIG_IGN}


def _current() -> _Flag | None:
    return _active if _in_main_thread() else None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
