"""A driver at rest, known ever better while frames come.

A bounded number of the faces seen is kept, all of the first second and then ever fewer a second, until they span the last quarter of a
minute; from them the driver at rest is estimated now and then. What is used moves towards the newest estimate by a small share with each
frame, so that a better estimate never shows as a jump, and follows a driver who sits down elsewhere.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from .face import DOUBTFUL, Face

KEPT = 32
"""Faces that are kept."""
_APART = 0.5  # seconds between them at most
_FRESH = 8  # faces that are new among them when the next estimate is made
_SETTLE = 1.0  # seconds in which what is used comes all but 1/e of the way to an estimate
_LONGEST = 0.1  # seconds that a frame counts for at most: after a pause too it does not jump

Estimate = Callable[[np.ndarray], tuple[np.ndarray, ...]]
"""Landmarks [N, 68, 2] of one driver, to what is known of the driver at rest; weighted means of it make sense."""


class AtRest:
    """What is known of one driver at rest.

    Args:
        estimate: makes it from the landmarks of some frames.
    """

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._faces: deque[np.ndarray] = deque(maxlen=KEPT)
        self._clear = False  # whether those kept can be trusted
        self._fresh = 0
        self._first = self._kept = self._before = 0.0
        self._aim: tuple[np.ndarray, ...] = ()
        self._used: tuple[np.ndarray, ...] = ()

    def __call__(self, face: Face, t: float) -> tuple[np.ndarray, ...]:
        """What is known, now that this face was seen at `t` seconds, rising."""
        self._take(face, t)
        if not self._aim or self._fresh >= _FRESH:
            self._aim, self._fresh = self._estimate(np.stack(self._faces)), 0
        share = 1 - np.exp(-min(max(t - self._before, 0.0), _LONGEST) / _SETTLE)
        used = self._used or self._aim
        self._used = tuple(one + share * (aim - one) for one, aim in zip(used, self._aim, strict=True))
        self._before = t
        return self._used

    def _take(self, face: Face, t: float) -> None:
        clear = face.confidence >= DOUBTFUL
        if not self._faces:
            self._first = self._before = t
        elif clear and not self._clear:
            self._faces.clear()  # doubtful ones served until there was another
            self._aim = ()
        elif (self._clear and not clear) or t - self._kept < min((t - self._first) / KEPT, _APART):
            return
        self._clear = self._clear or clear
        self._faces.append(face.landmarks)
        self._kept = t
        self._fresh += 1


def framing(landmarks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Where a driver's face [N, 68, 2] usually is, and how large: float64 [2] and [1], centre and root-mean-square radius of the median."""
    points = np.median(landmarks.astype(np.float64), axis=0)
    centre = points.mean(axis=0)
    return centre, np.sqrt(((points - centre) ** 2).sum(axis=1).mean(keepdims=True))
