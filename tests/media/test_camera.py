"""Webcams and videos that play as if they were one; the webcam is a video behind libav's back."""

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from conftest import draw_video
from talkinghead.errors import TalkingheadError
from talkinghead.media import camera
from talkinghead.media.camera import VideoSource, Webcam, open_source
from talkinghead.media.video import VideoReader


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return draw_video(tmp_path / "drive.mp4", [(40 + 2 * number, 30, 40) for number in range(12)], fps=50)


def test_a_video_gives_all_its_frames_as_fast_as_they_are_taken(video: Path) -> None:
    source = open_source(video, pace=False)
    shots = list(source)
    assert (source.fps, source.waits, source.name) == (50, True, str(video))
    assert [shot.t for shot in shots] == [number / 50 for number in range(12)]
    assert all(np.array_equal(shot.picture, frame) for shot, frame in zip(shots, VideoReader(video), strict=True))
    assert all(0 <= time.perf_counter() - shot.taken < 5 for shot in shots)


def test_it_then_waits_for_none(tmp_path: Path) -> None:
    source = open_source(draw_video(tmp_path / "slow.mp4", [None] * 12, fps=5), pace=False)
    start = time.perf_counter()
    assert len(list(source)) == 12 and time.perf_counter() - start < 1.5


def test_or_each_when_it_is_due(video: Path) -> None:
    source = open_source(video)
    came = [(shot, time.perf_counter()) for shot in source]
    start = came[0][0].taken
    assert not source.waits and len(came) == 12
    for shot, now in came:
        assert now >= shot.taken >= start + shot.t - 1e-6
    assert 0.22 <= came[-1][1] - start < 1.5


def test_one_that_is_late_is_not_waited_for_again(tmp_path: Path) -> None:
    shots = iter(open_source(draw_video(tmp_path / "slow.mp4", [None] * 13, fps=20)))
    next(shots)
    time.sleep(0.7)  # all are due by now
    start = time.perf_counter()
    assert len(list(shots)) == 12 and time.perf_counter() - start < 0.4


def test_a_closed_one_ends_at_once(tmp_path: Path) -> None:
    source = open_source(draw_video(tmp_path / "slow.mp4", [None] * 9, fps=1))
    shots: list[Any] = []
    thread = threading.Thread(target=lambda: shots.extend(source))
    thread.start()
    time.sleep(0.2)
    source.close()
    source.close()
    thread.join(0.5)
    assert not thread.is_alive() and len(shots) <= 1


@pytest.mark.parametrize(
    "name, says",
    [
        ("nonsense", r"nonsense: no such source, expected webcam, webcam:1, /dev/video1 or a video file"),
        ("webcam:97", r"webcam:97: /dev/video97 is not there, expected a webcam; plug one in"),
        ("/dev/video97", r"/dev/video97: is not there, expected a webcam"),
        ("two\nlines", r"two\\nlines: no such source"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(TalkingheadError, match=says) as told:
        open_source(name)
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_video_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(TalkingheadError, match="notes.txt: "):
        open_source(tmp_path / "notes.txt")


# webcams


class Device:
    """What libav opens in place of a webcam: a video; its `trouble` is raised by and by."""

    def __init__(self, path: Path, trouble: list[Exception | None]) -> None:
        self._real, self._trouble = av.open(str(path)), trouble
        self.streams, self.closed = self._real.streams, 0
        self._frames = self._real.decode(video=0)

    def decode(self, stream: Any) -> Iterator[Any]:
        while True:
            trouble = self._trouble.pop(0) if self._trouble else None
            if trouble:
                raise trouble
            frame = next(self._frames, None)
            if frame is None:
                return
            yield frame

    def close(self) -> None:
        self.closed += 1
        self._real.close()


@pytest.fixture
def plugged(video: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A webcam: `asked` holds how it was opened, `devices` what was, `trouble` is what goes wrong."""
    state = SimpleNamespace(asked=[], devices=[], trouble=[], refuses=None)

    def opened(path: str, format: str, options: dict[str, str]) -> Device:
        state.asked.append((path, format, options))
        if state.refuses:
            raise state.refuses
        state.devices.append(Device(video, state.trouble))
        return state.devices[-1]

    fake = SimpleNamespace(open=opened, error=av.error, video=av.video, stream=av.stream)
    monkeypatch.setattr(camera, "av", lambda: fake)
    monkeypatch.setattr("sys.platform", "linux")
    return state


@pytest.mark.parametrize(
    "system, name, path, kind",
    [
        ("linux", "webcam", "/dev/video0", "v4l2"),
        ("linux", "webcam:2", "/dev/video2", "v4l2"),
        ("linux", "/dev/video3", "/dev/video3", "v4l2"),
        ("darwin", "webcam:1", "1:none", "avfoundation"),
        ("win32", "webcam:Integrated Camera", "video=Integrated Camera", "dshow"),
    ],
)
def test_each_system_calls_it_otherwise(
    system: str, name: str, path: str, kind: str, plugged: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", system)
    source = open_source(name, pace=False)
    [(asked, format, options)] = plugged.asked
    assert (asked, format, source.name, source.fps, source.waits) == (path, kind, name, Fraction(50), False)
    assert (options == {}) == (system == "win32")
    source.close()
    assert plugged.devices[0].closed


def test_frames_come_with_the_time_and_what_is_damaged_or_not_there_yet_is_passed_over(plugged: SimpleNamespace) -> None:
    plugged.trouble += [None, av.error.BlockingIOError(11, "not yet"), av.error.InvalidDataError(1, "torn"), None]
    shots = []
    with pytest.raises(TalkingheadError, match="^webcam: the webcam stopped giving frames, it was unplugged or taken; plug it in again$"):
        for shot in Webcam("webcam"):
            shots.append(shot)
    assert [shot.picture.shape for shot in shots] == [(120, 160, 3)] * 12
    times = [shot.t for shot in shots]
    assert times[0] == 0 and times == sorted(times)
    assert [shot.taken - shots[0].taken for shot in shots] == pytest.approx(times)
    assert plugged.devices[0].closed == 1


def test_one_that_goes_away_says_so(plugged: SimpleNamespace) -> None:
    plugged.trouble += [None, None, av.error.OSError(19, "No such device")]
    shots = iter(Webcam("webcam"))
    next(shots), next(shots)
    with pytest.raises(TalkingheadError, match="stopped giving frames"):
        next(shots)
    assert plugged.devices[0].closed == 1


def test_leaving_it_or_closing_it_gives_it_back(plugged: SimpleNamespace) -> None:
    webcam = Webcam("webcam")
    shots = iter(webcam)
    next(shots)
    webcam.close()
    assert not plugged.devices[0].closed  # it is in use in another thread, which closes it
    assert list(shots) == [] and plugged.devices[0].closed == 1
    unused = Webcam("webcam")
    unused.close()
    assert plugged.devices[1].closed == 1


@pytest.mark.parametrize(
    "refuses, says",
    [
        (av.error.PermissionError(13, "Permission denied"), "/dev/video0 may not be read; give yourself permission"),
        (av.error.OSError(16, "Device or resource busy"), r"/dev/video0 cannot be opened as a webcam \(Device or resource busy\); close"),
        (ValueError("no container format 'v4l2'"), r"cannot be opened as a webcam \(no container format"),
    ],
)
def test_one_that_cannot_be_opened_is_one_line(refuses: Exception, says: str, plugged: SimpleNamespace) -> None:
    plugged.refuses = refuses
    with pytest.raises(TalkingheadError, match=says):
        open_source("webcam")


def test_a_rate_that_no_webcam_has_is_not_believed(plugged: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Device(draw_video(tmp_path / "odd.mp4", [None] * 3, fps=500), [])
    monkeypatch.setattr(camera, "_open_device", lambda name, which: real)
    assert Webcam("webcam").fps == 30
    assert VideoSource.patience > Webcam.patience
