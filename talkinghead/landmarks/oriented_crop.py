"""Square crops of a frame that turn with the head, as the landmark networks see a face."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import centre_and_scale
from .mean_face import MEAN_FACE

_MIN_UNFILTERED_SHRINK = 0.75  # of a crop: below, its surroundings are antialiased


@dataclass(frozen=True)
class OrientedCrop:
    """A square of a frame, turned about its centre; it may reach beyond the frame.

    Attributes:
        x, y: its centre in continuous pixels of the frame.
        side: its side in pixels of the frame.
        angle: radians by which it is turned clockwise in the image.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0

    @property
    def axes(self) -> np.ndarray:
        """Return its axes to the right and down in pixels of the frame, the rows of a float64 [2, 2]."""
        c, s = np.cos(self.angle) * self.side, np.sin(self.angle) * self.side
        return np.array([[c, s], [-s, c]])

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Return points [..., 2] in fractions of the crop as float64 in pixels of the frame."""
        return (np.asarray(points, np.float64) - 0.5) @ self.axes + [self.x, self.y]

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Return points [..., 2] in pixels of the frame as float64 in fractions of the crop."""
        offset = np.asarray(points, np.float64) - [self.x, self.y]
        return offset @ self.axes.T / self.side**2 + 0.5

    def varied(self, shift: tuple[float, float], scale: float, degrees: float) -> "OrientedCrop":
        """Return the crop shifted by shares of its side, made larger by a factor and turned."""
        x, y = self.to_frame(np.array(shift) + 0.5).tolist()
        return OrientedCrop(x, y, self.side * scale, self.angle + math.radians(degrees))


def crop_of_landmarks(landmarks: np.ndarray, side: float, raise_by: float = 0.0) -> OrientedCrop:
    """Return the crop around a face, upright as its head.

    Args:
        landmarks: [68, 2] in pixels of the frame.
        side: of the crop, in root-mean-square radii of the landmarks.
        raise_by: how far its centre lies above that of the landmarks, in radii.
    """
    points = np.asarray(landmarks, np.float64)
    centre, scale = centre_and_scale(points)
    radius = max(float(scale), 1e-3)
    angle = head_roll(points)
    up = np.array([np.sin(angle), -np.cos(angle)])
    x, y = (centre + up * raise_by * radius).tolist()
    return OrientedCrop(x, y, side * radius, angle)


def head_roll(landmarks: np.ndarray) -> float:
    """Return how far a head is turned clockwise in the image, radians: the best turn of the mean face.

    Args:
        landmarks: [68, 2] in pixels of the frame.
    """
    offset = landmarks - landmarks.mean(axis=0)
    mean = MEAN_FACE[:, :2]
    along = float((mean * offset).sum())
    across = float((mean[:, 0] * offset[:, 1] - mean[:, 1] * offset[:, 0]).sum())
    return float(np.arctan2(across, along))


def sample_crops(frames: Sequence[np.ndarray], crops: Sequence[OrientedCrop], size: int) -> Tensor:
    """Return one crop of each frame, antialiased; black beyond the frame.

    Args:
        frames: uint8 [H, W, 3] each.
        crops: as many.
        size: side of the result in pixels.

    Returns:
        float32 [N, 3, size, size], 0..1, in channels_last.
    """
    result = torch.empty(len(frames), 3, size, size, memory_format=torch.channels_last)
    for index, (frame, crop) in enumerate(zip(frames, crops, strict=True)):
        result[index] = _sample(frame, crop, size)
    return result


def _sample(frame: np.ndarray, crop: OrientedCrop, size: int) -> Tensor:
    """Return a crop, float32 [3, size, size]: its surroundings are shrunk first, then turned."""
    height, width = frame.shape[:2]
    (across_x, across_y), (down_x, down_y) = crop.axes.tolist()
    reach_x, reach_y = (abs(across_x) + abs(down_x)) / 2, (abs(across_y) + abs(down_y)) / 2
    left, right = _clipped_span(crop.x - reach_x, crop.x + reach_x, width)
    top, bottom = _clipped_span(crop.y - reach_y, crop.y + reach_y, height)
    # a copy, because torch does not take read-only arrays and negative strides
    window = torch.from_numpy(frame[top:bottom, left:right].copy()).permute(2, 0, 1)[None]
    width, height = right - left, bottom - top
    shrink = size / crop.side
    if shrink < _MIN_UNFILTERED_SHRINK:
        smaller = (max(round(height * shrink), 1), max(round(width * shrink), 1))
        window = F.interpolate(window, smaller, mode="bilinear", antialias=True)
    # positions in the window from -1 to 1 as complex numbers, which torch adds faster than pairs
    across = complex(across_x * 2 / width, across_y * 2 / height)
    down = complex(down_x * 2 / width, down_y * 2 / height)
    centre = complex((crop.x - left) * 2 / width - 1, (crop.y - top) * 2 / height - 1)
    steps = (torch.arange(size) + 0.5) / size - 0.5
    grid = torch.view_as_real((steps * across + centre) + (steps * down)[:, None])
    pixels = window.float().mul_(1 / 255)
    return F.grid_sample(pixels, grid[None], mode="bilinear", align_corners=False)[0]


def _clipped_span(low: float, high: float, length: int) -> tuple[int, int]:
    """Return the first and the last pixel + 1 of a span, a pixel wider on both sides and inside 0..length."""
    first = min(max(math.floor(low) - 1, 0), length - 1)
    return first, min(max(math.ceil(high) + 1, first + 1), length)
