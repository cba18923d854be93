"""Scenes, which differ between the clips of a person: light, background and camera."""

from dataclasses import dataclass

import numpy as np

from ..media.images import resize
from .rasterizer import Light


@dataclass(frozen=True)
class Scene:
    """Light, background and camera of a clip.

    Attributes:
        light: the light on the head.
        distance: distance of the camera from the eyes in metres.
        height: height of the camera above the eyes in metres; the camera looks at them.
        background: float32 [B, B, 3], linear RGB.
        exposure: exposure factor of the camera.
        warmth: float32 [3], colour factors of the camera.
        contrast: slope of the tone curve, about 1.
        noise: standard deviation of the pixel noise, 0..1.
        blur: blur of the lens in pixels of an image of 128 pixels.
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
"""Side of the background in pixels; it is blurred, so that this suffices."""


def sample_scene(random: np.random.Generator) -> Scene:
    """Return a random scene."""
    key = _sample_key_direction(random)
    side = -np.sign(key[0]) or 1.0
    fill = _normalize(
        np.array([side * random.uniform(0.3, 1), random.uniform(-0.5, 0.2), -random.uniform(0.5, 1)])
    )
    back = _normalize(np.array([random.uniform(-1, 1), random.uniform(-0.8, -0.1), random.uniform(0.3, 1)]))
    key_strength = random.uniform(0.75, 1.15)
    fill_strength = key_strength * random.uniform(0.05, 0.45)
    back_strength = random.choice((0.0, 0.3, 0.9)) * random.random()
    strength = np.array([key_strength, fill_strength, back_strength])
    colours = np.stack([_sample_tint(random, spread) for spread in (0.18, 0.25, 0.5)])
    ambient = random.uniform(0.16, 0.5)
    light = Light(
        towards=np.stack([key, fill, back]).astype(np.float32),
        colour=(strength[:, None] * colours).astype(np.float32),
        sky=(ambient * _sample_tint(random, 0.15)).astype(np.float32),
        ground=(ambient * random.uniform(0.35, 0.9) * _sample_tint(random, 0.2)).astype(np.float32),
        wrap=float(random.uniform(0.0, 0.35)),
    )
    return Scene(
        light=light,
        distance=float(random.uniform(0.55, 1.6)),
        height=float(random.normal(0, 0.05)),
        background=_sample_background(random),
        exposure=float(random.uniform(0.85, 1.2)),
        warmth=_sample_tint(random, 0.06).astype(np.float32),
        contrast=float(random.uniform(0.92, 1.12)),
        noise=float(random.choice((0.004, 0.008, 0.016))),
        blur=float(random.choice((0.3, 0.45, 0.7), p=(0.4, 0.4, 0.2))),
    )


def _sample_key_direction(random: np.random.Generator) -> np.ndarray:
    """Return a random direction to the key light: in front of the face, mostly above it."""
    turn, rise = np.radians(random.normal(0, 42)), np.radians(random.uniform(0, 55))
    turn = np.clip(turn, -1.4, 1.4)
    return _normalize(np.array([np.sin(turn) * np.cos(rise), -np.sin(rise), -np.cos(turn) * np.cos(rise)]))


def _normalize(vector: np.ndarray) -> np.ndarray:
    """Return the unit vector of a direction."""
    return vector / np.linalg.norm(vector)


def _sample_tint(random: np.random.Generator, spread: float) -> np.ndarray:
    """Return random RGB factors of mean 1: warm to cold, slightly green or pink."""
    warm, pink = random.normal(0, spread), random.normal(0, spread / 4)
    tint = np.exp(np.array([warm, -pink, -warm]))
    return tint / tint.mean()


def _sample_background(random: np.random.Generator) -> np.ndarray:
    """Return a random background, float32 [B, B, 3]: plain, gradient, texture, or a room out of focus."""
    rows, columns = np.mgrid[:BACKGROUND, :BACKGROUND] / BACKGROUND - 0.5
    base_colour = _sample_paint(random)
    kind = random.choice(("plain", "gradient", "texture", "room"), p=(0.15, 0.2, 0.2, 0.45))
    image = np.broadcast_to(base_colour, (BACKGROUND, BACKGROUND, 3)).copy()
    if kind == "plain":
        image *= (1 - 0.5 * random.random() * (rows**2 + columns**2))[..., None]
    elif kind == "gradient":
        turn = random.uniform(0, 2 * np.pi)
        share = np.clip(rows * np.sin(turn) + columns * np.cos(turn) + 0.5, 0, 1)[..., None]
        image = image * (1 - share) + _sample_paint(random) * share
    elif kind == "texture":
        second_colour = _sample_paint(random)
        for cells in (3, 8, 22):
            small = random.random((cells, cells))
            share = _enlarge(small)[..., None]
            image = image * (1 - 0.35 * share) + second_colour * 0.35 * share
    else:
        for _ in range(int(random.integers(5, 16))):
            top, left = random.integers(-20, BACKGROUND, 2)
            height, width = random.integers(5, 80, 2)
            paint = _sample_paint(random) * (random.uniform(1.5, 4) if random.random() < 0.15 else 1.0)
            image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = paint
        image = _blur(image, random.uniform(1.0, 7.0))
    return np.clip(image, 0, 2.5).astype(np.float32)


def _sample_paint(random: np.random.Generator) -> np.ndarray:
    """Return a random wall colour, linear RGB [3]."""
    grey = random.uniform(0.02, 0.75) ** 1.4
    colour = random.random(3) ** 1.5
    share = random.beta(1, 2.2)
    return grey * (1 - share) + share * colour * (0.2 + grey)


def _enlarge(small: np.ndarray) -> np.ndarray:
    """Return a grey image [h, w], 0..1, resized to the background."""
    image = resize(np.repeat((small * 255).astype(np.uint8)[..., None], 3, axis=2), BACKGROUND)
    return image[..., 0] / 255.0


def _blur(image: np.ndarray, spread: float) -> np.ndarray:
    """Return an image [H, W, 3] filtered with a Gaussian of a standard deviation in pixels."""
    reach = int(3 * spread) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (reach, reach)
        padded = np.pad(image, pad, mode="edge")
        image = sum(
            weight * np.take(padded, np.arange(image.shape[axis]) + offset, axis=axis)
            for offset, weight in enumerate(kernel)
        )
    return image
