"""Tests of live driving from a source to a sink, with synthetic faces."""

import gc
import json
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

import talkinghead.pipelines.live as live
from conftest import RedSquare, draw_video
from support.live_helpers import (
    COUNT,
    FACES,
    FPS,
    SIZE,
    EndlessSource,
    FakeEngine,
    RecordingSink,
    record_frames,
    run_to_end,
    use_endless_source,
)
from support.red_square_person import red_square_person
from talkinghead.cli import main
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.landmarks.detector import Face
from talkinghead.media.video import VideoReader
from talkinghead.model import Person
from talkinghead.pipelines import live_report
from talkinghead.pipelines.animate import SYNTHESISED
from talkinghead.pipelines.live_report import LatencyHistogram, LiveReport


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


# frames


def test_live_without_pace_shows_every_frame(person: Person, drive: Path, recorded: RecordingSink) -> None:
    report = run_to_end(person, FakeEngine(), drive, realtime=False, retarget="off")
    assert recorded.times == [number / FPS for number in range(COUNT)]
    # the face goes to the right, and each picture is of its frame
    assert recorded.shades == sorted(recorded.shades) and len(set(recorded.shades)) > COUNT / 2
    assert (report.captured, report.frames, report.without_face) == (COUNT, COUNT, 0) and not any(
        report.dropped.values()
    )
    assert (report.ended, report.retargeted, report.size) == (
        "source",
        False,
        (SIZE, SIZE),
    ) and recorded.is_closed


@pytest.mark.parametrize("retarget", ["on", "off"])
def test_live_file_keeps_frame_rate_and_metadata(
    person: Person, drive: Path, tmp_path: Path, retarget: str
) -> None:
    out = tmp_path / "out.mp4"
    report = run_to_end(person, TorchEngine(person), drive, out, realtime=False, retarget=retarget)
    reader = VideoReader(out)
    frames = list(reader)
    assert (len(frames), reader.fps, reader.size, report.sink) == (COUNT, FPS, (SIZE, SIZE), str(out))
    assert np.ptp(np.stack(frames).astype(float), axis=0).max() > 5  # it moves
    with av.open(str(out)) as container:
        assert container.metadata["comment"] == SYNTHESISED


def test_live_with_pace_lasts_as_video(person: Person, drive: Path, recorded: RecordingSink) -> None:
    start = time.perf_counter()
    report = run_to_end(person, FakeEngine(), drive)
    assert time.perf_counter() - start > (COUNT - 1) / FPS
    assert report.captured == COUNT == report.frames + sum(report.dropped.values())
    assert report.frames > COUNT / 4 and 0 < report.latency_p50 <= report.latency_p99 < 1000
    assert report.fps == pytest.approx(report.frames / report.seconds)


def test_live_drops_late_frames(person: Person, drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    report = run_to_end(
        person, FakeEngine(seconds=0.1), drive, out
    )  # 50 frames a second come, 10 are rendered
    assert report.captured == COUNT == report.frames + sum(report.dropped.values())
    # more on an idle machine; a busy one drops some before they are rendered
    assert 3 <= report.frames <= 12 and report.dropped["render"] >= 5
    # without dropping the last would be 3 seconds old
    assert 100 < report.latency_p50 < 800 and report.latency_p99 < 1500
    assert len(list(VideoReader(out))) == COUNT  # which plays in real time nevertheless
    assert "frames came too soon after others and were dropped" in report.lines()[2]


def test_live_slow_sink_holds_few_frames(
    person: Person, drive: Path, recorded: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.seconds = 0.01
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    class CountingDetector(RedSquare):
        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            return self.count(frames) or super().find(frames)

        def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
            return self.count(frames) or super().follow(frames, near)

        def count(self, frames: Sequence[np.ndarray]) -> None:
            nonlocal most
            alive.append(weakref.ref(frames[0]))
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))

    run_to_end(person, FakeEngine(), drive, detector=CountingDetector(), realtime=False)
    assert 2 <= most <= 7 and len(alive) >= COUNT


# faces


def test_live_without_face_shows_neutral_face(
    person: Person, tmp_path: Path, recorded: RecordingSink
) -> None:
    engine = FakeEngine()
    report = run_to_end(
        person, engine, draw_video(tmp_path / "empty.mp4", [None] * 8, fps=FPS), realtime=False
    )
    assert (report.frames, report.without_face) == (8, 8)
    assert all(np.array_equal(points, person.neutral_landmarks) for points in engine.inputs)
    assert "8 frames without a face; the person stayed as before" in report.lines()


def test_live_carphone_moves_person(carphone: Path, person: Person, recorded: RecordingSink) -> None:
    engine = FakeEngine()
    report = live.live(person, carphone, "recorded", engine=engine, realtime=False, seconds=0.8)
    assert (report.frames, report.without_face, report.ended) == (24, 0, "seconds")
    assert np.ptp(np.stack(engine.inputs[1:]), axis=0).max() > 0.01


# figures


def test_latency_histogram_percentiles_are_right() -> None:
    seconds = np.random.default_rng(0).lognormal(-3, 1, 5000)
    latencies = LatencyHistogram()
    before = latencies._counts.nbytes
    for latency in seconds:
        latencies.add(latency)
    for share in (1, 50, 99):
        assert latencies.percentile(share) == pytest.approx(np.percentile(seconds, share), rel=0.02)
    assert latencies._counts.nbytes == before < 10_000 and latencies._counts.sum() == 5000
    edges = LatencyHistogram()
    assert edges.percentile(50) == 0
    edges.add(0), edges.add(1e9)
    assert edges.percentile(1) == pytest.approx(1e-4, rel=0.02) and edges.percentile(99) > 90


def test_live_logs_progress(
    person: Person, drive: Path, recorded: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_report, "_LOG_INTERVAL_S", 0.2)
    messages: list[str] = []
    report = run_to_end(person, FakeEngine(), drive, log=messages.append)
    assert 2 <= len(messages) <= report.seconds / 0.2
    assert all(
        "frames a second" in line and "latency" in line and "ms (median)" in line and "dropped" in line
        for line in messages
    )


def test_live_report_as_dict_and_lines(person: Person, drive: Path, recorded: RecordingSink) -> None:
    report = run_to_end(person, FakeEngine(), drive, realtime=False)
    values = json.loads(json.dumps(report.as_dict()))
    assert (
        values["frames"] == COUNT
        and values["dropped"] == {"landmarks": 0, "render": 0, "sink": 0}
        and values["size"] == [SIZE, SIZE]
    )
    first, second = report.lines()
    assert first.startswith(f"recorded: {COUNT} frames of 64x64 shown in ") and second.startswith(
        "latency from capture to recorded: "
    )


def test_live_report_names_capture_and_sink() -> None:
    report = LiveReport(
        source="webcam",
        sink="out.mp4",
        ended="source",
        captured=1,
        frames=1,
        without_face=0,
        dropped={},
        retargeted=True,
        fps=25.0,
        latency_p50=56.2,
        latency_p99=110.4,
        size=(64, 64),
        seconds=0.04,
    )
    assert report.lines() == [
        "out.mp4: 1 frame of 64x64 shown in 0.0 s, 25.0 a second",
        "latency from capture to out.mp4: 56 ms (median), 110 ms (99% of the frames)",
    ]


def test_live_help_says_that_auto_is_on(capsys: pytest.CaptureFixture[str]) -> None:
    for command, meaning in (("live", "auto: on, since nobody is compared"), ("animate", "auto: off where")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert meaning in " ".join(capsys.readouterr().out.split())
