"""Durations of stages, logged at level DEBUG: `talkinghead COMMAND --verbose` prints them."""

import logging
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

_log = logging.getLogger(__name__)

_Item = TypeVar("_Item")


@contextmanager
def timed_stage(stage: str) -> Iterator[None]:
    """Log the duration of the block, however it ends."""
    timer = StageTimer(stage)
    try:
        with timer.running():
            yield
    finally:
        timer.log()


class StageTimer:
    """Total duration of a stage that is interleaved with others.

    Args:
        stage: name of the stage, for the log.
    """

    def __init__(self, stage: str) -> None:
        self.stage, self.seconds = stage, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the duration of the block."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - start

    def waits(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yield items, and add the time that is waited for each of them; log the total at the end."""
        iterator = iter(items)
        missing = object()
        try:
            while True:
                with self.running():
                    item = next(iterator, missing)
                if item is missing:
                    return
                yield item  # type: ignore[misc]
        finally:
            self.log()
            if isinstance(iterator, Generator):
                iterator.close()

    def log(self) -> None:
        """Log the duration so far."""
        _log.debug("%s: %.2f s", self.stage, self.seconds)
