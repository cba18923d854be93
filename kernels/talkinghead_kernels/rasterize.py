"""Batched anti-aliased polylines.

    coverage = clamp(r + 0.5 - d, 0, 1),   r = max(1, size / 256)

d is the distance from a pixel's centre to the nearest segment of a polyline. Polylines are painted in order over black, so a later one
covers an earlier one. Points are in pixels, sub-pixel; the centre of pixel (column i, row j) is (i + 0.5, j + 0.5).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def draw_landmarks(
    points: Tensor,
    size: int,
    parts: Sequence[Sequence[int]],
    colours: Sequence[tuple[int, int, int]],
) -> Tensor:
    """Draw polylines through points.

    Args:
        points: floating-point [B, N, 2], (x, y) in pixels; may lie outside the image.
        size: height and width of the images in pixels.
        parts: polylines as indices into N, drawn in this order; a closed one ends with its first index.
        colours: RGB 0..255 of each polyline.

    Returns:
        float32 [B, 3, size, size] in [-1, 1].

    Raises:
        ValueError: a shape does not fit.
    """
    if points.dim() != 3 or points.shape[2] != 2 or not points.is_floating_point():
        raise ValueError(f"draw_landmarks: points must be a floating-point [B, N, 2], got {points.dtype} {list(points.shape)}")
    if len(parts) != len(colours) or any(len(part) < 2 for part in parts):
        raise ValueError(f"draw_landmarks: parts must have two indices or more and a colour each, got {len(parts)} and {len(colours)}")
    points = points.float()
    centres = torch.arange(size, device=points.device, dtype=torch.float32) + 0.5
    radius = max(1.0, size / 256)
    image = points.new_zeros(points.shape[0], 3, size, size)
    for part, colour in zip(parts, colours, strict=True):
        squared = torch.stack([_squared_distance(points[:, a], points[:, b], centres) for a, b in itertools.pairwise(part)])
        coverage = (radius + 0.5 - squared.amin(0).sqrt()).clamp(0, 1)[:, None]
        paint = points.new_tensor(colour).view(1, 3, 1, 1) / 255
        image = image + coverage * (paint - image)
    return image * 2 - 1


def _squared_distance(start: Tensor, end: Tensor, centres: Tensor) -> Tensor:
    """[B, size, size]: squared distance of every pixel centre to the segment from start to end [B, 2]."""
    along = end - start
    dx, dy = along[:, 0, None, None], along[:, 1, None, None]
    x = centres[None, None, :] - start[:, 0, None, None]
    y = centres[None, :, None] - start[:, 1, None, None]
    length = (dx * dx + dy * dy).clamp_min(1e-12)  # a segment of no length is a point
    t = (x * (dx / length) + y * (dy / length)).clamp(0, 1)
    return (x - t * dx).square() + (y - t * dy).square()
