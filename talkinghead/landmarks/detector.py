"""Interface of the landmark detectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Protocol, final

import numpy as np

from ..clip import POINTS
from ..errors import TalkingheadError
from .geometry import bounding_boxes
from .head_pose import HeadPose, head_pose

MIN_CONFIDENCE = 0.5
"""A face of less confidence is in profile, occluded or badly fitted: it may drive, it is not learned from."""


@dataclass(frozen=True)
class Face:
    """One face of a frame.

    Attributes:
        landmarks: float32 [68, 2], iBUG 68 points in continuous pixels of the frame.
        confidence: 0..1, how reliable the points are; below `MIN_CONFIDENCE` in profile or behind a hand.
        irises: float32 [2, 5, 2] in pixels of the frame, in the order of `talkinghead.Track`; None where the
            detector does not see them.
        expected_error: float32 [68], how far each landmark may be off, in pixels of the frame: large where it
            is hidden. None where the detector does not say.
    """

    landmarks: np.ndarray
    confidence: float
    irises: np.ndarray | None = None
    expected_error: np.ndarray | None = None

    @cached_property
    def pose(self) -> HeadPose:
        """Pose of the head in degrees, estimated from the landmarks."""
        return head_pose(self.landmarks)

    @cached_property
    def box(self) -> tuple[float, float, float]:
        """Centre x and y of the landmarks' box, and its longer side, in pixels."""
        x, y, side = bounding_boxes(self.landmarks[None])[0].tolist()
        return x, y, side


class Detector(Protocol):
    """Finds the 68 iBUG landmarks of faces in frames uint8 [H, W, 3], RGB, of one size.

    Attributes:
        name: such as "network" or "dlib"; data sets store it.
    """

    name: str

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Find all faces of each frame, the largest first; in one batch where the detector can."""

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        """Follow one face through consecutive frames, from its landmarks `near` [68, 2] in the frame before
        the first (or after, going backwards).

        The whole frame is not searched. The list is shorter than `frames` when the face is lost.
        """


class CheckedDetector(ABC):
    """Base of the detectors that `open_detector` opens: it refuses frames and landmarks that are none.

    A subclass has a `name`, and implements `_find_faces` and `_follow_face`.
    """

    name: str

    @final
    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Find all faces of each frame uint8 [H, W, 3], RGB, the largest first.

        Raises:
            TalkingheadError: a frame is not such an array.
        """
        check_frames(frames)
        return self._find_faces(frames)

    @final
    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        """Follow one face from its landmarks `near` [68, 2] in the adjacent frame; stop where it is lost.

        Raises:
            TalkingheadError: a frame is not uint8 [H, W, 3], or the landmarks are not finite.
        """
        check_frames(frames)
        check_followed_landmarks(near)
        return self._follow_face(frames, near)

    @abstractmethod
    def _find_faces(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Find all faces of checked frames, as `find` does."""

    @abstractmethod
    def _follow_face(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        """Follow one face from checked landmarks, as `follow` does."""


def largest_face(detector: Detector, frame: np.ndarray) -> Face | None:
    """Return the largest face of a frame uint8 [H, W, 3], or None without one."""
    faces = find_faces(detector, [frame])[0]
    return faces[0] if faces else None


def find_faces(detector: Detector, frames: Sequence[np.ndarray]) -> list[list[Face]]:
    """Find all faces of each frame, the largest first, without detections that cannot be a face."""
    return [[face for face in faces if is_valid_face(face)] for faces in detector.find(frames)]


def follow_face(detector: Detector, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
    """Follow one face through consecutive frames up to the first detection that cannot be a face."""
    return list(takewhile(is_valid_face, detector.follow(frames, near)))


def check_frames(frames: Sequence[np.ndarray]) -> None:
    """Check that frames are pictures uint8 [H, W, 3].

    Raises:
        TalkingheadError: one is not; the message says which.
    """
    for number, frame in enumerate(frames, 1):
        is_array = isinstance(frame, np.ndarray)
        is_colour = is_array and frame.ndim == 3 and frame.shape[2] == 3 and frame.size > 0
        if not is_colour or frame.dtype != np.uint8:
            actual = f"{frame.dtype} {list(frame.shape)}" if is_array else type(frame).__name__
            raise TalkingheadError(
                f"frame {number}: {actual}, expected uint8 [H, W, 3]; convert it to 8-bit RGB"
            )


def check_followed_landmarks(near: np.ndarray) -> None:
    """Check the landmarks from which a face is followed.

    Raises:
        TalkingheadError: they are not [68, 2] or not finite.
    """
    near = np.asarray(near)
    problem = "" if np.isfinite(near).all() else "not finite"
    if near.shape != (POINTS, 2):
        problem = f"{near.dtype} {list(near.shape)}, expected [{POINTS}, 2]"
    if problem:
        raise TalkingheadError(f"landmarks to follow: {problem}; pass those of a detected face")


def is_valid_face(face: Face) -> bool:
    """Return whether a detection can be a face: finite values, and landmarks that are not all on a line."""
    return bool(
        np.isfinite(face.confidence)
        and np.isfinite(face.landmarks).all()
        and (face.irises is None or np.isfinite(face.irises).all())
        and np.ptp(face.landmarks, axis=0).min() > 0
    )
