"""Mesh over an image and its rasterization: the nearest triangle at each pixel, and its colour."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Grid:
    """A regular mesh over a box of the picture.

    Attributes:
        low, high: float64 [2], the box in pixels.
        columns, rows: cells.
    """

    low: np.ndarray
    high: np.ndarray
    columns: int
    rows: int

    @cached_property
    def vertices(self) -> np.ndarray:
        """Return the vertices in pixels, float64 [V, 2], row by row."""
        x, y = (
            np.linspace(self.low[0], self.high[0], self.columns + 1),
            np.linspace(self.low[1], self.high[1], self.rows + 1),
        )
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    @cached_property
    def triangles(self) -> np.ndarray:
        """Return int64 [T, 3]: the vertices of the upper left and the lower right triangle of each cell."""
        corner = (np.arange(self.rows)[:, None] * (self.columns + 1) + np.arange(self.columns)).reshape(-1)
        below = corner + self.columns + 1
        upper, lower = (corner, corner + 1, below), (below + 1, below, corner + 1)
        return np.concatenate([np.stack(upper, axis=1), np.stack(lower, axis=1)])

    def sample(self, values: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return values [V, C] of the vertices at positions [N, 2] in pixels, linear in triangles: [N, C]."""
        scaled = (positions - self.low) / (self.high - self.low) * [self.columns, self.rows]
        cell = np.clip(np.floor(scaled), 0, [self.columns - 1, self.rows - 1]).astype(int)
        x, y = (scaled - cell).T
        triangle = cell[:, 1] * self.columns + cell[:, 0]
        lower = x + y > 1
        corners = values[self.triangles[triangle + lower * (self.columns * self.rows)]]
        x, y = np.where(lower, 1 - x, x), np.where(lower, 1 - y, y)
        return corners[:, 0] * (1 - x - y)[:, None] + corners[:, 1] * x[:, None] + corners[:, 2] * y[:, None]


def rasterize(screen: np.ndarray, triangles: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
    """Find the nearest triangle at the middle of each pixel.

    Args:
        screen: float64 [V, 3]: x, y in pixels, depth towards the camera, within +-1000.
        triangles: int64 [T, 3].
        size: side of the picture in pixels.

    Returns:
        Of each pixel that a triangle covers its row, its column and the triangle, each int64 [N], and the
        barycentric weights of the triangle's corners, float64 [N, 3].
    """
    corners = screen[triangles]
    low = np.clip(np.ceil(corners[:, :, :2].min(axis=1) - 0.5), 0, size).astype(np.int64)
    high = np.clip(np.floor(corners[:, :, :2].max(axis=1) - 0.5), -1, size - 1).astype(np.int64)
    extent = high - low + 1
    front = np.full(size * size, -1, dtype=np.int64)
    active = np.flatnonzero((extent > 0).all(axis=1))
    for row in range(int(extent[active, 1].max(initial=0))):
        in_row = active[extent[active, 1] > row]
        for column in range(int(extent[in_row, 0].max(initial=0))):
            candidates = in_row[extent[in_row, 0] > column]
            pixel = low[candidates] + [column, row]
            weights = _barycentric(corners[candidates], pixel + 0.5)
            inside = (weights[:, 0] >= -1e-9) & (weights[:, 1] >= -1e-9) & (weights[:, 2] >= -1e-9)
            candidates, pixel, weights = candidates[inside], pixel[inside], weights[inside]
            depth = (weights * corners[candidates, :, 2]).sum(axis=1)
            # one integer of depth and number, so that the nearest wins, of equals always the same
            keys = (((depth + 1000) * 1e6).astype(np.int64) << 32) + candidates
            np.maximum.at(front, pixel[:, 1] * size + pixel[:, 0], keys)
    covered = np.flatnonzero(front >= 0)
    triangle = front[covered] & 0xFFFFFFFF
    rows, columns = np.divmod(covered, size)
    return rows, columns, triangle, _barycentric(corners[triangle], np.stack([columns, rows], axis=1) + 0.5)


def _barycentric(corners: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return barycentric weights [N, 3] of positions [N, 2] in triangles [N, 3, 3]; -1 without area."""
    first, second, offset = (
        corners[:, 1] - corners[:, 0],
        corners[:, 2] - corners[:, 0],
        positions - corners[:, 0, :2],
    )
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    flat = np.abs(area) < 1e-12
    area = np.where(flat, 1.0, area)
    second_weight = (offset[:, 0] * second[:, 1] - offset[:, 1] * second[:, 0]) / area
    third_weight = (first[:, 0] * offset[:, 1] - first[:, 1] * offset[:, 0]) / area
    return np.where(
        flat[:, None], -1.0, np.stack([1 - second_weight - third_weight, second_weight, third_weight], axis=1)
    )


def sample_bilinear(texture: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return bilinear colours float64 [N, 3] of a texture uint8 [H, W, 3] at positions [N, 2], pixels."""
    height, width = texture.shape[:2]
    scaled = np.clip(positions - 0.5, 0, [width - 1, height - 1])
    corner = np.minimum(scaled.astype(np.int64), [max(width - 2, 0), max(height - 2, 0)])
    x, y = (scaled - corner).T[..., None]
    flat = texture.reshape(-1, 3)
    index = corner[:, 1] * width + corner[:, 0]
    right, below = min(1, width - 1), width if height > 1 else 0
    upper = flat[index] * (1 - x) + flat[index + right] * x
    return upper * (1 - y) + (flat[index + below] * (1 - x) + flat[index + below + right] * x) * y
