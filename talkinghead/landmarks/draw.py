"""The landmark image: which points are joined, in which colour and order."""

import talkinghead_kernels as ops
from torch import Tensor


def _line(first: int, last: int, closed: bool = False) -> tuple[int, ...]:
    return tuple(range(first, last + 1)) + ((first,) if closed else ())


PARTS: tuple[tuple[tuple[int, ...], tuple[int, int, int]], ...] = (
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
"""Polylines of the 68 points with their RGB colour, in drawing order; left and right differ, so a mirrored face needs `MIRROR`."""

MIRROR: tuple[int, ...] = (
    *((16 - i) for i in range(17)),
    *(26, 25, 24, 23, 22, 21, 20, 19, 18, 17),
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)
"""`points[:, MIRROR]` gives each point of a mirrored face its own index again."""


def landmark_image(points: Tensor, size: int) -> Tensor:
    """Draw faces as coloured lines on black.

    Args:
        points: floating-point [B, 68, 2], (x, y) as fractions of the crop, 0..1.
        size: height and width in pixels.

    Returns:
        float32 [B, 3, size, size] in [-1, 1].
    """
    return ops.draw_landmarks(points * size, size, [part for part, _ in PARTS], [colour for _, colour in PARTS])
