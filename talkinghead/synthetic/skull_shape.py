"""Shape of the skull, on which hair lies."""

import numpy as np

CENTRE = np.array([0.0, 0.06, 0.02])
"""Centre of the skull in metres from the middle between the eyes."""


def angle_from_front(points: np.ndarray) -> np.ndarray:
    """Return the angle around the head in degrees, 0 in front to 180 behind, of points [..., 3]."""
    return np.degrees(np.arctan2(np.abs(points[..., 0]), CENTRE[1] - points[..., 1]))


class SkullShape:
    """Distance of the surface of the head from its centre, in every direction."""

    def __init__(self, skin: np.ndarray) -> None:
        self._rows, self._columns = 24, 48
        surface = np.zeros((self._rows, self._columns))
        rows, columns, radius = self._cells(skin)
        np.maximum.at(
            surface, (rows.astype(int).clip(0, self._rows - 1), columns.astype(int) % self._columns), radius
        )
        for _ in range(12):  # fill cells without vertices from their neighbours
            padded = np.pad(surface, ((1, 1), (0, 0)), mode="edge")
            padded = np.pad(padded, ((0, 0), (1, 1)), mode="wrap")
            near = np.max([padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]], axis=0)
            surface = np.where(surface == 0, near, surface)
        self._surface = surface

    def _cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows, columns (fractional) and distances from the centre of points [..., 3]."""
        direction = points - CENTRE
        radius = np.linalg.norm(direction, axis=-1)
        height = np.arccos(np.clip(direction[..., 2] / np.maximum(radius, 1e-9), -1, 1)) / np.pi * self._rows
        turn = (np.arctan2(direction[..., 0], direction[..., 1]) / (2 * np.pi) + 0.5) * self._columns
        return height, turn, radius

    def push_outside(self, points: np.ndarray, lift: np.ndarray, hugs: bool = False) -> np.ndarray:
        """Return points moved outwards to at least a distance above the head.

        Args:
            points: float64 [N, 3].
            lift: [N], least distance from the skin in metres.
            hugs: also limit the distance, so that hair lies on the head.
        """
        height, turn, radius = self._cells(points)
        row, column = height - 0.5, turn - 0.5
        r0, c0 = np.floor(row).astype(int), np.floor(column).astype(int)
        fr, fc = row - r0, column - c0
        rows = np.clip([r0, r0 + 1], 0, self._rows - 1)
        columns = np.mod([c0, c0 + 1], self._columns)
        surface = (
            self._surface[rows[0], columns[0]] * (1 - fc) + self._surface[rows[0], columns[1]] * fc
        ) * (1 - fr)
        surface += (
            self._surface[rows[1], columns[0]] * (1 - fc) + self._surface[rows[1], columns[1]] * fc
        ) * fr
        # below the jaw, hair hangs freely
        surface = np.where(points[..., 2] < -0.06, np.minimum(surface, 0.085), surface)
        radii = np.maximum(radius, surface + lift)
        if hugs:
            hugging = np.clip((points[..., 2] + 0.02) / 0.05, 0, 1)
            radii -= hugging * np.maximum(radii - (surface + 1.5 * lift + 0.003), 0)
        return CENTRE + (points - CENTRE) * (radii / np.maximum(radius, 1e-9))[..., None]
