"""Transfer of a driver's head motion and expression to another person's face with its own proportions.

A face is a 3D shape seen by a scaled orthographic camera. The neutral shape of the driver is estimated from
the whole track, the head pose from each frame; what the pose does not explain is the expression. The pose is
applied to the person's own neutral shape, and the expression is added to it, scaled to the person's face. The
paper drives with the landmarks of other people unchanged, and names the loss of identity as its limitation.

Yaw and roll are absolute, because faces are symmetric. Pitch cannot be estimated from a single frame, so it
is relative to the clip's median, and so are position and size in the frame.
"""

from dataclasses import dataclass

import numpy as np

from ..clip import Track
from ..errors import TalkingheadError
from .detector import MIN_CONFIDENCE
from .face_points import join_points
from .gaze import EYES, retarget_irises
from .geometry import centre_and_scale
from .landmark_image import MIRROR_INDEX
from .mean_face import MEAN_FACE

JAW, BROWS, NOSE, MOUTH = slice(0, 17), slice(17, 27), slice(27, 36), slice(48, 68)
LIPS = ((61, 67), (62, 66), (63, 65))
"""Pairs of the upper and lower inner lip."""
_LOWER_LIP, _CHIN = (55, 56, 57, 58, 59, 65, 66, 67), slice(4, 13)
_CHIN_SHARES = np.hanning(11)[1:-1]  # of the lower lip's movement, for each point of the chin

# weights of the landmarks that hardly move with the expression
_RIGID_WEIGHTS = np.zeros(68)
_RIGID_WEIGHTS[[*range(5), *range(12, 17)]] = 0.3
_RIGID_WEIGHTS[BROWS] = 0.2
_RIGID_WEIGHTS[NOSE] = 1.0
_RIGID_WEIGHTS[[36, 39, 42, 45]] = 1.0
_RIGID_WEIGHTS /= _RIGID_WEIGHTS.sum()
_POSE_ITERATIONS = 20  # the last one changes poses by less than 1e-3 degrees
# of the rotation of a turned face to the front: at 60 degrees it costs 4% of an expression's width
_DAMPING = 0.01

_RESTING_MOUTH_PERCENTILE = 30  # of the mouth's opening; the mouth is at rest below
_OPEN_EYE_PERCENTILE = 50  # of an eye's opening; the eye is open above
_MIN_CLOSED_OPENING = 0.2  # opening of a closed eye as a share of the open eye's
_MAX_CLOSED_OPENING = 0.4
_MAX_EYE_OPENING = 1.6  # in neutral openings
_LID_MEETING_POINT = 0.3  # share of the way up from the lower lid at which the lids meet
_TOUCHING_LIPS_GAP = 0.03  # gap of lips that touch, in widths of the mouth
_EPSILON = 1e-9
_MIN_COORDINATE = 0.02  # of landmarks, as fractions of the crop
_MAX_COORDINATE = 0.98


@dataclass(frozen=True)
class NeutralFace:
    """Neutral face estimated from landmarks.

    Attributes:
        shape: float64 [68, 3], upright and looking straight ahead, mouth shut and eyes open; x and y in units
            of the landmarks, z towards the camera. Its origin is the centre of its rigid parts.
        place: float64 [2], the median position of that origin.
        closed: float64 [2], the opening of the left and right closed eye, as a share of the open eye's.
    """

    shape: np.ndarray
    place: np.ndarray
    closed: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """float64 [68, 2]: the neutral face at its median position."""
        return self.shape[:, :2] + self.place


def neutral_face(landmarks: np.ndarray, confidence: np.ndarray | None = None) -> NeutralFace:
    """Estimate the neutral face behind landmarks in any pose and expression.

    Args:
        landmarks: [N, 68, 2] of one person, N >= 1, in any unit.
        confidence: [N]; frames below `MIN_CONFIDENCE` are ignored when there are others.

    Raises:
        TalkingheadError: there are no landmarks, some are not finite, or all of a frame are one point.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if not np.isfinite(points).all():
        raise TalkingheadError("retarget: a landmark is not finite; leave that frame out")
    if not len(points) or not (np.ptp(points, axis=1).max(axis=1) > 0).all():
        raise TalkingheadError(
            "retarget: there are no landmarks, or all are one point; give a video that shows a face"
        )
    if confidence is not None and (confidence >= MIN_CONFIDENCE).any():
        points = points[confidence >= MIN_CONFIDENCE]
    size = np.median(centre_and_scale(points)[1])
    shape = _centred(MEAN_FACE * size)
    for _ in range(3):
        poses = _Poses.fit(points, shape)
        flat = poses.flatten(points, shape)
        middle = np.median(flat, axis=0)
        # symmetric, because the shape would otherwise absorb some of the rotation
        shape = _centred(
            np.column_stack([(middle + (middle * [-1, 1])[list(MIRROR_INDEX)]) / 2, shape[:, 2]])
        )
    shape = np.column_stack([_neutral_points(flat), shape[:, 2]])
    tilt = _rotation_x(np.median(poses.pitch))
    return NeutralFace(_centred(shape @ tilt.T), np.median(poses.place, axis=0), _closed_openings(flat))


def retarget(drive: Track, person: NeutralFace, driver: NeutralFace | None = None) -> np.ndarray:
    """Transfer the driver's motion to the person's face, and the driver's gaze where the irises are known.

    Args:
        drive: landmarks [N, 68, 2] of the driver, in any frame, with irises or without.
        person: the person's face at rest, in fractions of the person's crop.
        driver: the driver's face at rest; by default estimated from `drive`. Scale, rotation and shift of the
            driver are relative to it.

    Returns:
        float32 [N, 78, 2], fractions of the person's crop, the landmarks inside it; [N, 68, 2] of a driver
        without irises.

    Raises:
        TalkingheadError: see `neutral_face`.
    """
    driver = driver or neutral_face(drive.landmarks, drive.confidence)
    points = drive.landmarks.astype(np.float64)
    poses = _Poses.fit(points, driver.shape)
    expression = poses.flatten(points, driver.shape) - driver.shape[:, :2]
    scale = _size(person.shape) / _size(driver.shape)
    posed = _Poses(poses.scale, poses.rotation, (poses.place - driver.place) * scale + person.place)
    landmarks = _fit_into_crop(posed.project(_add_expression(expression, driver, person, scale)))
    irises = None
    if drive.irises is not None:
        irises = retarget_irises(drive.irises, drive.landmarks, landmarks)
    return join_points(landmarks.astype(np.float32), irises)


def _add_expression(
    expression: np.ndarray, driver: NeutralFace, person: NeutralFace, scale: float
) -> np.ndarray:
    """Add an expression, displacements [N, 68, 2] of the driver's shape, to the person's: [N, 68, 3]."""
    shape = np.repeat(person.shape[None], len(expression), axis=0)
    shape[:, JAW, :2] += expression[:, JAW] * scale
    shape[:, BROWS, :2] += expression[:, BROWS] * scale
    shape[:, MOUTH, :2] += expression[:, MOUTH] * (
        _width(person.shape, 48, 54) / _width(driver.shape, 48, 54)
    )
    for upper, lower in LIPS:  # lips may touch, but not cross
        overlap = np.minimum(shape[:, lower, 1] - shape[:, upper, 1], 0) / 2
        shape[:, upper, 1] += overlap
        shape[:, lower, 1] -= overlap
    driver_points = driver.shape[:, :2] + expression
    for eye, closed in zip(EYES, driver.closed, strict=True):
        opened = _opening(driver_points, eye) / np.maximum(_opening(driver.shape[None, :, :2], eye), _EPSILON)
        share = np.clip((opened - closed) / (1 - closed), 0, _MAX_EYE_OPENING)[:, None]
        for upper, lower in eye[1:3]:
            meeting_point = shape[:, lower] + _LID_MEETING_POINT * (shape[:, upper] - shape[:, lower])
            for lid in (upper, lower):
                shape[:, lid] = meeting_point + share * (shape[:, lid] - meeting_point)
    return shape


def _neutral_points(flat: np.ndarray) -> np.ndarray:
    """Return the neutral face [68, 2] of frontal faces [N, 68, 2].

    It is the median, with mouth and chin from frames with the mouth at rest and lids from open eyes.
    """
    face = np.median(flat, axis=0)
    opening = _mouth_opening(flat)
    resting = opening <= np.percentile(opening, _RESTING_MOUTH_PERCENTILE)
    face[MOUTH] = np.median(flat[resting, MOUTH], axis=0)
    face[_CHIN] = np.median(flat[resting, _CHIN], axis=0)
    for eye in EYES:
        opening = _opening(flat, eye)
        lids = [*eye[1], *eye[2]]
        face[lids] = np.median(flat[opening >= np.percentile(opening, _OPEN_EYE_PERCENTILE)][:, lids], axis=0)
    # shut the mouth of a person who never shuts it
    excess = max(0.0, float(_mouth_opening(face[None])[0]) - _TOUCHING_LIPS_GAP) * _width(face, 48, 54)
    face[list(_LOWER_LIP), 1] -= excess
    face[_CHIN, 1] -= excess * _CHIN_SHARES
    return face


def _closed_openings(flat: np.ndarray) -> np.ndarray:
    """Return the opening of the left and right closed eye, as a share of the open eye's: [2]."""
    shares = []
    for eye in EYES:
        opening = _opening(flat, eye)
        open_eye = np.median(opening[opening >= np.percentile(opening, _OPEN_EYE_PERCENTILE)])
        shares.append(np.percentile(opening, 1) / open_eye if open_eye > 0 else 0.0)
    return np.clip(shares, _MIN_CLOSED_OPENING, _MAX_CLOSED_OPENING)


def _mouth_opening(faces: np.ndarray) -> np.ndarray:
    """Return the opening of the mouth in its widths: [N, 68, 2] -> [N]."""
    opened = np.mean([faces[:, lower, 1] - faces[:, upper, 1] for upper, lower in LIPS], axis=0)
    return opened / np.maximum(np.linalg.norm(faces[:, 54] - faces[:, 48], axis=1), _EPSILON)


def _opening(faces: np.ndarray, eye: tuple[int, tuple[int, int], tuple[int, int], int]) -> np.ndarray:
    """Return the opening of an eye in its widths: [N, 68, 2] -> [N]."""
    first, *lids, last = eye
    opened = np.mean([faces[:, lower, 1] - faces[:, upper, 1] for upper, lower in lids], axis=0)
    return np.maximum(opened, 0) / np.maximum(
        np.linalg.norm(faces[:, last] - faces[:, first], axis=1), _EPSILON
    )


def _width(shape: np.ndarray, left: int, right: int) -> float:
    return max(float(np.linalg.norm(shape[right, :2] - shape[left, :2])), _EPSILON)


def _size(shape: np.ndarray) -> float:
    """Return the root-mean-square radius of the rigid parts, seen from the front."""
    return float(np.sqrt((_RIGID_WEIGHTS[:, None] * shape[:, :2] ** 2).sum()))


def _centred(shape: np.ndarray) -> np.ndarray:
    return shape - _RIGID_WEIGHTS @ shape


def _fit_into_crop(points: np.ndarray) -> np.ndarray:
    """Shrink and shift faces [N, 68, 2] that extend beyond the crop until they are inside."""
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    shrink = np.minimum(1, (_MAX_COORDINATE - _MIN_COORDINATE) / (high - low).max(axis=2, keepdims=True))
    centre = (low + high) / 2
    half = (high - low) / 2 * shrink
    return (points - centre) * shrink + np.clip(centre, _MIN_COORDINATE + half, _MAX_COORDINATE - half)


@dataclass(frozen=True)
class _Poses:
    """Head poses of N frames: scale [N], rotation [N, 3, 3], position of the shape's origin [N, 2]."""

    scale: np.ndarray
    rotation: np.ndarray
    place: np.ndarray

    @classmethod
    def fit(cls, points: np.ndarray, shape: np.ndarray) -> "_Poses":
        """Fit the rigid parts of a centred shape [68, 3] to points [N, 68, 2] by least squares.

        Alternately, the unknown depths of the points follow from the poses, and the poses are fitted to the
        points in 3D.
        """
        place = np.einsum("p,npi->ni", _RIGID_WEIGHTS, points)
        flat = points - place[:, None]
        scale, rotation = np.ones(len(points)), np.repeat(np.eye(3)[None], len(points), axis=0)
        scale *= np.sqrt((_RIGID_WEIGHTS[:, None] * flat**2).sum(axis=(1, 2))) / _size(shape)
        for _ in range(_POSE_ITERATIONS):
            depth = scale[:, None] * np.einsum("nj,pj->np", rotation[:, 2], shape)
            spread = np.einsum(
                "p,npi,pj->nij", _RIGID_WEIGHTS, np.concatenate([flat, depth[..., None]], axis=2), shape
            )
            left, values, right = np.linalg.svd(spread)
            values[:, 2] *= np.sign(np.linalg.det(left @ right))
            left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
            rotation = left @ right
            projected = np.einsum("nij,pj->npi", rotation[:, :2], shape)
            scale = np.einsum("p,npi,npi->n", _RIGID_WEIGHTS, projected, flat) / np.einsum(
                "p,npi,npi->n", _RIGID_WEIGHTS, projected, projected
            )
        return cls(scale, rotation, place)

    def flatten(self, points: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """Rotate faces [N, 68, 2] to the front: the x and y that, with a shape's depth, project to them.

        They are not determined for a face in profile, and stay near those of the shape there.
        """
        residual = (points - self.place[:, None]) / self.scale[:, None, None] - np.einsum(
            "nij,pj->npi", self.rotation[:, :2], shape
        )
        in_plane = self.rotation[:, :2, :2]
        damped = np.linalg.inv(
            in_plane.transpose(0, 2, 1) @ in_plane + _DAMPING * np.eye(2)
        ) @ in_plane.transpose(0, 2, 1)
        return shape[:, :2] + np.einsum("nij,npj->npi", damped, residual)

    def project(self, shapes: np.ndarray) -> np.ndarray:
        """Project shapes [N, 68, 3] in these poses to [N, 68, 2]."""
        projected = np.einsum("nij,npj->npi", self.rotation[:, :2], shapes)
        return projected * self.scale[:, None, None] + self.place[:, None]

    @property
    def pitch(self) -> np.ndarray:
        """Pitch [N] in radians of rotations by pitch, then yaw, then roll."""
        return np.arctan2(self.rotation[:, 2, 1], self.rotation[:, 2, 2])


def _rotation_x(angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
