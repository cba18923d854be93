"""Points on the surface of a mesh, which move with its vertices."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SurfacePoints:
    """Points on triangles.

    Attributes:
        corners: int64 [..., 3], indices of the vertices of the triangles.
        weights: float32 [..., 3], barycentric coordinates.
    """

    corners: np.ndarray
    weights: np.ndarray

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Return values [V, C] of the vertices interpolated at the points, [..., C]."""
        return np.einsum("...k,...kc->...c", self.weights, values[self.corners])

    def __getitem__(self, index: np.ndarray) -> "SurfacePoints":
        return SurfacePoints(self.corners[index], self.weights[index])


def cast_rays(
    vertices: np.ndarray, triangles: np.ndarray, origins: np.ndarray, directions: np.ndarray
) -> tuple[SurfacePoints, np.ndarray]:
    """Return the first intersections of rays with a mesh (Moeller and Trumbore).

    Args:
        vertices: float [V, 3].
        triangles: int [F, 3].
        origins, directions: float [N, 3].

    Returns:
        The intersections [N], and bool [N]: True where a ray meets the mesh.
    """
    a, b, c = (vertices[triangles[:, corner]].astype(np.float64) for corner in range(3))
    corners = np.zeros((len(origins), 3), np.int64)
    weights = np.zeros((len(origins), 3), np.float32)
    is_hit = np.zeros(len(origins), bool)
    for number, (origin, direction) in enumerate(
        zip(origins.astype(np.float64), directions.astype(np.float64), strict=True)
    ):
        across = np.cross(direction, c - a)
        scale = np.einsum("ij,ij->i", b - a, across)
        with np.errstate(divide="ignore", invalid="ignore"):
            u = (origin - a) * across
            u = u.sum(axis=1) / scale
            q = np.cross(origin - a, b - a)
            v = (q @ direction) / scale
            length = np.einsum("ij,ij->i", c - a, q) / scale
        length = np.where((u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (length > 0), length, np.inf)
        first = int(np.argmin(length))
        if np.isfinite(length[first]):
            is_hit[number] = True
            corners[number] = triangles[first]
            weights[number] = 1 - u[first] - v[first], u[first], v[first]
    return SurfacePoints(corners, weights), is_hit


def sample_surface(
    random: np.random.Generator,
    vertices: np.ndarray,
    triangles: np.ndarray,
    *,
    density: np.ndarray,
    count: int,
) -> SurfacePoints:
    """Return at most `count` random points; their number per area is proportional to `density` [V]."""
    a, b, c = (vertices[triangles[:, corner]].astype(np.float64) for corner in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) * density[triangles].mean(axis=1)
    total = area.sum()
    if total <= 0 or count <= 0:
        return SurfacePoints(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32))
    chosen = np.searchsorted(np.cumsum(area) / total, random.random(count)).clip(0, len(triangles) - 1)
    root, along = np.sqrt(random.random(count)), random.random(count)
    weights = np.stack([1 - root, root * (1 - along), root * along], axis=1).astype(np.float32)
    return SurfacePoints(triangles[chosen].astype(np.int64), weights)
