"""Work for the processes of test_workers.py, in a file of its own that they import quickly."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Alive = Callable[[], None]


def work(job: Any, alive: Alive) -> Any:
    """What the tests' processes do: the job says it."""
    kind, value = job
    if kind == "sleep":
        time.sleep(value)
    elif kind == "alive":
        for _ in range(value):
            time.sleep(0.1)
            alive()
    elif kind == "signal":
        os.kill(os.getpid(), value)
        time.sleep(60)
    elif kind == "exit":
        os._exit(value)
    elif kind == "raise":
        raise value
    return kind, value, os.getpid()


@dataclass(frozen=True)
class Unreadable:
    """Arrives in no process."""

    def __reduce__(self) -> Any:
        return _refuse, ()

    def __call__(self, job: Any, alive: Alive) -> None: ...


def _refuse() -> None:
    os._exit(7)
