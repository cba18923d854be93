"""Online estimate of a driver's neutral face.

A bounded number of the faces seen is kept: all of the first second, then fewer and fewer a second, until they
span 16 seconds. The neutral face is estimated from them now and then. The value in use moves towards the
newest estimate by a small share with each frame, so that a better estimate never shows as a jump and a driver
who moves to another place is followed.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from .detector import MIN_CONFIDENCE, Face
from .geometry import centre_and_scale

MAX_FACES = 32
"""Faces that are kept."""
_MAX_INTERVAL_S = 0.5  # between two faces that are kept
_NEW_FACES = 8  # kept since the last estimate before the next one is made
_TIME_CONSTANT_S = 1.0  # of the exponential approach to the newest estimate
_MAX_STEP_S = 0.1  # that a frame counts for: no jump after a pause either

Estimate = Callable[[np.ndarray], tuple[np.ndarray, ...]]
"""Function from landmarks [N, 68, 2] of one driver to arrays that describe the neutral face; their weighted
means must make sense.
"""


class OnlineNeutralEstimator:
    """Estimate of one driver's neutral face that improves with every frame.

    Args:
        estimate: computes it from the landmarks of some frames.
    """

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._faces: deque[np.ndarray] = deque(maxlen=MAX_FACES)
        self._confident = False  # whether the faces that are kept are
        self._new_faces = 0
        self._first_t = self._kept_t = self._last_t = 0.0
        self._target: tuple[np.ndarray, ...] = ()
        self._current: tuple[np.ndarray, ...] = ()

    def __call__(self, face: Face, t: float) -> tuple[np.ndarray, ...]:
        """Return the estimate after a face seen at `t` seconds, rising."""
        self._add(face, t)
        if not self._target or self._new_faces >= _NEW_FACES:
            self._target, self._new_faces = self._estimate(np.stack(self._faces)), 0
        share = 1 - np.exp(-min(max(t - self._last_t, 0.0), _MAX_STEP_S) / _TIME_CONSTANT_S)
        current = self._current or self._target
        self._current = tuple(
            value + share * (target - value) for value, target in zip(current, self._target, strict=True)
        )
        self._last_t = t
        return self._current

    def _add(self, face: Face, t: float) -> None:
        """Keep a face, unless the last one is too recent or it is less reliable than those kept."""
        confident = face.confidence >= MIN_CONFIDENCE
        if not self._faces:
            self._first_t = self._last_t = t
        elif confident and not self._confident:
            self._faces.clear()  # faces of low confidence serve only until the first reliable one
            self._target = ()
        else:
            interval = min((t - self._first_t) / MAX_FACES, _MAX_INTERVAL_S)
            if (self._confident and not confident) or t - self._kept_t < interval:
                return
        self._confident = self._confident or confident
        self._faces.append(face.landmarks)
        self._kept_t = t
        self._new_faces += 1


def median_centre_and_scale(landmarks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return centre and root-mean-square radius of the median of one driver's faces [N, 68, 2]: float64 [2]
    and [].
    """
    return centre_and_scale(np.median(landmarks.astype(np.float64), axis=0))
