"""Hair of the head."""

from dataclasses import dataclass

import numpy as np

from .appearance import Appearance
from .head import Head
from .mesh_sampling import SurfacePoints, sample_surface
from .skull_shape import CENTRE, SkullShape, angle_from_front
from .strands import Strands

_POINTS_PER_STRAND = 8
_POINTS_PER_CURL = 12  # of a strand of wavy or curly hair
_BUN_STRANDS = 400
# the hairline: angle from the front in degrees, height in metres
_HAIRLINE = np.array(
    [
        (0, 0.068),
        (22, 0.068),
        (42, 0.058),
        (58, 0.038),
        (72, 0.012),
        (84, -0.012),
        (92, 0.0),
        (104, 0.012),
        (124, -0.02),
        (150, -0.06),
        (180, -0.07),
    ]
)


@dataclass(frozen=True)
class _Style:
    """Shape of a hair style.

    Attributes:
        length: length of the longest strands in metres.
        lift: distance of the outer strands from the skull in metres.
        hang: how much strands hang down, 0..1.
        curl: radius of curls in metres.
        count: number of strands.
        width: width of a strand in metres.
    """

    length: float
    lift: float
    hang: float
    curl: float
    count: int
    width: float


_STYLES = {
    "shaved": _Style(length=0.004, lift=0.001, hang=0.0, curl=0.0, count=2600, width=0.0022),
    "crop": _Style(length=0.016, lift=0.005, hang=0.0, curl=0.001, count=2600, width=0.0026),
    "short": _Style(length=0.042, lift=0.012, hang=0.15, curl=0.002, count=2400, width=0.0030),
    "side": _Style(length=0.075, lift=0.014, hang=0.35, curl=0.002, count=2300, width=0.0032),
    "back": _Style(length=0.085, lift=0.014, hang=0.1, curl=0.002, count=2300, width=0.0032),
    "fringe": _Style(length=0.095, lift=0.012, hang=0.6, curl=0.002, count=2400, width=0.0032),
    "bob": _Style(length=0.20, lift=0.016, hang=1.0, curl=0.003, count=2500, width=0.0031),
    "long": _Style(length=0.33, lift=0.014, hang=1.0, curl=0.003, count=2600, width=0.0032),
    "wavy": _Style(length=0.30, lift=0.020, hang=0.9, curl=0.009, count=2000, width=0.0036),
    "curly": _Style(length=0.15, lift=0.030, hang=0.5, curl=0.010, count=2000, width=0.0036),
    "afro": _Style(length=0.075, lift=0.055, hang=0.0, curl=0.004, count=3600, width=0.0044),
    "bun": _Style(length=0.12, lift=0.006, hang=0.0, curl=0.001, count=2200, width=0.0032),
}


_OUTWARD_SHARES = {"afro": 0.8, "bun": 0.12, "back": 0.12, "bob": 0.12, "long": 0.12}
"""Share of the direction perpendicular to the skin in which strands of a style start; 0.3 for the others."""
_LOOSE_STYLES = ("afro", "crop", "shaved", "curly")
"""Styles that do not lie on the head."""
_DOWN = np.array([0, 0, -1.4])


@dataclass(frozen=True)
class _Roots:
    """Roots of the strands.

    Attributes:
        points: the roots on the mesh.
        start: float64 [N, 3], the roots on the person's face.
        on_template: float32 [N, 3], the roots on the template.
        outwards: float64 [N, 3], unit vectors from the centre of the skull.
    """

    points: SurfacePoints
    start: np.ndarray
    on_template: np.ndarray
    outwards: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def hair_density(head: Head, template: np.ndarray, appearance: Appearance) -> np.ndarray:
    """Return the density of hair at the vertices, float32 [V], 0..1."""
    angle = angle_from_front(template)
    low, receding = appearance.hairline
    line = np.interp(angle, _HAIRLINE[:, 0], _HAIRLINE[:, 1])
    line = (
        line
        + low * (angle < 70)
        + receding * np.exp(-(((angle - 36) / 16) ** 2))
        + 0.5 * receding * (angle < 25)
    )
    is_bald = appearance.style == "bald"
    if is_bald:
        line = np.where(angle > 88, np.minimum(line + 0.02, 0.03), 0.2)  # hair at the sides only
        line = np.where(appearance.length < 0.5, 0.5, line)
    skin = (head.part == 0) & (head.masks[2] < 0.3) & (head.masks[1] < 0.5)
    upper = template[:, 2] < 0.055 if is_bald else np.ones(len(template), bool)
    density = np.clip((template[:, 2] - line) / 0.006 + 0.5, 0, 1)
    return (density * skin * upper * (template[:, 2] > -0.085)).astype(np.float32)


def grow_hair(head: Head, template: np.ndarray, appearance: Appearance) -> Strands | None:
    """Return the hair of the head; None for a bald person.

    Args:
        head: the head model.
        template: float32 [V, 3], the face on which the hairline is defined.
        appearance: the person.
    """
    name = "crop" if appearance.style == "bald" and appearance.length >= 0.5 else appearance.style
    if name == "bald":
        return None
    random = np.random.default_rng((*appearance.seed, 2))
    style = _STYLES[name]
    density = hair_density(head, template, appearance)
    points = sample_surface(random, template, head.triangles, density=density, count=style.count)
    start = points.interpolate(appearance.vertices).astype(np.float64)
    if not len(start):
        return None
    outwards = start - CENTRE
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    roots = _Roots(points, start, points.interpolate(template), outwards)
    comb = _comb_directions(name, roots, appearance, random)
    length = _sample_lengths(name, roots, appearance, random)
    skull = SkullShape(appearance.vertices[head.part == 0])
    lines = _trace_strands(name, roots, appearance, comb=comb, length=length, skull=skull, random=random)
    steps = lines.shape[1]
    widths = style.width * np.interp(np.linspace(0, 1, steps), (0, 0.6, 1), (1, 0.9, 0.25)) / 2
    strands = Strands(
        roots=points,
        offsets=lines - start[:, None],
        width=np.broadcast_to(widths, (len(roots), steps)),
        colour=_sample_colours(name, appearance, (len(roots), steps), random),
        random=random.random(len(roots)),
    )
    if name == "bun":
        strands = _add_bun(strands, appearance, random, skull)
    return Strands.from_arrays(
        strands.roots,
        offsets=strands.offsets,
        width=strands.width,
        colour=strands.colour,
        random=strands.random,
    )


def _sample_lengths(
    name: str, roots: _Roots, appearance: Appearance, random: np.random.Generator
) -> np.ndarray:
    """Return the length of each strand in metres, [N]."""
    longest = _STYLES[name].length * (0.75 + 0.5 * appearance.length)
    length = longest * random.uniform(0.75, 1.0, len(roots))
    if name in ("short", "side", "back", "crop"):  # sides and neck are cut shorter
        length *= np.interp(roots.on_template[:, 2], (-0.05, 0.03, 0.075), (0.25, 0.5, 1.0))
    if name == "fringe":
        angle = angle_from_front(roots.on_template)
        length *= np.interp(angle, (0, 60, 100, 180), (0.62, 0.8, 0.75, 0.6))
    return length


def _trace_strands(
    name: str,
    roots: _Roots,
    appearance: Appearance,
    *,
    comb: np.ndarray,
    length: np.ndarray,
    skull: SkullShape,
    random: np.random.Generator,
) -> np.ndarray:
    """Return the points of the strands, float64 [N, K, 3], traced step by step from their roots."""
    style, count = _STYLES[name], len(roots)
    lift, curl = style.lift * appearance.thickness, style.curl * (0.5 + appearance.curl)
    steps = _POINTS_PER_CURL if name in ("wavy", "curly") else _POINTS_PER_STRAND
    is_afro, outwards = name == "afro", roots.outwards
    layer = lift * (0.25 + 0.75 * random.random(count) ** 0.7)
    phase, twist = random.uniform(0, 2 * np.pi, (2, count))
    points = [roots.start + outwards * 0.0005]
    if is_afro:  # a cloud of short curls in random directions
        points = [roots.start + outwards * (layer * random.random(count) ** 0.5)[:, None]]
        length = 0.035 * random.uniform(0.7, 1.2, count)
        comb = random.normal(size=(count, 3))
        comb /= np.linalg.norm(comb, axis=1, keepdims=True)
    step = length / (steps - 1)
    heading = outwards * _OUTWARD_SHARES.get(name, 0.3) + comb
    side = np.where(roots.on_template[:, 0] > appearance.parting, 1.0, -1.0)
    disorder = random.normal(0, 0.35 if is_afro else 0.09, (count, 3))
    least_lift = np.zeros(count) if is_afro else layer
    for number in range(1, steps):
        share = number / (steps - 1)
        # above the ears hair follows the comb, below them it hangs
        hanging = style.hang * np.clip((0.045 - points[-1][:, 2:]) / 0.06, 0.15 * share, 1)
        heading = heading * 0.45 + comb * (1 - hanging) * 0.8 + _DOWN * hanging + disorder * 0.5
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        point = points[-1] + heading * step[:, None]
        if curl:
            aside = np.cross(heading, outwards)
            wave = number * (1.1 if name in ("curly", "afro") else 0.7) + phase
            radius = curl * min(1.0, 2 * share) * _POINTS_PER_STRAND / steps
            point += (aside * np.sin(wave)[:, None] + outwards * np.cos(wave + twist)[:, None]) * radius
        distance = least_lift * min(1.0, 2.2 * share) + 0.001
        point = skull.push_outside(point, distance, hugs=name not in _LOOSE_STYLES)
        if style.hang and name != "fringe":
            point = _clear_face(point, side, layer)
        points.append(point)
    return np.stack(points, axis=1)


def _sample_colours(
    name: str, appearance: Appearance, shape: tuple[int, int], random: np.random.Generator
) -> np.ndarray:
    """Return the colours of strands of shape [N, K], float64 [N, K, 3]."""
    count, steps = shape
    along = np.linspace(0, 1, steps)
    shade = random.normal(1, 0.16, (count, 1)).clip(0.55, 1.6) * (0.72 + 0.4 * along)
    if name in ("long", "wavy", "bob") and appearance.tone < 0.6:  # the sun bleaches the tips
        shade = shade * (1 + 0.35 * (appearance.curl - 0.3) * along)
    colour = appearance.hair * shade[..., None]
    is_grey = random.random(count) < max(0, appearance.age - 0.6) * 0.35
    colour[is_grey] = 0.5 * colour[is_grey] + 0.12
    return colour


def _clear_face(points: np.ndarray, side: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Return points [N, 3] moved aside where they would hang before the face, and close to the neck below it.

    Args:
        points: float64 [N, 3].
        side: [N], -1 or 1, the side of the face on which a strand grows.
        layer: [N], distance of a strand from the head in metres.
    """
    x, y, z = points.T
    in_front = np.clip((0.05 - y) / 0.03, 0, 1) * np.clip((0.052 - z) / 0.02, 0, 1)
    edge = np.interp(z, (-0.12, -0.05, 0.0, 0.05), (0.056, 0.066, 0.068, 0.05)) + 0.4 * layer
    x = np.where(side * x < edge, x + in_front * (side * edge - x), x)
    below = np.clip((0.0 - z) / 0.08, 0, 1)
    neck_width = 0.086 + 1.2 * layer
    x = np.where(np.abs(x) > neck_width, x + 0.7 * below * (np.sign(x) * neck_width - x), x)
    y = np.where(y > 0.12, y + 0.5 * below * (0.12 - y), y)
    return np.stack([x, y, z], axis=1)


def _comb_directions(
    style: str, roots: _Roots, appearance: Appearance, random: np.random.Generator
) -> np.ndarray:
    """Return the direction in which each strand is combed, along the skull, unit vectors float64 [N, 3]."""
    where, outwards = roots.on_template, roots.outwards
    part = np.sign(where[:, 0] - appearance.parting + 1e-4 * random.normal(size=len(where)))
    behind = np.clip((where[:, 1] - 0.02) / 0.08, 0, 1)
    down = np.array([0.0, 0.0, -1.0])
    back, front = np.array([0.0, 1.0, 0.0]), np.array([0.0, -1.0, 0.0])
    sideways = np.array([1.0, 0.0, 0.0])
    if style in ("back", "bun"):
        direction = back[None] * 1.0 + np.array([0, 0, 0.35])
        direction = np.where((style == "bun") & (where[:, 2:] < 0), back + [0, 0, 0.9], direction)
    elif style == "fringe":
        frontal = angle_from_front(where)[:, None] < 70
        direction = np.where(
            frontal,
            front + down * 0.6 + 0.25 * appearance.parting / 0.03 * sideways,
            down + 0.2 * front * (1 - behind[:, None]),
        )
    elif style == "side":
        parting_side = np.sign(appearance.parting) or 1.0
        top = where[:, 2:] > 0.06
        direction = np.where(
            top & (part[:, None] * parting_side < 0),
            -parting_side * sideways + 0.35 * back,
            part[:, None] * sideways * 0.5 + down * 0.6 + 0.5 * back,
        )
    elif style in ("bob", "long", "wavy", "curly"):
        direction = (
            part[:, None] * sideways * 0.9
            + down * 0.9
            + back * (0.2 + 0.35 * np.clip(1 - angle_from_front(where)[:, None] / 80, 0, 1))
        )
        direction = np.where(angle_from_front(where)[:, None] > 120, down + 0.3 * back, direction)
    elif style == "afro":
        direction = outwards * 1.6
    else:
        direction = (
            back * 0.35
            + down * 0.5
            + front * 0.5 * (where[:, 2:] > 0.07)
            + sideways * 0.35 * appearance.parting / 0.03
        )
    direction = direction + random.normal(
        0, 0.18, direction.shape if direction.ndim == 2 else (len(where), 3)
    )
    if style != "afro":
        direction = direction - 0.85 * (direction * outwards).sum(axis=1, keepdims=True) * outwards
    return direction / np.linalg.norm(direction, axis=1, keepdims=True)


def _add_bun(
    hair: Strands, appearance: Appearance, random: np.random.Generator, skull: SkullShape
) -> Strands:
    """Return hair with a knot at the back or on top of the head."""
    elevation = appearance.length * 1.2
    direction = np.array([0.0, np.cos(elevation), np.sin(elevation)])
    middle = skull.push_outside((CENTRE + direction * 0.08)[None], np.array([0.018]))[0]
    radius = 0.032 * (0.7 + 0.5 * appearance.thickness)
    turn, tilt = random.uniform(0, 2 * np.pi, (2, _BUN_STRANDS))
    along = np.linspace(0, 1.6, _POINTS_PER_STRAND)[None] + turn[:, None]
    circle = np.stack(
        [np.cos(along), np.sin(along) * np.cos(tilt)[:, None], np.sin(along) * np.sin(tilt)[:, None]], axis=2
    )
    points = middle + circle * radius * random.uniform(0.8, 1, (_BUN_STRANDS, 1, 1))
    pick = random.integers(0, len(hair.offsets), _BUN_STRANDS)
    picked = hair.roots[pick]
    start = picked.interpolate(appearance.vertices)
    roots = SurfacePoints(
        np.concatenate([hair.roots.corners, picked.corners]),
        np.concatenate([hair.roots.weights, picked.weights]),
    )
    width = np.full((_BUN_STRANDS, _POINTS_PER_STRAND), 0.0018)
    return Strands(
        roots=roots,
        offsets=np.concatenate([hair.offsets, points - start[:, None]]),
        width=np.concatenate([hair.width, width]),
        colour=np.concatenate([hair.colour, hair.colour[pick]]),
        random=np.concatenate([hair.random, hair.random[pick]]),
    )
