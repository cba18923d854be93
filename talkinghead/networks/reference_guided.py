"""The reference-guided generator (ours): the paper's G, which also sees the person's pictures and composes them with its own.

`out = m_warped * warped + m_plate * plate + m_own * own`: the layers run at the networks' size and give, beside their own picture, three
weights a pixel, brought up to the size of the references, so that a picture of 256 pixels costs what one of 128 does and is as sharp as the
pictures that it shows.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .generator import Generator

_MOTION_GAIN = 10.0
"""Motion fields are this times fractions of the picture where layers see them, so that they vary about as much as colours."""
_WEIGHT_GAIN = 3.0
"""Gain of the weights' logits, which must move further than a picture's colours at the same learning rate."""
_OWN = slice(0, 3)
_WEIGHTS = slice(3, 6)


class ReferenceViews(NamedTuple):
    """What the generator sees of a person's pictures for a batch of driving landmarks (`References.views`).

    Attributes:
        warped: [B, 3, S, S] in [-1, 1], the nearest pictures bent to the driving landmarks.
        plate: [B, 4, S, S], the scene as it stands: RGB in [-1, 1], and how far it was seen and not filled in, from 0 to 1.
        motion: [B, 2, g, g], the motion field that bent them, in fractions of the picture.
    """

    warped: Tensor
    plate: Tensor
    motion: Tensor


class ReferenceGuidedGenerator(Generator):
    """G with P, guided by references. Input channels: landmark image, warped, plate, motion; output channels: own picture, weights."""

    inputs, outputs = 12, 6

    def forward(  # type: ignore[override]
        self, landmark_image: Tensor, styles: Tensor, views: ReferenceViews, own_alone: Tensor | None = None
    ) -> Tensor:
        """Generate frames.

        Args:
            landmark_image: [B, 3, size, size] in [-1, 1], size being the networks'.
            styles: [B, S].
            views: of the person's references, from the size of the pictures.
            own_alone: bool [B], rows that show the layers' own picture alone; None for none.

        Returns:
            [B, 3, S, S], about within [-1, 1], float32 in mixed precision too.
        """
        return self.compose(self.run_layers(self.gather(landmark_image, views), styles), views, own_alone)[0]

    def gather(self, landmark_image: Tensor, views: ReferenceViews) -> Tensor:
        """Return what the layers see: [B, 12, size, size] in the dtype of the landmark image."""
        size, dtype = landmark_image.shape[-1], landmark_image.dtype
        motion = F.interpolate(views.motion, size=(size, size), mode="bilinear", align_corners=False) * _MOTION_GAIN
        small = [resize_area(view, size).to(dtype) for view in (views.warped, views.plate)]
        return torch.cat([landmark_image, *small, motion.to(dtype)], 1)

    def compose(self, layers: Tensor, views: ReferenceViews, own_alone: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the picture [B, 3, S, S] and the weights [B, 3, S, S] of warped, plate and own, of the layers' [B, 6, size, size]."""
        size = views.warped.shape[-1]
        large = F.interpolate(layers, size=(size, size), mode="bilinear", align_corners=False)
        weights = torch.softmax(_WEIGHT_GAIN * large[:, _WEIGHTS], 1)
        if own_alone is not None:
            only = weights.new_tensor([0, 0, 1]).view(1, 3, 1, 1)
            weights = torch.where(own_alone.view(-1, 1, 1, 1), only, weights)
        parts = views.warped.to(layers.dtype), views.plate[:, :3].to(layers.dtype), torch.tanh(large[:, _OWN])
        picture = sum(weights[:, i : i + 1] * part for i, part in enumerate(parts))
        return picture, weights  # type: ignore[return-value]


def resize_area(pictures: Tensor, size: int) -> Tensor:
    """Shrink pictures [B, C, S, S] to [B, C, size, size], S a multiple of size, by the mean of each area."""
    times = pictures.shape[-1] // size
    return pictures if times == 1 else F.avg_pool2d(pictures, times)
