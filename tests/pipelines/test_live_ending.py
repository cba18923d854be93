"""Tests of the ways in which live driving ends."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import talkinghead.pipelines.live as live
from conftest import RedSquare, draw_video
from support.live_helpers import (
    FACES,
    FPS,
    EndlessSource,
    FakeEngine,
    RecordingSink,
    live_threads,
    record_frames,
    run_to_end,
    use_endless_source,
)
from support.red_square_person import red_square_person
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detector import Face
from talkinghead.media.video import VideoReader, VideoWriter
from talkinghead.model import Person


@pytest.fixture(scope="module")
def person() -> Person:
    return red_square_person()


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_video(tmp_path_factory.mktemp("drive") / "drive.mp4", FACES, fps=FPS)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordingSink:
    return record_frames(monkeypatch)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> EndlessSource:
    return use_endless_source(monkeypatch)


# ends


def test_live_ends_after_seconds(
    person: Person, drive: Path, recorded: RecordingSink, endless: EndlessSource
) -> None:
    report = run_to_end(person, FakeEngine(), "webcam", seconds=0.3)
    assert report.ended == "seconds" and report.captured == 15 and recorded.times[-1] == 14 / FPS
    assert endless.closed.is_set()


def test_live_shorter_source_ends_as_source(person: Person, drive: Path, recorded: RecordingSink) -> None:
    assert run_to_end(person, FakeEngine(), drive, realtime=False, seconds=100).ended == "source"
    assert run_to_end(person, FakeEngine(), drive, realtime=False, seconds=0.2).frames == 10


def test_live_ends_when_window_closes(
    person: Person, recorded: RecordingSink, endless: EndlessSource
) -> None:
    recorded.closes = 5
    report = run_to_end(person, FakeEngine(), "webcam")
    assert (report.ended, report.frames) == ("closed", 5) and recorded.is_closed and endless.closed.is_set()


def test_live_ends_when_window_closes_without_frames(
    person: Person, recorded: RecordingSink, endless: EndlessSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless.frames = 3
    until = time.perf_counter() + 0.5
    monkeypatch.setattr(recorded, "is_open", lambda: time.perf_counter() < until)
    assert run_to_end(person, FakeEngine(), "webcam").ended == "closed" and time.perf_counter() < until + 1


@pytest.mark.parametrize("frames", [1, 8])
def test_live_interrupted_keeps_file(
    person: Person, endless: EndlessSource, frames: int, tmp_path: Path
) -> None:
    class Interrupting(FakeEngine):
        def run(self, points: np.ndarray) -> np.ndarray:
            if len(self.inputs) == frames:
                os.kill(os.getpid(), signal.SIGINT)
            return super().run(points)

    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out.mp4"
    report = run_to_end(person, Interrupting(), "webcam", out)
    assert report.ended == "interrupted" and report.lines()[-1] == "interrupted"
    assert 0 < report.frames < frames + 20
    assert len(list(VideoReader(out))) >= report.frames and [path.name for path in tmp_path.iterdir()] == [
        "out.mp4"
    ]
    assert signal.getsignal(signal.SIGINT) is before


def test_live_interrupted_ends_despite_hanging_stage(
    person: Person, recorded: RecordingSink, endless: EndlessSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    class Hanging(FakeEngine):
        def run(self, points: np.ndarray) -> np.ndarray:
            if len(self.inputs) == 2:
                os.kill(os.getpid(), signal.SIGINT)
                let_go.wait(10)
            return super().run(points)

    monkeypatch.setattr(live, "_GRACE_S", 0.2)
    monkeypatch.setattr("talkinghead.system.stage_pipeline._JOIN", 0.2)
    start = time.perf_counter()
    report = live.live(person, "webcam", "recorded", engine=Hanging(), detector=RedSquare())
    assert report.ended == "interrupted" and time.perf_counter() - start < 3
    let_go.set()


@pytest.mark.parametrize("who", ["source", "landmarks", "render", "sink"])
@pytest.mark.parametrize("pace", [True, False])
def test_live_failing_stage_raises_its_error(
    who: str, pace: bool, person: Person, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[float] = []

    def fail_after(after: int, count: list[int]) -> None:
        count.append(0)
        if len(count) > after:
            died.append(time.perf_counter())
            raise RuntimeError(f"{who} died")

    looked: list[int] = []

    class Dying(RedSquare):
        def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
            fail_after(5, looked)
            return super().follow(frames, near)

    class Broken(FakeEngine):
        def run(self, points: np.ndarray) -> np.ndarray:
            fail_after(5, self.inputs)
            return super().run(points)

    if who == "source":
        real, read = VideoReader.__iter__, []

        def failing_iter(self: VideoReader) -> Iterator[np.ndarray]:
            for frame in real(self):
                fail_after(5, read)
                yield frame

        monkeypatch.setattr(VideoReader, "__iter__", failing_iter)
    if who == "sink":
        written: list[int] = []
        monkeypatch.setattr(
            "talkinghead.media.video.VideoWriter.write", lambda self, frame: fail_after(5, written)
        )
    out = tmp_path / "out.mp4"
    engine = Broken() if who == "render" else FakeEngine()
    with pytest.raises(RuntimeError, match=f"^{who} died$"):
        run_to_end(person, engine, drive, out, Dying() if who == "landmarks" else None, realtime=pace)
    assert time.perf_counter() - died[0] < 1
    assert live_threads() == []
    # frames that were shown before, where there were any, are kept
    assert {path.name for path in tmp_path.iterdir()} <= (set() if who == "sink" else {"out.part.mp4"})


def test_live_silent_webcam_reports_user_error(
    person: Person, endless: EndlessSource, tmp_path: Path
) -> None:
    endless.frames, endless.timeout_s = 3, 0.3  # type: ignore[misc]
    with pytest.raises(
        TalkingheadError, match="^made-up: no frame came for 0.3 seconds; look whether it is broken"
    ):
        run_to_end(person, FakeEngine(), "webcam", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["out.part.mp4"] and live_threads() == []
    assert sum(1 for _ in VideoReader(tmp_path / "out.part.mp4")) >= 1


def test_live_interrupted_silent_webcam_keeps_file(
    person: Person, endless: EndlessSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The grace period is longer than a webcam may be silent.
    endless.frames, endless.timeout_s = 3, 0.5  # type: ignore[misc]
    monkeypatch.setattr(live, "_GRACE_S", 1.0)
    real = VideoWriter.finish

    def finish(self: VideoWriter) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # once more while the video is finished
        real(self)

    monkeypatch.setattr(VideoWriter, "finish", finish)
    engine = FakeEngine()
    render = engine.run

    def run(points: np.ndarray) -> np.ndarray:
        if len(engine.inputs) == 0:  # Signals are handled from here on.
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        return render(points)

    monkeypatch.setattr(engine, "run", run)
    report = live.live(person, "webcam", tmp_path / "out.mp4", engine=engine, detector=RedSquare())
    assert report.ended == "interrupted" and (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    "source, sink", [("webcam:97", "out.mp4"), ("nonsense", "out.mp4"), ("drive", "nonsense")]
)
def test_live_missing_source_or_sink_reports_user_error(
    source: str, sink: str, person: Person, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TalkingheadError) as raised:
        run_to_end(person, FakeEngine(), drive if source == "drive" else source, sink)
    message = str(raised.value)
    assert "\n" not in message and (sink if source == "drive" else source) in message
    assert list(tmp_path.iterdir()) == [] and live_threads() == []
