"""What a landmark detector gives, and what it can be asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Protocol

import numpy as np

DOUBTFUL = 0.5
"""A face of less confidence is in profile, occluded or badly fitted: it may drive, it is not learned from."""


@dataclass(frozen=True)
class Face:
    """One face of a frame.

    Attributes:
        landmarks: float32 [68, 2], iBUG 68 points in continuous pixels of the frame.
        confidence: 0..1, how far the points can be trusted; below `DOUBTFUL` in profile or behind a hand.
    """

    landmarks: np.ndarray
    confidence: float

    @cached_property
    def box(self) -> tuple[float, float, float]:
        """Centre x and y of the landmarks' box, and its longer side, in pixels."""
        x, y, side = boxes_of(self.landmarks[None])[0].tolist()
        return x, y, side


class Detector(Protocol):
    """Finds the 68 iBUG landmarks of faces in frames uint8 [H, W, 3], RGB, of one size.

    Attributes:
        name: "dlib" or "face-alignment".
        choice_reason: one line that says which detector runs and why.
    """

    name: str
    choice_reason: str

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """All faces of each frame, the largest first; in one batch where the detector can."""

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        """One face through consecutive frames, from its landmarks `near` [68, 2] in the frame before the first (or after, going backwards).

        The whole frame is not searched. The list is shorter than `frames` when the face is lost.
        """


def largest_face(detector: Detector, frame: np.ndarray) -> Face | None:
    """The largest face of a frame uint8 [H, W, 3], or None without one."""
    faces = find_faces(detector, [frame])[0]
    return faces[0] if faces else None


def find_faces(detector: Detector, frames: Sequence[np.ndarray]) -> list[list[Face]]:
    """All faces of each frame, the largest first, as `Detector.find` gives them, without what cannot be one."""
    return [[face for face in faces if is_face(face)] for faces in detector.find(frames)]


def follow_face(detector: Detector, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
    """One face through consecutive frames, as `Detector.follow` gives it, up to where it can be none: it counts as lost there."""
    return list(takewhile(is_face, detector.follow(frames, near)))


def is_face(face: Face) -> bool:
    """Whether a detector's outcome can be a face: its landmarks and confidence are finite, and the landmarks not all on a line."""
    return bool(np.isfinite(face.confidence) and np.isfinite(face.landmarks).all() and np.ptp(face.landmarks, axis=0).min() > 0)


def boxes_of(landmarks: np.ndarray) -> np.ndarray:
    """[N, 68, 2] -> [N, 3]: centre x and y of each face's box, and its longer side."""
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    return np.concatenate([(low + high) / 2, (high - low).max(axis=1, keepdims=True)], axis=1)
