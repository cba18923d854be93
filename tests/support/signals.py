"""Signals that tests send to their own process."""

import os
import signal

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def send_signal(kind: int = signal.SIGINT) -> None:
    """Send a signal to this process."""
    os.kill(os.getpid(), kind)
