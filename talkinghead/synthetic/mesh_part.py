"""Parts of the mesh: vertices, triangles and what they move with."""

from dataclasses import dataclass

import numpy as np


@dataclass
class MeshPart:
    """A part of the mesh of a person, at rest.

    Attributes:
        vertices: float [V, 3] in metres.
        triangles: int32 [T, 3].
        material: one material for all triangles, or int32 [T], see `materials`.
        lookup, colour: float [V, 3], as in `rasterizer.Mesh`.
        follows: what the part moves with: "head", "jaw", "body", "left" or "right" (an eye).
        min_openness: lower bound of the openness of its vertices, 0..1.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    material: int | np.ndarray
    lookup: np.ndarray
    colour: np.ndarray
    follows: str = "head"
    min_openness: float = 0.0


def grid_triangles(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """Return two triangles for each cell of a grid of vertices, int32 [T, 3].

    Args:
        rows, columns: number of vertices.
        closed: join the last column with the first.
    """
    last = columns if closed else columns - 1
    r, c = np.mgrid[: rows - 1, :last]
    a, b = r * columns + c, r * columns + (c + 1) % columns
    corners = np.stack(
        [np.stack([a, b, a + columns], -1), np.stack([b, b + columns, a + columns], -1)], axis=2
    )
    return corners.reshape(-1, 3).astype(np.int32)


def grid_part(
    points: np.ndarray,
    colour: np.ndarray,
    material: int,
    *,
    follows: str,
    lookup: np.ndarray | None = None,
    min_openness: float = 0.0,
) -> MeshPart:
    """Return a part of a grid of points [rows, columns, 3] and their colours; the lookup is its points."""
    rows, columns = points.shape[:2]
    return MeshPart(
        vertices=points.reshape(-1, 3),
        triangles=grid_triangles(rows, columns),
        material=material,
        lookup=(points if lookup is None else lookup).reshape(-1, 3),
        colour=colour.reshape(-1, 3),
        follows=follows,
        min_openness=min_openness,
    )
