"""Throughput of a run's steps between two measurements, and how long they waited for data."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StepMeter:
    """Counts steps and the time they take; saves and other pauses do not count.

    A GPU runs behind Python, so read it where Python has just waited for the GPU.

    Args:
        batch: episodes of a step, over all ranks.
        peak: floating-point operations per second that the device reaches.
        clock: returns seconds.
    """

    def __init__(self, batch: int, peak: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._batch, self._peak, self._clock = batch, peak, clock
        self._steps, self._waited, self._start = 0, 0.0, clock()
        self.flops = 0
        """Operations of a step of this rank."""

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        start = self._clock()
        yield
        self._waited += self._clock() - start

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time of the block."""
        start = self._clock()
        yield
        self._start += self._clock() - start

    def count_step(self) -> None:
        """Count a step."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Return metrics of the steps since the last reading: episodes a second over all ranks, percent of
        the device's peak, and the seconds that a step waited for data.
        """
        seconds = max(self._clock() - self._start, 1e-9)
        values = {
            "episodes_per_second": self._batch * self._steps / seconds,
            "percent_of_peak": 100 * self.flops * self._steps / seconds / self._peak,
            "data_wait_seconds": self._waited / max(self._steps, 1),
        }
        self._steps, self._waited, self._start = 0, 0.0, self._clock()
        return values
