"""Where live frames go; the screen and the virtual webcam are made up."""

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import av
import numpy as np
import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.media import sinks
from talkinghead.media.sinks import open_sink
from talkinghead.media.video import VideoReader

SIZE = (32, 48)


def grey(shade: int) -> np.ndarray:
    return np.full((*SIZE, 3), shade, np.uint8)


def shades(path: Path) -> list[int]:
    return [round(float(frame.mean()) / 20) * 20 for frame in VideoReader(path)]


# files


@pytest.mark.parametrize(
    "times, shown",
    [
        ((0, 1, 2, 3), [0, 20, 40, 60]),
        ((0, 1, 4, 5), [0, 20, 20, 20, 40, 60]),  # what is missing shows the one before
        ((2, 3), [0, 0, 0, 20]),  # or, at the beginning, the first
        ((0, 0.3, 1.2, 2), [0, 40, 60]),  # two for one place
        ((0, 0.8, 2.3, 2.9), [0, 20, 40, 60]),  # a webcam's
    ],
)
def test_a_file_plays_in_real_time(times: tuple[float, ...], shown: list[int], tmp_path: Path) -> None:
    fps = Fraction(30000, 1001)
    with open_sink(tmp_path / "out.mp4", fps, SIZE, {"comment": "synthesised"}) as sink:
        for number, place in enumerate(times):
            assert sink.is_open()
            sink.show(grey(20 * number), float(place / fps))
    reader = VideoReader(tmp_path / "out.mp4")
    assert shades(tmp_path / "out.mp4") == shown and (reader.fps, reader.size) == (fps, SIZE)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["comment"] == "synthesised"


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="died"), open_sink(tmp_path / "out.mp4", 25, SIZE) as sink:
        sink.show(grey(0), 0)
        raise RuntimeError("died")
    assert [path.name for path in tmp_path.iterdir()] == ["out.part.mp4"]  # what was recorded is not lost
    assert shades(tmp_path / "out.part.mp4") == [0]


@pytest.mark.parametrize("name", ["out.avi", "nonsense", "v4l", "windows", "two\nlines"])
def test_a_sink_that_there_is_not_is_one_line(name: str) -> None:
    says = "no such sink; name window, v4l2, v4l2:/dev/video2 or a file that ends in .mp4"
    with pytest.raises(TalkingheadError, match=says) as told, open_sink(name, 25, SIZE):
        pass
    assert "\n" not in str(told.value)


# a window


class Screen(SimpleNamespace):
    """cv2, as far as it is used."""

    WINDOW_NORMAL, WINDOW_KEEPRATIO, WND_PROP_VISIBLE = 0, 0, 4

    class error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__(shown=[], key=-1, visible=1.0, opened=[], size=None, destroyed=0)

    def namedWindow(self, title: str, flags: int) -> None:
        self.opened.append(title)

    def resizeWindow(self, title: str, width: int, height: int) -> None:
        self.size = (height, width)

    def imshow(self, title: str, picture: np.ndarray) -> None:
        assert picture.flags.c_contiguous  # cv2 refuses others
        self.shown.append(picture)

    def waitKey(self, milliseconds: int) -> int:
        assert milliseconds > 0  # 0 waits for ever
        return self.key

    def getWindowProperty(self, title: str, which: int) -> float:
        return self.visible

    def destroyAllWindows(self) -> None:
        self.destroyed += 1


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    made = Screen()
    monkeypatch.setitem(sys.modules, "cv2", made)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sinks, "_display_problem", lambda: "")
    return made


@pytest.mark.parametrize("closes", [{"key": ord("q")}, {"key": 27}, {"key": 27 + 256}, {"visible": 0.0}])
def test_a_window_shows_frames_until_it_is_closed(closes: dict[str, Any], screen: Screen) -> None:
    with open_sink("window", 25, SIZE) as sink:
        screen.visible = 0.0  # some are not before the first frame
        assert sink.is_open()
        sink.show(np.full((*SIZE, 3), (10, 20, 30), np.uint8), 0)
        screen.visible = 1.0
        assert sink.is_open()
        vars(screen).update(closes)
        assert not sink.is_open()
        assert not screen.destroyed
    assert screen.shown[0][0, 0].tolist() == [30, 20, 10]  # cv2's order
    assert screen.size == (341, 512) and screen.destroyed == 1


def test_where_there_is_no_window_it_is_one_line(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*given: Any) -> None:
        raise screen.error("not implemented.\nRebuild the library")

    screen.namedWindow = refuses
    says = r"window: OpenCV cannot open one, .*pip install opencv-python \(without -headless\)"
    with pytest.raises(TalkingheadError, match=says), open_sink("window", 25, SIZE):
        pass
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TalkingheadError, match="window: there is no display"), open_sink("window", 25, SIZE):
        pass
    assert not screen.destroyed


@pytest.mark.skipif(sys.platform != "linux", reason="only there a display may be gone")
@pytest.mark.parametrize(
    "trial, says",
    [
        (
            "import os, sys; print('qt.qpa.xcb: could not connect to display :99', file=sys.stderr, flush=True); os.abort()",
            "could not connect",
        ),
        ("import os; os.abort()", r"\(SIGABRT\)"),
        ("import time; time.sleep(60)", "did not answer"),
    ],
)
def test_display_that_is_gone_is_one_line(trial: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setitem(sys.modules, "cv2", screen)
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(sinks, "_TRIAL", trial)
    if "sleep" in trial:
        monkeypatch.setattr(sinks, "TRIAL_TIMEOUT_S", 0.2)
    with (
        pytest.raises(TalkingheadError, match=f"^window: the display cannot be used .*{says}.*name an .mp4 or v4l2"),
        open_sink("window", 25, SIZE),
    ):
        pass
    assert not screen.opened


@pytest.mark.skipif(sys.platform != "linux", reason="only there a display may be gone")
def test_opencv_on_a_display_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV with Qt aborts the process; one that reports an error, or has no windows, is told as that."""
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'talkinghead[live]'")
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(TalkingheadError, match="^window: .*name an .mp4 or v4l2 as the sink$"), open_sink("window", 25, SIZE):
        pass


@pytest.mark.parametrize("module, sink", [("cv2", "window"), ("pyvirtualcam", "v4l2")])
def test_what_is_not_installed_is_one_line(module: str, sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TalkingheadError, match=rf"{module} is needed .*pip install 'talkinghead\[live\]'"), open_sink(sink, 25, SIZE):
        pass


# a virtual webcam


class Loopback:
    """pyvirtualcam.Camera."""

    made: ClassVar[list[Any]] = []

    def __init__(self, width: int, height: int, fps: float, device: str | None) -> None:
        if device == "/dev/video9":
            raise RuntimeError("'v4l2loopback' backend: Device /dev/video9 does not exist. See the documentation.")
        self.given, self.sent, self.closed = (width, height, fps, device), [], False
        Loopback.made.append(self)

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
    Loopback.made.clear()
    return Loopback


@pytest.mark.parametrize("name, device", [("v4l2", None), ("v4l2:/dev/video2", "/dev/video2")])
def test_a_virtual_webcam_is_sent_the_frames(name: str, device: str | None, loopback: type[Loopback]) -> None:
    with open_sink(name, Fraction(25), SIZE) as sink:
        sink.show(grey(7)[:, ::-1], 0)
        assert sink.is_open() and not loopback.made[0].closed
    [made] = loopback.made
    assert made.given == (48, 32, 25.0, device) and made.closed and np.array_equal(made.sent, [grey(7)])


def test_one_that_is_not_there_or_goes_away_is_one_line(loopback: type[Loopback]) -> None:
    says = r"^v4l2:/dev/video9: no virtual webcam \(.*/dev/video9 does not exist\); "
    with pytest.raises(TalkingheadError, match=says), open_sink("v4l2:/dev/video9", 25, SIZE):
        pass
    with pytest.raises(TalkingheadError, match="^v4l2: the virtual webcam takes no more frames"), open_sink("v4l2", 25, SIZE) as sink:
        sink.show(grey(255), 0)
    assert loopback.made[-1].closed
