"""Hair, brows and beards as ribbons: each a line of points with a width, rooted on the skin."""

from dataclasses import dataclass

import numpy as np

from .head import Head
from .person import Person
from .surface import Places, cast, scatter

CENTRE = np.array([0.0, 0.06, 0.02])
"""Of the skull, in metres from the middle of the eyes."""
_POINTS = 8  # of a hair
_CURLED = 12  # of one that winds
_BEARD_POINTS = 3
# the hairline: angle from the front in degrees -> height in metres
_LINE = np.array(
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
# how each style lies: longest hair (m), lift off the skull (m), how much it hangs, curl (m), hairs, width (m)
_STYLES: dict[str, tuple[float, float, float, float, int, float]] = {
    "shaved": (0.004, 0.001, 0.0, 0.0, 2600, 0.0022),
    "crop": (0.016, 0.005, 0.0, 0.001, 2600, 0.0026),
    "short": (0.042, 0.012, 0.15, 0.002, 2400, 0.0030),
    "side": (0.075, 0.014, 0.35, 0.002, 2300, 0.0032),
    "back": (0.085, 0.014, 0.1, 0.002, 2300, 0.0032),
    "fringe": (0.095, 0.012, 0.6, 0.002, 2400, 0.0032),
    "bob": (0.20, 0.016, 1.0, 0.003, 2500, 0.0031),
    "long": (0.33, 0.014, 1.0, 0.003, 2600, 0.0032),
    "wavy": (0.30, 0.020, 0.9, 0.009, 2000, 0.0036),
    "curly": (0.15, 0.030, 0.5, 0.010, 2000, 0.0036),
    "afro": (0.075, 0.055, 0.0, 0.004, 3600, 0.0044),
    "bun": (0.12, 0.006, 0.0, 0.001, 2200, 0.0032),
}


@dataclass(frozen=True)
class Strands:
    """Lines on a person.

    Attributes:
        roots: where they grow.
        offsets: float32 [N, K, 3], their points from the roots, at rest.
        width: float32 [N, K], half of it, in metres.
        colour: float32 [N, K, 3].
        random: float32 [N].
    """

    roots: Places
    offsets: np.ndarray
    width: np.ndarray
    colour: np.ndarray
    random: np.ndarray


def around(points: np.ndarray) -> np.ndarray:
    """Angle in degrees from the front, 0 to 180, of points [..., 3]."""
    return np.degrees(np.arctan2(np.abs(points[..., 0]), CENTRE[1] - points[..., 1]))


def scalp(head: Head, template: np.ndarray, person: Person) -> np.ndarray:
    """float32 [V], 0..1: where hair grows."""
    angle = around(template)
    low, receding = person.hairline
    line = np.interp(angle, _LINE[:, 0], _LINE[:, 1])
    line = line + low * (angle < 70) + receding * np.exp(-(((angle - 36) / 16) ** 2)) + 0.5 * receding * (angle < 25)
    if person.style == "bald":
        line = np.where(angle > 88, np.minimum(line + 0.02, 0.03), 0.2)  # a wreath
        line = np.where(person.length < 0.5, 0.5, line)
    skin = (head.part == 0) & (head.masks[2] < 0.3) & (head.masks[1] < 0.5)
    upper = template[:, 2] < 0.055 if person.style == "bald" else np.ones(len(template), bool)
    return (np.clip((template[:, 2] - line) / 0.006 + 0.5, 0, 1) * skin * upper * (template[:, 2] > -0.085)).astype(np.float32)


def grow_hair(head: Head, template: np.ndarray, person: Person) -> Strands | None:
    """The hair of the head; None for the bald."""
    style = "crop" if person.style == "bald" and person.length >= 0.5 else person.style
    if style == "bald":
        return None
    random = np.random.default_rng((*person.seed, 2))
    longest, lift, hang, curl, count, width = _STYLES[style]
    longest *= 0.75 + 0.5 * person.length
    lift *= person.thickness
    curl *= 0.5 + person.curl
    rest = person.vertices
    roots = scatter(random, template, head.triangles, scalp(head, template, person), count)
    start, where = roots.of(rest).astype(np.float64), roots.of(template)
    count = len(start)
    if not count:
        return None
    out = start - CENTRE
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    comb = _comb(style, start, where, out, person, random)
    length = longest * random.uniform(0.75, 1.0, count)
    points_each = _CURLED if style in ("wavy", "curly") else _POINTS
    if style in ("short", "side", "back", "crop"):  # sides and neck are cut shorter
        length *= np.interp(where[:, 2], (-0.05, 0.03, 0.075), (0.25, 0.5, 1.0))
    if style == "fringe":
        length *= np.interp(around(where), (0, 60, 100, 180), (0.62, 0.8, 0.75, 0.6))
    reach = _Reach(rest[(head.part == 0)])
    layer = lift * (0.25 + 0.75 * random.random(count) ** 0.7)
    phase, twist = random.uniform(0, 2 * np.pi, (2, count))
    lines = [start + out * 0.0005]
    if style == "afro":  # a cloud of curls, not a brush
        lines, length = [start + out * (layer * random.random(count) ** 0.5)[:, None]], 0.035 * random.uniform(0.7, 1.2, count)
        comb = random.normal(size=(count, 3))
        comb /= np.linalg.norm(comb, axis=1, keepdims=True)
    step = length / (points_each - 1)
    heading = out * (0.8 if style == "afro" else 0.12 if style in ("bun", "back", "bob", "long") else 0.3) + comb
    aside = np.where(where[:, 0] > person.parting, 1.0, -1.0)
    wild = random.normal(0, 0.35 if style == "afro" else 0.09, (count, 3))
    for number in range(1, points_each):
        share = number / (points_each - 1)
        # above the ears hair lies as it is combed, below it hangs
        hanging = hang * np.clip((0.045 - lines[-1][:, 2:]) / 0.06, 0.15 * share, 1)
        heading = heading * 0.45 + comb * (1 - hanging) * 0.8 + np.array([0, 0, -1.4]) * hanging + wild * 0.5
        heading /= np.linalg.norm(heading, axis=1, keepdims=True)
        point = lines[-1] + heading * step[:, None]
        if curl:
            side = np.cross(heading, out)
            wave = number * (1.1 if style in ("curly", "afro") else 0.7) + phase
            point += (side * np.sin(wave)[:, None] + out * np.cos(wave + twist)[:, None]) * (
                curl * min(1.0, 2 * share) * _POINTS / points_each
            )
        point = reach.outside(
            point, layer * (style != "afro") * min(1.0, 2.2 * share) + 0.001, lies=style not in ("afro", "crop", "shaved", "curly")
        )
        if hang and style != "fringe":
            point = _off_the_face(point, aside, layer)
        lines.append(point)
    points = np.stack(lines, axis=1)
    widths = width * np.interp(np.linspace(0, 1, points_each), (0, 0.6, 1), (1, 0.9, 0.25)) / 2
    shade = random.normal(1, 0.16, (count, 1)).clip(0.55, 1.6) * (0.72 + 0.4 * np.linspace(0, 1, points_each))
    if style in ("long", "wavy", "bob") and person.tone < 0.6:  # tips bleach in the sun
        shade = shade * (1 + 0.35 * (person.curl - 0.3) * np.linspace(0, 1, points_each))
    colour = person.hair * shade[..., None]
    grey = random.random(count) < max(0, person.age - 0.6) * 0.35
    colour[grey] = 0.5 * colour[grey] + 0.12
    if style == "bun":
        return _with_bun(
            Strands(roots, points - start[:, None], _spread(widths, count), colour, random.random(count)), person, random, reach
        )
    return _strands(roots, points - start[:, None], _spread(widths, count), colour, random.random(count))


def _off_the_face(points: np.ndarray, side: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """The points [N, 3], those before the face moved to the side [N] of it on which they grow, and those below close to the neck."""
    x, y, z = points.T
    before = np.clip((0.05 - y) / 0.03, 0, 1) * np.clip((0.052 - z) / 0.02, 0, 1)
    edge = np.interp(z, (-0.12, -0.05, 0.0, 0.05), (0.056, 0.066, 0.068, 0.05)) + 0.4 * layer
    x = np.where(side * x < edge, x + before * (side * edge - x), x)
    below = np.clip((0.0 - z) / 0.08, 0, 1)
    far = 0.086 + 1.2 * layer
    x = np.where(np.abs(x) > far, x + 0.7 * below * (np.sign(x) * far - x), x)
    y = np.where(y > 0.12, y + 0.5 * below * (0.12 - y), y)
    return np.stack([x, y, z], axis=1)


def _strands(roots: Places, offsets: np.ndarray, width: np.ndarray, colour: np.ndarray, random: np.ndarray) -> Strands:
    f = np.float32
    return Strands(roots, offsets.astype(f), width.astype(f), colour.astype(f), random.astype(f))


def _spread(widths: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(widths, (count, len(widths)))


def _comb(style: str, start: np.ndarray, where: np.ndarray, out: np.ndarray, person: Person, random: np.random.Generator) -> np.ndarray:
    """float64 [N, 3]: the way hairs are combed, along the skull."""
    part = np.sign(where[:, 0] - person.parting + 1e-4 * random.normal(size=len(where)))
    behind = np.clip((where[:, 1] - 0.02) / 0.08, 0, 1)
    down = np.array([0.0, 0.0, -1.0])
    back, front = np.array([0.0, 1.0, 0.0]), np.array([0.0, -1.0, 0.0])
    sideways = np.array([1.0, 0.0, 0.0])
    if style in ("back", "bun"):
        way = back[None] * 1.0 + np.array([0, 0, 0.35])
        way = np.where((style == "bun") & (where[:, 2:] < 0), back + [0, 0, 0.9], way)
    elif style == "fringe":
        frontal = around(where)[:, None] < 70
        way = np.where(frontal, front + down * 0.6 + 0.25 * person.parting / 0.03 * sideways, down + 0.2 * front * (1 - behind[:, None]))
    elif style == "side":
        one = np.sign(person.parting) or 1.0
        top = where[:, 2:] > 0.06
        way = np.where(
            top & (part[:, None] * one < 0), -one * sideways + 0.35 * back, part[:, None] * sideways * 0.5 + down * 0.6 + 0.5 * back
        )
    elif style in ("bob", "long", "wavy", "curly"):
        way = part[:, None] * sideways * 0.9 + down * 0.9 + back * (0.2 + 0.35 * np.clip(1 - around(where)[:, None] / 80, 0, 1))
        way = np.where(around(where)[:, None] > 120, down + 0.3 * back, way)
    elif style == "afro":
        way = out * 1.6
    else:
        way = back * 0.35 + down * 0.5 + front * 0.5 * (where[:, 2:] > 0.07) + sideways * 0.35 * person.parting / 0.03
    way = way + random.normal(0, 0.18, way.shape if way.ndim == 2 else (len(start), 3))
    if style != "afro":
        way = way - 0.85 * (way * out).sum(axis=1, keepdims=True) * out
    return way / np.linalg.norm(way, axis=1, keepdims=True)


class _Reach:
    """How far the head reaches from its middle, in every direction."""

    def __init__(self, skin: np.ndarray) -> None:
        self._up, self._round = 24, 48
        far = np.zeros((self._up, self._round))
        rows, columns, radius = self._cells(skin)
        np.maximum.at(far, (rows.astype(int).clip(0, self._up - 1), columns.astype(int) % self._round), radius)
        for _ in range(12):  # cells without vertices take what is beside them
            padded = np.pad(far, ((1, 1), (0, 0)), mode="edge")
            padded = np.pad(padded, ((0, 0), (1, 1)), mode="wrap")
            near = np.max([padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]], axis=0)
            far = np.where(far == 0, near, far)
        self._far = far

    def _cells(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        way = points - CENTRE
        radius = np.linalg.norm(way, axis=-1)
        height = np.arccos(np.clip(way[..., 2] / np.maximum(radius, 1e-9), -1, 1)) / np.pi * self._up
        turn = (np.arctan2(way[..., 0], way[..., 1]) / (2 * np.pi) + 0.5) * self._round
        return height, turn, radius

    def outside(self, points: np.ndarray, lift: np.ndarray, lies: bool = False) -> np.ndarray:
        """The points [N, 3], those that lie less than `lift` [N] above the head moved out to there; hair that `lies` stays near it."""
        height, turn, radius = self._cells(points)
        row, column = height - 0.5, turn - 0.5
        r0, c0 = np.floor(row).astype(int), np.floor(column).astype(int)
        fr, fc = row - r0, column - c0
        rows = np.clip([r0, r0 + 1], 0, self._up - 1)
        columns = np.mod([c0, c0 + 1], self._round)
        far = (self._far[rows[0], columns[0]] * (1 - fc) + self._far[rows[0], columns[1]] * fc) * (1 - fr)
        far += (self._far[rows[1], columns[0]] * (1 - fc) + self._far[rows[1], columns[1]] * fc) * fr
        # below the jaw hair hangs free
        far = np.where(points[..., 2] < -0.06, np.minimum(far, 0.085), far)
        wanted = np.maximum(radius, far + lift)
        if lies:
            hugging = np.clip((points[..., 2] + 0.02) / 0.05, 0, 1)
            wanted -= hugging * np.maximum(wanted - (far + 1.5 * lift + 0.003), 0)
        return CENTRE + (points - CENTRE) * (wanted / np.maximum(radius, 1e-9))[..., None]


def _with_bun(hair: Strands, person: Person, random: np.random.Generator, reach: _Reach) -> Strands:
    """Adds a knot at the back or on top."""
    count = 400
    high = person.length
    way = np.array([0.0, np.cos(high * 1.2), np.sin(high * 1.2)])
    middle = reach.outside((CENTRE + way * 0.08)[None], np.array([0.018]))[0]
    radius = 0.032 * (0.7 + 0.5 * person.thickness)
    turn, tilt = random.uniform(0, 2 * np.pi, (2, count))
    along = np.linspace(0, 1.6, _POINTS)[None] + turn[:, None]
    one = np.stack([np.cos(along), np.sin(along) * np.cos(tilt)[:, None], np.sin(along) * np.sin(tilt)[:, None]], axis=2)
    points = middle + one * radius * random.uniform(0.8, 1, (count, 1, 1))
    pick = random.integers(0, len(hair.offsets), count)
    start = hair.roots[pick].of(person.vertices)
    roots = Places(
        np.concatenate([hair.roots.corners, hair.roots.corners[pick]]), np.concatenate([hair.roots.weights, hair.roots.weights[pick]])
    )
    return _strands(
        roots,
        np.concatenate([hair.offsets, points - start[:, None]]),
        np.concatenate([hair.width, np.full((count, _POINTS), 0.0018)]),
        np.concatenate([hair.colour, hair.colour[pick]]),
        np.concatenate([hair.random, hair.random[pick]]),
    )


# a brow: x and z from the middle of the eyes, metres
_BROW = np.array([(0.0135, 0.0165), (0.022, 0.0205), (0.033, 0.0235), (0.043, 0.0225), (0.0525, 0.0155)])


def grow_brows(head: Head, template: np.ndarray, person: Person) -> Strands:
    """Both brows."""
    random = np.random.default_rng((*person.seed, 3))
    thick, arch, high, density = person.brows
    count = int(420 * density * thick)
    share = random.random(count)
    x = np.interp(share, np.linspace(0, 1, 5), _BROW[:, 0])
    z = np.interp(share, np.linspace(0, 1, 5), _BROW[:, 1]) + high + arch * np.sin(np.pi * share)
    z = z + random.uniform(-1, 1, count) * 0.0034 * thick * np.interp(share, (0, 0.15, 0.6, 1), (0.9, 1.0, 0.7, 0.25))
    side = np.where(np.arange(count) % 2, 1.0, -1.0)
    origins = np.stack([side * x, np.full(count, -0.3), z], axis=1)
    ridge = (np.abs(template[:, 2] - 0.02) < 0.03) & (template[:, 1] < 0.03)
    roots, met = cast(template, head.triangles[ridge[head.triangles].all(axis=1)], origins, np.broadcast_to([0.0, 1.0, 0.0], origins.shape))
    roots, share, side = roots[met], share[met], side[met]
    rise = np.interp(share, (0, 0.35, 0.7, 1), (1.2, 0.35, -0.1, -0.5)) + random.normal(0, 0.15, len(share))
    way = np.stack([side * np.cos(rise), 0.35 * share, np.sin(rise)], axis=1)
    length = random.uniform(0.005, 0.0085, len(share)) * (0.75 + 0.25 * thick)
    along = np.linspace(0, 1, _BEARD_POINTS)
    offsets = way[:, None] * (length[:, None] * along)[..., None] + np.array([0, -0.0008, 0])
    width = np.broadcast_to(0.00048 * np.array([1.0, 1.0, 0.3]), (len(share), 3)) * (0.7 + 0.5 * thick)
    colour = np.minimum(person.hair, 0.25) * random.normal(0.75, 0.12, (len(share), 1, 1)).clip(0.4, 1.1)
    return _strands(roots, offsets, width, np.broadcast_to(colour, (*offsets.shape[:2], 3)), random.random(len(share)))


def beard_density(head: Head, template: np.ndarray, person: Person) -> np.ndarray:
    """float32 [V], 0..1: how thick the beard is."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    skin = (head.part == 0) & (head.masks[0] < 0.4) & (head.masks[1] < 0.4)
    front = y < 0.055
    moustache = _box(z, -0.0655, -0.0505) * _box(x, -0.03, 0.029) * (y < 0)
    chin = _box(z, -0.135, -0.079) * _box(x, -0.03, 0.024 + 0.01 * (z < -0.09)) * (y < 0.03)
    soul = _box(z, -0.09, -0.078) * _box(x, -0.01, 0.008)
    corner = _box(z, -0.09, -0.06) * _box(x, 0.023, 0.033) * (y < 0.015)
    edge = np.interp(y, (-0.02, 0.0, 0.03, 0.055), (-0.075, -0.066, -0.045, -0.01))
    jaw = _box(z, -0.135, edge) * _box(x, 0.015, 0.09)
    parts = {
        "none": 0 * x,
        "stubble": np.maximum.reduce([0.8 * moustache, chin, corner, jaw]),
        "moustache": moustache,
        "goatee": np.maximum.reduce([moustache, chin, corner, soul]),
        "short": np.maximum.reduce([0.9 * moustache, chin, corner, jaw]),
        "full": np.maximum.reduce([moustache, chin, corner, jaw]),
    }
    below = np.clip((z + 0.128) / 0.01, 0, 1)
    return (parts[person.facial_hair] * skin * front * below).astype(np.float32)


def grow_beard(head: Head, template: np.ndarray, person: Person) -> Strands | None:
    """Facial hair but for stubble, which is colour."""
    lengths = {"moustache": 0.008, "goatee": 0.012, "short": 0.008, "full": 0.024}
    if person.facial_hair not in lengths:
        return None
    random = np.random.default_rng((*person.seed, 4))
    count = {"moustache": 350, "goatee": 700, "short": 1400, "full": 1800}[person.facial_hair]
    roots = scatter(random, template, head.triangles, beard_density(head, template, person) ** 2, count)
    start = roots.of(person.vertices)
    out = start - np.array([0, 0.045, -0.07])
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    upper = roots.of(template)[:, 2:] > -0.067
    aside = np.sign(start[:, :1]) * np.array([0.9, 0, 0]) * np.clip(np.abs(start[:, :1]) / 0.012, 0, 1)
    way = out * 0.55 + np.array([0, 0, -0.9]) + np.where(upper, aside, 0) + random.normal(0, 0.22, out.shape)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    length = (
        lengths[person.facial_hair] * random.uniform(0.5, 1.1, len(start)) * np.where(upper[:, 0], 0.45, 1) * (0.7 + 0.6 * person.length)
    )
    along = np.linspace(0, 1, _BEARD_POINTS)
    offsets = way[:, None] * (length[:, None] * along)[..., None] + out[:, None] * 0.001
    width = np.broadcast_to(0.0011 * np.array([1.0, 0.9, 0.3]), (len(start), 3))
    colour = np.broadcast_to(person.beard * random.normal(0.9, 0.2, (len(start), 1, 1)).clip(0.4, 1.6), (*offsets.shape[:2], 3))
    return _strands(roots, offsets, width, colour, random.random(len(start)))


def _box(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """1 inside, 0 outside, soft over 5 mm."""
    return np.clip((values - low) / 0.005 + 0.5, 0, 1) * np.clip((high - values) / 0.005 + 0.5, 0, 1)
