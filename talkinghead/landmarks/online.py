"""Online retargeting: the driver's motion on a person, frame by frame, from past frames alone and in constant
memory.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..clip import Track
from .detector import MIN_CONFIDENCE, Detector, Face, find_faces, follow_face
from .face_points import join_points, split_points
from .online_neutral import OnlineNeutralEstimator, median_centre_and_scale
from .retarget import NeutralFace, neutral_face, retarget
from .smoothing import OnlineSmoother

DETECT_INTERVAL_S = 1.0
"""Time between two detections in the whole frame while a face is tracked."""
_LOST_DETECT_INTERVAL_S = 0.2  # while there is no face: a detection without a result takes longest
_MAX_LOST_S = 1.0  # after which a lost face is no longer expected at its last place
_SAME_FACE_DISTANCE = 0.5  # face sides within which two detections are one face
_REJOIN_DISTANCE = 1.5  # face sides within which a detection continues a lost face
_MAX_SIZE_RATIO = 2.0  # of two detections of one face
_UNDETECTED_CONFIDENCE = 0.5  # factor for a face that is followed where the detection sees none


class OnlineRetargeter:
    """The landmarks of a person, driven frame by frame.

    Args:
        detector: detects and follows the driver's face.
        reference: [68 or 78, 2], the person's neutral face in fractions of the person's crop.
        keep_proportions: keep the person's own (`talkinghead.landmarks.retarget`); otherwise the driver's
            landmarks are only scaled and shifted.
        face: which of several faces drives, as for `OnlineFaceTracker`.

    Attributes:
        keeps_proportions: whether the person's own are kept.
        without_face: number of frames without a face, for which the last points were returned.
    """

    def __init__(
        self, detector: Detector, reference: np.ndarray, keep_proportions: bool = True, face: int = 1
    ) -> None:
        self.keeps_proportions = keep_proportions
        self._track_face = OnlineFaceTracker(detector, face)
        self._smooth = OnlineSmoother()
        self._estimate = _neutral_arrays if keep_proportions else median_centre_and_scale
        self._estimate_neutral = OnlineNeutralEstimator(self._estimate)
        landmarks, _ = split_points(reference)
        self._transfer = _retargeting(landmarks) if keep_proportions else _alignment(landmarks)
        self._points = np.array(reference, dtype=np.float32)
        self.without_face = 0

    def restart(self) -> None:
        """Forget the driver: the next face is found anew, and taken to be at rest at first."""
        self._track_face.restart()

    def take_over_driver(self, other: "OnlineRetargeter") -> None:
        """Go on with the driver of another person's retargeter, which found the same driver's face so far."""
        self._track_face, self._smooth = other._track_face, other._smooth
        self._estimate_neutral = other._estimate_neutral

    def __call__(self, frame: np.ndarray, t: float) -> np.ndarray:
        """Return the person's points float32 [68, 2], [78, 2] where the detector sees irises, as fractions of
        the crop, for the driver's frame uint8 [H, W, 3] at `t` seconds, rising.

        Without a face they stay where they were; before the first face they are the person's neutral face.
        """
        face = self._track_face(frame, t)
        if face is None:
            self.without_face += 1
            return self._points
        if self._track_face.is_new:
            self._smooth.reset()
            self._estimate_neutral = OnlineNeutralEstimator(self._estimate)
        points = self._smooth(join_points(face.landmarks, face.irises), t)
        neutral = self._estimate_neutral(replace(face, landmarks=split_points(points)[0]), t)
        self._points = self._transfer(points, neutral)
        return self._points


class OnlineFaceTracker:
    """One face of a stream of frames: detected every second and when it is lost, followed from frame to frame
    in between.

    Args:
        detector: detects and follows it.
        face: which of several faces is followed, 1 being the largest; none where there are fewer.

    Attributes:
        is_new: whether the last face returned may be another person than the one returned before.
    """

    def __init__(self, detector: Detector, face: int = 1) -> None:
        self._detector, self._face = detector, face
        self.restart()

    def restart(self) -> None:
        """Forget the face that was followed."""
        self._last_face: Face | None = None
        self._seen_t = self._detected_t = -np.inf
        self._is_lost = True
        self.is_new = False

    def __call__(self, frame: np.ndarray, t: float) -> Face | None:
        """Return the face in a frame uint8 [H, W, 3] at `t` seconds, None without one."""
        if t - self._seen_t > _MAX_LOST_S:
            self._last_face = None
        previous, face = self._last_face, self._follow(frame)
        interval = DETECT_INTERVAL_S if face or not self._is_lost else _LOST_DETECT_INTERVAL_S
        if t - self._detected_t >= interval or (face is None and not self._is_lost):
            self._detected_t = t
            face = self._choose_face(face, find_faces(self._detector, [frame])[0])
        self._is_lost = face is None
        if face is not None:
            self.is_new = previous is None or not _is_near(face, previous, _REJOIN_DISTANCE)
            self._last_face, self._seen_t = face, t
        return face

    def _follow(self, frame: np.ndarray) -> Face | None:
        """Return the last face in the next frame, None where it is lost."""
        if self._last_face is None:
            return None
        faces = follow_face(self._detector, [frame], self._last_face.landmarks)
        # a lost face is not continued at low confidence
        if not faces or (self._is_lost and faces[0].confidence < MIN_CONFIDENCE):
            return None
        return faces[0]

    def _choose_face(self, followed: Face | None, detected: list[Face]) -> Face | None:
        """Return the face to follow from now on: the one followed so far or one of those detected."""
        if followed is None:
            near = [
                face
                for face in detected
                if self._last_face is not None and _is_near(face, self._last_face, _REJOIN_DISTANCE)
            ]
            return next(iter(near or detected[self._face - 1 :]), None)
        if any(_is_near(face, followed, _SAME_FACE_DISTANCE) for face in detected):
            return followed
        if len(detected) >= self._face and followed.confidence < MIN_CONFIDENCE:
            return detected[self._face - 1]
        # a face in profile or covered is not detected, however well landmarks seem to fit
        return replace(followed, confidence=followed.confidence * _UNDETECTED_CONFIDENCE)


def _is_near(face: Face, other: Face, max_sides: float) -> bool:
    """Return whether two faces are within so many sides of the other and of similar size."""
    (x, y, side), (other_x, other_y, other_side) = face.box, other.box
    is_close = np.hypot(x - other_x, y - other_y) <= max_sides * other_side
    return bool(is_close and other_side / _MAX_SIZE_RATIO <= side <= other_side * _MAX_SIZE_RATIO)


Transfer = Callable[[np.ndarray, tuple[np.ndarray, ...]], np.ndarray]
"""Function from the driver's points [68 or 78, 2] and neutral face to as many of the person, float32."""


def _neutral_arrays(landmarks: np.ndarray) -> tuple[np.ndarray, ...]:
    neutral = neutral_face(landmarks)
    return neutral.shape, neutral.place, neutral.closed


def _retargeting(reference: np.ndarray) -> Transfer:
    """Return a transfer that keeps the person's proportions."""
    person = neutral_face(reference[None])

    def transfer(points: np.ndarray, neutral: tuple[np.ndarray, ...]) -> np.ndarray:
        landmarks, irises = split_points(points[None])
        return retarget(Track(landmarks, (1, 1), irises=irises), person, NeutralFace(*neutral))[0]

    return transfer


def _alignment(reference: np.ndarray) -> Transfer:
    """Return a transfer that scales and shifts the driver's landmarks."""
    person_centre, person_scale = median_centre_and_scale(reference[None])

    def align(points: np.ndarray, neutral: tuple[np.ndarray, ...]) -> np.ndarray:
        centre, scale = neutral
        return ((points - centre) * (person_scale / scale) + person_centre).astype(np.float32)

    return align
