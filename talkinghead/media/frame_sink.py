"""Sinks of live frames: a window, a video file, or a virtual webcam.

The only module that imports pyvirtualcam.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import TalkingheadError, require
from .recording import SoundSource, record_video
from .video import VideoWriter
from .window import open_window

_VIRTUAL = re.compile(r"v4l2(?::(.+))?")


class Sink(Protocol):
    """Output of live frames."""

    def show(self, image: np.ndarray, t: float) -> None:
        """Show a frame uint8 [H, W, 3], RGB, that is due `t` seconds after the first frame of the source."""

    def is_open(self) -> bool:
        """Return whether the sink still takes frames. Call it often: it keeps a window responsive."""

    def read_keys(self) -> str:
        """Return the characters of the keys pressed in a window since the last call."""


@contextmanager
def open_sink(
    name: str | Path,
    fps: Fraction | float,
    size: tuple[int, int],
    metadata: Mapping[str, str] | None = None,
    sound: SoundSource | None = None,
) -> Iterator[Sink]:
    """Open a sink for the duration of the block, which must be entered and left in the main thread.

    Args:
        name: "window"; a file that ends in .mp4, which replaces an existing one when the block succeeds (see
            `talkinghead.media.recording`); "v4l2", the first virtual webcam, or "v4l2:/dev/video2".
        fps: frames per second, above 0, of the file, where missing frames are filled by repeating others, and
            of a virtual webcam.
        size: (height, width) of the frames in pixels.
        metadata: tags of the file.
        sound: of the file, from time 0 of the frames on.

    Raises:
        TalkingheadError: there is no such sink, or it cannot be opened or written to.
    """
    virtual = _VIRTUAL.fullmatch(str(name))
    if str(name) == "window":
        with open_window(size) as window:
            yield window
    elif virtual:
        with _virtual_webcam(virtual[1], fps, size) as webcam:
            yield webcam
    elif Path(name).suffix.lower() == ".mp4":
        with record_video(name, fps, size, metadata, sound=sound) as video:
            yield _FileSink(video, fps)
    else:
        raise TalkingheadError(
            f"{name}: no such sink; name window, v4l2, v4l2:/dev/video2 or a file that ends in .mp4"
        )


class _Sink:
    """Sink that stays open and has no keys."""

    def is_open(self) -> bool:
        return True

    def read_keys(self) -> str:
        return ""


class _FileSink(_Sink):
    """Video file whose frames are placed by their time."""

    def __init__(self, video: VideoWriter, fps: Fraction | float) -> None:
        self._video, self._fps = video, Fraction(fps)
        self._num_written = 0
        self._last: np.ndarray | None = None

    def show(self, image: np.ndarray, t: float) -> None:
        position = round(t * self._fps)
        # fill missing positions with the previous frame, and drop a second frame for the same position
        while self._num_written < position:
            self._write(image if self._last is None else self._last)
        if self._num_written == position:
            self._write(image)
        self._last = image

    def _write(self, image: np.ndarray) -> None:
        self._video.write(image)
        self._num_written += 1


@contextmanager
def _virtual_webcam(device: str | None, fps: Fraction | float, size: tuple[int, int]) -> Iterator[Sink]:
    camera = require("pyvirtualcam", "live").Camera
    height, width = size
    name = f"v4l2:{device}" if device else "v4l2"
    try:
        webcam = camera(width, height, float(fps), device=device)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0] if str(error) else "no reason given"
        raise TalkingheadError(
            f"{name}: no virtual webcam ({reason}); make one with: sudo modprobe v4l2loopback "
            "exclusive_caps=1"
        ) from error
    with webcam:
        yield _VirtualWebcamSink(webcam, name)


class _VirtualWebcamSink(_Sink):
    def __init__(self, camera: Any, name: str) -> None:
        self._camera, self._name = camera, name

    def show(self, image: np.ndarray, t: float) -> None:
        try:
            self._camera.send(np.ascontiguousarray(image))
        except (RuntimeError, OSError) as error:
            raise TalkingheadError(
                f"{self._name}: the virtual webcam takes no more frames; load v4l2loopback again"
            ) from error
