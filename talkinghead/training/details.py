"""Crops of pictures for losses at full detail: eyes and mouth, which the eye looks at first, enlarged, and any part as it is."""

import torch
import torch.nn.functional as F
from torch import Tensor

_EYES, _MOUTH = slice(36, 48), slice(48, 68)
_MARGIN = 1.6  # side of a crop in longer sides of the box around its landmarks
_LEAST_SIDE = 0.2  # of a crop, in fractions of the picture
_PART_SIDE = 0.5  # of a part of the picture, in fractions of it
_EYES_BELOW, _MOUTH_BELOW = 0.25, 0.5  # of a chance from 0 to 1
SIZE = 128
"""Side of the crops in pixels."""


def detail_boxes(points: Tensor, chance: Tensor) -> Tensor:
    """Return a square of each picture, [B, 3]: x and y of its centre and its side, in fractions of the picture.

    Args:
        points: [B, 68, 2], landmarks as fractions of the picture.
        chance: [B, 3], 0 to 1: the first of each row chooses eyes (a quarter), mouth (a quarter) or any part, the others say which part.
    """
    boxes = []
    for part in (points[:, _EYES], points[:, _MOUTH]):
        low, high = part.amin(1), part.amax(1)
        side = (_MARGIN * (high - low).amax(1, keepdim=True)).clamp_min(_LEAST_SIDE)
        boxes.append(torch.cat([(low + high) / 2, side], 1))
    eyes, mouth = boxes
    place = _PART_SIDE / 2 + (1 - _PART_SIDE) * chance[:, 1:]
    anywhere = torch.cat([place, torch.full_like(place[:, :1], _PART_SIDE)], 1)
    choice = chance[:, :1]
    return torch.where(choice < _EYES_BELOW, eyes, torch.where(choice < _MOUTH_BELOW, mouth, anywhere))


def crop_boxes(pictures: Tensor, boxes: Tensor, size: int = SIZE) -> Tensor:
    """Return the squares of pictures [B, C, S, S] as [B, C, size, size], bilinear; differentiable in the pictures.

    Args:
        boxes: [B, 3], from `detail_boxes`.
    """
    ticks = (torch.arange(size, device=pictures.device, dtype=boxes.dtype) + 0.5) / size - 0.5
    x = (boxes[:, 0:1] + boxes[:, 2:] * ticks)[:, None, :].expand(-1, size, -1)
    y = (boxes[:, 1:2] + boxes[:, 2:] * ticks)[:, :, None].expand(-1, -1, size)
    places = torch.stack([x, y], 3).to(pictures.dtype) * 2 - 1
    return F.grid_sample(pictures, places, mode="bilinear", padding_mode="border", align_corners=False)
