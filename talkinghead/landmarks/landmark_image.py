"""Landmark image: coloured polylines through the landmarks, the input of the networks."""

from typing import TypeVar

import numpy as np
import talkinghead_kernels as ops
import torch
from torch import Tensor

from ..clip import IRIS_POINTS, POINTS

Points = TypeVar("Points", np.ndarray, Tensor)


def _line(first: int, last: int, closed: bool = False) -> tuple[int, ...]:
    return tuple(range(first, last + 1)) + ((first,) if closed else ())


POLYLINES: tuple[tuple[tuple[int, ...], tuple[int, int, int]], ...] = (
    (_line(0, 16), (255, 255, 255)),  # jaw
    (_line(17, 21), (255, 0, 0)),  # brows
    (_line(22, 26), (0, 255, 0)),
    (_line(27, 30), (0, 0, 255)),  # nose bridge, nostrils
    (_line(31, 35), (0, 0, 255)),
    (_line(36, 41, closed=True), (255, 0, 255)),  # eyes
    (_line(42, 47, closed=True), (0, 255, 255)),
    (_line(48, 59, closed=True), (255, 255, 0)),  # lips, outer and inner
    (_line(60, 67, closed=True), (255, 255, 0)),
)
"""Polylines of the 68 points with their RGB colours, in drawing order.

Left and right differ in colour, so a mirrored face needs `MIRROR_INDEX`.
"""

IRIS_POLYLINES: tuple[tuple[tuple[int, ...], tuple[int, int, int]], ...] = (
    (_line(1, 4, closed=True), (255, 128, 0)),
    (_line(6, 9, closed=True), (0, 128, 255)),
)
"""Polylines through the edges of both irises, of their 2 x 5 points; drawn after `POLYLINES`."""

MIRROR_INDEX: tuple[int, ...] = (
    *((16 - i) for i in range(17)),
    *(26, 25, 24, 23, 22, 21, 20, 19, 18, 17),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)
"""Order of the points of a mirrored face: `points[:, MIRROR_INDEX]` are its landmarks in iBUG order."""

IRIS_MIRROR_INDEX = (0, 3, 2, 1, 4)
"""Order of the points of an iris in a mirrored picture: right and left of its edge change places."""

_POINT_MIRROR_INDEX = (
    *MIRROR_INDEX,
    *(POINTS + IRIS_POINTS + index for index in IRIS_MIRROR_INDEX),
    *(POINTS + index for index in IRIS_MIRROR_INDEX),
)
_ALL_POLYLINES = POLYLINES + tuple(
    (tuple(POINTS + index for index in line), colour) for line, colour in IRIS_POLYLINES
)


def mirror_points(points: Tensor) -> Tensor:
    """Return the points of mirrored pictures.

    Args:
        points: floating-point [B, 68 or 78, 2], as fractions of the picture.
    """
    mirrored = torch.stack([1 - points[..., 0], points[..., 1]], 2)
    return mirrored[:, list(_POINT_MIRROR_INDEX[: points.shape[1]])]


def mirror_irises(irises: Points, width: float) -> Points:
    """Return the irises of mirrored pictures: the eyes change places, and the sides of each edge too.

    Args:
        irises: float [..., 2, 5, 2] in pixels, as in `talkinghead.Track`.
        width: width of the pictures in pixels.
    """
    mirrored = irises[..., [1, 0], :, :][..., list(IRIS_MIRROR_INDEX), :]
    mirrored[..., 0] = width - mirrored[..., 0]
    return mirrored


def landmark_image(points: Tensor, size: int) -> Tensor:
    """Draw faces as coloured lines on black.

    Args:
        points: floating-point [B, 68, 2], (x, y) as fractions of the crop, 0..1; [B, 78, 2] draws the irises
            too, see `talkinghead.landmarks.face_points`.
        size: height and width in pixels.

    Returns:
        float32 [B, 3, size, size] in [-1, 1].
    """
    polylines = POLYLINES if points.shape[1] == POINTS else _ALL_POLYLINES
    return ops.draw_polylines(
        points * size, size, [line for line, _ in polylines], [colour for _, colour in polylines]
    )
