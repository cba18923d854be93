"""Frames whose eyes look elsewhere, on which the landmark network learns gaze.

People in front of a camera look into it, so that their irises hardly move in their eyes. A network that
learns from them alone learns where irises usually are.
"""

import numpy as np
import torch
from talkinghead_kernels.warp_by_landmarks import landmark_motion, warp
from torch import Tensor

from ..landmarks.face_points import split_points
from ..landmarks.gaze import points_to_warp, shift_irises
from ..media.pixel_range import float_to_uint8, uint8_to_float
from ..system.torch_state import from_numpy

_ASIDE, _UPWARDS = 0.25, 0.2
"""Largest shift aside in widths of the eye, and spread of the shift up or down in openings of the lids."""


def move_gaze(
    frame: np.ndarray, points: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Move the irises of a face at random, as `shift_gaze` does."""
    return shift_gaze(frame, points, (random.uniform(-_ASIDE, _ASIDE), random.normal(0, _UPWARDS)))


def shift_gaze(
    frame: np.ndarray, points: np.ndarray, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Move the irises of a face, both alike.

    Args:
        frame: uint8 [S, S, 3].
        points: [78, 2], pixels of the frame; a hidden iris stays as it is.
        shift: as for `shift_irises`.

    Returns:
        the frame, uint8, and its points, float64 [78, 2].
    """
    landmarks, irises = split_points(points.astype(np.float64))
    assert irises is not None
    moved = points.astype(np.float64)
    moved[len(landmarks) :] = shift_irises(irises[None], landmarks[None], shift)[0].reshape(-1, 2)
    pixels = uint8_to_float(from_numpy(frame).permute(2, 0, 1)[None])
    motion = landmark_motion(
        *points_to_warp(*(_as_fractions(known, len(frame)) for known in (points, moved)))
    )
    warped = float_to_uint8(warp(pixels, motion).clamp(-1, 1))
    return warped[0].permute(1, 2, 0).contiguous().numpy(), moved


def _as_fractions(points: np.ndarray, side: int) -> Tensor:
    """Return points [78, 2] in pixels as fractions of the frame, float32 [1, 78, 2]."""
    return torch.from_numpy((points / side).astype(np.float32))[None]
