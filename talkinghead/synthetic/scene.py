"""What differs between the clips of a person: light, camera, what is behind, and how the picture is taken."""

from dataclasses import dataclass

import numpy as np

from ..media.pictures import resize
from .raster import Light


@dataclass(frozen=True)
class Scene:
    """Where a clip is taken.

    Attributes:
        light: on the head.
        distance: of the camera from the eyes, metres.
        height: of the camera above the eyes, metres; it looks at them.
        background: float32 [B, B, 3], linear RGB.
        exposure, warmth: float and float32 [3]: factors of the camera.
        contrast: of its curve, about 1.
        noise: standard deviation of a pixel, 0..1.
        blur: of the lens, in pixels of a picture of 128 pixels.
    """

    light: Light
    distance: float
    height: float
    background: np.ndarray
    exposure: float
    warmth: np.ndarray
    contrast: float
    noise: float
    blur: float


BACKGROUND = 96
"""Side of the background, which is blurred."""


def draw_scene(random: np.random.Generator) -> Scene:
    """A scene."""
    key = _lamp(random, 1.0)
    side = -np.sign(key[0]) or 1.0
    fill = _unit(np.array([side * random.uniform(0.3, 1), random.uniform(-0.5, 0.2), -random.uniform(0.5, 1)]))
    back = _unit(np.array([random.uniform(-1, 1), random.uniform(-0.8, -0.1), random.uniform(0.3, 1)]))
    bright = random.uniform(0.75, 1.15)
    strength = np.array([bright, bright * random.uniform(0.05, 0.45), random.choice((0.0, 0.3, 0.9)) * random.random()])
    colours = np.stack([_tint(random, each) for each in (0.18, 0.25, 0.5)])
    around = random.uniform(0.16, 0.5)
    light = Light(
        np.stack([key, fill, back]).astype(np.float32),
        (strength[:, None] * colours).astype(np.float32),
        (around * _tint(random, 0.15)).astype(np.float32),
        (around * random.uniform(0.35, 0.9) * _tint(random, 0.2)).astype(np.float32),
        float(random.uniform(0.0, 0.35)),
    )
    return Scene(
        light=light,
        distance=float(random.uniform(0.55, 1.6)),
        height=float(random.normal(0, 0.05)),
        background=_background(random),
        exposure=float(random.uniform(0.85, 1.2)),
        warmth=_tint(random, 0.06).astype(np.float32),
        contrast=float(random.uniform(0.92, 1.12)),
        noise=float(random.choice((0.004, 0.008, 0.016))),
        blur=float(random.choice((0.3, 0.45, 0.7), p=(0.4, 0.4, 0.2))),
    )


def _lamp(random: np.random.Generator, strength: float) -> np.ndarray:
    """A direction from the front, mostly from above."""
    turn, rise = np.radians(random.normal(0, 42)), np.radians(random.uniform(0, 55))
    turn = np.clip(turn, -1.4, 1.4)
    return _unit(np.array([np.sin(turn) * np.cos(rise), -np.sin(rise), -np.cos(turn) * np.cos(rise)]))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _tint(random: np.random.Generator, spread: float) -> np.ndarray:
    """Warm to cold, and a little green or pink; its mean is 1."""
    warm, pink = random.normal(0, spread), random.normal(0, spread / 4)
    tint = np.exp(np.array([warm, -pink, -warm]))
    return tint / tint.mean()


def _background(random: np.random.Generator) -> np.ndarray:
    """float32 [B, B, 3]: plain, a gradient, texture, or a room out of focus."""
    rows, columns = np.mgrid[:BACKGROUND, :BACKGROUND] / BACKGROUND - 0.5
    base = _paint(random)
    kind = random.choice(("plain", "gradient", "texture", "room"), p=(0.15, 0.2, 0.2, 0.45))
    picture = np.broadcast_to(base, (BACKGROUND, BACKGROUND, 3)).copy()
    if kind == "plain":
        picture *= (1 - 0.5 * random.random() * (rows**2 + columns**2))[..., None]
    elif kind == "gradient":
        turn = random.uniform(0, 2 * np.pi)
        share = np.clip(rows * np.sin(turn) + columns * np.cos(turn) + 0.5, 0, 1)[..., None]
        picture = picture * (1 - share) + _paint(random) * share
    elif kind == "texture":
        other = _paint(random)
        for cells in (3, 8, 22):
            small = random.random((cells, cells))
            share = _enlarged(small)[..., None]
            picture = picture * (1 - 0.35 * share) + other * 0.35 * share
    else:
        for _ in range(int(random.integers(5, 16))):
            top, left = random.integers(-20, BACKGROUND, 2)
            tall, wide = random.integers(5, 80, 2)
            paint = _paint(random) * (random.uniform(1.5, 4) if random.random() < 0.15 else 1.0)
            picture[max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)] = paint
        picture = _blurred(picture, random.uniform(1.0, 7.0))
    return np.clip(picture, 0, 2.5).astype(np.float32)


def _paint(random: np.random.Generator) -> np.ndarray:
    grey = random.uniform(0.02, 0.75) ** 1.4
    colour = random.random(3) ** 1.5
    share = random.beta(1, 2.2)
    return grey * (1 - share) + share * colour * (0.2 + grey)


def _enlarged(small: np.ndarray) -> np.ndarray:
    picture = resize(np.repeat((small * 255).astype(np.uint8)[..., None], 3, axis=2), BACKGROUND)
    return picture[..., 0] / 255.0


def _blurred(picture: np.ndarray, spread: float) -> np.ndarray:
    reach = int(3 * spread) + 1
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    bell /= bell.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        padded = np.pad(picture, pad, mode="edge")
        picture = sum(weight * np.take(padded, np.arange(picture.shape[axis]) + offset, axis=axis) for offset, weight in enumerate(bell))
    return picture
