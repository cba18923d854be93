"""A driver's head motion and expression on another person's face: what moves is the driver's, the proportions are the person's.

A face is a shape in space, seen by a scaled orthographic camera. Of the driver's track the neutral shape is estimated, and of each frame
the pose of the head and what the pose leaves over, the expression. The pose moves the person's own neutral shape; the expression is added
to it in the person's own measures. The paper drives with other people's landmarks as they are, and names the loss of identity as its limit.

Yaw and roll are absolute, for a face is symmetric. Pitch cannot be told from the shape of a face in one picture, so it is relative to the
clip's median; so are place and size in the frame.
"""

from dataclasses import dataclass

import numpy as np

from ..clip import Track
from ..errors import TalkingheadError
from .draw import MIRROR
from .face import DOUBTFUL
from .mean_face import MEAN_FACE

JAW, BROWS, NOSE, MOUTH = slice(0, 17), slice(17, 27), slice(27, 36), slice(48, 68)
EYES = ((36, (37, 41), (38, 40), 39), (42, (43, 47), (44, 46), 45))
"""Of each eye: outer or inner corner, two pairs of upper and lower lid, the other corner."""
LIPS = ((61, 67), (62, 66), (63, 65))
"""Pairs of the inner lips, upper and lower."""
_LOWER_LIP, _CHIN = (55, 56, 57, 58, 59, 65, 66, 67), slice(4, 13)

_RIGID = np.zeros(68)
_RIGID[[*range(5), *range(12, 17)]] = 0.3
_RIGID[BROWS] = 0.2
_RIGID[NOSE] = 1.0
_RIGID[[36, 39, 42, 45]] = 1.0
_RIGID /= _RIGID.sum()
_ROUNDS = 20  # of the fit of poses; it moves by less than 1e-3 degrees in the last
_DAMPING = 0.01  # of the way back from a turned face to its front: at 60 degrees it costs 4% of an expression's width

_REST = 30  # percentile of the mouth's opening below which it counts as at rest
_OPEN = 50  # percentile of an eye's opening above which it counts as open
_CLOSED = (0.2, 0.4)  # of the open eye: how narrow landmarks of a closed one are, at least and at most
_WIDE = 1.6  # of the neutral opening: no eye opens further
_MEETS = 0.3  # of the way up from the lower lid: where the lids meet
_GAP = 0.03  # of the mouth's width: the gap between lips that touch
_TINY = 1e-9
_INSIDE = (0.02, 0.98)  # of the crop: where the landmarks are kept


@dataclass(frozen=True)
class Neutral:
    """A face at rest, as estimated from its landmarks.

    Attributes:
        shape: float64 [68, 3], upright and looking straight ahead, mouth shut and eyes open; x and y in units of the landmarks it comes
            from, z towards the camera. Its origin is the centre of its rigid parts.
        place: float64 [2], where that origin usually is.
        closed: float64 [2], the opening of the left and right closed eye, as a share of the open one's.
    """

    shape: np.ndarray
    place: np.ndarray
    closed: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """float64 [68, 2]: the face at rest in its usual place."""
        return self.shape[:, :2] + self.place


def neutral_face(landmarks: np.ndarray, confidence: np.ndarray | None = None) -> Neutral:
    """The face at rest behind landmarks in any pose and expression.

    Args:
        landmarks: [N, 68, 2] of one person, N >= 1, in any unit.
        confidence: [N]; frames of less than `DOUBTFUL` are left out when there are others.

    Raises:
        TalkingheadError: no landmarks, some that are not finite, or those of a frame all fall on one point.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if not np.isfinite(points).all():
        raise TalkingheadError("retarget: a landmark is not finite; leave that frame out")
    if not len(points) or not (np.ptp(points, axis=1).max(axis=1) > 0).all():
        raise TalkingheadError("retarget: got no landmarks, or all on one point, a face was expected; give a video that shows one")
    if confidence is not None and (confidence >= DOUBTFUL).any():
        points = points[confidence >= DOUBTFUL]
    size = np.median(np.sqrt(((points - points.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean(axis=1)))
    shape = _centred(MEAN_FACE * size)
    for _ in range(3):
        poses = _Poses.fit(points, shape)
        flat = poses.flatten(points, shape)
        middle = np.median(flat, axis=0)
        # symmetric, or the shape would take on some of the turn
        shape = _centred(np.column_stack([(middle + (middle * [-1, 1])[list(MIRROR)]) / 2, shape[:, 2]]))
    shape = np.column_stack([_at_rest(flat), shape[:, 2]])
    tilt = _rotation_x(np.median(poses.pitch))
    return Neutral(_centred(shape @ tilt.T), np.median(poses.place, axis=0), _closed(flat))


def retarget(drive: Track, person: Neutral, driver: Neutral | None = None) -> np.ndarray:
    """The driver's motion on the person's face.

    Args:
        drive: landmarks [N, 68, 2] of the driver, in any frame.
        person: the person's face at rest, in fractions of the person's crop.
        driver: the driver's; by default estimated from `drive`. Where it is given, a driver who is scaled, turned or shifted against it
            scales, turns or shifts the result alike.

    Returns:
        float32 [N, 68, 2], fractions of the person's crop; kept inside it.

    Raises:
        TalkingheadError: as `neutral_face`.
    """
    driver = driver or neutral_face(drive.landmarks, drive.confidence)
    points = drive.landmarks.astype(np.float64)
    poses = _Poses.fit(points, driver.shape)
    moved = poses.flatten(points, driver.shape) - driver.shape[:, :2]
    scale = _size(person.shape) / _size(driver.shape)
    posed = _Poses(poses.scale, poses.rotation, (poses.place - driver.place) * scale + person.place)
    return _inside(posed.project(_express(moved, driver, person, scale))).astype(np.float32)


def _express(moved: np.ndarray, driver: Neutral, person: Neutral, scale: float) -> np.ndarray:
    """The person's shape [N, 68, 3] with the driver's expression, given as displacements [N, 68, 2] of the driver's shape."""
    shape = np.repeat(person.shape[None], len(moved), axis=0)
    shape[:, JAW, :2] += moved[:, JAW] * scale
    shape[:, BROWS, :2] += moved[:, BROWS] * scale
    shape[:, MOUTH, :2] += moved[:, MOUTH] * (_width(person.shape, 48, 54) / _width(driver.shape, 48, 54))
    for upper, lower in LIPS:  # lips touch, they do not cross
        crossed = np.minimum(shape[:, lower, 1] - shape[:, upper, 1], 0) / 2
        shape[:, upper, 1] += crossed
        shape[:, lower, 1] -= crossed
    bare = driver.shape[:, :2] + moved
    for eye, closed in zip(EYES, driver.closed, strict=True):
        opened = _opening(bare, eye) / np.maximum(_opening(driver.shape[None, :, :2], eye), _TINY)
        share = np.clip((opened - closed) / (1 - closed), 0, _WIDE)[:, None]
        for upper, lower in eye[1:3]:
            meets = shape[:, lower] + _MEETS * (shape[:, upper] - shape[:, lower])
            for lid in (upper, lower):
                shape[:, lid] = meets + share * (shape[:, lid] - meets)
    return shape


def _at_rest(flat: np.ndarray) -> np.ndarray:
    """The neutral face [68, 2] of frontal ones [N, 68, 2]: the median, with mouth and chin of frames at rest and lids of open eyes."""
    face = np.median(flat, axis=0)
    gap = _gap(flat)
    resting = gap <= np.percentile(gap, _REST)
    face[MOUTH] = np.median(flat[resting, MOUTH], axis=0)
    face[_CHIN] = np.median(flat[resting, _CHIN], axis=0)
    for eye in EYES:
        opening = _opening(flat, eye)
        lids = [*eye[1], *eye[2]]
        face[lids] = np.median(flat[opening >= np.percentile(opening, _OPEN)][:, lids], axis=0)
    # of somebody who never shuts the mouth, it is shut
    excess = max(0.0, float(_gap(face[None])[0]) - _GAP) * _width(face, 48, 54)
    face[list(_LOWER_LIP), 1] -= excess
    face[_CHIN, 1] -= excess * np.hanning(11)[1:-1]
    return face


def _closed(flat: np.ndarray) -> np.ndarray:
    shares = []
    for eye in EYES:
        opening = _opening(flat, eye)
        usual = np.median(opening[opening >= np.percentile(opening, _OPEN)])
        shares.append(np.percentile(opening, 1) / usual if usual > 0 else 0.0)
    return np.clip(shares, *_CLOSED)


def _gap(faces: np.ndarray) -> np.ndarray:
    """[N, 68, 2] -> [N]: how far the mouth is open, in widths of the mouth."""
    opened = np.mean([faces[:, lower, 1] - faces[:, upper, 1] for upper, lower in LIPS], axis=0)
    return opened / np.maximum(np.linalg.norm(faces[:, 54] - faces[:, 48], axis=1), _TINY)


def _opening(faces: np.ndarray, eye: tuple[int, tuple[int, int], tuple[int, int], int]) -> np.ndarray:
    """[N, 68, 2] -> [N]: how far an eye is open, in its widths."""
    first, *lids, last = eye
    opened = np.mean([faces[:, lower, 1] - faces[:, upper, 1] for upper, lower in lids], axis=0)
    return np.maximum(opened, 0) / np.maximum(np.linalg.norm(faces[:, last] - faces[:, first], axis=1), _TINY)


def _width(shape: np.ndarray, left: int, right: int) -> float:
    return max(float(np.linalg.norm(shape[right, :2] - shape[left, :2])), _TINY)


def _size(shape: np.ndarray) -> float:
    """Root-mean-square radius of the rigid parts, seen from the front."""
    return float(np.sqrt((_RIGID[:, None] * shape[:, :2] ** 2).sum()))


def _centred(shape: np.ndarray) -> np.ndarray:
    return shape - _RIGID @ shape


def _inside(points: np.ndarray) -> np.ndarray:
    """Faces [N, 68, 2] that leave the crop, made smaller and shifted until they are within it."""
    low, high = points.min(axis=1, keepdims=True), points.max(axis=1, keepdims=True)
    least, most = _INSIDE
    shrink = np.minimum(1, (most - least) / (high - low).max(axis=2, keepdims=True))
    centre = (low + high) / 2
    reach = (high - low) / 2 * shrink
    return (points - centre) * shrink + np.clip(centre, least + reach, most - reach)


@dataclass(frozen=True)
class _Poses:
    """How heads are held in N frames: scale [N], rotation [N, 3, 3], place of the shape's origin [N, 2]."""

    scale: np.ndarray
    rotation: np.ndarray
    place: np.ndarray

    @classmethod
    def fit(cls, points: np.ndarray, shape: np.ndarray) -> "_Poses":
        """The poses that bring the rigid parts of a centred shape [68, 3] nearest to [N, 68, 2], in the sense of least squares.

        The unknown depths of the points are filled in from the pose, the pose is fitted to the points in space, in turn.
        """
        place = np.einsum("p,npi->ni", _RIGID, points)
        flat = points - place[:, None]
        scale, rotation = np.ones(len(points)), np.repeat(np.eye(3)[None], len(points), axis=0)
        scale *= np.sqrt((_RIGID[:, None] * flat**2).sum(axis=(1, 2))) / _size(shape)
        for _ in range(_ROUNDS):
            depth = scale[:, None] * np.einsum("nj,pj->np", rotation[:, 2], shape)
            spread = np.einsum("p,npi,pj->nij", _RIGID, np.concatenate([flat, depth[..., None]], axis=2), shape)
            left, values, right = np.linalg.svd(spread)
            values[:, 2] *= np.sign(np.linalg.det(left @ right))
            left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
            rotation = left @ right
            seen = np.einsum("nij,pj->npi", rotation[:, :2], shape)
            scale = np.einsum("p,npi,npi->n", _RIGID, seen, flat) / np.einsum("p,npi,npi->n", _RIGID, seen, seen)
        return cls(scale, rotation, place)

    def flatten(self, points: np.ndarray, shape: np.ndarray) -> np.ndarray:
        """Faces [N, 68, 2] turned to the front: the x and y that, with the depth of a shape, project to them. [N, 68, 2]

        Of a face in profile, where they cannot be told, they stay near those of the shape.
        """
        rest = (points - self.place[:, None]) / self.scale[:, None, None] - np.einsum("nij,pj->npi", self.rotation[:, :2], shape)
        turned = self.rotation[:, :2, :2]
        damped = np.linalg.inv(turned.transpose(0, 2, 1) @ turned + _DAMPING * np.eye(2)) @ turned.transpose(0, 2, 1)
        return shape[:, :2] + np.einsum("nij,npj->npi", damped, rest)

    def project(self, shapes: np.ndarray) -> np.ndarray:
        """Shapes [N, 68, 3] in these poses, [N, 68, 2]."""
        seen = np.einsum("nij,npj->npi", self.rotation[:, :2], shapes)
        return seen * self.scale[:, None, None] + self.place[:, None]

    @property
    def pitch(self) -> np.ndarray:
        """[N], radians, of rotations that are roll after yaw after pitch."""
        return np.arctan2(self.rotation[:, 2, 1], self.rotation[:, 2, 2])


def _rotation_x(angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
