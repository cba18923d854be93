"""Sources of live frames: a webcam, or a video that plays as if it were one."""

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, Protocol

import numpy as np

from ..errors import TalkingheadError, check_local
from .decoding import RgbConverter
from .pyav import av, video_stream
from .video import VideoReader

log = logging.getLogger(__name__)

_WEBCAM = re.compile(r"webcam(?::(.+))?|(/dev/video\d+)")
# landmarks are detected as well at this size as at larger ones
_DEVICE_OPTIONS = {"video_size": "640x480", "framerate": "30"}
_INPUTS = {
    "linux": ("v4l2", "/dev/video{}", _DEVICE_OPTIONS),
    "darwin": ("avfoundation", "{}:none", _DEVICE_OPTIONS),
    "win32": ("dshow", "video={}", {}),
}
"""Platform -> libav's input format, its name of a webcam, and the options to open it with."""
_MIN_FPS = 1  # below and above these limits a stated rate is not believed
_MAX_FPS = 240
_DEFAULT_FPS = Fraction(30)
_WEBCAM_TIMEOUT_S = 5.0  # without a frame
_POLL_INTERVAL_S = 0.002  # while a webcam has no frame yet
_RECONNECT_S = 60.0  # that a webcam that went away is waited for
_RECONNECT_INTERVAL_S = 0.5
_LINUX_DEVICES = Path("/sys/class/video4linux")


@dataclass(frozen=True)
class SourceFrame:
    """A live frame.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        t: seconds from the capture of the first frame to that of this one.
        captured_at: `time.perf_counter()` at its capture; of a video that does not play in real time, at its
            decoding.
    """

    image: np.ndarray
    t: float
    captured_at: float


class FrameSource(Protocol):
    """Source of live frames.

    Attributes:
        name: for messages.
        fps: frames per second, as stated.
        is_blocking: whether frames wait until they are consumed; otherwise one not consumed in time is
            lost.
        timeout_s: seconds without a frame after which the source counts as gone.
        sound_file: the file whose sound belongs to the frames; None without one.
    """

    name: str
    fps: Fraction
    is_blocking: bool

    @property
    def sound_file(self) -> Path | None: ...
    @property
    def timeout_s(self) -> float: ...

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the frames, once."""

    def close(self) -> None:
        """Stop the frames. May be called from another thread, and repeatedly."""


def open_source(name: str | Path, realtime: bool = True) -> FrameSource:
    """Open the webcam or video of that name.

    Args:
        name: "webcam", "webcam:1" (on Windows "webcam:NAME"), "/dev/video1", or a video file.
        realtime: play a video in real time; otherwise as fast as its frames are consumed. A webcam always
            runs in real time.

    Raises:
        TalkingheadError: there is no such webcam or file, or it cannot be read.
    """
    webcam = _WEBCAM.fullmatch(str(name))
    if webcam:
        return Webcam(str(name), webcam[2] or webcam[1])
    return VideoSource(name, realtime)


class VideoSource:
    """Frames of a video file, each when it is due or, if decoding takes longer, as soon as it is decoded."""

    timeout_s = np.inf

    def __init__(self, path: str | Path, realtime: bool = True) -> None:
        check_local(path)
        if not Path(path).exists():
            raise TalkingheadError(
                f"{path}: no such source, expected webcam, webcam:1, /dev/video1 or a video file; name one "
                "that exists"
            )
        self._reader = VideoReader(path)
        self.name, self.fps, self.is_blocking = str(path), self._reader.fps, not realtime
        self.sound_file = Path(path)
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[SourceFrame]:
        start = None
        for number, image in enumerate(self._reader):
            t, now = float(number / self.fps), perf_counter()
            start = now if start is None else start  # the first is due at once
            wait = 0.0 if self.is_blocking else start + t - now
            if self._closed.wait(wait) if wait > 0 else self._closed.is_set():
                return
            yield SourceFrame(image, t, start + t if wait > 0 else now)

    def close(self) -> None:
        """See `FrameSource`."""
        self._closed.set()


class Webcam:
    """Frames of a webcam, read by libav. One that goes away is waited for, and opened again."""

    is_blocking = False
    sound_file = None

    def __init__(self, name: str, device: str | None = None) -> None:
        self.name, self._device = name, device
        self._closed = threading.Event()
        self._is_used = False
        self._lost_at: float | None = None
        self._open()

    @property
    def timeout_s(self) -> float:
        """Return the seconds without a frame after which the webcam counts as gone."""
        return _WEBCAM_TIMEOUT_S if self._lost_at is None else np.inf

    def __iter__(self) -> Iterator[SourceFrame]:
        self._is_used = True
        first = None
        try:
            while not self._closed.is_set():
                try:
                    frame = self._next_frame()
                except TalkingheadError as error:
                    if first is None:  # it never worked
                        raise
                    self._reconnect(error)
                    continue
                if frame is None:
                    continue
                if self._lost_at is not None:
                    log.warning("%s: the webcam is back", self.name)
                    self._lost_at = None
                now = perf_counter()
                first = now if first is None else first
                yield SourceFrame(self._to_rgb(frame), now - first, now)
        finally:
            self._container.close()

    def close(self) -> None:
        """See `FrameSource`."""
        self._closed.set()
        if not self._is_used:
            self._container.close()

    def _open(self) -> None:
        self._container = _open_device(self.name, self._device)
        stream = video_stream(self._container)
        if stream is None:
            self._container.close()
            raise TalkingheadError(f"{self.name}: gives no pictures, expected a webcam; name another")
        stream.thread_type = "SLICE"  # threads for whole frames would delay each frame
        stated = stream.average_rate or stream.guessed_rate
        self.fps = Fraction(stated) if stated and _MIN_FPS <= stated <= _MAX_FPS else _DEFAULT_FPS
        self._to_rgb = RgbConverter((stream.height, stream.width))
        self._frames: Iterator[Any] | None = None

    def _reconnect(self, problem: TalkingheadError) -> None:
        """Wait until the webcam can be opened again or `close` is called.

        Raises:
            TalkingheadError: it does not come back.
        """
        if self._lost_at is None:
            log.warning("%s: the webcam went away; waiting for it, plug it in again", self.name)
            self._lost_at = perf_counter()
        self._container.close()
        while not self._closed.wait(_RECONNECT_INTERVAL_S):
            if perf_counter() - self._lost_at > _RECONNECT_S:
                raise problem
            with suppress(TalkingheadError):
                self._open()
                return

    def _next_frame(self) -> Any:
        """Return the next frame, None when there is none yet or it is damaged."""
        errors = av().error
        self._frames = self._frames or self._container.decode(video_stream(self._container))
        try:
            return next(self._frames)
        except (errors.BlockingIOError, errors.InvalidDataError):
            self._frames = None
            sleep(_POLL_INTERVAL_S)
            return None
        except (errors.FFmpegError, OSError, StopIteration) as error:
            raise TalkingheadError(
                f"{self.name}: the webcam stopped giving frames, it was unplugged or taken; plug it in again"
            ) from error


def _open_device(name: str, device: str | None) -> Any:
    input_format, pattern, options = _INPUTS.get(sys.platform, _INPUTS["linux"])
    if device is None:
        device = next((webcam.name.partition(":")[2] for webcam in list_webcams()), "0")
    path = device if device.startswith("/") else pattern.format(device)
    subject = f"{name}: " if path == name else f"{name}: {path} "
    try:
        return av().open(path, format=input_format, options=dict(options))
    except PermissionError as error:
        raise TalkingheadError(
            f"{subject}may not be read; give yourself permission, such as membership of the group video"
        ) from error
    except FileNotFoundError as error:
        raise TalkingheadError(
            f"{subject}is not there, expected a webcam; plug one in, or name a video file"
        ) from error
    except (av().error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TalkingheadError(
            f"{subject}cannot be opened as a webcam ({reason}); close what uses it, or name another"
        ) from error


@dataclass(frozen=True)
class WebcamName:
    """A webcam of this machine.

    Attributes:
        name: for `open_source`, such as "webcam:0".
        description: of the device, such as "Integrated Camera".
    """

    name: str
    description: str


def list_webcams() -> list[WebcamName]:
    """Return the webcams of this machine; none where the system does not say."""
    if sys.platform == "linux":
        return _linux_webcams()
    kind = _INPUTS[sys.platform][0] if sys.platform in _INPUTS else ""
    try:
        devices = [device for device in av().enumerate_input_devices(kind) if "video" in device.media_types]
    except (AttributeError, ValueError, OSError, av().error.FFmpegError):
        return []
    by_name = sys.platform == "win32"
    return [
        WebcamName(f"webcam:{device.description if by_name else number}", device.description)
        for number, device in enumerate(devices)
    ]


def _linux_webcams() -> list[WebcamName]:
    """Return the first node of each device; its further ones give no pictures."""
    webcams = []
    for folder in _LINUX_DEVICES.glob("video*"):
        try:
            index, description = ((folder / file).read_text().strip() for file in ("index", "name"))
        except OSError:  # unplugged in the meantime
            continue
        if index == "0":
            webcams.append((int(folder.name.removeprefix("video")), description))
    return [WebcamName(f"webcam:{number}", description) for number, description in sorted(webcams)]
