"""The square around a face: one function for training, fine-tuning and driving.

There are two conventions, and a model says in its configuration which one it was trained with (`Config.crop`):

- 1: the square may reach beyond the frame, which is mirrored at its border there.
- 2: the square is moved into the frame, and made smaller where it is larger than the frame; what still lies outside shows the blurred
  colour of the border and is marked as not valid (`Crop.valid`).
"""

from dataclasses import dataclass

import numpy as np

from ..errors import TalkingheadError
from ..media.pictures import resize

CONVENTIONS = (1, 2)
_SIDE = 2.0  # of the crop, in longer sides of the landmark box
_MIN_SIDE = 1.4  # the same, where a crop of convention 2 is made smaller to fit into the frame
_RAISE = 1 / 6  # of the crop's centre, in longer sides of the landmark box
_BLUR_GROWTH = 0.5  # how far the border's colour is averaged, in distances from the border


@dataclass(frozen=True)
class Crop:
    """A square of a frame; it may reach beyond the frame.

    Attributes:
        x, y: its top left corner in continuous pixels of the frame.
        side: its side in pixels of the frame.
        convention: one of `CONVENTIONS`: what is shown beyond the frame.
    """

    x: float
    y: float
    side: float
    convention: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite([self.x, self.y, self.side]).all() and self.side > 0):
            raise TalkingheadError(f"Crop: x and y must be finite and the side above 0, got {self.x}, {self.y}, {self.side}")
        if self.convention not in CONVENTIONS:
            raise TalkingheadError(f"Crop: convention must be 1 or 2, got {self.convention!r}")

    def points(self, landmarks: np.ndarray, size: int) -> np.ndarray:
        """Landmarks [..., 2] in pixels of the frame -> float32 [..., 2] in pixels of the crop when that is `size` pixels wide."""
        return ((landmarks - np.array([self.x, self.y])) * (size / self.side)).astype(np.float32)

    def pixels(self, frame: np.ndarray, size: int) -> np.ndarray:
        """Return the square of a frame uint8 [H, W, 3] as uint8 [size, size, 3], antialiased."""
        left, top = int(np.floor(self.x)), int(np.floor(self.y))
        right, bottom = int(np.ceil(self.x + self.side)), int(np.ceil(self.y + self.side))
        columns, rows = np.arange(left, right), np.arange(top, bottom)
        if self.convention == 1:
            square = frame[_mirrored(rows, frame.shape[0])[:, None], _mirrored(columns, frame.shape[1])]
        else:
            square = _blurred_beyond(frame, rows, columns)
        x, y = self.x - left, self.y - top
        return resize(square, size, (x, y, x + self.side, y + self.side))

    def valid(self, frame_size: tuple[int, int], size: int) -> np.ndarray:
        """Return bool [size, size]: the pixels of the crop that lie within a frame of (height, width), at least by half."""
        centres = (np.arange(size) + 0.5) * (self.side / size)
        x, y = self.x + centres, self.y + centres
        height, width = frame_size
        return np.asarray(((y >= 0) & (y <= height))[:, None] & ((x >= 0) & (x <= width))[None, :])


def crop_around(landmarks: np.ndarray, frame_size: tuple[int, int] | None = None, convention: int = 1) -> Crop:
    """Return the crop of a whole clip: a square of 2.0 x the longer side of the box around all landmarks, raised by 1/6 of that side.

    Args:
        landmarks: float [N, 68, 2] in pixels of the frame, N >= 1.
        frame_size: (height, width) of the frame in pixels; convention 2 needs it.
        convention: 1 leaves the square where it is; 2 moves it into the frame and makes it smaller, down to 1.4 x the longer side.

    Raises:
        TalkingheadError: no landmarks, or all in one place, or convention 2 without the size of the frame.
    """
    points = np.asarray(landmarks, dtype=np.float64).reshape(-1, 2)
    if not len(points):
        raise TalkingheadError("crop_around: no landmarks given, expected at least one frame's")
    low, high = points.min(axis=0), points.max(axis=0)
    longer = float((high - low).max())
    centre = (low + high) / 2 - [0, _RAISE * longer]
    if convention == 1:
        side = _SIDE * longer
    elif frame_size is None:
        raise TalkingheadError("crop_around: convention 2 moves the crop into the frame; give the size of the frame")
    else:
        height, width = frame_size
        side = min(_SIDE * longer, max(float(min(height, width)), _MIN_SIDE * longer))
        centre = np.array([_moved_inside(centre[0], side, width), _moved_inside(centre[1], side, height)])
    corner = centre - side / 2
    return Crop(float(corner[0]), float(corner[1]), side, convention)


def _moved_inside(centre: float, side: float, length: int) -> float:
    """Return the centre nearest to the one given from which a span of this side lies within 0..length; the middle where none does."""
    return length / 2 if side >= length else float(np.clip(centre, side / 2, length - side / 2))


def _mirrored(index: np.ndarray, length: int) -> np.ndarray:
    # the continuous border lies between pixels, so the edge pixel is its own neighbour
    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def _blurred_beyond(frame: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return frame[rows, columns]; beyond the frame the colour of its border, averaged along the border the wider the farther out."""
    height, width = frame.shape[:2]
    inside_rows, inside_columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    square = frame[inside_rows[:, None], inside_columns]
    if (inside_rows == rows).all() and (inside_columns == columns).all():
        return square
    square = square.copy()
    beyond_columns = np.abs(columns - inside_columns)
    for place in np.flatnonzero(beyond_columns):
        square[:, place] = _averaged(square[:, place], beyond_columns[place])
    beyond_rows = np.abs(rows - inside_rows)
    for place in np.flatnonzero(beyond_rows):
        square[place] = _averaged(square[place], beyond_rows[place])
    return square


def _averaged(line: np.ndarray, distance: int) -> np.ndarray:
    """Return a line [N, 3] of the border averaged over a window that grows with the distance from it."""
    reach = min(int(np.ceil(_BLUR_GROWTH * distance)), len(line))
    padded = np.pad(line.astype(np.float64), ((reach + 1, reach), (0, 0)), mode="edge")
    sums = padded.cumsum(axis=0)
    return np.rint((sums[2 * reach + 1 :] - sums[: -(2 * reach + 1)]) / (2 * reach + 1)).astype(line.dtype)
