"""Colour of skin: vertex colours for regions of the face, and a texture around the head for finer detail."""

from dataclasses import replace

import numpy as np

from .appearance import Appearance
from .facial_hair import beard_density
from .hair import hair_density
from .head import RIGHT_EYE, SKIN, TONGUE, Head

HEIGHT, WIDTH = 384, 512
"""Size of the texture, which covers 0.28 m by the circumference of the head."""


def vertex_colours(head: Head, template: np.ndarray, appearance: Appearance, eyes: np.ndarray) -> np.ndarray:
    """Return the colours of the vertices, linear RGB float32 [V, 3].

    Args:
        head: the head model.
        template: float32 [V, 3], the face on which regions are defined.
        appearance: the person.
        eyes: float [2, 4], centre and radius of the eyeballs at rest.
    """
    colour = np.broadcast_to(appearance.skin, (len(template), 3)).astype(np.float64)
    colour = _colour_regions(colour, head, template, appearance)
    colour = _colour_hair_roots(colour, head, template, appearance)
    lips = np.clip(1.6 * head.masks[0] - 0.3, 0, 1)
    colour = _mix(colour, lips, np.broadcast_to(appearance.lips, colour.shape))
    mouth = np.clip(2 * head.masks[1] - 0.5, 0, 1) * (1 - 0.8 * lips)
    colour = _mix(colour, mouth, np.array([0.11, 0.025, 0.022]))
    for eye in eyes:
        colour = _colour_eye_rim(colour, head, appearance, eye)
    colour = _mix(colour, (head.part == TONGUE).astype(float), np.array([0.34, 0.10, 0.10]))
    is_eye = (head.part > TONGUE) & (head.part <= RIGHT_EYE)
    colour = _mix(colour, is_eye.astype(float), np.array([0.7, 0.7, 0.7]))
    return np.clip(colour, 0.001, 1).astype(np.float32)


def _mix(colour: np.ndarray, share: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return colours [V, 3] blended with a target by a share [V]."""
    return colour * (1 - share[:, None]) + target * share[:, None]


def _colour_regions(
    colour: np.ndarray, head: Head, template: np.ndarray, appearance: Appearance
) -> np.ndarray:
    """Return colours [V, 3] with redder cheeks, nose and ears, shadows under the eyes, and makeup."""
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    red = np.array([1.02, 0.74, 0.74])
    cheeks = _blob(x, z, (0.043, -0.035), size=0.02) * (y < 0.03)
    nose = _blob(x, z, (0.0, -0.038), size=0.012) * (y < -0.02)
    flush = (0.25 + 0.75 * appearance.blush) * (1 - 0.6 * appearance.tone)
    colour = _mix(colour, 0.55 * flush * cheeks, colour * red)
    colour = _mix(colour, 0.45 * flush * nose, colour * red)
    colour = _mix(colour, 0.5 * head.masks[2], colour * red)
    below_eyes = _blob(x, z, (0.030, -0.0165), size=0.009, aspect=1.7) * (y < 0.01)
    colour = _mix(colour, (0.15 + 0.4 * appearance.age) * below_eyes, colour * (0.76, 0.68, 0.74))
    lids = _blob(x, z, (0.031, 0.008), size=0.008, aspect=2.0) * (y < 0.0)
    shadow = np.array([0.55, 0.48, 0.55]) if appearance.seed[-1] % 2 else np.array([0.62, 0.5, 0.42])
    return _mix(colour, np.clip(0.12 + 0.75 * appearance.makeup, 0, 0.8) * lids, colour * shadow)


def _colour_hair_roots(
    colour: np.ndarray, head: Head, template: np.ndarray, appearance: Appearance
) -> np.ndarray:
    """Return colours [V, 3] darkened where a beard or hair grows."""
    beard = beard_density(head, template, appearance)
    strength = {"none": 0.0, "stubble": 0.42}.get(appearance.facial_hair, 0.72)
    colour = _mix(colour, strength * beard, 0.35 * colour + 0.65 * np.minimum(appearance.beard, 0.3))
    if not appearance.female and appearance.facial_hair == "none" and appearance.age > 0.25:
        # a shaved beard is still visible on light skin
        hint = beard_density(head, template, replace(appearance, facial_hair="short"))
        colour = _mix(colour, 0.16 * hint * (1 - appearance.tone), colour * (0.72, 0.76, 0.82))
    covered = {"bald": 0.35, "shaved": 0.72}.get(appearance.style, 0.9)
    hair_colour = 0.8 * appearance.hair + 0.05 * appearance.skin
    return _mix(colour, covered * hair_density(head, template, appearance), hair_colour)


def _colour_eye_rim(colour: np.ndarray, head: Head, appearance: Appearance, eye: np.ndarray) -> np.ndarray:
    """Return colours [V, 3] with the lashes and the wet rim of an eye [4]: centre and radius."""
    gap = np.linalg.norm(appearance.vertices - eye[:3], axis=1) - eye[3]
    rim = np.clip(1.4 - gap / 0.0016, 0, 1) * (head.part == SKIN)
    upper = np.clip((appearance.vertices[:, 2] - eye[2]) / 0.004 + 0.4, 0.25, 1)
    front = np.clip((eye[1] - 0.002 - appearance.vertices[:, 1]) / 0.004, 0, 1)
    lashes = np.clip(rim * upper * (0.7 + 0.5 * appearance.makeup), 0, 0.94) * front
    colour = _mix(colour, lashes, np.array([0.02, 0.014, 0.012]))
    behind = np.clip((appearance.vertices[:, 1] - eye[1] + 0.004) / 0.004, 0, 1) * (gap < 0.004)
    return _mix(colour, np.clip(behind, 0, 1), appearance.skin * (0.5, 0.22, 0.22))


def skin_texture(appearance: Appearance) -> np.ndarray:
    """Return the skin texture, float32 [HEIGHT, WIDTH, 4]: factors of RGB, and the gloss."""
    random = np.random.default_rng((*appearance.seed, 5))
    freckles, blotches, oil = appearance.blemishes
    factors = np.ones((HEIGHT, WIDTH, 3))
    tint = np.array([0.5, 1.0, 1.1])
    for cells, strength in ((12, 0.05 + 0.10 * blotches), (40, 0.04 + 0.05 * blotches), (128, 0.05)):
        factors *= 1 + strength * _value_noise(random, cells)[..., None] * tint
    factors *= 1 + (0.03 + 0.03 * appearance.age) * random.normal(size=(HEIGHT, WIDTH, 1))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    # The middle of the face is at half the width; the rows cover it from the brows to the chin.
    spots = [
        (int(260 * freckles), 0.9, 0.55, 0.5),
        (int(2 + 10 * blotches), 1.7, 0.9, 0.62),
        (int(random.integers(0, 5)), 2.4, 1.0, 0.30),
    ]
    for count, size, spread, dark in spots:
        for _ in range(count):
            row = random.normal(HEIGHT * 0.5, HEIGHT * 0.14)
            column = random.normal(WIDTH * 0.5, WIDTH * 0.10 * (1 + spread))
            radius = size * random.uniform(0.7, 1.5)
            r0, c0, reach = int(row), int(column), int(3 * radius) + 2
            window = slice(max(r0 - reach, 0), r0 + reach), slice(max(c0 - reach, 0), c0 + reach)
            bump = np.exp(-((rows[window] - row) ** 2 + (columns[window] - column) ** 2) / (2 * radius**2))
            kind = np.array([0.75, 1.0, 1.05]) if size != 1.7 else np.array([0.15, 1.0, 0.9])
            factors[window] *= 1 - (1 - dark) * random.uniform(0.4, 1) * bump[..., None] * kind
    if appearance.age > 0.55:
        factors *= 1 - _wrinkle_darkness(random, appearance)[..., None] * np.array([0.8, 1.0, 1.0])
    gloss = (0.05 + 0.16 * oil) * (1 + 0.35 * _value_noise(random, 60)) + 0.05 * appearance.tone
    return np.concatenate([np.clip(factors, 0.15, 1.6), np.clip(gloss, 0.01, 0.5)[..., None]], axis=2).astype(
        np.float32
    )


def _wrinkle_darkness(random: np.random.Generator, appearance: Appearance) -> np.ndarray:
    """Return how much wrinkles darken the forehead and the corners of the eyes, float64 [HEIGHT, WIDTH]."""
    z = 0.12 - 0.28 * (np.arange(HEIGHT)[:, None] + 0.5) / HEIGHT
    turn = ((np.arange(WIDTH)[None] + 0.5) / WIDTH - 0.5) * 2 * np.pi
    bend = 0.0015 * _value_noise(random, 16)
    deep = (appearance.age - 0.55) / 0.45
    lines = np.zeros((HEIGHT, WIDTH))
    heights = np.arange(0.034, 0.06, 0.008)
    for height in heights + random.normal(0, 0.001, 4)[: len(heights)]:
        distance = (z - height + bend - 0.004 * np.cos(2 * turn)) / 0.0011
        lines += np.exp(-(distance**2)) * (np.abs(turn) < 0.5)
    side = np.abs(turn)
    for slope in (-0.02, 0.0, 0.02):
        lines += (
            0.8
            * np.exp(-(((z - slope * (side - 0.55) * 3 + bend) / 0.0011) ** 2))
            * np.clip(1 - np.abs(side - 0.66) / 0.12, 0, 1)
        )
    return np.clip(0.38 * deep * lines, 0, 0.5)


def _value_noise(random: np.random.Generator, cells: int) -> np.ndarray:
    """Return smooth noise of unit variance, float64 [HEIGHT, WIDTH], that repeats sideways.

    Args:
        random: the random number generator.
        cells: number of random values around the head.
    """
    down = max(2, round(cells * HEIGHT / WIDTH))
    grid = random.normal(size=(down + 3, cells))
    row = (np.arange(HEIGHT) + 0.5) / HEIGHT * down
    column = (np.arange(WIDTH) + 0.5) / WIDTH * cells
    r0, c0 = row.astype(int), column.astype(int)
    fr, fc = row - r0, column - c0
    fr, fc = fr * fr * (3 - 2 * fr), fc * fc * (3 - 2 * fc)
    right = (c0 + 1) % cells
    upper = grid[r0][:, c0] * (1 - fc) + grid[r0][:, right] * fc
    lower = grid[r0 + 1][:, c0] * (1 - fc) + grid[r0 + 1][:, right] * fc
    return upper * (1 - fr[:, None]) + lower * fr[:, None]


def _blob(
    x: np.ndarray, z: np.ndarray, centre: tuple[float, float], *, size: float, aspect: float = 1.0
) -> np.ndarray:
    """Return a Gaussian around a centre, 1 at its peak, `aspect` times as wide as high."""
    distance = (x - centre[0]) ** 2 / aspect**2 + (z - centre[1]) ** 2
    return np.exp(-distance / (2 * (size / 1.5) ** 2))
