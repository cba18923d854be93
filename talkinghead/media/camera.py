"""Where live frames come from: a webcam, or a video that plays as if it were one."""

import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Protocol

import numpy as np

from ..errors import TalkingheadError
from .decoding import ToRGB
from .libav import av, pictures_of
from .video import VideoReader

_WEBCAM = re.compile(r"webcam(?::(.+))?|(/dev/video\d+)")
_USUAL = {"video_size": "640x480", "framerate": "30"}  # landmarks are found as well on these as on larger ones
_INPUTS = {"linux": ("v4l2", "/dev/video{}", _USUAL), "darwin": ("avfoundation", "{}:none", _USUAL), "win32": ("dshow", "video={}", {})}
"""Of each system: libav's input, how it calls a webcam, and what is asked of it."""
_RATES, _RATE = (1, 240), Fraction(30)  # frames a second that are believed, and what is taken otherwise
_SILENT = 5.0  # seconds without a frame after which a webcam is gone
_POLL = 0.002  # seconds until a webcam that has no frame yet is asked again


@dataclass(frozen=True)
class Shot:
    """A frame as it comes.

    Attributes:
        picture: uint8 [H, W, 3], RGB.
        t: seconds since the first, of when it was taken.
        taken: `time.perf_counter()` at that moment, or, of a video that does not play in real time, when it was decoded.
    """

    picture: np.ndarray
    t: float
    taken: float


class Source(Protocol):
    """Frames as they come.

    Attributes:
        name: for messages.
        fps: frames per second, as stated.
        waits: whether frames wait until they are taken; otherwise one that is not taken in time is lost.
        patience: seconds without a frame after which it counts as gone.
    """

    name: str
    fps: Fraction
    waits: bool
    patience: float

    def __iter__(self) -> Iterator[Shot]:
        """The frames, once."""

    def close(self) -> None:
        """No more frames come. May be called from another thread, and again."""


def open_source(name: str | Path, pace: bool = True) -> Source:
    """The webcam or video of that name.

    Args:
        name: "webcam", "webcam:1" (on Windows "webcam:NAME"), "/dev/video1", or a video file.
        pace: a video plays in real time; otherwise as fast as its frames are taken. A webcam always runs in real time.

    Raises:
        TalkingheadError: there is no such webcam or file, or it cannot be read.
    """
    webcam = _WEBCAM.fullmatch(str(name))
    if webcam:
        return Webcam(str(name), webcam[2] or webcam[1])
    return VideoSource(name, pace)


class VideoSource:
    """The frames of a video file, each when it is due. Where they cannot be decoded in time they come as soon as they can."""

    patience = np.inf

    def __init__(self, path: str | Path, pace: bool = True) -> None:
        if not Path(path).exists():
            raise TalkingheadError(f"{path}: no such source, expected webcam, webcam:1, /dev/video1 or a video file; name one that exists")
        self._reader = VideoReader(path)
        self.name, self.fps, self.waits = str(path), self._reader.fps, not pace
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        start = None
        for number, picture in enumerate(self._reader):
            t, now = float(number / self.fps), perf_counter()
            start = now if start is None else start  # the first is due when it is there
            wait = 0.0 if self.waits else start + t - now
            if self._closed.wait(wait) if wait > 0 else self._closed.is_set():
                return
            yield Shot(picture, t, start + t if wait > 0 else now)

    def close(self) -> None:
        """See `Source`."""
        self._closed.set()


class Webcam:
    """The frames of a webcam, through libav."""

    waits = False
    patience = _SILENT

    def __init__(self, name: str, which: str | None = None) -> None:
        self.name = name
        self._container = _open_device(name, which)
        stream = pictures_of(self._container)
        if stream is None:
            self._container.close()
            raise TalkingheadError(f"{name}: gives no pictures, expected a webcam; name another")
        stream.thread_type = "SLICE"  # by whole frames, each would wait for the next
        stated = stream.average_rate or stream.guessed_rate
        self.fps = Fraction(stated) if stated and _RATES[0] <= stated <= _RATES[1] else _RATE
        self._rgb = ToRGB((stream.height, stream.width))
        self._closed = threading.Event()
        self._used = False
        self._frames: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Shot]:
        self._used = True
        first = None
        try:
            while not self._closed.is_set():
                frame = self._next()
                if frame is None:
                    continue
                now = perf_counter()
                first = now if first is None else first
                yield Shot(self._rgb(frame), now - first, now)
        finally:
            self._container.close()

    def close(self) -> None:
        """See `Source`."""
        self._closed.set()
        if not self._used:
            self._container.close()

    def _next(self) -> Any:
        """The next frame, None when there is none yet or it came damaged."""
        errors = av().error
        self._frames = self._frames or self._container.decode(pictures_of(self._container))
        try:
            return next(self._frames)
        except (errors.BlockingIOError, errors.InvalidDataError):
            self._frames = None
            sleep(_POLL)
            return None
        except (errors.FFmpegError, OSError, StopIteration) as error:
            raise TalkingheadError(f"{self.name}: the webcam stopped giving frames, it was unplugged or taken; plug it in again") from error


def _open_device(name: str, which: str | None) -> Any:
    kind, call, options = _INPUTS.get(sys.platform, _INPUTS["linux"])
    path = which if which and which.startswith("/") else call.format(which or 0)
    what = f"{name}: {f'{path} ' * (path != name)}"
    try:
        return av().open(path, format=kind, options=dict(options))
    except PermissionError as error:
        raise TalkingheadError(f"{what}may not be read; give yourself permission, such as membership of the group video") from error
    except FileNotFoundError as error:
        raise TalkingheadError(f"{what}is not there, expected a webcam; plug one in, or name a video file") from error
    except (av().error.FFmpegError, OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise TalkingheadError(f"{what}cannot be opened as a webcam ({said}); close what uses it, or name another") from error
