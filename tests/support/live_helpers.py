"""Fake engine, sink and source of live driving."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import talkinghead.pipelines.live as live
from conftest import RedSquare, drawn_frame
from talkinghead.media.frame_source import SourceFrame
from talkinghead.model import Person
from talkinghead.pipelines.live import LiveReport

FPS, COUNT, SIZE = 50, 40, 64
FACES = [(20 + 2 * number, 30, 40) for number in range(COUNT)]


class FakeEngine:
    """Engine that returns at once; the shade of its image grows as the face moves right."""

    size: int = SIZE

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.inputs = seconds, []

    def run(self, points: np.ndarray) -> np.ndarray:
        assert points.shape in ((1, 68, 2), (1, 78, 2)) and points.dtype == np.float32
        time.sleep(self.seconds)
        self.inputs.append(points[0])
        shade = np.clip(points[0, :68, 0].mean() * 200, 0, 255)
        return np.full((1, SIZE, SIZE, 3), shade, np.uint8)


class RecordingSink:
    """Sink that records its frames; it `closes` after a number of them."""

    def __init__(self, closes: int = 10**9, seconds: float = 0.0) -> None:
        self.closes, self.seconds = closes, seconds
        self.times: list[float] = []
        self.shades: list[int] = []
        self.is_closed = False
        self.keys: dict[int, str] = {}  # number of frames shown -> keys pressed then

    def read_keys(self) -> str:
        return self.keys.pop(len(self.times), "")

    def show(self, picture: np.ndarray, t: float) -> None:
        time.sleep(self.seconds)
        self.times.append(t)
        self.shades.append(int(picture[0, 0, 0]))

    def is_open(self) -> bool:
        return len(self.times) < self.closes


class EndlessSource:
    """Source that never ends, like a webcam."""

    name, fps, is_blocking, timeout_s, sound_file = "made-up", Fraction(FPS), False, np.inf, None

    def __init__(self, frames: int = 10**9) -> None:
        self.frames, self.closed = frames, threading.Event()

    def __iter__(self) -> Iterator[SourceFrame]:
        start = time.perf_counter()
        for number in range(self.frames):
            if self.closed.wait(max(0.0, start + number / FPS - time.perf_counter())):
                return
            yield SourceFrame(drawn_frame((120, 160), FACES[number % 4]), number / FPS, start + number / FPS)
        self.closed.wait()

    def close(self) -> None:
        self.closed.set()


def record_frames(monkeypatch: pytest.MonkeyPatch) -> RecordingSink:
    """Replace every sink of live driving by a recording one; return it."""
    recorder = RecordingSink()

    @contextmanager
    def open_sink(*arguments: Any, **options: Any) -> Iterator[RecordingSink]:
        try:
            yield recorder
        finally:
            recorder.is_closed = True

    monkeypatch.setattr(live, "open_sink", open_sink)
    return recorder


def use_endless_source(monkeypatch: pytest.MonkeyPatch) -> EndlessSource:
    """Replace every source of live driving by an endless one; return it."""
    source = EndlessSource()
    monkeypatch.setattr(live, "open_source", lambda name, pace: source)
    return source


def live_threads() -> list[str]:
    """Return the names of the threads of live driving that run."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("live ")]


def run_to_end(
    person: Person, engine: Any, source: Any, sink: Any = "recorded", detector: Any = None, **options: Any
) -> LiveReport:
    """Run live driving and check that it leaves no thread."""
    report = live.live(person, source, sink, engine=engine, detector=detector or RedSquare(), **options)
    assert live_threads() == []
    return report
