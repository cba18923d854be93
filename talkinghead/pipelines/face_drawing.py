"""Landmarks and crops drawn over pictures."""

import numpy as np

from ..data.crop import Crop
from ..landmarks.landmark_image import POLYLINES
from ..media.drawing import Polyline, draw_polylines
from ..media.images import resize_to_fit

GREY = (176, 180, 188)
DARK = (12, 13, 16)
"""Colours of crops and of the edges of all lines."""
_MARGIN = 0.12  # of a picture around a crop, in sides of the crop
_WIDE_FACE_PX = 140  # width of a face from which on its lines are wider


def face_lines(points: np.ndarray, width: int, colour: tuple[int, int, int] | None = None) -> list[Polyline]:
    """Return the lines of a face [68, 2] in pixels of the picture, dark at their edges so that they show on
    any skin.
    """
    parts = [(points[list(part)], colour or own) for part, own in POLYLINES]
    return [Polyline(part, DARK, width + 2) for part, _ in parts] + [
        Polyline(part, own, width) for part, own in parts
    ]


def square_lines(square: Crop, scale: float, corner: tuple[int, int] = (0, 0)) -> list[Polyline]:
    """Return the lines of a crop in an image that shows the frame from `corner` (x, y) on, `scale` times as
    large.
    """
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * square.side + (square.x, square.y)
    return [Polyline((corners - corner) * scale, colour, width) for colour, width in ((DARK, 3), (GREY, 1))]


def draw_face(frame: np.ndarray, landmarks: np.ndarray, square: Crop, side: int) -> np.ndarray:
    """Return the part of a picture around a face, with its landmarks and its crop drawn.

    Args:
        frame: uint8 [H, W, 3].
        landmarks: [68, 2] in pixels of the frame.
        square: the crop.
        side: the longer side of the result in pixels; a smaller part is not enlarged.
    """
    margin = _MARGIN * square.side
    left, top = (max(0, int(edge - margin)) for edge in (square.x, square.y))
    reach = square.side + margin
    part = frame[top : max(top + 1, int(square.y + reach)), left : max(left + 1, int(square.x + reach))]
    image = resize_to_fit(np.ascontiguousarray(part), side)
    scale = image.shape[1] / part.shape[1]
    lines = square_lines(square, scale, (left, top))
    points = (landmarks - (left, top)) * scale
    width = 2 if np.ptp(points[:, 0]) > _WIDE_FACE_PX else 1
    return draw_polylines(image, lines + face_lines(points, width))
