"""Square crops around a face, the same for training, fine-tuning and driving.

There are two conventions, and a model says in its configuration which one it was trained with
(`Config.crop`):

- 1: the square may reach beyond the frame, which is mirrored at its border there.
- 2: the square is moved into the frame, and made smaller where it is larger than the frame; what still lies
  outside shows the blurred colour of the border and is marked as not valid (`Crop.valid`).
"""

from dataclasses import dataclass, replace

import numpy as np

from ..clip import Track
from ..errors import TalkingheadError
from ..landmarks.geometry import bounding_boxes
from ..media.images import resize

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
            raise TalkingheadError(
                f"crop: its corner is ({self.x}, {self.y}) and its side {self.side}; give finite numbers "
                "and a side above 0"
            )
        if self.convention not in CONVENTIONS:
            raise TalkingheadError(f"crop: convention {self.convention!r} is unknown; choose 1 or 2")

    def points(self, landmarks: np.ndarray, size: int) -> np.ndarray:
        """Return landmarks [..., 2] in pixels of the frame as float32 [..., 2] in pixels of the crop that is
        resized to `size` x `size`.
        """
        return ((landmarks - np.array([self.x, self.y])) * (size / self.side)).astype(np.float32)

    def track(self, track: Track, size: int) -> Track:
        """Return a track in pixels of the frame as one in pixels of the crop that is resized to `size` x
        `size`.
        """
        return replace(
            track,
            landmarks=self.points(track.landmarks, size),
            irises=None if track.irises is None else self.points(track.irises, size),
            size=(size, size),
        )

    def pixels(self, frame: np.ndarray, size: int) -> np.ndarray:
        """Return the square of a frame uint8 [H, W, 3] as uint8 [size, size, 3], antialiased."""
        left, top = int(np.floor(self.x)), int(np.floor(self.y))
        right, bottom = int(np.ceil(self.x + self.side)), int(np.ceil(self.y + self.side))
        columns, rows = np.arange(left, right), np.arange(top, bottom)
        if self.convention == 1:
            square = frame[
                _mirror_indices(rows, frame.shape[0])[:, None], _mirror_indices(columns, frame.shape[1])
            ]
        else:
            square = _extend_with_blur(frame, rows, columns)
        x, y = self.x - left, self.y - top
        return resize(square, size, (x, y, x + self.side, y + self.side))

    def valid(self, frame_size: tuple[int, int], size: int) -> np.ndarray:
        """Return bool [size, size]: the pixels of the crop that lie within a frame of (height, width), at
        least by half.
        """
        centres = (np.arange(size) + 0.5) * (self.side / size)
        x, y = self.x + centres, self.y + centres
        height, width = frame_size
        return np.asarray(((y >= 0) & (y <= height))[:, None] & ((x >= 0) & (x <= width))[None, :])


def crop_around(
    landmarks: np.ndarray, frame_size: tuple[int, int] | None = None, convention: int = 1
) -> Crop:
    """Return the crop of a whole clip: a square of 2.0 x the longer side of the box around all landmarks,
    raised by 1/6 of that side.

    Args:
        landmarks: float [N, 68, 2] in pixels of the frame, N >= 1.
        frame_size: (height, width) of the frame in pixels; convention 2 needs it.
        convention: 1 leaves the square where it is; 2 moves it into the frame and makes it smaller, down to
            1.4 x the longer side.

    Raises:
        TalkingheadError: no landmarks, or all in one place, or convention 2 without the size of the frame.
    """
    points = np.asarray(landmarks, dtype=np.float64).reshape(-1, 2)
    if not len(points):
        raise TalkingheadError("crop_around: no landmarks; pass those of at least one frame")
    box = bounding_boxes(points[None])[0]
    longer = float(box[2])
    centre = box[:2] - [0, _RAISE * longer]
    if convention == 1:
        side = _SIDE * longer
    elif frame_size is None:
        raise TalkingheadError(
            "crop_around: convention 2 moves the crop into the frame; give the size of the frame"
        )
    else:
        height, width = frame_size
        side = min(_SIDE * longer, max(float(min(height, width)), _MIN_SIDE * longer))
        centre = np.array([_centre_inside(centre[0], side, width), _centre_inside(centre[1], side, height)])
    corner = centre - side / 2
    return Crop(float(corner[0]), float(corner[1]), side, convention)


def _centre_inside(centre: float, side: float, length: int) -> float:
    """Return the nearest centre from which a span of this side lies within 0..length, or else the middle."""
    return length / 2 if side >= length else float(np.clip(centre, side / 2, length - side / 2))


def _mirror_indices(index: np.ndarray, length: int) -> np.ndarray:
    """Return indices mirrored at the borders of 0..length-1."""
    # the continuous border lies between pixels, so the edge pixel is its own neighbour
    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


def _extend_with_blur(frame: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return frame[rows, columns]; beyond the frame, the colour of its border.

    The colour is averaged along the border, over a width that grows with the distance from it.
    """
    height, width = frame.shape[:2]
    inside_rows, inside_columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    square = frame[inside_rows[:, None], inside_columns]
    if (inside_rows == rows).all() and (inside_columns == columns).all():
        return square
    square = square.copy()
    beyond_columns = np.abs(columns - inside_columns)
    for column in np.flatnonzero(beyond_columns):
        square[:, column] = _average_border(square[:, column], beyond_columns[column])
    beyond_rows = np.abs(rows - inside_rows)
    for row in np.flatnonzero(beyond_rows):
        square[row] = _average_border(square[row], beyond_rows[row])
    return square


def _average_border(line: np.ndarray, distance: int) -> np.ndarray:
    """Return a line [N, 3] of the border averaged over a window that grows with the distance from it."""
    reach = min(int(np.ceil(_BLUR_GROWTH * distance)), len(line))
    padded = np.pad(line.astype(np.float64), ((reach + 1, reach), (0, 0)), mode="edge")
    sums = padded.cumsum(axis=0)
    return np.rint((sums[2 * reach + 1 :] - sums[: -(2 * reach + 1)]) / (2 * reach + 1)).astype(line.dtype)
