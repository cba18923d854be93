"""Random head poses over time: of a person who talks to the camera, or from one profile to the other."""

import math

import numpy as np

from ..errors import TalkingheadError
from .smooth_noise import FPS, SUBSTEPS, smooth_noise

YAW, PITCH, ROLL = 40.0, 24.0, 18.0
"""Degrees that the head of a talking person never turns beyond."""
POSES = ("talking", "wide")
"""Ranges of head poses: of a person who talks to the camera, and from one profile to the other."""
WIDE_YAW, WIDE_PITCH, WIDE_ROLL = 90.0, 40.0, 35.0
"""Degrees that no head turns beyond."""
_WIDE_PITCH_SPREAD, _WIDE_ROLL_SPREAD = 16.0, 13.0  # standard deviations in degrees
_LIMIT_SOFTNESS = 4.0  # degrees before its limit over which a wide turn slows down


def check_poses(poses: str) -> None:
    """Raise TalkingheadError if `poses` is none of POSES."""
    if poses not in POSES:
        raise TalkingheadError(f"head poses {poses!r} are unknown; choose one of {', '.join(POSES)}")


def sample_head_pose(
    steps: int, random: np.random.Generator, *, is_wide: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rotation in degrees and the shift in metres of the head, both float64 [steps, 3]."""
    liveliness = random.uniform(0.35, 1.5)
    base_spread = np.array([11, 5.5, 3.5])
    base = random.normal(0, base_spread)
    noise = np.stack([smooth_noise(steps, seconds, random) for seconds in (0.42, 0.36, 0.5)], axis=1)
    seconds = np.arange(steps) / (FPS * SUBSTEPS)
    nod = np.sin(2 * np.pi * (random.uniform(0.8, 1.8) * seconds + random.random()))
    if is_wide:
        base = _widen(base / base_spread)
    turn = base + liveliness * noise * (7.5, 4.5, 3.0)
    turn[:, 1] += liveliness * 1.2 * nod * np.clip(smooth_noise(steps, 0.6, random), 0, 1)
    if is_wide:
        turn = _limit_softly(turn, np.array([WIDE_YAW, WIDE_PITCH, WIDE_ROLL]))
    else:
        limits = np.array([YAW, PITCH, ROLL])
        turn = limits * np.tanh(turn / limits)
    shift = (
        liveliness
        * np.stack([smooth_noise(steps, 0.7, random) for _ in range(3)], axis=1)
        * (0.006, 0.003, 0.008)
    )
    return turn, shift + np.stack([turn[:, 0] * 0.0002, turn[:, 1] * 0.0001, 0 * turn[:, 0]], axis=1)


def _widen(deviates: np.ndarray) -> np.ndarray:
    """Return a wide base pose [3] in degrees from standard normal deviates [3]: yaw is uniform."""
    yaw, pitch, roll = deviates
    return np.array(
        [WIDE_YAW * math.erf(yaw / math.sqrt(2)), _WIDE_PITCH_SPREAD * pitch, _WIDE_ROLL_SPREAD * roll]
    )


def _limit_softly(turn: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return turns [..., 3] in degrees within +-limits [3], the same up to a few degrees before them."""
    below, above = (turn + limits) / _LIMIT_SOFTNESS, (turn - limits) / _LIMIT_SOFTNESS
    return np.asarray(_LIMIT_SOFTNESS * (np.logaddexp(0, below) - np.logaddexp(0, above)) - limits)
