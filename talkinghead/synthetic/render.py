"""An actor in a scene: frames, drawn in the crop that a real video of them would get."""

from collections.abc import Iterator

import numpy as np

from ..data.crop import Crop, crop_around
from ..media.pictures import resize
from . import raster
from .actor import Actor
from .landmarks import Landmarks
from .motion import Motion
from .scene import Scene

FRAME = 640
"""Side in pixels of the frame that the camera would take."""
_SPAN = 0.66  # metres that the frame shows at the head's distance
_SAMPLES = 256  # in a row of a picture, at least: several for each pixel


def camera(scene: Scene) -> tuple[float, tuple[float, float]]:
    """Focal length and middle of the camera's frame, in pixels."""
    return FRAME * scene.distance / _SPAN, (FRAME / 2, FRAME * 0.46)


def track(actor: Actor, motion: Motion, scene: Scene, landmarks: Landmarks) -> np.ndarray:
    """float32 [N, 68, 2]: the landmarks in pixels of the camera's frame."""
    focal, centre = camera(scene)
    found = []
    for frame in range(len(motion)):
        found.append(landmarks.of(actor.skin_in(motion, frame, scene.distance, scene.height), focal, centre))
    return np.stack(found).astype(np.float32)


def pictures(actor: Actor, motion: Motion, scene: Scene, crop: Crop, size: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames as uint8 [size, size, 3], one by one.

    Args:
        crop: the square of the camera's frame.
        random: of the camera's noise.
    """
    times = -(-_SAMPLES // size)
    side = size * times
    focal, centre = camera(scene)
    scale = side / crop.side
    middle = ((centre[0] - crop.x) * scale, (centre[1] - crop.y) * scale)
    behind = _behind(scene, crop, size)
    for frame in range(len(motion)):
        pose = actor.pose(motion, frame, scene.distance, scene.height)
        mesh, position = actor.mesh(pose, focal * scale, middle)
        shadow = actor.shadow(pose, scene.light.towards[0])
        colour, drawn = raster.draw(mesh, position, scene.light, shadow, actor.skin, actor.cloth, actor.eye, side)
        cells = (size, times, size, times)
        whole = (
            colour.reshape(*cells, 3).mean(axis=(1, 3)) + behind * (1 - drawn.reshape(cells).mean(axis=(1, 3), dtype=np.float32))[..., None]
        )
        yield _developed(whole, scene, size, random)


def _behind(scene: Scene, crop: Crop, size: int) -> np.ndarray:
    """float32 [size, size, 3]: the part of the background that the crop shows; it stays where it is."""
    tones = (np.clip(scene.background, 0, 2.55) / 2.55) ** 0.5
    side = scene.background.shape[0]
    scale = side / (2 * FRAME)  # the background is twice as wide as the frame
    x, y, width = (crop.x + FRAME / 2) * scale, (crop.y + FRAME / 2) * scale, crop.side * scale
    x, y = np.clip([x, y], 0, max(side - width, 0))
    width = min(width, side)
    seen = resize((tones * 255).astype(np.uint8), size, (float(x), float(y), float(x + width), float(y + width)))
    return ((seen / 255.0) ** 2 * 2.55).astype(np.float32)


def _developed(picture: np.ndarray, scene: Scene, size: int, random: np.random.Generator) -> np.ndarray:
    """Linear RGB [size, size, 3] as a camera gives it: uint8."""
    picture = _blurred(picture, scene.blur * size / 128) * (scene.exposure * scene.warmth)
    # bright parts are rolled off
    picture = np.where(picture < 0.6, picture, 0.6 + 0.4 * (1 - np.exp(-(np.maximum(picture, 0.6) - 0.6) / 0.4)))
    tones = np.where(picture <= 0.0031308, 12.92 * picture, 1.055 * np.maximum(picture, 1e-6) ** (1 / 2.4) - 0.055)
    tones = 0.45 + (tones - 0.45) * scene.contrast + random.normal(0, scene.noise, tones.shape)
    return (np.clip(tones, 0, 1) * 255 + 0.5).astype(np.uint8)


def _blurred(picture: np.ndarray, spread: float) -> np.ndarray:
    if spread < 0.2:
        return picture
    side = np.exp(-0.5 / spread**2)
    weights = np.array([side, 1.0, side]) / (1 + 2 * side)
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (1, 1)
        padded = np.pad(picture, pad, mode="edge")
        length = picture.shape[axis]
        picture = sum(weights[step] * np.take(padded, np.arange(step, step + length), axis=axis) for step in range(3))
    return picture.astype(np.float32)


def frame_of(landmarks: np.ndarray) -> Crop:
    """The crop of a clip with these landmarks."""
    return crop_around(landmarks)
