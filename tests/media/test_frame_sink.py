"""Tests of the sinks of live frames, with a fake screen and a fake virtual webcam."""

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import av
import numpy as np
import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.media.frame_sink import open_sink
from talkinghead.media.video import VideoReader

SIZE = (32, 48)


def grey(shade: int) -> np.ndarray:
    return np.full((*SIZE, 3), shade, np.uint8)


def shades(path: Path) -> list[int]:
    return [round(float(frame.mean()) / 20) * 20 for frame in VideoReader(path)]


# files


@pytest.mark.parametrize(
    "times, expected",
    [
        ((0, 1, 2, 3), [0, 20, 40, 60]),
        ((0, 1, 4, 5), [0, 20, 20, 20, 40, 60]),  # missing frames repeat the previous one
        ((2, 3), [0, 0, 0, 20]),  # or, at the beginning, the first
        ((0, 0.3, 1.2, 2), [0, 40, 60]),  # two frames for one position
        ((0, 0.8, 2.3, 2.9), [0, 20, 40, 60]),  # times of a webcam
    ],
)
def test_file_sink_places_frames_by_time(
    times: tuple[float, ...], expected: list[int], tmp_path: Path
) -> None:
    fps = Fraction(30000, 1001)
    with open_sink(tmp_path / "out.mp4", fps, SIZE, {"comment": "synthesised"}) as sink:
        for number, position in enumerate(times):
            assert sink.is_open()
            sink.show(grey(20 * number), float(position / fps))
    reader = VideoReader(tmp_path / "out.mp4")
    assert shades(tmp_path / "out.mp4") == expected and (reader.fps, reader.size) == (fps, SIZE)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["comment"] == "synthesised"


def test_file_sink_that_fails_keeps_partial_recording(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="died"), open_sink(tmp_path / "out.mp4", 25, SIZE) as sink:
        sink.show(grey(0), 0)
        raise RuntimeError("died")
    assert [path.name for path in tmp_path.iterdir()] == ["out.part.mp4"]  # recorded frames are kept
    assert shades(tmp_path / "out.part.mp4") == [0]


@pytest.mark.parametrize("name", ["out.avi", "nonsense", "v4l", "windows", "two\nlines"])
def test_unknown_sink_reports_user_error(name: str) -> None:
    says = "no such sink; name window, v4l2, v4l2:/dev/video2 or a file that ends in .mp4"
    with pytest.raises(TalkingheadError, match=says) as caught, open_sink(name, 25, SIZE):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module, sink", [("cv2", "window"), ("pyvirtualcam", "v4l2")])
def test_missing_package_reports_user_error(module: str, sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("DISPLAY", ":0")
    with (
        pytest.raises(TalkingheadError, match=rf"{module} is needed .*pip install 'talkinghead\[live\]'"),
        open_sink(sink, 25, SIZE),
    ):
        pass


# a virtual webcam


class Loopback:
    """Fake of pyvirtualcam.Camera."""

    instances: ClassVar[list[Any]] = []

    def __init__(self, width: int, height: int, fps: float, device: str | None) -> None:
        if device == "/dev/video9":
            raise RuntimeError(
                "'v4l2loopback' backend: Device /dev/video9 does not exist. See the documentation."
            )
        self.arguments, self.sent, self.closed = (width, height, fps, device), [], False
        Loopback.instances.append(self)

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def send(self, frame: np.ndarray) -> None:
        if frame[0, 0, 0] == 255:
            raise OSError(19, "No such device")
        assert frame.flags.c_contiguous
        self.sent.append(frame)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> type[Loopback]:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", SimpleNamespace(Camera=Loopback))
    Loopback.instances.clear()
    return Loopback


@pytest.mark.parametrize("name, device", [("v4l2", None), ("v4l2:/dev/video2", "/dev/video2")])
def test_virtual_webcam_receives_frames(name: str, device: str | None, loopback: type[Loopback]) -> None:
    with open_sink(name, Fraction(25), SIZE) as sink:
        sink.show(grey(7)[:, ::-1], 0)
        assert sink.is_open() and not loopback.instances[0].closed
    [webcam] = loopback.instances
    assert webcam.arguments == (48, 32, 25.0, device)
    assert webcam.closed and np.array_equal(webcam.sent, [grey(7)])


def test_missing_virtual_webcam_reports_user_error(loopback: type[Loopback]) -> None:
    says = r"^v4l2:/dev/video9: no virtual webcam \(.*/dev/video9 does not exist\); "
    with pytest.raises(TalkingheadError, match=says), open_sink("v4l2:/dev/video9", 25, SIZE):
        pass
    with (
        pytest.raises(TalkingheadError, match="^v4l2: the virtual webcam takes no more frames"),
        open_sink("v4l2", 25, SIZE) as sink,
    ):
        sink.show(grey(255), 0)
    assert loopback.instances[-1].closed
