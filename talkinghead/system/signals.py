"""Handling of SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal).

They end work between two steps, and never interrupt a save.
"""

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
    """A signal handler that only records the signals it receives."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._previous_handlers: dict[int, Any] = {}

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._received.append(number)

    def is_set(self) -> bool:
        """Return whether a signal was received."""
        return bool(self._received)

    def install(self) -> None:
        """Replace the current signal handlers by this one."""
        global _active
        self._previous_handlers = _handlers()
        _active = self
        for number in self._previous_handlers:
            signal.signal(number, self)

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        global _active
        _active = None
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Raise every recorded signal once, for the previous handlers."""
        received, self._received = dict.fromkeys(self._received), []
        for number in received:
            signal.raise_signal(number)


_active: _Flag | None = None
"""The handler that holds signals back at present."""


@contextmanager
def graceful_shutdown() -> Iterator[Callable[[], bool]]:
    """Hold back SIGINT, SIGTERM and SIGHUP, and yield a function that returns whether one was received.

    Work can so end between two steps.

    Within another `graceful_shutdown` the outer one is used, so that its signal stops the inner work too.
    Outside the main thread, which alone receives signals, it does nothing.
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
    """Let signals act at once inside a `graceful_shutdown`; one that was held back acts at the start."""
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
def defer_signals() -> Iterator[None]:
    """Let signals act only after the block, which should be short."""
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
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt as SIGINT does, so that cleanup code runs.

    Further signals within two seconds do not interrupt the cleanup. Signals that are ignored stay ignored.
    """
    if not _in_main_thread():
        yield
        return
    last_interrupt = -_CLEANUP_S

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last_interrupt
        now = time.monotonic()
        if now - last_interrupt >= _CLEANUP_S:
            last_interrupt = now
            raise KeyboardInterrupt

    previous_handlers = _handlers()
    try:
        for number in previous_handlers:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def _handlers() -> dict[int, Any]:
    """Return the current handlers that may be replaced.

    Excluded are those of ignored signals, as under nohup or in a shell's background jobs, and handlers that
    Python did not install.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return {
        number: handler
        for number, handler in handlers.items()
        if handler is not None and handler is not signal.SIG_IGN
    }


def _current() -> _Flag | None:
    return _active if _in_main_thread() else None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
