"""Where live frames go: a window, a video file, or a virtual webcam. The only module that imports OpenCV and pyvirtualcam."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import TalkingheadError, require
from .pictures import no_stderr
from .recording import record_video
from .video import VideoWriter

TITLE = "talkinghead"
_SIDE = 512  # of the window at first, in pixels
_QUIT = (ord("q"), 27)  # and Escape
_TRIAL = "import cv2; cv2.namedWindow('talkinghead'); cv2.destroyAllWindows()"
TRIAL_TIMEOUT_S = 30.0
_VIRTUAL = re.compile(r"v4l2(?::(.+))?")


class Sink(Protocol):
    """Takes frames as they come."""

    def show(self, picture: np.ndarray, t: float) -> None:
        """Show uint8 [H, W, 3], RGB, which belongs `t` seconds after the first frame of the source."""

    def is_open(self) -> bool:
        """Whether somebody still looks on; asked often, a window stays alive by it."""


@contextmanager
def open_sink(name: str | Path, fps: Fraction | float, size: tuple[int, int], metadata: Mapping[str, str] | None = None) -> Iterator[Sink]:
    """What shows frames: open within the block, which is to be entered and left in the main thread.

    Args:
        name: "window"; a file that ends in .mp4, which is there when the block ends well, and otherwise what was there before (see
            `talkinghead.media.recording`); "v4l2", the first virtual webcam, or "v4l2:/dev/video2".
        fps: frames per second, above 0: the file's, whose frames are repeated where some are missing, and what a virtual webcam states.
        size: (height, width) of the frames in pixels.
        metadata: tags of the file.

    Raises:
        TalkingheadError: there is no such sink, or it cannot be opened or written to.
    """
    virtual = _VIRTUAL.fullmatch(str(name))
    if str(name) == "window":
        with _window(size) as window:
            yield window
    elif virtual:
        with _virtual_webcam(virtual[1], fps, size) as webcam:
            yield webcam
    elif Path(name).suffix.lower() == ".mp4":
        with record_video(name, fps, size, metadata) as video:
            yield _File(video, fps)
    else:
        raise TalkingheadError(f"{name}: no such sink; name window, v4l2, v4l2:/dev/video2 or a file that ends in .mp4")


class _File:
    """A video that plays in real time."""

    def __init__(self, video: VideoWriter, fps: Fraction | float) -> None:
        self._video, self._fps = video, Fraction(fps)
        self._count = 0
        self._last: np.ndarray | None = None

    def show(self, picture: np.ndarray, t: float) -> None:
        place = round(t * self._fps)
        # what is missing before it shows the one before; a second one for the same place takes none of its own
        while self._count < place:
            self._write(picture if self._last is None else self._last)
        if self._count == place:
            self._write(picture)
        self._last = picture

    def is_open(self) -> bool:
        return True

    def _write(self, picture: np.ndarray) -> None:
        self._video.write(picture)
        self._count += 1


@contextmanager
def _window(size: tuple[int, int]) -> Iterator[Sink]:
    cv2 = require("cv2", "live")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # asked first, for without one some builds of OpenCV end the process
        raise TalkingheadError("window: there is no display (DISPLAY is not set), expected a desktop; name an .mp4 or v4l2 as the sink")
    problem = _display_problem() if sys.platform == "linux" else ""
    if problem:
        raise TalkingheadError(f"window: the display cannot be used ({problem}), expected a desktop; name an .mp4 or v4l2 as the sink")
    height, width = (max(side, _SIDE * side // max(size)) for side in size)
    try:
        with no_stderr():
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
            cv2.resizeWindow(TITLE, width, height)
    except cv2.error as error:
        raise TalkingheadError(
            "window: OpenCV cannot open one, expected a display and a build that can; pip install opencv-python (without -headless), or "
            "name an .mp4 or v4l2 as the sink"
        ) from error
    try:
        yield _Window(cv2)
    finally:
        cv2.destroyAllWindows()


def _display_problem() -> str:
    """Return why no window can be opened, empty when one can or OpenCV reports the failure itself.

    It is tried in another process: where the display's server is gone or refuses, Qt aborts the process it is in.
    """
    try:
        ran = subprocess.run([sys.executable, "-c", _TRIAL], stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"it did not answer in {TRIAL_TIMEOUT_S:g} seconds"
    except (OSError, TypeError):  # there is no interpreter to start
        return ""
    if ran.returncode >= 0:
        return ""
    said = ran.stderr.decode(errors="replace").strip().splitlines()
    return next((line for line in said if "display" in line), said[0] if said else signal.Signals(-ran.returncode).name)[:160]


class _Window:
    """OpenCV's. It is closed by its button, q or Escape."""

    def __init__(self, cv2: Any) -> None:
        self._cv2, self._shown = cv2, False

    def show(self, picture: np.ndarray, t: float) -> None:
        self._cv2.imshow(TITLE, np.ascontiguousarray(picture[..., ::-1]))
        self._shown = True

    def is_open(self) -> bool:
        if self._cv2.waitKey(1) & 0xFF in _QUIT:
            return False
        return not self._shown or self._cv2.getWindowProperty(TITLE, self._cv2.WND_PROP_VISIBLE) >= 1


@contextmanager
def _virtual_webcam(device: str | None, fps: Fraction | float, size: tuple[int, int]) -> Iterator[Sink]:
    camera = require("pyvirtualcam", "live").Camera
    height, width = size
    name = f"v4l2:{device}" if device else "v4l2"
    try:
        opened = camera(width, height, float(fps), device=device)
    except (RuntimeError, ValueError, OSError) as error:
        said = str(error).splitlines()[0].partition(". ")[0] if str(error) else "no reason given"
        raise TalkingheadError(f"{name}: no virtual webcam ({said}); make one with: sudo modprobe v4l2loopback exclusive_caps=1") from error
    with opened:
        yield _VirtualWebcam(opened, name)


class _VirtualWebcam:
    def __init__(self, camera: Any, name: str) -> None:
        self._camera, self._name = camera, name

    def show(self, picture: np.ndarray, t: float) -> None:
        try:
            self._camera.send(np.ascontiguousarray(picture))
        except (RuntimeError, OSError) as error:
            raise TalkingheadError(f"{self._name}: the virtual webcam takes no more frames; load v4l2loopback again") from error

    def is_open(self) -> bool:
        return True
