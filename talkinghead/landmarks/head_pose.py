"""Pose of a head from its 68 landmarks."""

from typing import NamedTuple

import numpy as np

from .mean_face import MEAN_FACE

RIGID_POINTS = (*range(27, 36), 36, 39, 42, 45)
"""Landmarks that hardly move when a face talks: bridge and tip of the nose, and the corners of the eyes."""


class HeadPose(NamedTuple):
    """Pose of a head in degrees: turned to the right of the image, down, and clockwise in the image."""

    yaw: float
    pitch: float
    roll: float


def head_pose(landmarks: np.ndarray) -> HeadPose:
    """Return the pose in which the mean face is nearest to the landmarks (scaled orthographic projection).

    Args:
        landmarks: [68, 2] in pixels.
    """
    rigid = list(RIGID_POINTS)
    shape = MEAN_FACE[rigid] - MEAN_FACE[rigid].mean(axis=0)
    points = np.asarray(landmarks, np.float64)[rigid]
    affine = np.linalg.lstsq(shape, points - points.mean(axis=0), rcond=None)[0].T
    left, _, right = np.linalg.svd(affine, full_matrices=False)
    across, down = left @ right
    forward = np.cross(across, down)
    # the head is first pitched, then turned, then rolled
    yaw = -np.arcsin(np.clip(forward[0], -1, 1))
    pitch = -np.arctan2(forward[1], forward[2])
    roll = np.arctan2(down[0], across[0])
    return HeadPose(*np.degrees([yaw, pitch, roll]).tolist())
