"""Detector that finds one face in the middle of every frame, for tests of everything but detection."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def _ellipse_arc(
    centre: tuple[float, float],
    radii: tuple[float, float],
    count: int,
    *,
    start: float = 0.0,
    end: float = 2 * np.pi,
) -> list[list[float]]:
    angles = np.linspace(start, end, count, endpoint=end - start < 6)
    return [
        [centre[0] + radii[0] * float(np.cos(angle)), centre[1] + radii[1] * float(np.sin(angle))]
        for angle in angles
    ]


FACE_POINTS = np.array(
    [
        *_ellipse_arc((0, -0.1), (-0.45, 0.6), 17, end=np.pi),  # jaw, from the left of the image to the right
        *_ellipse_arc((-0.2, -0.28), (-0.15, -0.06), 5, start=0.3, end=np.pi - 0.3),
        *_ellipse_arc((0.2, -0.28), (-0.15, -0.06), 5, start=0.3, end=np.pi - 0.3),
        *[[0, -0.2 + 0.07 * step] for step in range(4)],
        *_ellipse_arc((0, 0.05), (-0.1, 0.04), 5, end=np.pi),
        *_ellipse_arc((-0.2, -0.18), (-0.08, -0.04), 6),
        *_ellipse_arc((0.2, -0.18), (-0.08, -0.04), 6),
        *_ellipse_arc((0, 0.25), (-0.17, -0.08), 12),
        *_ellipse_arc((0, 0.25), (-0.13, -0.03), 8),
    ]
)
"""68 landmarks of a face of height 1 around the origin."""


class CentreDetector:
    """Detector that finds one face in the middle of every frame, however small the frame is."""

    name = "centre"

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Any]]:
        """Return the one face of every frame."""
        return [[self.centre_face(frame)] for frame in frames]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Any]:
        """Return the face of every frame."""
        return [self.centre_face(frame) for frame in frames]

    @staticmethod
    def centre_face(frame: np.ndarray) -> Any:
        """Return the face in the middle of a frame."""
        from talkinghead.landmarks.detector import Face

        height, width = frame.shape[:2]
        landmarks = FACE_POINTS * (0.75 * min(height, width)) + np.array([width / 2, height / 2])
        return Face(landmarks.astype(np.float32), 1.0)
