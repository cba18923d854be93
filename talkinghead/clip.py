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
    """

    landmarks: np.ndarray
    size: tuple[int, int]
    fps: float = 0.0

    def __post_init__(self) -> None:
        shape = np.shape(self.landmarks)
        if len(shape) != 3 or shape[1:] != (POINTS, 2):
            raise TalkingheadError(f"Track: landmarks must be [N, {POINTS}, 2], got {list(shape)}")
        object.__setattr__(self, "landmarks", np.ascontiguousarray(self.landmarks, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.landmarks)

    def __getitem__(self, index: slice | list[int] | np.ndarray) -> "Track":
        return replace(self, landmarks=self.landmarks[_several(index)])


@dataclass(frozen=True)
class Clip:
    """A Track with its frames: pictures of one person, or a bounded window of a video, cropped to a square by `talkinghead.read_clip`.

    Attributes:
        track: the landmarks, in pixels of `frames`.
        frames: uint8 [N, H, W, 3], RGB.
        name: where it came from, for messages.
        person: who it shows, for splitting by person; empty when unknown.
    """

    track: Track
    frames: np.ndarray
    name: str = "clip"
    person: str = ""

    def __post_init__(self) -> None:
        frames = self.frames
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise TalkingheadError(f"{self.name}: frames must be uint8 [N, H, W, 3], got {frames.dtype} {list(frames.shape)}")
        if len(frames) != len(self.track) or frames.shape[1:3] != tuple(self.track.size):
            raise TalkingheadError(
                f"{self.name}: {len(frames)} frames of {frames.shape[1]}x{frames.shape[2]} do not match "
                f"{len(self.track)} landmarks of {self.track.size[0]}x{self.track.size[1]}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: slice | list[int] | np.ndarray) -> "Clip":
        index = _several(index)
        return replace(self, track=self.track[index], frames=self.frames[index])


def _several(index: slice | list[int] | np.ndarray) -> slice | list[int] | np.ndarray:
    if isinstance(index, (int, np.integer)):
        raise TalkingheadError(f"a Track or Clip is sliced, not indexed: write [{index}:{index + 1}] for one frame")
    return index
