"""Crops of frames for losses on details: eyes and mouth, which viewers look at most, and random parts of the
frame.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_EYES, _MOUTH = slice(36, 48), slice(48, 68)
_MARGIN = 1.6
"""Side of a crop as a multiple of the longer side of the box around its landmarks."""
_MIN_SIDE = 0.2
"""Least side of a crop, as a fraction of the frame."""
_PART_SIDE = 0.5
"""Side of a random part of the frame, as a fraction of it."""
_EYES_SHARE = 0.25
_MOUTH_SHARE = 0.25
SIZE = 128
"""Side of the crops in pixels."""


def detail_boxes(points: Tensor, uniform: Tensor) -> Tensor:
    """Return one square per frame, [B, 3]: x and y of its centre and its side, as fractions of the frame.

    Args:
        points: [B, 68, 2], landmarks as fractions of the frame.
        uniform: [B, 3], random numbers of 0..1: the first of each row chooses eyes (a quarter), mouth (a
            quarter) or a random part of the frame, whose position the others choose.
    """
    boxes = []
    for part in (points[:, _EYES], points[:, _MOUTH]):
        low, high = part.amin(1), part.amax(1)
        side = (_MARGIN * (high - low).amax(1, keepdim=True)).clamp_min(_MIN_SIDE)
        boxes.append(torch.cat([(low + high) / 2, side], 1))
    eyes, mouth = boxes
    centre = _PART_SIDE / 2 + (1 - _PART_SIDE) * uniform[:, 1:]
    random_part = torch.cat([centre, torch.full_like(centre[:, :1], _PART_SIDE)], 1)
    choice = uniform[:, :1]
    mouth_or_random = torch.where(choice < _EYES_SHARE + _MOUTH_SHARE, mouth, random_part)
    return torch.where(choice < _EYES_SHARE, eyes, mouth_or_random)


def crop_boxes(images: Tensor, boxes: Tensor, size: int = SIZE) -> Tensor:
    """Return the squares of images [B, C, S, S] as [B, C, size, size], bilinear; differentiable in the
    images.

    Args:
        images: [B, C, S, S].
        boxes: [B, 3], from `detail_boxes`.
        size: side of the crops in pixels.
    """
    ticks = (torch.arange(size, device=images.device, dtype=boxes.dtype) + 0.5) / size - 0.5
    x = (boxes[:, 0:1] + boxes[:, 2:] * ticks)[:, None, :].expand(-1, size, -1)
    y = (boxes[:, 1:2] + boxes[:, 2:] * ticks)[:, :, None].expand(-1, -1, size)
    grid = torch.stack([x, y], 3).to(images.dtype) * 2 - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
