"""Rendering of frames and landmarks of a face rig in a scene, in the crop that a real video would get."""

from collections.abc import Iterator

import numpy as np

from ..clip import IRIS_POINTS
from ..data.crop import Crop
from ..media.images import resize
from . import rasterizer
from .face_rig import FaceRig
from .landmarks import LandmarkLocator
from .motion import Motion
from .scene import Scene

FRAME = 640
"""Side of the camera frame in pixels."""
_VISIBLE_WIDTH_M = 0.66  # of the frame at the distance of the head
_MIN_SAMPLES = 256  # per row of an image, so that small images are antialiased


def camera_intrinsics(scene: Scene) -> tuple[float, tuple[float, float]]:
    """Return the focal length and the principal point of the camera frame in pixels."""
    return FRAME * scene.distance / _VISIBLE_WIDTH_M, (FRAME / 2, FRAME * 0.46)


def project_landmarks(rig: FaceRig, motion: Motion, scene: Scene, locator: LandmarkLocator) -> np.ndarray:
    """Return the landmarks in pixels of the camera frame, float32 [N, 68, 2]."""
    focal, centre = camera_intrinsics(scene)
    landmarks = []
    for frame in range(len(motion)):
        skin = rig.pose_skin(motion, frame, scene.distance, scene.height)
        landmarks.append(locator.project(skin, focal, centre))
    return np.stack(landmarks).astype(np.float32)


def project_irises(rig: FaceRig, motion: Motion, scene: Scene) -> np.ndarray:
    """Return the irises in pixels of the camera frame, float32 [N, 2, 5, 2], as in `talkinghead.Track`.

    They are exact for any gaze and pose, behind lids and behind the face too.
    """
    focal, centre = camera_intrinsics(scene)
    irises = np.zeros((len(motion), 2, IRIS_POINTS, 2), np.float32)
    for frame in range(len(motion)):
        points = rig.pose_irises(motion, frame, scene.distance, scene.height)
        irises[frame] = points[..., :2] / points[..., 2:] * focal + np.array(centre)
    return irises


def render_frames(
    rig: FaceRig, motion: Motion, scene: Scene, *, crop: Crop, size: int, random: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield the frames, uint8 [size, size, 3] each.

    Args:
        rig: the face.
        motion: its motion.
        scene: light, camera and background.
        crop: the square of the camera frame to render.
        size: side of the frames in pixels.
        random: the random number generator of the camera noise.
    """
    samples_per_pixel = -(-_MIN_SAMPLES // size)
    side = size * samples_per_pixel
    focal, centre = camera_intrinsics(scene)
    scale = side / crop.side
    crop_centre = ((centre[0] - crop.x) * scale, (centre[1] - crop.y) * scale)
    background = _crop_background(scene, crop, size)
    for frame in range(len(motion)):
        pose = rig.pose(motion, frame, scene.distance, scene.height)
        mesh, position = rig.build_mesh(pose, focal * scale, crop_centre)
        shadow = rig.render_shadow(pose, scene.light.towards[0])
        colour, is_covered = rasterizer.render(
            mesh,
            position,
            light=scene.light,
            shadow=shadow,
            textures=rig.textures,
            side=side,
        )
        cells = (size, samples_per_pixel, size, samples_per_pixel)
        coverage = is_covered.reshape(cells).mean(axis=(1, 3), dtype=np.float32)
        image = colour.reshape(*cells, 3).mean(axis=(1, 3)) + background * (1 - coverage)[..., None]
        yield _apply_camera(image, scene, size, random)


def _crop_background(scene: Scene, crop: Crop, size: int) -> np.ndarray:
    """Return the part of the background within the crop, linear RGB float32 [size, size, 3]."""
    tones = (np.clip(scene.background, 0, 2.55) / 2.55) ** 0.5
    side = scene.background.shape[0]
    scale = side / (2 * FRAME)  # the background is twice as wide as the frame
    x, y, width = (crop.x + FRAME / 2) * scale, (crop.y + FRAME / 2) * scale, crop.side * scale
    x, y = np.clip([x, y], 0, max(side - width, 0))
    width = min(width, side)
    box = (float(x), float(y), float(x + width), float(y + width))
    visible = resize((tones * 255).astype(np.uint8), size, box)
    return ((visible / 255.0) ** 2 * 2.55).astype(np.float32)


def _apply_camera(image: np.ndarray, scene: Scene, size: int, random: np.random.Generator) -> np.ndarray:
    """Return the uint8 image that a camera takes of linear RGB [size, size, 3]."""
    image = _blur(image, scene.blur * size / 128) * (scene.exposure * scene.warmth)
    # compress highlights
    image = np.where(image < 0.6, image, 0.6 + 0.4 * (1 - np.exp(-(np.maximum(image, 0.6) - 0.6) / 0.4)))
    tones = np.where(image <= 0.0031308, 12.92 * image, 1.055 * np.maximum(image, 1e-6) ** (1 / 2.4) - 0.055)
    tones = 0.45 + (tones - 0.45) * scene.contrast + random.normal(0, scene.noise, tones.shape)
    return (np.clip(tones, 0, 1) * 255 + 0.5).astype(np.uint8)


def _blur(image: np.ndarray, spread: float) -> np.ndarray:
    """Return an image [H, W, 3] blurred with a 3x3 Gaussian of a standard deviation in pixels."""
    if spread < 0.2:  # nothing would be visible
        return image
    side = np.exp(-0.5 / spread**2)
    weights = np.array([side, 1.0, side]) / (1 + 2 * side)
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (1, 1)
        padded = np.pad(image, pad, mode="edge")
        length = image.shape[axis]
        image = sum(
            weights[step] * np.take(padded, np.arange(step, step + length), axis=axis) for step in range(3)
        )
    return image.astype(np.float32)
