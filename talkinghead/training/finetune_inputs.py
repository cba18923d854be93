"""Inputs of fine-tuning: a person's reference images as tensors, and the views of them that guide a
reference-guided generator.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from talkinghead_kernels.warp_by_landmarks import warp_by_landmarks
from torch import Tensor

from ..clip import Clip
from ..config import FinetuneConfig
from ..constants import MAX_REFERENCE_IMAGES
from ..errors import TalkingheadError
from ..landmarks.face_points import fit_points, split_points, track_points
from ..landmarks.landmark_image import landmark_image
from ..media.pixel_range import float_to_uint8, uint8_to_float
from ..model import Model
from ..networks import References, ReferenceViews, resize_area
from ..networks.references import background_plates, view_references
from ..system.torch_state import from_numpy
from .detail_crops import detail_boxes

_OTHER_IMAGES_SHARE = 0.7
"""Share of the targets whose views are made from the other images; for the rest they are made from the target
itself with its head moved.
"""


class PersonImages(NamedTuple):
    """A person's reference images as the networks' inputs.

    Attributes:
        images: float32 [N, 3, S, S] in [-1, 1], at the size of the model's frames.
        small_images: the same at the networks' size.
        landmark_images: at the networks' size.
        points: float32 [N, 68 or 78, 2] as fractions of the image, as many as the model uses.
        valid: float32 [N, 1, S, S], 0 where an image shows an area beyond its source; None where none does.
        one_scene: whether they share a crop, as frames of one video do.
    """

    images: Tensor
    small_images: Tensor
    landmark_images: Tensor
    points: Tensor
    valid: Tensor | None
    one_scene: bool = True

    @property
    def landmarks(self) -> Tensor:
        """float32 [N, 68, 2], the landmarks among the points."""
        return split_points(self.points)[0]


@dataclass(frozen=True)
class Guidance:
    """Inputs of a reference-guided generator's training step, in addition to frames and landmark images.

    Attributes:
        views: of the references.
        own_image_only: bool [B], rows that use the generator's own image only.
        boxes: [B, 3], squares whose losses count again (`detail_boxes`).
        valid: rows of `PersonImages.valid`.
    """

    views: ReferenceViews
    own_image_only: Tensor
    boxes: Tensor
    valid: Tensor | None


def prepare_images(model: Model, clip: Clip) -> PersonImages:
    """Return a square clip's frames as a model's inputs, on the model's device.

    Raises:
        TalkingheadError: no frames, or frames that are not square.
    """
    height, width = clip.track.size
    if len(clip) == 0:
        raise TalkingheadError(f"{clip.name}: there is no picture in it; give 1 to {MAX_REFERENCE_IMAGES}")
    if height != width:
        raise TalkingheadError(
            f"{clip.name}: frames of {height}x{width} are not square; read_clip crops them around the face"
        )
    networks = model.config.networks
    size, layer_size = networks.image_size, networks.layer_size
    frames = from_numpy(clip.frames).to(model.device).permute(0, 3, 1, 2).float()
    images = uint8_to_float(_resize_images(frames, size))
    valid = None
    if clip.valid is not None and not clip.valid.all():
        valid = _resize_images(from_numpy(clip.valid).to(model.device)[:, None].float(), size)
    count = networks.num_points if clip.track.irises is None else networks.used_points
    points = from_numpy(fit_points(track_points(clip.track) / height, count)).to(model.device)
    return PersonImages(
        images=images,
        small_images=resize_area(images, layer_size),
        landmark_images=landmark_image(points[:, : networks.num_points], layer_size),
        points=points,
        valid=valid,
        one_scene=clip.track.fps > 0,
    )


def _resize_images(images: Tensor, size: int) -> Tensor:
    """Return images [N, C, H, H] resized to [N, C, size, size]."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def make_references(images: PersonImages) -> References:
    """Return a person's images as their file stores them."""
    frames = float_to_uint8(images.images).permute(0, 2, 3, 1)
    landmarks, irises = split_points(images.points.cpu().numpy())
    return References.encode(frames.cpu().numpy(), landmarks, images.one_scene, irises=irises)


def sample_guidance(
    images: PersonImages, chosen: list[int], config: FinetuneConfig, random: np.random.Generator
) -> Guidance:
    """Sample what guides the generator to some of a person's images: views of the others, or of the same
    image with its head moved.

    Args:
        images: all of the person's.
        chosen: numbers of the step's targets.
        config: how far heads move, and how often the own image is used alone.
        random: source of the random numbers.
    """
    rows = [_sample_views(images, number, config, random) for number in chosen]
    views = ReferenceViews(*(torch.cat(parts) for parts in zip(*rows, strict=True)))
    device = images.images.device
    own_image_only = torch.from_numpy(random.random(len(chosen)) < config.own_picture).to(device)
    uniform = torch.from_numpy(random.random((len(chosen), 3))).float().to(device)
    return Guidance(
        views=views,
        own_image_only=own_image_only,
        boxes=detail_boxes(images.landmarks[chosen], uniform),
        valid=None if images.valid is None else images.valid[chosen],
    )


def _sample_views(
    images: PersonImages, number: int, config: FinetuneConfig, random: np.random.Generator
) -> ReferenceViews:
    """Return the views for the target of this number."""
    target = images.points[number, None]
    others = [other for other in range(len(images.images)) if other != number]
    if others and random.random() < _OTHER_IMAGES_SHARE:
        references, points = images.images[others], images.points[others]
    else:
        points = _move_head(target, config.head_jitter, random)
        landmarks, moved = split_points(target)[0], split_points(points)[0]
        references = warp_by_landmarks(images.images[number, None], landmarks, moved)
    plates = background_plates(references, split_points(points)[0], images.one_scene)
    return view_references(references, points, target, plates)


def _move_head(points: Tensor, amount: float, random: np.random.Generator) -> Tensor:
    """Return points [1, 68 or 78, 2] rotated, scaled and shifted at random by about this share of the image;
    hidden irises stay hidden.
    """
    angle, scale = random.normal(0, 2 * amount), 1 + random.uniform(-amount, amount)
    rotation = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = split_points(points)[0].mean(1, keepdim=True)
    moved = (points - centre) @ points.new_tensor(rotation) + centre
    return moved + points.new_tensor(random.uniform(-2 * amount, 2 * amount, 2))
