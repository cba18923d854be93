"""Strands of hair as ribbons: lines of points with a width, rooted on the skin."""

from dataclasses import dataclass

import numpy as np

from .mesh_sampling import SurfacePoints


@dataclass(frozen=True)
class Strands:
    """Strands of a person.

    Attributes:
        roots: points on the skin where they grow.
        offsets: float32 [N, K, 3], points of each strand relative to its root, at rest.
        width: float32 [N, K], half the width in metres.
        colour: float32 [N, K, 3], linear RGB.
        random: float32 [N], a random number per strand.
    """

    roots: SurfacePoints
    offsets: np.ndarray
    width: np.ndarray
    colour: np.ndarray
    random: np.ndarray

    @classmethod
    def from_arrays(
        cls,
        roots: SurfacePoints,
        *,
        offsets: np.ndarray,
        width: np.ndarray,
        colour: np.ndarray,
        random: np.ndarray,
    ) -> "Strands":
        """Return strands of arrays of any floating-point type."""
        return cls(
            roots=roots,
            offsets=offsets.astype(np.float32),
            width=width.astype(np.float32),
            colour=colour.astype(np.float32),
            random=random.astype(np.float32),
        )
