"""Tests of the sources of live frames; fake webcams play a video."""

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
from talkinghead.media import frame_source
from talkinghead.media.frame_source import VideoSource, Webcam, open_source
from talkinghead.media.video import VideoReader


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return draw_video(tmp_path / "drive.mp4", [(40 + 2 * number, 30, 40) for number in range(12)], fps=50)


def test_video_source_yields_all_frames_without_pacing(video: Path) -> None:
    source = open_source(video, realtime=False)
    frames = list(source)
    assert (source.fps, source.is_blocking, source.name) == (50, True, str(video))
    assert [frame.t for frame in frames] == [number / 50 for number in range(12)]
    assert all(
        np.array_equal(frame.image, image) for frame, image in zip(frames, VideoReader(video), strict=True)
    )
    assert all(0 <= time.perf_counter() - frame.captured_at < 5 for frame in frames)


def test_video_source_without_realtime_does_not_wait(tmp_path: Path) -> None:
    source = open_source(draw_video(tmp_path / "slow.mp4", [None] * 12, fps=5), realtime=False)
    start = time.perf_counter()
    assert len(list(source)) == 12 and time.perf_counter() - start < 1.5


def test_video_source_in_realtime_paces_frames(video: Path) -> None:
    source = open_source(video)
    came = [(frame, time.perf_counter()) for frame in source]
    start = came[0][0].captured_at
    assert not source.is_blocking and len(came) == 12
    for frame, now in came:
        assert now >= frame.captured_at >= start + frame.t - 1e-6
    assert 0.22 <= came[-1][1] - start < 1.5


def test_late_video_source_catches_up(tmp_path: Path) -> None:
    frames = iter(open_source(draw_video(tmp_path / "slow.mp4", [None] * 13, fps=20)))
    next(frames)
    time.sleep(0.7)  # all are due by now
    start = time.perf_counter()
    assert len(list(frames)) == 12 and time.perf_counter() - start < 0.4


def test_closed_video_source_ends_at_once(tmp_path: Path) -> None:
    source = open_source(draw_video(tmp_path / "slow.mp4", [None] * 9, fps=1))
    frames: list[Any] = []
    thread = threading.Thread(target=lambda: frames.extend(source))
    thread.start()
    time.sleep(0.2)
    source.close()
    source.close()
    thread.join(0.5)
    assert not thread.is_alive() and len(frames) <= 1


@pytest.mark.parametrize(
    "name, says",
    [
        ("nonsense", r"nonsense: no such source, expected webcam, webcam:1, /dev/video1 or a video file"),
        ("webcam:97", r"webcam:97: /dev/video97 is not there, expected a webcam; plug one in"),
        ("/dev/video97", r"/dev/video97: is not there, expected a webcam"),
        ("two\nlines", r"two\\nlines: no such source"),
    ],
)
def test_missing_source_reports_user_error(name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(TalkingheadError, match=says) as caught:
        open_source(name)
    assert "\n" not in str(caught.value)


def test_source_of_other_file_reports_user_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(TalkingheadError, match="notes.txt: "):
        open_source(tmp_path / "notes.txt")


# webcams


class Device:
    """Fake webcam that plays a video; a frame raises the next exception of `trouble` if there is one."""

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
    """Replace webcams: `asked` holds the arguments of opening, `devices` the opened ones, `trouble` the
    failure.
    """
    state = SimpleNamespace(asked=[], devices=[], trouble=[], refuses=None)

    def opened(path: str, format: str, options: dict[str, str]) -> Device:
        state.asked.append((path, format, options))
        if state.refuses:
            raise state.refuses
        state.devices.append(Device(video, state.trouble))
        return state.devices[-1]

    fake = SimpleNamespace(open=opened, error=av.error, video=av.video, stream=av.stream)
    monkeypatch.setattr(frame_source, "av", lambda: fake)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(frame_source, "_LINUX_DEVICES", Path("/nonexistent"))
    monkeypatch.setattr(frame_source, "_RECONNECT_INTERVAL_S", 0.01)
    monkeypatch.setattr(frame_source, "_RECONNECT_S", 0.0)
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
def test_webcam_name_follows_operating_system(
    system: str, name: str, path: str, kind: str, plugged: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", system)
    source = open_source(name, realtime=False)
    [(asked, format, options)] = plugged.asked
    assert (asked, format, source.name, source.fps, source.is_blocking) == (
        path,
        kind,
        name,
        Fraction(50),
        False,
    )
    assert (options == {}) == (system == "win32")
    source.close()
    assert plugged.devices[0].closed


def test_webcam_skips_damaged_and_late_frames(
    plugged: SimpleNamespace,
) -> None:
    plugged.trouble += [
        None,
        av.error.BlockingIOError(11, "not yet"),
        av.error.InvalidDataError(1, "torn"),
        None,
    ]
    frames = []
    with pytest.raises(
        TalkingheadError,
        match="^webcam: the webcam stopped giving frames, it was unplugged or taken; plug it in again$",
    ):
        for frame in Webcam("webcam"):
            frames.append(frame)
    assert [frame.image.shape for frame in frames] == [(120, 160, 3)] * 12
    times = [frame.t for frame in frames]
    assert times[0] == 0 and times == sorted(times)
    assert [frame.captured_at - frames[0].captured_at for frame in frames] == pytest.approx(times)
    assert plugged.devices[0].closed


def test_unplugged_webcam_reports_user_error(plugged: SimpleNamespace) -> None:
    plugged.trouble += [None, None, av.error.OSError(19, "No such device")]
    frames = iter(Webcam("webcam"))
    next(frames), next(frames)
    with pytest.raises(TalkingheadError, match="stopped giving frames"):
        next(frames)
    assert plugged.devices[0].closed


def test_webcam_that_comes_back_goes_on(
    plugged: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frame_source, "_RECONNECT_S", 30.0)
    plugged.trouble += [None, None, av.error.OSError(19, "No such device")]
    webcam = Webcam("webcam")
    frames = iter(webcam)
    times = [next(frames).t, next(frames).t]
    plugged.refuses = FileNotFoundError(2, "No such file or directory")
    threading.Timer(0.1, lambda: setattr(plugged, "refuses", None)).start()
    times.append(next(frames).t)
    assert times[2] - times[1] > 0.1 and webcam.timeout_s < np.inf
    assert [record.message for record in caplog.records] == [
        "webcam: the webcam went away; waiting for it, plug it in again",
        "webcam: the webcam is back",
    ]
    assert len(plugged.devices) == 2 and plugged.devices[0].closed == 1
    plugged.trouble += [av.error.OSError(19, "No such device")]
    plugged.refuses = FileNotFoundError(2, "No such file or directory")
    threading.Timer(0.1, webcam.close).start()
    assert list(frames) == []  # closing ends the wait


def test_webcams_are_listed_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, index, description in (
        ("video10", 0, "Capture"),
        ("video0", 0, "Laptop"),
        ("video1", 1, "Laptop"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index").write_text(f"{index}\n")
        (tmp_path / name / "name").write_text(f"{description}\n")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(frame_source, "_LINUX_DEVICES", tmp_path)
    names = [(webcam.name, webcam.description) for webcam in frame_source.list_webcams()]
    assert names == [("webcam:0", "Laptop"), ("webcam:10", "Capture")]  # video1 gives no pictures


@pytest.mark.parametrize(
    "system, names", [("darwin", ["webcam:0", "webcam:1"]), ("win32", ["webcam:Desk", "webcam:Door"])]
)
def test_webcams_are_listed_on_other_systems(
    system: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [
        SimpleNamespace(description=name, media_types=[kind])
        for name, kind in (("Desk", "video"), ("Microphone", "audio"), ("Door", "video"))
    ]
    fake = SimpleNamespace(enumerate_input_devices=lambda kind: devices, error=av.error)
    monkeypatch.setattr(frame_source, "av", lambda: fake)
    monkeypatch.setattr("sys.platform", system)
    assert [webcam.name for webcam in frame_source.list_webcams()] == names


def test_webcam_without_number_is_the_first(
    plugged: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [frame_source.WebcamName("webcam:2", "Laptop")]
    monkeypatch.setattr(frame_source, "list_webcams", lambda: devices)
    open_source("webcam")
    assert plugged.asked[0][0] == "/dev/video2"


def test_webcam_is_released_when_closed(plugged: SimpleNamespace) -> None:
    webcam = Webcam("webcam")
    frames = iter(webcam)
    next(frames)
    webcam.close()
    assert not plugged.devices[0].closed  # it is in use in another thread, which closes it
    assert list(frames) == [] and plugged.devices[0].closed == 1
    unused = Webcam("webcam")
    unused.close()
    assert plugged.devices[1].closed == 1


@pytest.mark.parametrize(
    "refuses, says",
    [
        (
            av.error.PermissionError(13, "Permission denied"),
            "/dev/video0 may not be read; give yourself permission",
        ),
        (
            av.error.OSError(16, "Device or resource busy"),
            r"/dev/video0 cannot be opened as a webcam \(Device or resource busy\); close",
        ),
        (ValueError("no container format 'v4l2'"), r"cannot be opened as a webcam \(no container format"),
    ],
)
def test_webcam_that_cannot_open_reports_user_error(
    refuses: Exception, says: str, plugged: SimpleNamespace
) -> None:
    plugged.refuses = refuses
    with pytest.raises(TalkingheadError, match=says):
        open_source("webcam")


def test_webcam_ignores_implausible_rate(
    plugged: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Device(draw_video(tmp_path / "odd.mp4", [None] * 3, fps=500), [])
    monkeypatch.setattr(frame_source, "_open_device", lambda name, which: real)
    assert Webcam("webcam").fps == 30
    assert VideoSource.timeout_s > Webcam("webcam").timeout_s
