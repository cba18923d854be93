"""Throughput of steps, by a clock that the test moves."""

import pytest

from talkinghead.training.step_meter import StepMeter


class Clock:
    """Clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(meter: StepMeter, clock: Clock, steps: int) -> None:
    """Take steps of 2 s, of which 0.5 s are waited for data."""
    for _ in range(steps):
        with meter.waiting():
            clock.now += 0.5
        clock.now += 1.5
        meter.count_step()


def test_meter_measures_steps_since_last_reading() -> None:
    clock = Clock()
    meter = StepMeter(batch=6, peak=1000.0, clock=clock)
    meter.flops = 200
    run(meter, clock, 5)
    expected = {"episodes_per_second": 3.0, "percent_of_peak": 10.0, "data_wait_seconds": 0.5}
    assert meter.read() == pytest.approx(expected)
    clock.now += 8.0  # a slow step
    meter.count_step()
    assert meter.read() == pytest.approx(
        {"episodes_per_second": 0.75, "percent_of_peak": 2.5, "data_wait_seconds": 0.0}
    )


def test_meter_leaves_out_pauses() -> None:
    clock = Clock()
    meter = StepMeter(batch=6, peak=1000.0, clock=clock)
    run(meter, clock, 2)
    with meter.pause():
        clock.now += 60.0
    run(meter, clock, 1)
    assert meter.read()["episodes_per_second"] == pytest.approx(3.0)
