"""Track and Clip: the two values that flow through everything.

Coordinates are continuous: pixel (column i, row j) covers [i, i + 1) x [j, j + 1) and has its centre at (i + 0.5, j + 0.5), so a
point scales with its picture by plain multiplication.
"""

from dataclasses import dataclass, replace

import numpy as np

from .errors import TalkingheadError

POINTS = 68
"""Points of the iBUG 68 landmark convention."""


@dataclass(frozen=True)
class Track:
    """Landmarks over time: all that drives.

    Attributes:
        landmarks: float32 [N, 68, 2], (x, y) in pixels of the frames they were found on.
        size: (height, width) of those frames in pixels.
        fps: frames per second; 0 for pictures, which have no order in time.
        confidence: float32 [N], 0..1, how far the landmarks can be trusted; 0 where no face was seen and they lie between those of the
            frames before and after. All 1 when it is not given.
    """

    landmarks: np.ndarray
    size: tuple[int, int]
    fps: float = 0.0
    confidence: np.ndarray = None  # type: ignore[assignment]  # always an array afterwards

    def __post_init__(self) -> None:
        shape = np.shape(self.landmarks)
        if len(shape) != 3 or shape[1:] != (POINTS, 2):
            raise TalkingheadError(f"Track: landmarks must be [N, {POINTS}, 2], got {list(shape)}")
        confidence = np.ones(shape[0]) if self.confidence is None else self.confidence
        if np.shape(confidence) != shape[:1]:
            raise TalkingheadError(f"Track: confidence must be [{shape[0]}], one for each frame, got {list(np.shape(confidence))}")
        for name, values in (("landmarks", self.landmarks), ("confidence", confidence)):
            odd = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, np.ndim(values)))))
            if len(odd):
                raise TalkingheadError(f"Track: {name} of frame {odd[0]} are not finite; leave that frame out")
        object.__setattr__(self, "landmarks", np.ascontiguousarray(self.landmarks, dtype=np.float32))
        object.__setattr__(self, "confidence", np.ascontiguousarray(confidence, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.landmarks)

    def __getitem__(self, index: slice | list[int] | np.ndarray) -> "Track":
        index = _several(index)
        return replace(self, landmarks=self.landmarks[index], confidence=self.confidence[index])

    @property
    def seen(self) -> np.ndarray:
        """bool [N]: the frames in which a face was found."""
        return self.confidence > 0

    def gaps(self, longer_than: float = 0.5) -> list[tuple[float, float]]:
        """When no face was seen for longer than so many seconds: [(start, end)] in seconds, rising."""
        if not self.fps:
            return []
        edges = np.flatnonzero(np.diff(np.concatenate([[True], self.seen, [True]]).astype(np.int8))) / self.fps
        return [(start, end) for start, end in edges.reshape(-1, 2).tolist() if end - start > longer_than]


@dataclass(frozen=True)
class Clip:
    """A Track with its frames: pictures of one person, or a bounded window of a video, cropped to a square by `talkinghead.read_clip`.

    Attributes:
        track: the landmarks, in pixels of `frames`.
        frames: uint8 [N, H, W, 3], RGB; contiguous, copied where an array of other strides was given.
        name: where it came from, for messages.
        person: who it shows, for splitting by person; empty when unknown.
        valid: bool [N, H, W], the pixels that the source has, not only stand for what lies beyond its border; None when it has all.
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
            raise TalkingheadError(f"{self.name}: frames must be uint8 [N, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        if len(frames) != len(self.track) or frames.shape[1:3] != tuple(self.track.size):
            raise TalkingheadError(
                f"{self.name}: {len(frames)} frames of {frames.shape[1]}x{frames.shape[2]} do not match "
                f"{len(self.track)} landmarks of {self.track.size[0]}x{self.track.size[1]}"
            )

        if self.valid is not None and (self.valid.shape != frames.shape[:3] or self.valid.dtype != np.bool_):
            raise TalkingheadError(
                f"{self.name}: valid must be bool {list(frames.shape[:3])}, one for each pixel, "
                f"got {self.valid.dtype} {list(self.valid.shape)}; leave it out when the source has all pixels"
            )
        # neither torch nor libraries of detectors take every stride, such as that of frames[..., ::-1]
        object.__setattr__(self, "frames", np.ascontiguousarray(frames))
        if self.valid is not None:
            object.__setattr__(self, "valid", np.ascontiguousarray(self.valid))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: slice | list[int] | np.ndarray) -> "Clip":
        index = _several(index)
        valid = None if self.valid is None else self.valid[index]
        return replace(self, track=self.track[index], frames=self.frames[index], valid=valid)


def _several(index: slice | list[int] | np.ndarray) -> slice | list[int] | np.ndarray:
    if isinstance(index, (int, np.integer)):
        raise TalkingheadError(f"a Track or Clip is sliced, not indexed: write [{index}:{index + 1}] for one frame")
    return index
