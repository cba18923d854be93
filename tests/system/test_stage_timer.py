"""Durations of stages in the log."""

import logging
import re
from collections.abc import Iterator

import pytest

from talkinghead.system.stage_timer import StageTimer, timed_stage


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "talkinghead")
    return caplog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock by one that a test sets."""
    now = [0.0]
    monkeypatch.setattr("talkinghead.system.stage_timer.perf_counter", lambda: now[0])
    return now


def test_stage_logs_its_duration_even_when_it_fails(
    log: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    with timed_stage("reading"):
        clock[0] += 2
    with pytest.raises(KeyError), timed_stage("writing"):
        clock[0] += 0.5
        raise KeyError
    assert log.messages == ["reading: 2.00 s", "writing: 0.50 s"]
    assert {record.levelno for record in log.records} == {logging.DEBUG}


def test_timer_adds_waits_for_items_alone(log: pytest.LogCaptureFixture, clock: list[float]) -> None:
    def produce() -> Iterator[int]:
        for number in range(3):
            clock[0] += 1
            yield number

    items = []
    for item in StageTimer("rendering").waits(produce()):
        clock[0] += 10  # of the consumer
        items.append(item)
    assert items == [0, 1, 2] and log.messages == ["rendering: 3.00 s"]


def test_timer_closes_items_with_itself(log: pytest.LogCaptureFixture) -> None:
    closed = []

    def produce() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            closed.append(True)

    waits = StageTimer("rendering").waits(produce())
    assert next(waits) == 0
    waits.close()  # type: ignore[attr-defined]
    assert closed and re.fullmatch(r"rendering: \d\.\d\d s", log.messages[0])
