"""A driver's movement put on a person as the driver's frames come: from the frames before alone, and nothing grows with time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..clip import Track
from .at_rest import AtRest, framing
from .face import DOUBTFUL, Detector, Face, find_faces, follow_face
from .retarget import Neutral, neutral_face, retarget
from .smooth import LiveSmoother

SEARCH = 1.0
"""Seconds from one search of the whole frame to the next while a face is followed."""
_SEARCH_LOST = 0.2  # the same while there is none: a search that finds nothing takes longest
_GONE = 1.0  # seconds after which a face that was lost is not waited for where it was
_SAME, _FAR, _UNLIKE = 0.5, 1.5, 2.0  # face sides within which two are one, or one that was lost; times as large at most
_UNSEEN = 0.5  # of its confidence is left of a face that is followed where the search sees none


class LivePoints:
    """Where a person's landmarks are to be, for one frame of the driver after the other.

    Args:
        detector: finds and follows the driver's face.
        reference: [68, 2], the person's face at rest in fractions of the person's crop.
        keep_proportions: the person's own (`talkinghead.landmarks.retarget`); else the driver's landmarks are scaled and shifted alone.

    Attributes:
        without_face: frames that showed none, for which the points before were given.
    """

    def __init__(self, detector: Detector, reference: np.ndarray, keep_proportions: bool = True) -> None:
        self._face = LiveFace(detector)
        self._smooth = LiveSmoother()
        self._estimate = _neutral if keep_proportions else framing
        self._rest = AtRest(self._estimate)
        self._put_on = _retargeting(reference) if keep_proportions else _framed(reference)
        self._points = np.array(reference, dtype=np.float32)
        self.without_face = 0

    def __call__(self, frame: np.ndarray, t: float) -> np.ndarray:
        """The person's landmarks float32 [68, 2], fractions of the crop, for the driver's frame uint8 [H, W, 3] at `t` seconds, rising.

        Without a face they stay where they were; before the first they are the person's face at rest.
        """
        face = self._face(frame, t)
        if face is None:
            self.without_face += 1
            return self._points
        if self._face.is_new:
            self._smooth.reset()
            self._rest = AtRest(self._estimate)
        points = self._smooth(face.landmarks, t)
        self._points = self._put_on(points, self._rest(replace(face, landmarks=points), t))
        return self._points


class LiveFace:
    """The largest face as frames come: searched for every second and when it is lost, followed from frame to frame in between.

    Attributes:
        is_new: whether the face that was given last is, for all that is known, not the one given before.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._last: Face | None = None
        self._seen = self._searched = -np.inf
        self._lost = True
        self.is_new = False

    def __call__(self, frame: np.ndarray, t: float) -> Face | None:
        """The face in a frame uint8 [H, W, 3] at `t` seconds, None without one."""
        if t - self._seen > _GONE:
            self._last = None
        before, face = self._last, self._followed(frame)
        due = SEARCH if face or not self._lost else _SEARCH_LOST
        if t - self._searched >= due or (face is None and not self._lost):
            self._searched = t
            face = self._choose(face, find_faces(self._detector, [frame])[0])
        self._lost = face is None
        if face is not None:
            self.is_new = before is None or not _near(face, before, _FAR)
            self._last, self._seen = face, t
        return face

    def _followed(self, frame: np.ndarray) -> Face | None:
        if self._last is None:
            return None
        found = follow_face(self._detector, [frame], self._last.landmarks)
        # one that was lost is not taken up again on doubtful evidence
        return found[0] if found and not (self._lost and found[0].confidence < DOUBTFUL) else None

    def _choose(self, followed: Face | None, found: list[Face]) -> Face | None:
        """Of a face that is followed and those that the search sees, the one to go on with."""
        if followed is None:
            near = [each for each in found if self._last is not None and _near(each, self._last, _FAR)]
            return next(iter(near or found), None)
        if any(_near(each, followed, _SAME) for each in found):
            return followed
        # in profile or covered the search does not see it, however well landmarks seem to fit
        doubted = replace(followed, confidence=followed.confidence * _UNSEEN)
        return found[0] if found and followed.confidence < DOUBTFUL else doubted


def _near(face: Face, other: Face, sides: float) -> bool:
    """Whether two faces are within so many sides of each other and of like size."""
    (x, y, side), (u, v, its) = face.box, other.box
    return bool(np.hypot(x - u, y - v) <= sides * its and its / _UNLIKE <= side <= its * _UNLIKE)


PutOn = Callable[[np.ndarray, tuple[np.ndarray, ...]], np.ndarray]
"""The driver's points [68, 2] and what is known of the driver at rest, to the person's points float32 [68, 2]."""


def _neutral(landmarks: np.ndarray) -> tuple[np.ndarray, ...]:
    neutral = neutral_face(landmarks)
    return neutral.shape, neutral.place, neutral.closed


def _retargeting(reference: np.ndarray) -> PutOn:
    person = neutral_face(reference[None])
    return lambda points, rest: retarget(Track(points[None], (1, 1)), person, Neutral(*rest))[0]


def _framed(reference: np.ndarray) -> PutOn:
    place, size = framing(reference[None])

    def put_on(points: np.ndarray, rest: tuple[np.ndarray, ...]) -> np.ndarray:
        return ((points - rest[0]) * (size / rest[1]) + place).astype(np.float32)

    return put_on
