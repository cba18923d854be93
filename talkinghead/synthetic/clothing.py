"""Neck, shoulders and clothes, in the axes of the head at rest."""

from dataclasses import dataclass

import numpy as np

from .appearance import Appearance
from .head import SKIN as SKIN_PART
from .head import Head
from .materials import CLOTH, SKIN
from .mesh_part import MeshPart, grid_part

_PROFILE = (
    (0.012, 0.955, 0.93),
    (-0.012, 1.01, 0.99),
    (-0.026, 1.14, 1.04),
    (-0.038, 1.50, 1.12),
    (-0.052, 0.62, 1.25),
    (-0.070, 0.84, 1.42),
    (-0.098, 1.00, 1.60),
    (-0.150, 1.06, 1.80),
    (-0.300, 1.02, 1.90),
)
"""Shape of neck and shoulders: height above the end of the neck in metres; half width as a factor of that of
the neck (first rows) or the shoulders; half depth as a factor of that of the neck.
"""
_NECK_ROWS = 4  # rows of the profile whose width is relative to the neck
_WIDTH_EXPONENT = 0.92  # below 1: the cross-section is squarer than an ellipse


@dataclass(frozen=True)
class _Torso:
    """Shape of neck and shoulders.

    Attributes:
        middle: float64 [3], middle of the end of the neck.
        top: height of the end of the neck in metres.
        neck: float64 [2], half width and half depth of the neck.
        shoulders: half width of the shoulders.
        profile: float64 [33, 3], height, half width and half depth, from the top down.
        turn: float64 [65], angles around the neck.
        ring: float64 [65, 2], their sine and negative cosine.
    """

    middle: np.ndarray
    top: float
    neck: np.ndarray
    shoulders: float
    profile: np.ndarray
    turn: np.ndarray
    ring: np.ndarray


def build_torso(head: Head, vertices: np.ndarray, appearance: Appearance) -> list[MeshPart]:
    """Return neck and shoulders, the garment and, if it has one, its collar.

    Args:
        head: the head model.
        vertices: float32 [V, 3], the face at rest.
        appearance: the person.
    """
    random = np.random.default_rng((*appearance.seed, 7))
    torso = _fit_torso(head, vertices, appearance, random)
    parts = [_build_body(torso, appearance), _build_garment(torso, appearance, random)]
    if appearance.garment in _COLLARS:
        parts.append(_build_collar(torso, appearance))
    return parts


def _fit_torso(
    head: Head, vertices: np.ndarray, appearance: Appearance, random: np.random.Generator
) -> _Torso:
    """Return the shape of the torso that continues the neck of a head."""
    neck = vertices[(head.part == SKIN_PART) & (vertices[:, 2] < vertices[:, 2].min() + 0.02)]
    neck_half = (neck.max(axis=0) - neck.min(axis=0))[:2] / 2
    shoulders = 0.165 + 0.03 * (1 - appearance.female) + 0.01 * random.normal()
    shoulders *= np.interp(appearance.age, (0, 0.12, 0.3), (0.72, 0.85, 1))
    slope = random.uniform(0.9, 1.15)
    shape = np.array(_PROFILE)
    # in float32, like the vertices, so that a seed gives the same bytes as in earlier versions
    shape[:_NECK_ROWS, 1] = shape[:_NECK_ROWS, 1].astype(np.float32) * neck_half[0]
    shape[_NECK_ROWS:, 1] *= shoulders
    shape[:, 2] = shape[:, 2].astype(np.float32) * neck_half[1]
    shape[:, 0] *= slope
    rows = np.linspace(0, len(shape) - 1, 33)
    turn = np.linspace(0, 2 * np.pi, 65)
    return _Torso(
        middle=(neck.max(axis=0) + neck.min(axis=0)) / 2,
        top=float(np.median(neck[:, 2])) + 0.004,
        neck=neck_half,
        shoulders=shoulders,
        profile=np.stack(
            [np.interp(rows, np.arange(len(shape)), shape[:, column]) for column in range(3)], axis=1
        ),
        turn=turn,
        ring=np.stack([np.sin(turn), -np.cos(turn)], axis=1),
    )


def _build_body(torso: _Torso, appearance: Appearance) -> MeshPart:
    """Return the skin of neck and shoulders."""
    middle, profile, ring = torso.middle, torso.profile, torso.ring
    points = np.zeros((len(profile), len(torso.turn), 3))
    points[..., 0] = middle[0] + profile[:, 1:2] * np.sign(ring[:, 0]) * np.abs(ring[:, 0]) ** _WIDTH_EXPONENT
    points[..., 1] = middle[1] + profile[:, 2:3] * ring[:, 1] + 0.008 * (profile[:, :1] < -0.03)
    points[..., 2] = torso.top + profile[:, :1]
    body = grid_part(
        points, np.broadcast_to(appearance.skin, points.shape), SKIN, follows="body", min_openness=0.7
    )
    # a nearly constant lookup, so that the skin of the body shows no features of the face
    body.lookup = np.broadcast_to([0.0, 0.0, -0.1], body.vertices.shape) + body.vertices * 0.1
    return body


def _necklines(front: np.ndarray) -> dict[str, np.ndarray]:
    """Return the height of the neckline of each garment, of how far each angle is in front, 0..1."""
    return {
        "crew": -0.018 - 0.012 * front,
        "v": -0.020 - 0.075 * np.clip(front - 0.55, 0, 1) / 0.45,
        "shirt": -0.012 - 0.040 * np.clip(front - 0.8, 0, 1) / 0.2,
        "turtleneck": 0.004 + 0 * front,
        "hood": -0.014 - 0.020 * front,
        "open": -0.034 - 0.030 * front,
    }


def _build_garment(torso: _Torso, appearance: Appearance, random: np.random.Generator) -> MeshPart:
    """Return the garment: it starts at its neckline and follows the body at a small distance."""
    middle, profile, turn, ring = torso.middle, torso.profile, torso.turn, torso.ring
    neckline = _necklines(np.clip(ring[:, 1] * -1, 0, 1)[None])[appearance.garment]
    share = np.linspace(0, 1, 30)[:, None] ** 1.3
    start = np.broadcast_to(neckline, (1, len(turn)))
    level = start + (profile[-1, 0] - start) * share
    points = np.zeros((30, len(turn), 3))
    half = [np.interp(level, profile[::-1, 0], profile[::-1, column]) + 0.0035 for column in (1, 2)]
    hem = 0.0025 * (share < 0.02)
    points[..., 0] = middle[0] + (half[0] - hem) * np.sign(ring[:, 0]) * np.abs(ring[:, 0]) ** _WIDTH_EXPONENT
    points[..., 1] = middle[1] + (half[1] - hem) * ring[:, 1] + np.interp(level, (-0.04, -0.02), (0.008, 0.0))
    points[..., 2] = torso.top + level
    folds = 0.0022 * np.sin(turn * 5 + 9 * share + random.uniform(0, 6)) * np.clip(share * 4, 0, 1)
    points[..., 1] += folds
    sideways = np.broadcast_to(np.sin(turn) * torso.shoulders, level.shape)
    lookup = np.stack([sideways, level, 0 * level], axis=2)
    colour = np.broadcast_to(appearance.cloth, points.shape).copy()
    if appearance.garment in ("crew", "v", "turtleneck") and appearance.seed[-1] % 3 == 0:
        colour[:2] = appearance.accent
    return grid_part(points, colour, CLOTH, follows="body", lookup=lookup)


@dataclass(frozen=True)
class _Collar:
    """Shape of a collar.

    Attributes:
        offsets: distances from the neck in metres at the lower edge, the fold and the outer edge.
        heights: heights above the end of the neck there.
        gap: half the angle of the opening in front, radians.
        dip: how far the front hangs down, 0..1.
    """

    offsets: tuple[float, float, float]
    heights: tuple[float, float, float]
    gap: float
    dip: float


_COLLARS = {
    "shirt": _Collar(offsets=(0.004, 0.007, 0.016), heights=(-0.022, 0.004, -0.028), gap=0.22, dip=1),
    "turtleneck": _Collar(offsets=(0.004, 0.008, 0.007), heights=(-0.03, 0.008, -0.022), gap=0.0, dip=0.3),
    "hood": _Collar(offsets=(0.012, 0.03, 0.045), heights=(-0.04, -0.008, -0.05), gap=0.1, dip=1),
}


def _build_collar(torso: _Torso, appearance: Appearance) -> MeshPart:
    """Return the collar, which stands or folds around the neck."""
    collar, middle, count = _COLLARS[appearance.garment], torso.middle, len(torso.turn)
    turn = collar.gap + (2 * np.pi - 2 * collar.gap) * np.linspace(0, 1, count)
    ring = np.stack([np.sin(turn), -np.cos(turn)], axis=1)
    share = np.linspace(0, 2, 9)[:, None]
    offset = np.interp(share, (0, 1, 2), collar.offsets)
    level = np.interp(share, (0, 1, 2), collar.heights)
    front = np.clip(-ring[:, 1], 0, 1)[None] ** 3
    points = np.zeros((9, count, 3))
    points[..., 0] = middle[0] + (torso.neck[0] + offset) * ring[:, 0]
    points[..., 1] = middle[1] + (torso.neck[1] + offset) * ring[:, 1]
    points[..., 2] = torso.top + level - 0.016 * front * collar.dip
    shape = points.shape[:2]
    sideways = np.broadcast_to(ring[:, 0] * 0.1, shape)
    lookup = np.stack([sideways, np.broadcast_to(level, shape), 0 * points[..., 0]], axis=2)
    has_accent = appearance.garment == "shirt" and appearance.seed[-1] % 2 == 0
    colour = np.broadcast_to(appearance.accent if has_accent else appearance.cloth, points.shape)
    return grid_part(points, colour, CLOTH, follows="body", lookup=lookup)


def cloth_texture(appearance: Appearance) -> np.ndarray:
    """Return factors of the colour of the cloth, float32 [64, 64, 3]."""
    random = np.random.default_rng((*appearance.seed, 9))
    rows, columns = np.mgrid[:64, :64]
    accent = np.clip(appearance.accent / np.maximum(appearance.cloth, 0.02), 0.1, 6)
    count = int(random.choice((4, 8, 16)))
    stripe = (
        np.sin(2 * np.pi * count * (rows if random.random() < 0.6 else columns) / 64)
        > random.uniform(-0.2, 0.8)
    ).astype(float)
    across = (np.sin(2 * np.pi * count * columns / 64) > 0.3).astype(float)
    pattern = {
        "plain": np.zeros((64, 64)),
        "stripes": stripe,
        "checks": 0.5 * (np.sin(2 * np.pi * count * rows / 64) > 0.3) + 0.5 * across,
        "knit": np.zeros((64, 64)),
    }[appearance.pattern]
    factors = 1 - pattern[..., None] + pattern[..., None] * accent
    if appearance.pattern == "knit":
        ribs = 0.8 + 0.2 * np.sin(2 * np.pi * columns * 16 / 64) + 0.06 * np.sin(2 * np.pi * rows * 16 / 64)
        factors = factors * ribs[..., None]
    return (factors * (1 + 0.05 * random.normal(size=(64, 64, 1)))).clip(0.05, 8).astype(np.float32)
