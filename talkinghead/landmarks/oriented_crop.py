"""Square crops of a frame that turn with the head, as the landmark networks see a face."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from torch import Tensor

from .mean_face import MEAN_FACE

_SUMS = np.vstack([np.full(68, 1 / 68), (MEAN_FACE[:, :2] - MEAN_FACE[:, :2].mean(axis=0)).T])
"""Rows by which landmarks [68, 2] are multiplied: to their centroid, and to `_angle`'s products."""
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
        c, s = math.cos(self.angle) * self.side, math.sin(self.angle) * self.side
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
    return crops_of_landmarks(np.asarray(landmarks)[None], side, raise_by)[0]


def crops_of_landmarks(landmarks: np.ndarray, side: float, raise_by: float = 0.0) -> list[OrientedCrop]:
    """Return the crops around faces [N, 68, 2], as `crop_of_landmarks` does."""
    points = np.asarray(landmarks, np.float64)
    squares = np.einsum("npc,npc->n", points, points) / points.shape[1]
    crops = []
    # few calls of numpy, which take longer than what they compute
    for ((x, y), *products), square in zip((_SUMS @ points).tolist(), squares.tolist(), strict=True):
        radius = max(math.sqrt(max(square - x * x - y * y, 0.0)), 1e-3)
        angle, up = _angle(products), raise_by * radius
        crops.append(OrientedCrop(x + math.sin(angle) * up, y - math.cos(angle) * up, side * radius, angle))
    return crops


def head_roll(landmarks: np.ndarray) -> float:
    """Return how far a head is turned clockwise in the image, radians: the best turn of the mean face.

    Args:
        landmarks: [68, 2] in pixels of the frame.
    """
    return _angle((_SUMS[1:] @ landmarks).tolist())


def _angle(products: Sequence[Sequence[float]]) -> float:
    """Return the roll from the sums of the mean face's x and y times landmarks (x, y)."""
    (xx, xy), (yx, yy) = products
    return math.atan2(xy - yx, xx + yy)


def sample_crops(frames: Sequence[np.ndarray], crops: Sequence[OrientedCrop], size: int) -> Tensor:
    """Return one crop of each frame, antialiased; black beyond the frame.

    Args:
        frames: uint8 [H, W, 3] each.
        crops: as many.
        size: side of the result in pixels.

    Returns:
        float32 [N, 3, size, size], 0..1, in channels_last.
    """
    windows, transforms = [], []
    for frame, crop in zip(frames, crops, strict=True):
        window, transform = _window(frame, crop, size)
        windows.append(window)
        transforms.append(transform)
    maps = torch.tensor(transforms, dtype=torch.float64, device="cpu").view(-1, 2, 3)
    return ops.warp_affine(windows, maps, size)


def _window(frame: np.ndarray, crop: OrientedCrop, size: int) -> tuple[Tensor, list[float]]:
    """Return the surroundings of a crop, shrunk to its resolution, uint8 [H, W, 3], and the map from pixels
    of the crop to theirs, for `ops.warp_affine`.
    """
    height, width = frame.shape[:2]
    (across_x, across_y), (down_x, down_y) = crop.axes.tolist()
    reach_x, reach_y = (abs(across_x) + abs(down_x)) / 2, (abs(across_y) + abs(down_y)) / 2
    left, right = _clipped_span(crop.x - reach_x, crop.x + reach_x, width)
    top, bottom = _clipped_span(crop.y - reach_y, crop.y + reach_y, height)
    part = frame[top:bottom, left:right]
    if not part.flags.writeable or part.strides[0] < 0 or part.strides[1:] != (3, 1):
        part = part.copy()  # torch does not take read-only arrays and negative strides
    window = torch.from_numpy(part)
    height, width = bottom - top, right - left
    scale_x = scale_y = 1.0
    shrink = size / crop.side
    if shrink < _MIN_UNFILTERED_SHRINK:
        smaller = (max(round(height * shrink), 1), max(round(width * shrink), 1))
        # the batch first: so torch sees that channels are last, and keeps them there
        picture = window[None].permute(0, 3, 1, 2)
        shrunk = F.interpolate(picture, smaller, mode="bilinear", antialias=True)
        window = shrunk.permute(0, 2, 3, 1)[0]
        scale_x, scale_y = smaller[1] / width, smaller[0] / height
    # the centre of the first pixel lies half a pixel inside the crop
    inset = 0.5 / size - 0.5
    start_x = (crop.x - left + inset * (across_x + down_x)) * scale_x - 0.5
    start_y = (crop.y - top + inset * (across_y + down_y)) * scale_y - 0.5
    step_x, step_y = scale_x / size, scale_y / size
    return window, [across_x * step_x, down_x * step_x, start_x, across_y * step_y, down_y * step_y, start_y]


def _clipped_span(low: float, high: float, length: int) -> tuple[int, int]:
    """Return the first and the last pixel + 1 of a span, a pixel wider on both sides and inside 0..length."""
    first = min(max(math.floor(low) - 1, 0), length - 1)
    return first, min(max(math.ceil(high) + 1, first + 1), length)
