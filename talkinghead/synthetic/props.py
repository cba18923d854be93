"""What the head model lacks: eyeballs, teeth, glasses, and shoulders with clothes. All in the head's axes, at rest."""

from dataclasses import dataclass

import numpy as np

from . import raster
from .head import LEFT_EYE, RIGHT_EYE, SKIN, Head
from .person import Person, linear


@dataclass
class Prop:
    """A piece of mesh.

    Attributes:
        vertices: float32 [V, 3] at rest, in metres.
        triangles: int32 [T, 3].
        material: one for all, or int32 [T].
        place, colour: float32 [V, 3], as in `raster.Mesh`.
        follows: what it moves with: "head", "jaw", "body", "left" or "right" (an eye).
        least: how open its surroundings are taken to be, at least.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    material: int | np.ndarray
    place: np.ndarray
    colour: np.ndarray
    follows: str = "head"
    least: float = 0.0


def grid(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """int32 [T, 3]: two triangles for each cell of vertices in rows; `closed` joins the last column with the first."""
    r, c = np.mgrid[: rows - 1, : columns - (not closed)]
    a, b = r * columns + c, r * columns + (c + 1) % columns
    corners = np.stack([np.stack([a, b, a + columns], -1), np.stack([b, b + columns, a + columns], -1)], axis=2)
    return corners.reshape(-1, 3).astype(np.int32)


def eyeballs(head: Head, vertices: np.ndarray) -> np.ndarray:
    """float64 [2, 4]: centre and radius of the left and right eyeball."""
    found = []
    for part in (LEFT_EYE, RIGHT_EYE):
        eye = vertices[head.part == part].astype(np.float64)
        low, high = eye.min(axis=0), eye.max(axis=0)
        radius = (high[0] - low[0] + high[2] - low[2]) / 4
        found.append([(low[0] + high[0]) / 2, low[1] + radius * 1.01, (low[2] + high[2]) / 2, radius])
    return np.array(found)


def eye(ball: np.ndarray, follows: str) -> Prop:
    """The front of an eyeball."""
    rows, columns = 14, 24
    polar = np.linspace(0, 1.75, rows)[:, None]
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    sphere = np.stack([np.sin(polar) * np.cos(turn), -np.cos(polar) + 0 * turn, np.sin(polar) * np.sin(turn)], axis=2).reshape(-1, 3)
    vertices = ball[:3] + sphere * ball[3]
    return Prop(vertices, grid(rows, columns, closed=True), raster.EYE, sphere, np.ones_like(sphere), follows)


def teeth(head: Head, vertices: np.ndarray, person: Person) -> list[Prop]:
    """The upper and the lower row."""
    random = np.random.default_rng((*person.seed, 6))
    lips = vertices[head.masks[0] > 0.6]
    half = 0.86 * np.abs(lips[:, 0]).max()
    centre = lips[np.abs(lips[:, 0]) < 0.004]
    seam, front = seam_height(head, vertices), centre[:, 1].min()
    white = linear((226, 216, 198)) * random.uniform(0.75, 1.0) * (1 - 0.18 * person.age * random.random() * np.array([0.3, 0.6, 1.4]))
    gum = np.array([0.30, 0.09, 0.09])
    made = []
    for upper in (True, False):
        columns, rows = 61, 5
        x = np.linspace(-1, 1, columns)
        tooth = (x * 5 + 0.5) % 1 if not upper else (x * 4.5) % 1
        gap = np.exp(-((np.minimum(tooth, 1 - tooth) / 0.09) ** 2))
        depth = front + 0.0105 + half * 0.55 * x**2 + (0 if upper else 0.0022)
        down = np.linspace(0, 1, rows)
        # from the gums to the edge
        high = seam + (0.0115 - 0.0125 * down if upper else -0.012 + 0.0085 * down)
        place = np.zeros((rows, columns, 3))
        place[..., 0] = x * half * 0.95
        place[..., 1] = depth + 0.0012 * gap - 0.0008 * np.sin(np.pi * down)[:, None]
        place[..., 2] = high[:, None] + (0.0006 if upper else -0.0006) * gap * down[:, None]
        shade = (1 - 0.45 * gap) * (1 - 0.5 * x**2)
        colour = white * shade[None, :, None] * np.ones((rows, 1, 1))
        colour[down < 0.3] = gum * shade[:, None]
        made.append(_sheet(place, colour, raster.MATTE, "head" if upper else "jaw", least=0.5))
    return made


def seam_height(head: Head, vertices: np.ndarray) -> float:
    """The height at which the lips meet."""
    middle = (head.masks[0] > 0.5) & (np.abs(vertices[:, 0]) < 0.003)
    inside = vertices[middle]
    upper = head.actions[head.action["jawOpen"]][middle][:, 2] > -0.004
    return (
        float((inside[upper][:, 2].min() + inside[~upper][:, 2].max()) / 2)
        if upper.any() and (~upper).any()
        else float(inside[:, 2].mean())
    )


def _sheet(
    place: np.ndarray, colour: np.ndarray, material: int, follows: str, lookup: np.ndarray | None = None, least: float = 0.0
) -> Prop:
    rows, columns = place.shape[:2]
    at = place if lookup is None else lookup
    return Prop(place.reshape(-1, 3), grid(rows, columns), material, at.reshape(-1, 3), colour.reshape(-1, 3), follows, least)


def torso(head: Head, vertices: np.ndarray, person: Person) -> list[Prop]:
    """Neck, shoulders and what is worn."""
    random = np.random.default_rng((*person.seed, 7))
    neck = vertices[(head.part == SKIN) & (vertices[:, 2] < vertices[:, 2].min() + 0.02)]
    middle = (neck.max(axis=0) + neck.min(axis=0)) / 2
    wide, deep = (neck.max(axis=0) - neck.min(axis=0))[:2] / 2
    top = float(np.median(neck[:, 2])) + 0.004
    broad = 0.165 + 0.03 * (1 - person.female) + 0.01 * random.normal()
    broad *= np.interp(person.age, (0, 0.12, 0.3), (0.72, 0.85, 1))
    slope = random.uniform(0.9, 1.15)
    # height below the neck's end, half width, half depth
    shape = np.array(
        [
            (0.012, 0.955 * wide, 0.93 * deep),
            (-0.012, 1.01 * wide, 0.99 * deep),
            (-0.026, 1.14 * wide, 1.04 * deep),
            (-0.038, 1.50 * wide, 1.12 * deep),
            (-0.052, 0.62 * broad, 1.25 * deep),
            (-0.070, 0.84 * broad, 1.42 * deep),
            (-0.098, 1.00 * broad, 1.60 * deep),
            (-0.150, 1.06 * broad, 1.80 * deep),
            (-0.300, 1.02 * broad, 1.90 * deep),
        ]
    )
    shape[:, 0] *= slope
    heights = np.linspace(0, len(shape) - 1, 33)
    profile = np.stack([np.interp(heights, np.arange(len(shape)), shape[:, column]) for column in range(3)], axis=1)
    turn = np.linspace(0, 2 * np.pi, 65)
    ring = np.stack([np.sin(turn), -np.cos(turn)], axis=1)
    place = np.zeros((len(profile), len(turn), 3))
    place[..., 0] = middle[0] + profile[:, 1:2] * np.sign(ring[:, 0]) * np.abs(ring[:, 0]) ** 0.92
    place[..., 1] = middle[1] + profile[:, 2:3] * ring[:, 1] + 0.008 * (profile[:, :1] < -0.03)
    place[..., 2] = top + profile[:, :1]
    front = np.clip(ring[:, 1] * -1, 0, 1)[None]  # 1 in front
    skin = np.broadcast_to(person.skin, place.shape)
    made = [_sheet(place, skin, raster.MATTE, "body", least=0.7)]
    made[0].material = raster.SKIN
    made[0].place = np.broadcast_to([0.0, 0.0, -0.1], made[0].vertices.shape) + made[0].vertices * 0.1
    neckline = {
        "crew": -0.018 - 0.012 * front,
        "v": -0.020 - 0.075 * np.clip(front - 0.55, 0, 1) / 0.45,
        "shirt": -0.012 - 0.040 * np.clip(front - 0.8, 0, 1) / 0.2,
        "turtleneck": 0.004 + 0 * front,
        "hood": -0.014 - 0.020 * front,
        "open": -0.034 - 0.030 * front,
    }[person.garment]
    # the garment starts at its neckline and follows the body below, a little off it
    share = np.linspace(0, 1, 30)[:, None] ** 1.3
    start = np.broadcast_to(neckline, (1, len(turn)))
    level = start + (profile[-1, 0] - start) * share
    cloth = np.zeros((30, len(turn), 3))
    half = [np.interp(level, profile[::-1, 0], profile[::-1, column]) + 0.0035 for column in (1, 2)]
    thick = 0.0025 * (share < 0.02)
    cloth[..., 0] = middle[0] + (half[0] - thick) * np.sign(ring[:, 0]) * np.abs(ring[:, 0]) ** 0.92
    cloth[..., 1] = middle[1] + (half[1] - thick) * ring[:, 1] + np.interp(level, (-0.04, -0.02), (0.008, 0.0))
    cloth[..., 2] = top + level
    folds = 0.0022 * np.sin(turn * 5 + 9 * share + random.uniform(0, 6)) * np.clip(share * 4, 0, 1)
    cloth[..., 1] += folds
    lookup = np.stack([np.broadcast_to(np.sin(turn) * broad, level.shape), level, 0 * level], axis=2)
    colour = np.broadcast_to(person.cloth, cloth.shape).copy()
    if person.garment in ("crew", "v", "turtleneck") and person.seed[-1] % 3 == 0:
        colour[:2] = person.accent
    made.append(_sheet(cloth, colour, raster.CLOTH, "body", lookup))
    if person.garment in ("shirt", "turtleneck", "hood"):
        made.append(_collar(person, top, middle, wide, deep, turn, ring))
    return made


def _collar(person: Person, top: float, middle: np.ndarray, wide: float, deep: float, turn: np.ndarray, ring: np.ndarray) -> Prop:
    """What stands or folds around the neck."""
    out = {"shirt": (0.004, 0.007, 0.016), "turtleneck": (0.004, 0.008, 0.007), "hood": (0.012, 0.03, 0.045)}[person.garment]
    high = {"shirt": (-0.022, 0.004, -0.028), "turtleneck": (-0.03, 0.008, -0.022), "hood": (-0.04, -0.008, -0.05)}[person.garment]
    gap = 0.22 if person.garment == "shirt" else (0.1 if person.garment == "hood" else 0.0)
    open_turn = gap + (2 * np.pi - 2 * gap) * np.linspace(0, 1, len(turn))
    ring = np.stack([np.sin(open_turn), -np.cos(open_turn)], axis=1)
    share = np.linspace(0, 2, 9)[:, None]
    off, level = np.interp(share, (0, 1, 2), out), np.interp(share, (0, 1, 2), high)
    dip = np.clip(-ring[:, 1], 0, 1)[None] ** 3
    place = np.zeros((9, len(turn), 3))
    place[..., 0] = middle[0] + (wide + off) * ring[:, 0]
    place[..., 1] = middle[1] + (deep + off) * ring[:, 1]
    place[..., 2] = top + level - 0.016 * dip * (1 if person.garment != "turtleneck" else 0.3)
    lookup = np.stack(
        [np.broadcast_to(ring[:, 0] * 0.1, place.shape[:2]), np.broadcast_to(level, place.shape[:2]), 0 * place[..., 0]], axis=2
    )
    colour = np.broadcast_to(person.cloth if person.garment != "shirt" or person.seed[-1] % 2 else person.accent, place.shape)
    return _sheet(place, colour, raster.CLOTH, "body", lookup)


def glasses(head: Head, vertices: np.ndarray, person: Person, balls: np.ndarray) -> list[Prop]:
    """Frames without glass; none for those who wear none."""
    if not person.glasses:
        return []
    random = np.random.default_rng((*person.seed, 8))
    size, thick = person.size, random.uniform(0.0011, 0.0022)
    half_width, half_height, power = {1: (0.0225, 0.0215, 2.0), 2: (0.0255, 0.0185, 2.4), 3: (0.0265, 0.0195, 4.0)}[person.glasses]
    half_width, half_height = half_width * size, half_height * size
    bridge = vertices[(np.abs(vertices[:, 0]) < 0.003) & (np.abs(vertices[:, 2]) < 0.02) & (head.part == SKIN)]
    plane = min(balls[:, 1].min() - balls[0, 3] - 0.009, float(bridge[:, 1].min()) + 0.006)
    turn = np.linspace(0, 2 * np.pi, 41)
    made = []
    for side, ball in zip((1.0, -1.0), balls, strict=True):
        x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / power) * half_width
        z = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / power) * half_height
        middle = np.array([side * max(abs(ball[0]) + 0.002, half_width + 0.007), plane, ball[2] - 0.002])
        line = middle + np.stack([x, 0.10 * np.abs(x + side * half_width) * (side * x > -half_width) * 0.4, z], axis=1)
        made.append(_tube(line, thick, person.frame))
        outer = middle + np.array([side * half_width, 0.003, 0.35 * half_height])
        ear = np.array([side * (np.abs(vertices[:, 0])[np.abs(vertices[:, 2]) < 0.02].max() * 0.90), 0.075, 0.004])
        made.append(_tube(np.linspace(outer, ear, 8), thick, person.frame))
    inner = max(abs(balls[0, 0]) + 0.002, half_width + 0.007) - half_width
    x = np.linspace(-inner, inner, 9)
    line = np.stack([x, plane - 0.0005 + 0 * x, balls[0, 2] + 0.004 - 0.003 * (x / inner) ** 2], axis=1)
    made.append(_tube(line, thick * 0.9, person.frame))
    return made


def _tube(line: np.ndarray, radius: float, colour: np.ndarray) -> Prop:
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    one = np.cross(along, [0.13, 1.0, 0.21])
    one /= np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-9)
    other = np.cross(along, one)
    turn = np.linspace(0, 2 * np.pi, 7)
    place = line[:, None] + radius * (np.cos(turn)[:, None] * one[:, None] + np.sin(turn)[:, None] * other[:, None])
    return _sheet(place, np.broadcast_to(colour, place.shape), raster.GLOSS, "head", least=0.8)


def fabric(person: Person) -> np.ndarray:
    """float32 [64, 64, 3]: factors on the colour of the cloth."""
    random = np.random.default_rng((*person.seed, 9))
    rows, columns = np.mgrid[:64, :64]
    other = np.clip(person.accent / np.maximum(person.cloth, 0.02), 0.1, 6)
    count = int(random.choice((4, 8, 16)))
    stripe = (np.sin(2 * np.pi * count * (rows if random.random() < 0.6 else columns) / 64) > random.uniform(-0.2, 0.8)).astype(float)
    across = (np.sin(2 * np.pi * count * columns / 64) > 0.3).astype(float)
    pattern = {
        "plain": np.zeros((64, 64)),
        "stripes": stripe,
        "checks": 0.5 * (np.sin(2 * np.pi * count * rows / 64) > 0.3) + 0.5 * across,
        "knit": np.zeros((64, 64)),
    }[person.pattern]
    factors = 1 - pattern[..., None] + pattern[..., None] * other
    if person.pattern == "knit":
        factors = factors * (0.8 + 0.2 * np.sin(2 * np.pi * columns * 16 / 64) + 0.06 * np.sin(2 * np.pi * rows * 16 / 64))[..., None]
    return (factors * (1 + 0.05 * random.normal(size=(64, 64, 1)))).clip(0.05, 8).astype(np.float32)
