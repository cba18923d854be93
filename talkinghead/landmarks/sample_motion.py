"""A short motion to show a new person with: the head turns and nods, the mouth opens, the eyes blink."""

import numpy as np

from .gaze import points_looking_ahead
from .geometry import centre_and_scale
from .mean_face import MEAN_FACE

SAMPLE_FRAMES = 36
SAMPLE_FPS = 12
"""Length of the motion, and its frames a second: 3 seconds."""
_YAW_DEGREES, _PITCH_DEGREES, _ROLL_DEGREES = 9.0, 4.0, 2.5
_MOUTH_OPENING = 0.22  # in root-mean-square radii of the face
_LOWER_LIP = np.array([*range(55, 60), *range(65, 68)])
_CHIN = np.arange(5, 12)
_UPPER_LIDS, _LOWER_LIDS = np.array([37, 38, 43, 44]), np.array([41, 40, 47, 46])
_BLINK = {16 / 36: 0.5, 17 / 36: 0.9, 18 / 36: 0.5}
"""Closing of the eyes by the share of the motion that has passed."""


def sample_motion(neutral_landmarks: np.ndarray, num_points: int, frames: int = SAMPLE_FRAMES) -> np.ndarray:
    """Return the points of a motion that ends where it starts, as a model takes them.

    Args:
        neutral_landmarks: [68, 2], of the face that moves.
        num_points: 68, or 78 with irises.
        frames: how many.

    Returns:
        float32 [frames, num_points, 2], fractions of the crop.
    """
    neutral = neutral_landmarks.astype(np.float64)
    centre, scale = centre_and_scale(neutral)
    solid = np.column_stack([neutral - centre, MEAN_FACE[:, 2] * scale])
    poses = [_pose(solid, share, float(scale)) + centre for share in np.arange(frames) / frames]
    return np.stack([points_looking_ahead(points, num_points) for points in poses])


def _pose(solid: np.ndarray, share: float, scale: float) -> np.ndarray:
    """Return a face [68, 2] around the origin, from [68, 3] at rest, at a share of the motion."""
    phase = 2 * np.pi * share
    face = solid.copy()
    opening = _MOUTH_OPENING * scale * max(0.0, np.sin(3 * phase)) * np.sin(phase / 2)
    face[_LOWER_LIP, 1] += opening
    face[_CHIN, 1] += 0.7 * opening
    closing = max((value for at, value in _BLINK.items() if abs(share - at) < 0.011), default=0.0)
    face[_UPPER_LIDS] += closing * (face[_LOWER_LIDS] - face[_UPPER_LIDS])
    yaw, pitch, roll = np.deg2rad([_YAW_DEGREES, _PITCH_DEGREES, _ROLL_DEGREES]) * [
        np.sin(phase),
        0.5 * np.sin(2 * phase),
        np.sin(phase),
    ]
    turn_yaw = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    turn_pitch = [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
    turn_roll = [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    rotation = np.array(turn_roll) @ np.array(turn_pitch) @ np.array(turn_yaw)
    return (face @ rotation.T)[:, :2]
