"""Track and Clip: landmarks over time, and landmarks with their frames.

Coordinates are continuous: pixel (column i, row j) covers [i, i + 1) x [j, j + 1) and has its centre at (i +
0.5, j + 0.5), so a point scales with its picture by plain multiplication.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias, overload

import numpy as np

from .errors import TalkingheadError

POINTS = 68
"""Points of the iBUG 68 landmark convention."""

IRIS_POINTS = 5
"""Points of an iris: its centre, and its edge right, top, left and bottom of it in the axes of the head."""

POINTS_WITH_IRISES = POINTS + 2 * IRIS_POINTS
"""Points of a face whose irises are known: the landmarks, then the left and the right iris."""

Selection: TypeAlias = slice | Sequence[int] | Sequence[bool] | np.ndarray
"""Types that select several frames of a Track or a Clip: a slice, indices, or a mask."""


@dataclass(frozen=True, eq=False, repr=False)
class Track:
    """Landmarks over time, which is all that drives a person.

    `len(track)` is the number of frames, `track[2:5]` a Track of some, `track[0]` and the items of a loop are
    landmarks [68, 2]. Two tracks are equal when all their values are.

    Attributes:
        landmarks: float32 [N, 68, 2], (x, y) in pixels of the frames they were found on.
        size: (height, width) of those frames in pixels.
        fps: frames per second; 0 for pictures, which have no order in time.
        confidence: float32 [N], 0..1, how far the landmarks can be trusted; 0 where no face was seen and they
            lie between those of the frames before and after. All 1 by default.
        irises: float32 [N, 2, 5, 2] in pixels as the landmarks, of all frames or None; an iris behind its lid
            or behind the face is where it would be. First the eye of landmarks 36 to 41, then that of 42 to
            47; of each the centre, and the edge right, top, left and bottom of it in the axes of the head, as
            the image of an upright head shows them.
    """

    landmarks: np.ndarray
    size: tuple[int, int]
    fps: float = 0.0
    confidence: np.ndarray = None  # type: ignore[assignment]  # always an array afterwards
    irises: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.landmarks)
        if len(shape) != 3 or shape[1:] != (POINTS, 2):
            raise TalkingheadError(
                f"Track: landmarks are {list(shape)}, expected [N, {POINTS}, 2]; "
                f"of one face pass landmarks[None]"
            )
        confidence = np.ones(shape[0]) if self.confidence is None else self.confidence
        if np.shape(confidence) != shape[:1]:
            raise TalkingheadError(
                f"Track: confidence is {list(np.shape(confidence))}, expected [{shape[0]}]; "
                "give one value for each frame, or leave it out"
            )
        iris_shape = (shape[0], 2, IRIS_POINTS, 2)
        if self.irises is not None and np.shape(self.irises) != iris_shape:
            raise TalkingheadError(
                f"Track: irises are {list(np.shape(self.irises))}, expected {list(iris_shape)}; "
                "give those of both eyes in all frames, or leave them out"
            )
        arrays = {"landmarks": self.landmarks, "confidence": confidence, "irises": self.irises}
        for name, values in arrays.items():
            if values is None:
                continue
            invalid = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, np.ndim(values)))))
            if len(invalid):
                raise TalkingheadError(
                    f"Track: {name} of frame {invalid[0]} are not finite; leave that frame out"
                )
            object.__setattr__(self, name, np.ascontiguousarray(values, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.landmarks)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: Selection) -> "Track": ...
    def __getitem__(self, index: int | Selection) -> "np.ndarray | Track":
        """Return the landmarks [68, 2] of one frame, or a Track of several."""
        if isinstance(index, (int, np.integer)):
            return np.asarray(self.landmarks[index])
        irises = None if self.irises is None else self.irises[index]
        return replace(
            self, landmarks=self.landmarks[index], confidence=self.confidence[index], irises=irises
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.landmarks)

    def __eq__(self, other: object) -> bool:
        return _fields_equal(self, other)

    __hash__ = None  # type: ignore[assignment]  # arrays can be changed

    def __repr__(self) -> str:
        height, width = self.size
        rate = f"{self.fps:.4g} frames a second" if self.fps else "pictures"
        missing = int((~self.seen).sum())
        return (
            f"Track({len(self)} frames, {rate}, landmarks in frames of {width}x{height}"
            f"{f', {missing} without a face' if missing else ''})"
        )

    @property
    def seen(self) -> np.ndarray:
        """bool [N]: the frames in which a face was detected."""
        return self.confidence > 0

    def gaps(self, longer_than: float = 0.5) -> list[tuple[float, float]]:
        """Return the times without a face for longer than so many seconds: [(start, end)] in seconds."""
        if not self.fps:
            return []
        edges = (
            np.flatnonzero(np.diff(np.concatenate([[True], self.seen, [True]]).astype(np.int8))) / self.fps
        )
        return [(start, end) for start, end in edges.reshape(-1, 2).tolist() if end - start > longer_than]


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """A Track with its frames: pictures of one person, or a bounded window of a video, cropped to a square by
    `talkinghead.read_clip`.

    `len(clip)` is the number of frames, `clip[2:5]` a Clip of some, `clip[0]` and the items of a loop are
    frames [H, W, 3]. Two clips are equal when all their values are.

    Attributes:
        track: the landmarks, in pixels of `frames`.
        frames: uint8 [N, H, W, 3], RGB; contiguous; an array of other strides is copied.
        name: where it came from, for messages.
        person: who it shows, for splitting by person; empty when unknown.
        valid: bool [N, H, W], the pixels that the source has, not only stand for what lies beyond its border;
            None when it has all.
        convention: of the crop (data/crop.py) that cut the frames out; 0 when unknown.
    """

    track: Track
    frames: np.ndarray
    name: str = "clip"
    person: str = ""
    valid: np.ndarray | None = None
    convention: int = 0

    def __post_init__(self) -> None:
        frames = self.frames
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise TalkingheadError(
                f"{self.name}: frames are {frames.dtype} {list(frames.shape)}, expected uint8 [N, H, W, 3]; "
                "read_clip makes such frames of pictures"
            )
        if len(frames) != len(self.track) or frames.shape[1:3] != tuple(self.track.size):
            raise TalkingheadError(
                f"{self.name}: {len(frames)} frames of {frames.shape[1]}x{frames.shape[2]} do not match "
                f"{len(self.track)} landmarks of {self.track.size[0]}x{self.track.size[1]}; give both of the "
                "same frames"
            )

        if self.valid is not None and (self.valid.shape != frames.shape[:3] or self.valid.dtype != np.bool_):
            raise TalkingheadError(
                f"{self.name}: valid is {self.valid.dtype} {list(self.valid.shape)}, expected bool "
                f"{list(frames.shape[:3])}; leave it out when the source has all pixels"
            )
        # torch and libraries of detectors do not support all strides, such as those of frames[..., ::-1].
        object.__setattr__(self, "frames", np.ascontiguousarray(frames))
        if self.valid is not None:
            object.__setattr__(self, "valid", np.ascontiguousarray(self.valid))

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: Selection) -> "Clip": ...
    def __getitem__(self, index: int | Selection) -> "np.ndarray | Clip":
        """Return one frame [H, W, 3], or a Clip of several."""
        if isinstance(index, (int, np.integer)):
            return np.asarray(self.frames[index])
        valid = None if self.valid is None else self.valid[index]
        return replace(self, track=self.track[index], frames=self.frames[index], valid=valid)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.frames)

    def __eq__(self, other: object) -> bool:
        return _fields_equal(self, other)

    __hash__ = None  # type: ignore[assignment]  # arrays can be changed

    def __repr__(self) -> str:
        height, width = self.track.size
        rate = f"{self.track.fps:.4g} frames a second" if self.track.fps else "pictures"
        person = f", person {self.person!r}" if self.person else ""
        return f"Clip({self.name!r}, {len(self)} frames of {width}x{height}, {rate}{person})"


def _fields_equal(one: "Track | Clip", other: object) -> Any:
    """Return whether two objects of one dataclass have equal fields, arrays by their values."""
    if type(one) is not type(other):
        return NotImplemented
    return all(_is_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return one is not None and other is not None and np.array_equal(one, other)
    return bool(one == other)
