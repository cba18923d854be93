"""Conversion of pixels between uint8 0..255 and float [-1, 1]; the order of the axes is kept."""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

_HALF_RANGE = 127.5

Pixels = TypeVar("Pixels", np.ndarray, Tensor)


def uint8_to_float(pixels: Tensor) -> Tensor:
    """Scale pixels of 0..255, uint8 or float, to float32 in [-1, 1]."""
    return pixels.float() / _HALF_RANGE - 1


def float_to_levels(pixels: Pixels) -> Pixels:
    """Scale float pixels in [-1, 1] to whole numbers 0..255 of the same dtype; values beyond are clipped."""
    if isinstance(pixels, Tensor):
        return pixels.add(1).mul(_HALF_RANGE).round().clamp(0, 255)
    return ((pixels + 1) * _HALF_RANGE).round().clip(0, 255)


def float_to_uint8(pixels: Pixels) -> Pixels:
    """Scale float pixels in [-1, 1] to uint8, rounded to the nearest; values beyond are clipped."""
    levels = float_to_levels(pixels)
    return levels.to(torch.uint8) if isinstance(levels, Tensor) else levels.astype(np.uint8)
