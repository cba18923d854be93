"""Brows and beards."""

import numpy as np

from .appearance import Appearance
from .head import Head
from .mesh_sampling import cast_rays, sample_surface
from .strands import Strands

_POINTS_PER_STRAND = 3
_LENGTHS_M = {"moustache": 0.008, "goatee": 0.012, "short": 0.008, "full": 0.024}
_STRAND_COUNTS = {"moustache": 350, "goatee": 700, "short": 1400, "full": 1800}
# centre line of a brow: x and z from the middle between the eyes, in metres
_BROW_LINE = np.array([(0.0135, 0.0165), (0.022, 0.0205), (0.033, 0.0235), (0.043, 0.0225), (0.0525, 0.0155)])


def grow_brows(head: Head, template: np.ndarray, appearance: Appearance) -> Strands:
    """Return both brows.

    Args:
        head: the head model.
        template: float32 [V, 3], the face on which the brows are defined.
        appearance: the person.
    """
    random = np.random.default_rng((*appearance.seed, 3))
    thickness, arch, height, density = appearance.brows
    count = int(420 * density * thickness)
    share = random.random(count)
    x = np.interp(share, np.linspace(0, 1, 5), _BROW_LINE[:, 0])
    z = np.interp(share, np.linspace(0, 1, 5), _BROW_LINE[:, 1]) + height + arch * np.sin(np.pi * share)
    z = z + random.uniform(-1, 1, count) * 0.0034 * thickness * np.interp(
        share, (0, 0.15, 0.6, 1), (0.9, 1.0, 0.7, 0.25)
    )
    side = np.where(np.arange(count) % 2, 1.0, -1.0)
    origins = np.stack([side * x, np.full(count, -0.3), z], axis=1)
    ridge = (np.abs(template[:, 2] - 0.02) < 0.03) & (template[:, 1] < 0.03)
    roots, is_hit = cast_rays(
        template,
        head.triangles[ridge[head.triangles].all(axis=1)],
        origins,
        np.broadcast_to([0.0, 1.0, 0.0], origins.shape),
    )
    roots, share, side = roots[is_hit], share[is_hit], side[is_hit]
    rise = np.interp(share, (0, 0.35, 0.7, 1), (1.2, 0.35, -0.1, -0.5)) + random.normal(0, 0.15, len(share))
    direction = np.stack([side * np.cos(rise), 0.35 * share, np.sin(rise)], axis=1)
    length = random.uniform(0.005, 0.0085, len(share)) * (0.75 + 0.25 * thickness)
    along = np.linspace(0, 1, _POINTS_PER_STRAND)
    offsets = direction[:, None] * (length[:, None] * along)[..., None] + np.array([0, -0.0008, 0])
    width = np.broadcast_to(0.00048 * np.array([1.0, 1.0, 0.3]), (len(share), 3)) * (0.7 + 0.5 * thickness)
    colour = np.minimum(appearance.hair, 0.25) * random.normal(0.75, 0.12, (len(share), 1, 1)).clip(0.4, 1.1)
    return Strands.from_arrays(
        roots,
        offsets=offsets,
        width=width,
        colour=np.broadcast_to(colour, (*offsets.shape[:2], 3)),
        random=random.random(len(share)),
    )


def beard_density(head: Head, template: np.ndarray, appearance: Appearance) -> np.ndarray:
    """Return the density of the beard at the vertices, float32 [V], 0..1."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    skin = (head.part == 0) & (head.masks[0] < 0.4) & (head.masks[1] < 0.4)
    front = y < 0.055
    moustache = _box(z, -0.0655, -0.0505) * _box(x, -0.03, 0.029) * (y < 0)
    chin = _box(z, -0.135, -0.079) * _box(x, -0.03, 0.024 + 0.01 * (z < -0.09)) * (y < 0.03)
    soul_patch = _box(z, -0.09, -0.078) * _box(x, -0.01, 0.008)
    corner = _box(z, -0.09, -0.06) * _box(x, 0.023, 0.033) * (y < 0.015)
    edge = np.interp(y, (-0.02, 0.0, 0.03, 0.055), (-0.075, -0.066, -0.045, -0.01))
    jaw = _box(z, -0.135, edge) * _box(x, 0.015, 0.09)
    densities = {
        "none": 0 * x,
        "stubble": np.maximum.reduce([0.8 * moustache, chin, corner, jaw]),
        "moustache": moustache,
        "goatee": np.maximum.reduce([moustache, chin, corner, soul_patch]),
        "short": np.maximum.reduce([0.9 * moustache, chin, corner, jaw]),
        "full": np.maximum.reduce([moustache, chin, corner, jaw]),
    }
    above_neck = np.clip((z + 0.128) / 0.01, 0, 1)
    return (densities[appearance.facial_hair] * skin * front * above_neck).astype(np.float32)


def grow_beard(head: Head, template: np.ndarray, appearance: Appearance) -> Strands | None:
    """Return the beard; None without one, or with stubble, which is only a colour of the skin."""
    if appearance.facial_hair not in _LENGTHS_M:
        return None
    random = np.random.default_rng((*appearance.seed, 4))
    count = _STRAND_COUNTS[appearance.facial_hair]
    density = beard_density(head, template, appearance) ** 2
    roots = sample_surface(random, template, head.triangles, density=density, count=count)
    start = roots.interpolate(appearance.vertices)
    outwards = start - np.array([0, 0.045, -0.07])
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    is_upper = roots.interpolate(template)[:, 2:] > -0.067
    sideways = np.sign(start[:, :1]) * np.array([0.9, 0, 0]) * np.clip(np.abs(start[:, :1]) / 0.012, 0, 1)
    direction = outwards * 0.55 + np.array([0, 0, -0.9]) + np.where(is_upper, sideways, 0)
    direction = direction + random.normal(0, 0.22, outwards.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = (
        _LENGTHS_M[appearance.facial_hair]
        * random.uniform(0.5, 1.1, len(start))
        * np.where(is_upper[:, 0], 0.45, 1)
        * (0.7 + 0.6 * appearance.length)
    )
    along = np.linspace(0, 1, _POINTS_PER_STRAND)
    offsets = direction[:, None] * (length[:, None] * along)[..., None] + outwards[:, None] * 0.001
    width = np.broadcast_to(0.0011 * np.array([1.0, 0.9, 0.3]), (len(start), 3))
    colour = np.broadcast_to(
        appearance.beard * random.normal(0.9, 0.2, (len(start), 1, 1)).clip(0.4, 1.6), (*offsets.shape[:2], 3)
    )
    return Strands.from_arrays(
        roots, offsets=offsets, width=width, colour=colour, random=random.random(len(start))
    )


def _box(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Return 1 inside an interval of metres, 0 outside, with edges of 5 mm."""
    return np.clip((values - low) / 0.005 + 0.5, 0, 1) * np.clip((high - values) / 0.005 + 0.5, 0, 1)
