"""The pictures that a person is learned from, as networks see them, and what guides a reference-guided generator while it learns."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from talkinghead_kernels.warp_by_landmarks import warp_by_landmarks
from torch import Tensor

from ..checkpoint import Model
from ..clip import Clip
from ..config import FinetuneConfig
from ..errors import TalkingheadError
from ..landmarks.draw import landmark_image
from ..networks import References, ReferenceViews, resize_area
from ..networks.references import background_plates, view_references
from ..torch_state import from_numpy
from .details import detail_boxes

MOST_PICTURES = 32
_OTHERS = 0.7
"""Share of the targets that are shown by the other pictures; the rest by their own, whose head was moved."""


class Pictures(NamedTuple):
    """A person's pictures.

    Attributes:
        images: float32 [N, 3, S, S] in [-1, 1], at the size of the model's pictures.
        small: the same at the networks' size.
        drawn: landmark images at the networks' size.
        points: float32 [N, 68, 2], landmarks as fractions of the picture.
        valid: float32 [N, 1, S, S], 0 where a picture shows what lies beyond its source; None where none does.
        one_scene: whether they share a crop, as frames of one video do.
    """

    images: Tensor
    small: Tensor
    drawn: Tensor
    points: Tensor
    valid: Tensor | None
    one_scene: bool = True


@dataclass(frozen=True)
class Guide:
    """What a step of a reference-guided generator needs besides frames and landmark images.

    Attributes:
        views: of the references.
        own_alone: bool [B], rows that show the generator's own picture alone.
        boxes: [B, 3], squares whose losses count again (`detail_boxes`).
        valid: rows of `Pictures.valid`.
    """

    views: ReferenceViews
    own_alone: Tensor
    boxes: Tensor
    valid: Tensor | None


def inputs(model: Model, clip: Clip) -> Pictures:
    """Return a square clip's frames as a model's networks see them, where the model is.

    Raises:
        TalkingheadError: no frames, or frames that are not square.
    """
    height, width = clip.track.size
    if len(clip) == 0:
        raise TalkingheadError(f"{clip.name}: there is no picture in it; give 1 to {MOST_PICTURES}")
    if height != width:
        raise TalkingheadError(f"{clip.name}: frames of {height}x{width} are not square; read_clip crops them around the face")
    size, layer_size = model.config.networks.image_size, model.config.networks.layer_size
    images = _resized(from_numpy(clip.frames).to(model.device).permute(0, 3, 1, 2).float(), size) / 127.5 - 1
    valid = None
    if clip.valid is not None and not clip.valid.all():
        valid = _resized(from_numpy(clip.valid).to(model.device)[:, None].float(), size)
    points = from_numpy(clip.track.landmarks / height).to(model.device)
    return Pictures(images, resize_area(images, layer_size), landmark_image(points, layer_size), points, valid, clip.track.fps > 0)


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def stored_references(pictures: Pictures) -> References:
    """Return a person's pictures as their file will hold them."""
    frames = pictures.images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return References.stored(frames.cpu().numpy(), pictures.points.cpu().numpy(), pictures.one_scene)


def guide_pictures(pictures: Pictures, chosen: list[int], config: FinetuneConfig, random: np.random.Generator) -> Guide:
    """Return what guides the generator to some of a person's pictures: the others, or the same with its head moved.

    Args:
        pictures: all of the person's.
        chosen: numbers of the step's targets.
        config: how far heads move, and how often the own picture stands alone.
        random: drawn from.
    """
    count, rows = len(pictures.images), []
    for number in chosen:
        others = [other for other in range(count) if other != number]
        if others and random.random() < _OTHERS:
            shown, points = pictures.images[others], pictures.points[others]
        else:
            points = _move_head(pictures.points[number, None], config.head_jitter, random)
            shown = warp_by_landmarks(pictures.images[number, None], pictures.points[number, None], points)
        rows.append(view_references(shown, points, pictures.points[number, None], background_plates(shown, points, pictures.one_scene)))
    views = ReferenceViews(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
    device = pictures.images.device
    own_alone = torch.from_numpy(random.random(len(chosen)) < config.own_picture).to(device)
    chance = torch.from_numpy(random.random((len(chosen), 3))).float().to(device)
    valid = None if pictures.valid is None else pictures.valid[chosen]
    return Guide(views, own_alone, detail_boxes(pictures.points[chosen], chance), valid)


def _move_head(points: Tensor, amount: float, random: np.random.Generator) -> Tensor:
    """Return landmarks [1, 68, 2] turned, scaled and shifted in the picture by about this share of it."""
    angle, scale = random.normal(0, 2 * amount), 1 + random.uniform(-amount, amount)
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = points.mean(1, keepdim=True)
    moved = (points - centre) @ points.new_tensor(turn) + centre
    return moved + points.new_tensor(random.uniform(-2 * amount, 2 * amount, 2))
