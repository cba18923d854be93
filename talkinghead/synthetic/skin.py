"""Colour of skin: for each vertex what the region gives it, in a texture around the head what is finer than the mesh."""

from dataclasses import replace

import numpy as np

from .head import RIGHT_EYE, SKIN, TONGUE, Head
from .person import Person
from .strands import beard_density, scalp

HEIGHT, WIDTH = 384, 512
"""Of the texture: 0.28 m by the way around the head."""


def vertex_colours(head: Head, template: np.ndarray, person: Person, eyes: np.ndarray) -> np.ndarray:
    """float32 [V, 3], linear RGB.

    Args:
        eyes: float [2, 4], centre and radius of the eyeballs at rest.
    """
    x, y, z = np.abs(template[:, 0]), template[:, 1], template[:, 2]
    colour = np.broadcast_to(person.skin, (len(template), 3)).astype(np.float64)
    red = np.array([1.02, 0.74, 0.74])

    def mix(where: np.ndarray, target: np.ndarray) -> None:
        nonlocal colour
        colour = colour * (1 - where[:, None]) + target * where[:, None]

    cheeks = _blob(x, z, 0.043, -0.035, 0.02) * (y < 0.03)
    nose = _blob(x, z, 0.0, -0.038, 0.012) * (y < -0.02)
    flush = (0.25 + 0.75 * person.blush) * (1 - 0.6 * person.tone)
    mix(0.55 * flush * cheeks, colour * red)
    mix(0.45 * flush * nose, colour * red)
    mix(0.5 * head.masks[2], colour * red)
    under = _blob(x, z, 0.030, -0.0165, 0.009, 1.7) * (y < 0.01)
    mix((0.15 + 0.4 * person.age) * under, colour * (0.76, 0.68, 0.74))
    lids = _blob(x, z, 0.031, 0.008, 0.008, 2.0) * (y < 0.0)
    shadow = np.array([0.55, 0.48, 0.55]) if person.seed[-1] % 2 else np.array([0.62, 0.5, 0.42])
    mix(np.clip(0.12 + 0.75 * person.makeup, 0, 0.8) * lids, colour * shadow)
    beard = beard_density(head, template, person)
    strength = {"none": 0.0, "stubble": 0.42}.get(person.facial_hair, 0.72)
    mix(strength * beard, 0.35 * colour + 0.65 * np.minimum(person.beard, 0.3))
    if not person.female and person.facial_hair == "none" and person.age > 0.25:  # shaved, still seen on light skin
        hint = beard_density(head, template, replace(person, facial_hair="short"))
        mix(0.16 * hint * (1 - person.tone), colour * (0.72, 0.76, 0.82))
    covered = {"bald": 0.35, "shaved": 0.72}.get(person.style, 0.9)
    mix(covered * scalp(head, template, person), 0.8 * person.hair + 0.05 * person.skin)
    lips = np.clip(1.6 * head.masks[0] - 0.3, 0, 1)
    mix(lips, np.broadcast_to(person.lips, colour.shape))
    mouth = np.clip(2 * head.masks[1] - 0.5, 0, 1) * (1 - 0.8 * lips)
    mix(mouth, np.array([0.11, 0.025, 0.022]))
    for centre in eyes:  # lashes, and the wet rim
        gap = np.linalg.norm(person.vertices - centre[:3], axis=1) - centre[3]
        rim = np.clip(1.4 - gap / 0.0016, 0, 1) * (head.part == SKIN)
        upper = np.clip((person.vertices[:, 2] - centre[2]) / 0.004 + 0.4, 0.25, 1)
        front = np.clip((centre[1] - 0.002 - person.vertices[:, 1]) / 0.004, 0, 1)
        mix(np.clip(rim * upper * (0.7 + 0.5 * person.makeup), 0, 0.94) * front, np.array([0.02, 0.014, 0.012]))
        behind = np.clip((person.vertices[:, 1] - centre[1] + 0.004) / 0.004, 0, 1) * (gap < 0.004)
        mix(np.clip(behind, 0, 1), person.skin * (0.5, 0.22, 0.22))
    mix((head.part == TONGUE).astype(float), np.array([0.34, 0.10, 0.10]))
    mix(((head.part > TONGUE) & (head.part <= RIGHT_EYE)).astype(float), np.array([0.7, 0.7, 0.7]))
    return np.clip(colour, 0.001, 1).astype(np.float32)


def texture(person: Person) -> np.ndarray:
    """float32 [HEIGHT, WIDTH, 4]: factors on RGB, and the gloss."""
    random = np.random.default_rng((*person.seed, 5))
    freckles, blotches, oil = person.blemishes
    factors = np.ones((HEIGHT, WIDTH, 3))
    tint = np.array([0.5, 1.0, 1.1])
    for cells, strength in ((12, 0.05 + 0.10 * blotches), (40, 0.04 + 0.05 * blotches), (128, 0.05)):
        factors *= 1 + strength * noise(random, cells)[..., None] * tint
    factors *= 1 + (0.03 + 0.03 * person.age) * random.normal(size=(HEIGHT, WIDTH, 1))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    # the face's middle is at half the width; its skin from the brows to the chin
    spots = [(int(260 * freckles), 0.9, 0.55, 0.5), (int(2 + 10 * blotches), 1.7, 0.9, 0.62), (int(random.integers(0, 5)), 2.4, 1.0, 0.30)]
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
    if person.age > 0.55:
        factors *= 1 - _wrinkles(random, person)[..., None] * np.array([0.8, 1.0, 1.0])
    gloss = (0.05 + 0.16 * oil) * (1 + 0.35 * noise(random, 60)) + 0.05 * person.tone
    return np.concatenate([np.clip(factors, 0.15, 1.6), np.clip(gloss, 0.01, 0.5)[..., None]], axis=2).astype(np.float32)


def _wrinkles(random: np.random.Generator, person: Person) -> np.ndarray:
    """float64 [HEIGHT, WIDTH]: how much darker; across the forehead and around the eyes."""
    z = 0.12 - 0.28 * (np.arange(HEIGHT)[:, None] + 0.5) / HEIGHT
    turn = ((np.arange(WIDTH)[None] + 0.5) / WIDTH - 0.5) * 2 * np.pi
    bend = 0.0015 * noise(random, 16)
    deep = (person.age - 0.55) / 0.45
    lines = np.zeros((HEIGHT, WIDTH))
    for height in np.arange(0.034, 0.06, 0.008) + random.normal(0, 0.001, 4)[: len(np.arange(0.034, 0.06, 0.008))]:
        lines += np.exp(-(((z - height + bend - 0.004 * np.cos(2 * turn)) / 0.0011) ** 2)) * (np.abs(turn) < 0.5)
    feet = np.abs(turn)
    for slope in (-0.02, 0.0, 0.02):
        lines += 0.8 * np.exp(-(((z - slope * (feet - 0.55) * 3 + bend) / 0.0011) ** 2)) * np.clip(1 - np.abs(feet - 0.66) / 0.12, 0, 1)
    return np.clip(0.38 * deep * lines, 0, 0.5)


def noise(random: np.random.Generator, cells: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """float64 [height, width]: smooth noise of unit spread, so many cells around; it repeats sideways."""
    down = max(2, round(cells * height / width))
    grid = random.normal(size=(down + 3, cells))
    row = (np.arange(height) + 0.5) / height * down
    column = (np.arange(width) + 0.5) / width * cells
    r0, c0 = row.astype(int), column.astype(int)
    fr, fc = row - r0, column - c0
    fr, fc = fr * fr * (3 - 2 * fr), fc * fc * (3 - 2 * fc)
    right = (c0 + 1) % cells
    upper = grid[r0][:, c0] * (1 - fc) + grid[r0][:, right] * fc
    lower = grid[r0 + 1][:, c0] * (1 - fc) + grid[r0 + 1][:, right] * fc
    return upper * (1 - fr[:, None]) + lower * fr[:, None]


def _blob(x: np.ndarray, z: np.ndarray, at: float, high: float, size: float, wide: float = 1.0) -> np.ndarray:
    return np.exp(-((x - at) ** 2 / wide**2 + (z - high) ** 2) / (2 * (size / 1.5) ** 2))
