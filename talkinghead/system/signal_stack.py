"""The alternate signal stack of a thread, on which Python's signal handlers run."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _SignalStack(ctypes.Structure):
    """Linux' `stack_t`."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def preserve_signal_stack() -> Iterator[None]:
    """Restore the thread's alternate signal stack after the block.

    OpenVINO's CPU plugin sets one in the thread that loads it and frees it later: of two networks that are
    closed in the order in which they were opened, the second one's stack stays set and is freed. The next
    signal, such as Ctrl-C, then ends the process by a segmentation fault (seen with OpenVINO 2026.4).
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, before = ctypes.CDLL(None), _SignalStack()
    if libc.sigaltstack(None, ctypes.byref(before)) != 0:
        yield
        return
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
