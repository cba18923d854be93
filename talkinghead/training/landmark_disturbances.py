"""Disturbances of the pictures on which the landmark network learns; they move no point."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..landmarks.geometry import centre_and_scale
from ..landmarks.network import SIZE
from ..media.images import decode_jpeg, encode_jpeg

_MIN_PIXEL_SHARE = 0.19  # of a crop's side: 24 of its 128 pixels are left


def disturb(pictures: Tensor, points: Tensor, random: np.random.Generator) -> Tensor:
    """Return pictures with glasses, things before the face, other light, blur, noise and JPEG.

    Args:
        pictures: float32 [B, 3, 128, 128], 0..1.
        points: float32 [B, 78, 2], fractions of the crop.
        random: the random number generator.
    """
    rows = []
    for picture, face in zip(pictures, points.numpy(), strict=True):
        if random.random() < 0.12:
            picture = _add_glasses(picture, face, random)
        if random.random() < 0.4:
            texture = pictures[int(random.integers(len(pictures)))]
            picture = add_occluder(picture, face, texture, random)
        picture = _change_light(picture, random)
        if random.random() < 0.12:
            picture = _cut_off(picture, random)
        if random.random() < 0.45:
            picture = _lower_resolution(picture, random)
        if random.random() < 0.3:
            picture = picture + torch.from_numpy(
                random.normal(0, random.uniform(0.005, 0.07), picture.shape).astype(np.float32)
            )
        picture = picture.clamp(0, 1)
        if random.random() < 0.25:
            picture = _compress(picture, int(random.integers(12, 70)))
        rows.append(picture)
    return torch.stack(rows)


def disturb_scene(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Return a scene float32 [3, S, S] in other light, blurred, noisy and compressed."""
    if random.random() < 0.8:
        picture = _change_light(picture, random)
    if random.random() < 0.25:
        size = max(int(picture.shape[1] * random.uniform(0.35, 0.9)), 8)
        small = F.interpolate(picture[None], (size, size), mode="bilinear", antialias=True)
        picture = F.interpolate(small, picture.shape[1:], mode="bilinear")[0]
    if random.random() < 0.25:
        noise = random.normal(0, random.uniform(0.005, 0.06), picture.shape)
        picture = picture + torch.from_numpy(noise.astype(np.float32))
    picture = picture.clamp(0, 1)
    return _compress(picture, int(random.integers(20, 80))) if random.random() < 0.2 else picture


def _change_light(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Change brightness, contrast, gamma, colour and, for some, the direction of the light."""
    if random.random() < 0.1:  # a dark room
        picture = picture * random.uniform(0.15, 0.6)
    if random.random() < 0.08:
        picture = picture.mean(dim=0, keepdim=True).expand(3, -1, -1)
    gain = math.exp(random.normal(0, 0.3)) * np.exp(random.normal(0, 0.08, (3, 1, 1)))
    picture = picture * torch.from_numpy(gain.astype(np.float32)) + float(random.normal(0, 0.06))
    if random.random() < 0.25:
        angle, strength = random.uniform(0, 2 * math.pi), random.uniform(0.2, 0.9)
        x, y = _grid(picture.shape[1])
        side = (x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)
        picture = picture * (1 + strength * 2 * side).clamp(0.1, 2)
    return picture.clamp(0, 1).pow(math.exp(random.normal(0, 0.25)))


def _lower_resolution(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Return a picture of fewer pixels, or one that a moving camera has blurred, at the same size."""
    if random.random() < 0.3:
        length = int(random.integers(3, 10))
        kernel = torch.zeros(3, 1, length, length)
        line = torch.arange(length)
        rows = line if random.random() < 0.5 else torch.full_like(line, length // 2)
        kernel[:, 0, rows, line] = 1
        blurred = F.conv2d(picture[None], kernel / length, padding=length // 2, groups=3)
        return blurred[0, :, :SIZE, :SIZE]
    size = max(int(SIZE * random.uniform(_MIN_PIXEL_SHARE, 0.9)), 8)
    small = F.interpolate(picture[None], (size, size), mode="bilinear", antialias=True)
    return F.interpolate(small, (SIZE, SIZE), mode="bilinear")[0]


def _compress(picture: Tensor, quality: int) -> Tensor:
    pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    decoded = decode_jpeg(encode_jpeg(pixels, quality))
    return torch.from_numpy(decoded).permute(2, 0, 1).float() / 255


def _cut_off(picture: Tensor, random: np.random.Generator) -> Tensor:
    """Return a picture that is black beyond a line, as beyond the border of a frame."""
    length = int(picture.shape[1] * random.uniform(0.1, 0.5))
    axis = int(random.integers(1, 3))
    start = 0 if random.random() < 0.5 else picture.shape[axis] - length
    picture = picture.clone()
    picture.narrow(axis, start, length).zero_()
    return picture


def add_occluder(picture: Tensor, face: np.ndarray, texture: Tensor, random: np.random.Generator) -> Tensor:
    """Draw a hand, or a few shapes, before a part of a face.

    Args:
        picture: float32 [3, S, S], 0..1.
        face: [68 or more, 2], the landmarks in fractions of the picture.
        texture: float32 [3, S, S], another picture, of which some hands and shapes are cut.
        random: the random number generator.
    """
    size = picture.shape[1]
    unit = 3.8 * float(centre_and_scale(face[:68])[1])  # the sizes below are shares of a landmark crop
    target = face[int(random.integers(68))] + random.normal(0, 0.1, 2) * unit
    mask = torch.zeros(size, size)
    if random.random() < 0.5:
        angle, width = random.uniform(0, 2 * math.pi), random.uniform(0.025, 0.05)
        along = np.array([math.cos(angle), math.sin(angle)])
        across = np.array([-along[1], along[0]])
        for finger in range(4):
            offset = across * (finger - 1.5) * width * 2.1 + along * random.uniform(-0.03, 0.03)
            axes = (0.16 * unit, width * unit)
            turn = angle + random.normal(0, 0.06)
            mask = torch.maximum(mask, _ellipse(target + offset * unit, axes, turn, size=size))
        palm = target + along * 0.2 * unit
        mask = torch.maximum(mask, _ellipse(palm, (0.14 * unit, 0.12 * unit), angle, size=size))
        pixel = np.clip((face[30] * size).astype(int), 0, size - 1)
        colour = picture[:, pixel[1], pixel[0]].numpy() * random.uniform(0.7, 1.3)
    else:
        for _ in range(int(random.integers(1, 3))):
            width, height = (random.uniform(0.04, 0.24, 2) * unit).tolist()
            centre = target + random.normal(0, 0.05, 2) * unit
            turn, is_square = random.uniform(0, math.pi), random.random() < 0.5
            mask = torch.maximum(mask, _ellipse(centre, (width, height), turn, is_square, size=size))
        colour = random.random(3)
    x, y = _grid(size)
    slope = random.normal(0, 0.3, 2)
    shade = 1 + float(slope[0]) * (x - float(target[0])) + float(slope[1]) * (y - float(target[1]))
    paint = torch.from_numpy(colour.astype(np.float32))[:, None, None] * shade
    if random.random() < 0.35:
        paint = texture.flip(1) if random.random() < 0.5 else texture
    return picture * (1 - mask) + paint * mask


def _add_glasses(picture: Tensor, face: np.ndarray, random: np.random.Generator) -> Tensor:
    """Draw a frame with clear, tinted or reflecting lenses around the eyes."""
    eyes = face[36:42].mean(axis=0), face[42:48].mean(axis=0)
    distance = max(float(np.linalg.norm(eyes[1] - eyes[0])), 0.03)
    angle = math.atan2(*(eyes[1] - eyes[0])[::-1])
    size = distance * random.uniform(0.33, 0.46), distance * random.uniform(0.26, 0.4)
    rim = distance * random.uniform(0.02, 0.07)
    square = random.random() < 0.4
    opacity = float(random.choice((0.0, 0.0, 0.15, 0.5, 0.85)))
    lens_colour = torch.from_numpy((random.random(3) * random.choice((0.3, 1.0))).astype(np.float32))
    rim_colour = torch.from_numpy((random.random(3) * 0.5).astype(np.float32))
    for eye in eyes:
        inner = _ellipse(eye, size, angle, square)
        outer = _ellipse(eye, (size[0] + rim, size[1] + rim), angle, square)
        picture = picture * (1 - inner * opacity) + lens_colour[:, None, None] * inner * opacity
        ring = (outer - inner).clamp(0, 1)
        picture = picture * (1 - ring) + rim_colour[:, None, None] * ring
    return picture


def _ellipse(
    centre: np.ndarray, axes: tuple[float, float], angle: float, square: bool = False, size: int = SIZE
) -> Tensor:
    """Return the coverage, float32 [size, size], of an ellipse or a rounded rectangle.

    Args:
        centre: [2], fractions of the picture.
        axes: its half axes, in the same.
        angle: radians by which it is turned clockwise.
        square: whether it is a rounded rectangle.
        size: side of the picture in pixels.
    """
    x, y = _grid(size)
    x, y = x - float(centre[0]), y - float(centre[1])
    across = (x * math.cos(angle) + y * math.sin(angle)).abs() / axes[0]
    down = (y * math.cos(angle) - x * math.sin(angle)).abs() / axes[1]
    radius = (across**6 + down**6) ** (1 / 6) if square else (across**2 + down**2).sqrt()
    return ((1 - radius) * min(axes) * size + 0.5).clamp(0, 1)


def _grid(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """Return x and y of the pixels' centres in fractions of a picture, [1, size] and [size, 1]."""
    steps = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    return steps[None, :], steps[:, None]
