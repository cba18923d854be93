"""Driving while the driver moves: from a source to a sink, with drawn faces, and how each stage may end it."""

import gc
import json
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import talkinghead.live as live
from conftest import RedSquare, draw_video, drawn_frame
from talkinghead.animate import SYNTHESISED
from talkinghead.checkpoint import Person, random_model
from talkinghead.engines.eager import EagerEngine
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.face import Face
from talkinghead.live import Latencies, LiveReport, run_live
from talkinghead.media.camera import Shot
from talkinghead.media.video import VideoReader, VideoWriter

FPS, COUNT, SIZE = 50, 40, 64
FACES = [(20 + 2 * number, 30, 40) for number in range(COUNT)]


@pytest.fixture(scope="module")
def person() -> Person:
    model = random_model("tiny", seed=1)
    with torch.no_grad():
        styles = model.generator.project(torch.zeros(1, model.config.networks.embedding))
    reference = RedSquare()(drawn_frame((64, 64), (20, 20, 24)))
    assert reference is not None
    return Person(model.config, model.generator, styles, reference / 64, "", feed_forward=True)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_video(tmp_path_factory.mktemp("drive") / "drive.mp4", FACES, fps=FPS)


class Painter:
    """An engine in a moment: the picture's shade is how far to the right the face is."""

    size = SIZE

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.given = seconds, []

    def run(self, points: np.ndarray) -> np.ndarray:
        assert points.shape == (1, 68, 2) and points.dtype == np.float32
        time.sleep(self.seconds)
        self.given.append(points[0])
        shade = np.clip(points[0, :, 0].mean() * 200, 0, 255)
        return np.full((1, SIZE, SIZE, 3), shade, np.uint8)


class Recorder:
    """A sink that remembers what it was shown; `closes` after so many frames."""

    def __init__(self, closes: int = 10**9, seconds: float = 0.0) -> None:
        self.closes, self.seconds = closes, seconds
        self.times: list[float] = []
        self.shades: list[int] = []
        self.left = False

    def show(self, picture: np.ndarray, t: float) -> None:
        time.sleep(self.seconds)
        self.times.append(t)
        self.shades.append(int(picture[0, 0, 0]))

    def is_open(self) -> bool:
        return len(self.times) < self.closes


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()

    @contextmanager
    def open_sink(*given: Any) -> Iterator[Recorder]:
        try:
            yield recorder
        finally:
            recorder.left = True

    monkeypatch.setattr(live, "open_sink", open_sink)
    return recorder


class Endless:
    """A source that never ends: a webcam."""

    name, fps, waits, patience = "made-up", Fraction(FPS), False, np.inf

    def __init__(self, frames: int = 10**9) -> None:
        self.frames, self.closed = frames, threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        start = time.perf_counter()
        for number in range(self.frames):
            if self.closed.wait(max(0.0, start + number / FPS - time.perf_counter())):
                return
            yield Shot(drawn_frame((120, 160), FACES[number % 4]), number / FPS, start + number / FPS)
        self.closed.wait()

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Endless:
    source = Endless()
    monkeypatch.setattr(live, "open_source", lambda name, pace: source)
    return source


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("live ")]


def run(person: Person, engine: Any, source: Any, sink: Any = "recorded", detector: Any = None, **options: Any) -> LiveReport:
    report = run_live(person, engine, source, sink, detector or RedSquare(), **options)
    assert threads() == []
    return report


# frames


def test_as_fast_as_it_goes_every_frame_comes_once_and_in_order(person: Person, drive: Path, recorded: Recorder) -> None:
    report = run(person, Painter(), drive, pace=False, retarget=False)
    assert recorded.times == [number / FPS for number in range(COUNT)]
    # the face goes to the right, and each picture is of its frame
    assert recorded.shades == sorted(recorded.shades) and len(set(recorded.shades)) > COUNT / 2
    assert (report.captured, report.frames, report.without_face) == (COUNT, COUNT, 0) and not any(report.dropped.values())
    assert (report.ended, report.retargeted, report.size) == ("source", False, (SIZE, SIZE)) and recorded.left


@pytest.mark.parametrize("retarget", [True, False])
def test_the_file_has_the_rate_of_the_source_and_says_what_it_is(person: Person, drive: Path, tmp_path: Path, retarget: bool) -> None:
    out = tmp_path / "out.mp4"
    report = run(person, EagerEngine(person), drive, out, pace=False, retarget=retarget)
    reader = VideoReader(out)
    frames = list(reader)
    assert (len(frames), reader.fps, reader.size, report.sink) == (COUNT, FPS, (SIZE, SIZE), str(out))
    assert np.ptp(np.stack(frames).astype(float), axis=0).max() > 5  # it moves
    with av.open(str(out)) as container:
        assert container.metadata["comment"] == SYNTHESISED


def test_in_real_time_it_takes_as_long_as_the_video_and_little_waits(person: Person, drive: Path, recorded: Recorder) -> None:
    start = time.perf_counter()
    report = run(person, Painter(), drive)
    assert time.perf_counter() - start > (COUNT - 1) / FPS
    assert report.captured == COUNT == report.frames + sum(report.dropped.values())
    assert report.frames > COUNT / 4 and 0 < report.latency_p50 <= report.latency_p99 < 1000
    assert report.fps == pytest.approx(report.frames / report.seconds)


def test_late_frames_are_dropped_so_that_what_is_shown_is_not_old(person: Person, drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    report = run(person, Painter(seconds=0.1), drive, out)  # 50 frames a second come, 10 are rendered
    assert report.captured == COUNT == report.frames + sum(report.dropped.values())
    assert 3 <= report.frames <= 12 and report.dropped["render"] > 15
    # without dropping the last would be 3 seconds old
    assert 100 < report.latency_p50 < 800 and report.latency_p99 < 1500
    assert len(list(VideoReader(out))) == COUNT  # which plays in real time nevertheless
    assert "frames came too soon after others and were dropped" in report.lines()[2]


def test_little_is_held_where_the_sink_is_slow(person: Person, drive: Path, recorded: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded.seconds = 0.01
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Watched(RedSquare):
        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            return self.look(frames) or super().find(frames)

        def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
            return self.look(frames) or super().follow(frames, near)

        def look(self, frames: Sequence[np.ndarray]) -> None:
            nonlocal most
            alive.append(weakref.ref(frames[0]))
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))

    run(person, Painter(), drive, detector=Watched(), pace=False)
    assert 2 <= most <= 7 and len(alive) >= COUNT


# ends


def test_so_many_seconds_of_the_source_are_enough(person: Person, drive: Path, recorded: Recorder, endless: Endless) -> None:
    report = run(person, Painter(), "webcam", seconds=0.3)
    assert report.ended == "seconds" and report.captured == 15 and recorded.times[-1] == 14 / FPS
    assert endless.closed.is_set()


def test_all_of_a_shorter_one_is_not_called_so(person: Person, drive: Path, recorded: Recorder) -> None:
    assert run(person, Painter(), drive, pace=False, seconds=100).ended == "source"
    assert run(person, Painter(), drive, pace=False, seconds=0.2).frames == 10


def test_a_closed_window_ends_it(person: Person, recorded: Recorder, endless: Endless) -> None:
    recorded.closes = 5
    report = run(person, Painter(), "webcam")
    assert (report.ended, report.frames) == ("closed", 5) and recorded.left and endless.closed.is_set()


def test_so_does_one_that_is_closed_while_no_frame_comes(
    person: Person, recorded: Recorder, endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless.frames = 3
    until = time.perf_counter() + 0.5
    monkeypatch.setattr(recorded, "is_open", lambda: time.perf_counter() < until)
    assert run(person, Painter(), "webcam").ended == "closed" and time.perf_counter() < until + 1


@pytest.mark.parametrize("frames", [1, 8])
def test_ctrl_c_keeps_the_file_so_far(person: Person, endless: Endless, frames: int, tmp_path: Path) -> None:
    class Interrupting(Painter):
        def run(self, points: np.ndarray) -> np.ndarray:
            if len(self.given) == frames:
                os.kill(os.getpid(), signal.SIGINT)
            return super().run(points)

    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out.mp4"
    report = run(person, Interrupting(), "webcam", out)
    assert report.ended == "interrupted" and report.lines()[-1] == "interrupted"
    assert 0 < report.frames < frames + 20
    assert len(list(VideoReader(out))) >= report.frames and [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_it_though_a_stage_hangs(person: Person, recorded: Recorder, endless: Endless, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    class Hanging(Painter):
        def run(self, points: np.ndarray) -> np.ndarray:
            if len(self.given) == 2:
                os.kill(os.getpid(), signal.SIGINT)
                let_go.wait(10)
            return super().run(points)

    monkeypatch.setattr(live, "_GRACE", 0.2)
    monkeypatch.setattr("talkinghead.engines.line._JOIN", 0.2)
    start = time.perf_counter()
    report = run_live(person, Hanging(), "webcam", "recorded", RedSquare())
    assert report.ended == "interrupted" and time.perf_counter() - start < 3
    let_go.set()


@pytest.mark.parametrize("who", ["source", "landmarks", "render", "sink"])
@pytest.mark.parametrize("pace", [True, False])
def test_a_stage_that_dies_ends_it_with_its_own_error(
    who: str, pace: bool, person: Person, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[float] = []

    def dies(after: int, count: list[int]) -> None:
        count.append(0)
        if len(count) > after:
            died.append(time.perf_counter())
            raise RuntimeError(f"{who} died")

    looked: list[int] = []

    class Dying(RedSquare):
        def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
            dies(5, looked)
            return super().follow(frames, near)

    class Broken(Painter):
        def run(self, points: np.ndarray) -> np.ndarray:
            dies(5, self.given)
            return super().run(points)

    if who == "source":
        real, read = VideoReader.__iter__, []

        def torn(self: VideoReader) -> Iterator[np.ndarray]:
            for frame in real(self):
                dies(5, read)
                yield frame

        monkeypatch.setattr(VideoReader, "__iter__", torn)
    if who == "sink":
        written: list[int] = []
        monkeypatch.setattr("talkinghead.media.video.VideoWriter.write", lambda self, frame: dies(5, written))
    out = tmp_path / "out.mp4"
    engine = Broken() if who == "render" else Painter()
    with pytest.raises(RuntimeError, match=f"^{who} died$"):
        run(person, engine, drive, out, Dying() if who == "landmarks" else None, pace=pace)
    assert time.perf_counter() - died[0] < 1
    assert threads() == []
    # frames that were shown before, where there were any, are kept
    assert {path.name for path in tmp_path.iterdir()} <= (set() if who == "sink" else {"out.part.mp4"})


def test_a_webcam_that_falls_silent_is_told(person: Person, endless: Endless, tmp_path: Path) -> None:
    endless.frames, endless.patience = 3, 0.3  # type: ignore[misc]
    with pytest.raises(TalkingheadError, match="^made-up: no frame came for 0.3 seconds; look whether it is broken"):
        run(person, Painter(), "webcam", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["out.part.mp4"] and threads() == []
    assert sum(1 for _ in VideoReader(tmp_path / "out.part.mp4")) >= 1


def test_a_silent_webcam_that_is_interrupted_leaves_its_video(
    person: Person, endless: Endless, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is waited for longer than a webcam may be silent."""
    endless.frames, endless.patience = 3, 0.5  # type: ignore[misc]
    monkeypatch.setattr(live, "_GRACE", 1.0)
    shown = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    real = VideoWriter.finish

    def finish(self: VideoWriter) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # once more while the video is finished
        real(self)

    monkeypatch.setattr(VideoWriter, "finish", finish)
    shown.start()
    report = run_live(person, Painter(), "webcam", tmp_path / "out.mp4", RedSquare())
    assert report.ended == "interrupted" and (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("source, sink", [("webcam:97", "out.mp4"), ("nonsense", "out.mp4"), ("drive", "nonsense")])
def test_what_is_not_there_is_one_line_and_leaves_nothing(
    source: str, sink: str, person: Person, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TalkingheadError) as told:
        run(person, Painter(), drive if source == "drive" else source, sink)
    assert "\n" not in str(told.value) and (sink if source == "drive" else source) in str(told.value)
    assert list(tmp_path.iterdir()) == [] and threads() == []


# faces


def test_without_any_face_the_person_is_at_rest_and_it_is_said(person: Person, tmp_path: Path, recorded: Recorder) -> None:
    engine = Painter()
    report = run(person, engine, draw_video(tmp_path / "empty.mp4", [None] * 8, fps=FPS), pace=False)
    assert (report.frames, report.without_face) == (8, 8)
    assert all(np.array_equal(points, person.reference) for points in engine.given)
    assert "8 frames show no face; the person stayed as before" in report.lines()


def test_a_real_face_drives(carphone: Path, person: Person, recorded: Recorder) -> None:
    engine = Painter()
    report = run_live(person, engine, carphone, "recorded", pace=False, seconds=0.8)
    assert (report.frames, report.without_face, report.ended) == (24, 0, "seconds")
    assert np.ptp(np.stack(engine.given[1:]), axis=0).max() > 0.01


# figures


def test_latencies_are_right_to_a_percent_in_memory_that_does_not_grow() -> None:
    seconds = np.random.default_rng(0).lognormal(-3, 1, 5000)
    latencies = Latencies()
    before = latencies._counts.nbytes
    for each in seconds:
        latencies.add(each)
    for share in (1, 50, 99):
        assert latencies.percentile(share) == pytest.approx(np.percentile(seconds, share), rel=0.02)
    assert latencies._counts.nbytes == before < 10_000 and latencies._counts.sum() == 5000
    edges = Latencies()
    assert edges.percentile(50) == 0
    edges.add(0), edges.add(1e9)
    assert edges.percentile(1) == pytest.approx(1e-4, rel=0.02) and edges.percentile(99) > 90


def test_how_it_goes_is_told_now_and_then(person: Person, drive: Path, recorded: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_TELL", 0.2)
    said: list[str] = []
    report = run(person, Painter(), drive, tell=said.append)
    assert 2 <= len(said) <= report.seconds / 0.2
    assert all("frames a second" in line and "(p50)" in line and "(p99)" in line and "dropped" in line for line in said)


def test_the_report_is_for_programs_and_for_people(person: Person, drive: Path, recorded: Recorder) -> None:
    report = run(person, Painter(), drive, pace=False)
    values = json.loads(json.dumps(report.as_dict()))
    assert values["frames"] == COUNT and values["dropped"] == {"landmarks": 0, "render": 0, "sink": 0} and values["size"] == [SIZE, SIZE]
    first, second = report.lines()
    assert first.startswith(f"recorded: {COUNT} frames of 64x64 shown in ") and second.startswith(f"from {drive} to there: ")
