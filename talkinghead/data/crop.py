"""The square around a face: one function for training, fine-tuning and driving."""

from dataclasses import dataclass

import numpy as np

from ..errors import TalkingheadError
from ..media.pictures import resize

_SIDE = 2.0  # of the crop, in longer sides of the landmark box
_RAISE = 1 / 6  # of the crop's centre, in longer sides of the landmark box


@dataclass(frozen=True)
class Crop:
    """A square of a frame; it may reach beyond the frame.

    Attributes:
        x, y: its top left corner in continuous pixels of the frame.
        side: its side in pixels of the frame.
    """

    x: float
    y: float
    side: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.x, self.y, self.side]).all() and self.side > 0):
            raise TalkingheadError(f"Crop: x and y must be finite and the side above 0, got {self.x}, {self.y}, {self.side}")

    def points(self, landmarks: np.ndarray, size: int) -> np.ndarray:
        """Landmarks [..., 2] in pixels of the frame -> float32 [..., 2] in pixels of the crop when that is `size` pixels wide."""
        return ((landmarks - np.array([self.x, self.y])) * (size / self.side)).astype(np.float32)

    def pixels(self, frame: np.ndarray, size: int) -> np.ndarray:
        """The square of a frame uint8 [H, W, 3] as uint8 [size, size, 3], antialiased; beyond the frame it is mirrored at the border."""
        left, top = int(np.floor(self.x)), int(np.floor(self.y))
        right, bottom = int(np.ceil(self.x + self.side)), int(np.ceil(self.y + self.side))
        columns = _mirrored(np.arange(left, right), frame.shape[1])
        rows = _mirrored(np.arange(top, bottom), frame.shape[0])
        x, y = self.x - left, self.y - top
        return resize(frame[rows[:, None], columns], size, (x, y, x + self.side, y + self.side))


def crop_around(landmarks: np.ndarray) -> Crop:
    """The crop of a whole clip: its square is 2.0 x the longer side of the box around all landmarks, raised by 1/6 of that longer side.

    Args:
        landmarks: float [N, 68, 2] in pixels of the frame, N >= 1.

    Raises:
        TalkingheadError: no landmarks, or all in one place.
    """
    points = np.asarray(landmarks, dtype=np.float64).reshape(-1, 2)
    if not len(points):
        raise TalkingheadError("crop_around: no landmarks given, expected at least one frame's")
    low, high = points.min(axis=0), points.max(axis=0)
    longer = float((high - low).max())
    centre = (low + high) / 2 - [0, _RAISE * longer]
    corner = centre - _SIDE * longer / 2
    return Crop(float(corner[0]), float(corner[1]), _SIDE * longer)


def _mirrored(index: np.ndarray, length: int) -> np.ndarray:
    # the continuous border lies between pixels, so the edge pixel is its own neighbour
    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
