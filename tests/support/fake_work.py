"""Work for the processes of test_process_pool.py, in a module that they import quickly."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Heartbeat = Callable[..., None]


def work(job: Any, heartbeat: Heartbeat) -> Any:
    """Do in a worker process what the job says."""
    kind, value = job
    if kind == "sleep":
        time.sleep(value)
    elif kind == "alive":
        for _ in range(value):
            time.sleep(0.1)
            heartbeat()
    elif kind == "report":
        for report in value:
            heartbeat(report)
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
    """Work that no process can unpickle."""

    def __reduce__(self) -> Any:
        return _refuse, ()

    def __call__(self, job: Any, heartbeat: Heartbeat) -> None: ...


def _refuse() -> None:
    os._exit(7)
