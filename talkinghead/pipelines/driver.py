"""Drivers: landmarks of whatever drives a person, and the frames of a driving video for all their uses."""

import os
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..clip import POINTS, POINTS_WITH_IRISES, Clip, Track
from ..data.crop import Crop
from ..data.few_shot import evenly_spaced_indices
from ..data.load import FrameReader, frames_at, open_frames, read_track
from ..data.pictures import Driver, Picture, is_pil_image, picture_sources
from ..errors import TalkingheadError, shorten
from ..landmarks.detector import MIN_CONFIDENCE, Detector
from ..landmarks.face_points import split_points
from ..landmarks.open_detector import resolve_detector
from ..landmarks.smoothing import smooth
from ..media.images import read_image
from ..system.progress import Progress

EARLY_FRAMES = 250
"""Frames from the beginning among which some are compared with the person."""
COMPARED_FRAMES = 5
_MAX_EARLY_BYTES = 64 << 20
"""Memory for the panels of frames that are decoded for the comparison; larger ones are decoded once more."""
STREAM_FPS = 25
"""Assumed rate of frames that come without one, for smoothing."""

_KINDS = (
    "a path of a video, a Track, landmarks [N, 68 or 78, 2] or an iterable of frames, "
    'such as animate(person, "driver.mp4")'
)


class FrameStream:
    """Frames in memory as a source that is read like a video.

    Args:
        frames: of any type of picture, of one size; an iterator is read once.
        name: of it in messages.
        fps: frames per second.

    Attributes:
        path: its name.
        count: number of frames, None where it is unknown.
        size: (height, width) in pixels, once a frame was read.
        once: whether it can be read only once.
    """

    def __init__(self, frames: Iterable[Any], name: str, fps: float = STREAM_FPS) -> None:
        self._frames = frames
        self.path, self.fps = Path(name), Fraction(fps).limit_denominator(1000)
        self.count: int | None = len(frames) if isinstance(frames, Sized) else None
        self.size: tuple[int, int] = (0, 0)
        self.once = iter(frames) is frames

    def __iter__(self) -> Iterator[np.ndarray]:
        for number, picture in enumerate(picture_sources(self._frames, "animate"), 1):
            frame = picture.pixels if isinstance(picture, Picture) else read_image(picture)
            height, width = frame.shape[:2]
            self.size = self.size if any(self.size) else (height, width)
            if self.size != (height, width):
                raise TalkingheadError(
                    f"animate: frame {number} is {width}x{height}, those before are "
                    f"{self.size[1]}x{self.size[0]}; give frames of one size"
                )
            yield frame
        if not any(self.size):
            raise TalkingheadError(f"animate: {self.path} has no frames; give at least one")


class DriverFrames:
    """Frames of a driving video: a pass for its landmarks, and at most one more for what shows its frames.

    A result alone is decoded once, except when its driver is compared with the person and one of the first
    `EARLY_FRAMES` frames is unclear. The first pass keeps the early frames that are compared when all of them
    show the face clearly. If others are compared, the beginning is decoded again, up to the last of them;
    `panels` then resumes from there, unless its frames are too large to be kept. Memory does not grow with
    the length of the video.

    Args:
        reader: of the driving video; of frames that come once, only those are compared that were kept.
    """

    def __init__(self, reader: FrameReader) -> None:
        self.reader = reader
        self._once = getattr(reader, "once", False)
        early = min(reader.count or EARLY_FRAMES, EARLY_FRAMES)
        self._likely = frozenset(evenly_spaced_indices(early, COMPARED_FRAMES).tolist())
        self._kept: dict[int, np.ndarray] = {}
        self._panel: tuple[Crop, int] | None = None
        self._early_panels: list[np.ndarray] = []
        self._pass: Iterator[np.ndarray] | None = None

    def keeping(self, progress: Progress) -> Progress:
        """Return a Progress that also keeps the frames that are likely to be compared."""

        def keep(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            for number, frame in enumerate(frames):
                if number in self._likely:
                    self._kept[number] = frame
                yield frame

        def keeping_progress(frames: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
            return progress(keep(frames), desc=desc, total=total)

        return keeping_progress

    def choose(self, track: Track) -> np.ndarray:
        """Return the numbers of some of the clearest early frames of the track."""
        early = track[:EARLY_FRAMES].confidence
        if self._once:
            early = np.where(np.isin(np.arange(len(early)), list(self._kept)), early, -1)
        clear = np.flatnonzero(early >= min(MIN_CONFIDENCE, early.max()))
        return clear[evenly_spaced_indices(len(clear), COMPARED_FRAMES)]

    def show(self, crop: Crop, size: int) -> None:
        """Set the square that `panels` yields, `size` pixels wide; call it before `at`."""
        self._panel = crop, size

    def at(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the frames uint8 [H, W, 3] with these rising numbers, after the first pass."""
        if self._kept.keys() >= set(numbers.tolist()):
            for number in numbers.tolist():
                yield self._kept.pop(number)
            self._kept.clear()
        elif not self._can_keep_panels(int(numbers[-1]) + 1):
            yield from frames_at(self.reader, numbers)
        else:
            self._pass = iter(self.reader)
            yield from frames_at(self._with_early_panels(self._pass, int(numbers[-1]) + 1), numbers)

    def _can_keep_panels(self, count: int) -> bool:
        """Return whether panels are shown, and so many of them may be kept."""
        return self._panel is not None and 3 * self._panel[1] ** 2 * count <= _MAX_EARLY_BYTES

    def panels(self) -> Iterator[np.ndarray]:
        """Yield the square of each frame, uint8 [size, size, 3]; needs `show`, and works once."""
        assert self._panel is not None
        crop, size = self._panel
        self._kept.clear()
        self._early_panels.reverse()
        while self._early_panels:
            yield self._early_panels.pop()
        for frame in self._pass or self.reader:
            yield crop.pixels(frame, size)

    def _with_early_panels(self, frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
        """Yield the first `count` frames, and keep the square of each."""
        assert self._panel is not None
        crop, size = self._panel
        for frame in islice(frames, count):
            self._early_panels.append(crop.pixels(frame, size))
            yield frame


@dataclass(frozen=True)
class DriverTrack:
    """Landmarks that drive a person.

    Attributes:
        track: the landmarks, smoothed where they were detected.
        name: of the driver in messages.
        frames: of the driver, where it has any.
    """

    track: Track
    name: str = "the driver"
    frames: DriverFrames | None = None


def read_driver(drive: Driver, detector: Detector | str | None, face: int, progress: Progress) -> DriverTrack:
    """Return the landmarks of a driver; frames are searched for faces.

    Args:
        drive: as the type says.
        detector: finds the landmarks, where there are frames; by default the networks that ship.
        face: which of the faces drives; 1 is the largest times longest.
        progress: shows the advance.

    Raises:
        TalkingheadError: it is no driver, cannot be read, or shows no such face.
    """
    if isinstance(drive, Track):
        return DriverTrack(drive)
    if isinstance(drive, Clip):
        fps = drive.track.fps or STREAM_FPS
        return DriverTrack(drive.track, drive.name, DriverFrames(FrameStream(drive.frames, drive.name, fps)))
    values = drive.detach().cpu().numpy() if isinstance(drive, Tensor) else drive
    if isinstance(values, np.ndarray) and values.shape[-2:] in ((POINTS, 2), (POINTS_WITH_IRISES, 2)):
        return DriverTrack(_track_of_landmarks(values))
    reader = _open_frames(drive)
    frames = DriverFrames(reader)
    track = smooth(read_track(reader, resolve_detector(detector), face, progress=frames.keeping(progress)))
    return DriverTrack(track, reader.path.name, frames)


def _track_of_landmarks(landmarks: np.ndarray) -> Track:
    """Return points [N, 68 or 78, 2], or of one frame, in pixels as a Track of frames that hold them."""
    points, irises = split_points(landmarks[None] if landmarks.ndim == 2 else landmarks)
    extent = np.nan_to_num(points).max(axis=(0, 1)) if len(points) else np.zeros(2)
    width, height = (max(1, int(np.ceil(value))) for value in extent)
    return Track(points, (height, width), irises=irises)


def _open_frames(drive: Any) -> FrameReader:
    """Open a path, or frames in memory."""
    if isinstance(drive, (str, os.PathLike)):
        return open_frames(Path(drive))
    if is_pil_image(drive):
        return FrameStream([drive], "the driver")
    if isinstance(drive, Iterable) and not isinstance(drive, (bytes, bytearray, dict)):
        return FrameStream(_stack(drive), "the driver")
    raise TalkingheadError(
        f"animate: driver: got {type(drive).__name__} {shorten(repr(drive), 40)}; give {_KINDS}"
    )


def _stack(drive: Any) -> Any:
    """Return frames as an iterable of them: a single picture becomes one of one."""
    if isinstance(drive, (np.ndarray, Tensor)) and drive.ndim < 4:
        return [drive]
    return drive
