"""The reference-guided generator of this project: the paper's G, which also takes the person's reference
images and blends them with its own image.

`out = m_warped * warped + m_plate * plate + m_own * own`: the layers run at the networks' size and compute an
image and three weights per pixel, which are enlarged to the size of the references. So a frame of 256 pixels
costs as much as one of 128 and is as sharp as the reference images.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .generator import Generator

_MOTION_GAIN = 10.0
"""Factor of motion fields in the layers' input, in fractions of the image, so that they vary about as much as
colours.
"""
_WEIGHT_GAIN = 3.0
"""Gain of the weights' logits, which must change more than colours at the same learning rate."""
_SMALL_MOTION = 0.005
"""Motion, in fractions of the image, at which the own image's share is halved: what hardly moves, a reference
shows better.
"""
_LEAST_SHARE = 1e-3
_OWN = slice(0, 3)
_WEIGHTS = slice(3, 6)


class ReferenceViews(NamedTuple):
    """Views of a person's references for a batch of driving landmarks (`view_references`).

    Attributes:
        warped: [B, 3, S, S] in [-1, 1], the nearest images warped to the driving landmarks.
        plate: [B, 4, S, S], the background, not warped: RGB in [-1, 1], and how far it was observed and not
            filled in, from 0 to 1.
        motion: [B, 2, g, g], the motion field of the warp, in fractions of the image.
    """

    warped: Tensor
    plate: Tensor
    motion: Tensor


class ReferenceGuidedGenerator(Generator):
    """G with P, guided by references. Input channels: landmark image, warped, plate, motion; output channels:
    own image, weights.
    """

    inputs, outputs = 12, 6

    def forward(  # type: ignore[override]
        self,
        landmark_image: Tensor,
        styles: Tensor,
        views: ReferenceViews,
        own_image_only: Tensor | None = None,
    ) -> Tensor:
        """Generate frames.

        Args:
            landmark_image: [B, 3, size, size] in [-1, 1], size being the networks'.
            styles: [B, S].
            views: of the person's references, at their size.
            own_image_only: bool [B], rows that use the layers' own image only; None for none.

        Returns:
            [B, 3, S, S], about within [-1, 1], float32 in mixed precision too.
        """
        return self.compose(
            self.run_layers(self.gather(landmark_image, views), styles), views, own_image_only
        )[0]

    def gather(self, landmark_image: Tensor, views: ReferenceViews) -> Tensor:
        """Return the layers' input [B, 12, size, size] in the dtype of the landmark image."""
        size, dtype = landmark_image.shape[-1], landmark_image.dtype
        motion = (
            F.interpolate(views.motion, size=(size, size), mode="bilinear", align_corners=False)
            * _MOTION_GAIN
        )
        small = [resize_area(view, size).to(dtype) for view in (views.warped, views.plate)]
        return torch.cat([landmark_image, *small, motion.to(dtype)], 1)

    def compose(
        self, layers: Tensor, views: ReferenceViews, own_image_only: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Blend warped, plate and own image by the layers' output [B, 6, size, size].

        Returns:
            the frame [B, 3, S, S], and the weights [B, 3, S, S] of warped, plate and own image.
        """
        size = views.warped.shape[-1]
        large = F.interpolate(layers, size=(size, size), mode="bilinear", align_corners=False)
        weights = torch.softmax(_WEIGHT_GAIN * large[:, _WEIGHTS], 1)
        share = F.interpolate(
            _own_image_share(views.motion), size=(size, size), mode="bilinear", align_corners=False
        )
        weights = torch.cat([weights[:, :2], weights[:, 2:] * share.to(weights.dtype)], 1)
        weights = weights / weights.sum(1, keepdim=True)
        if own_image_only is not None:
            only = weights.new_tensor([0, 0, 1]).view(1, 3, 1, 1)
            weights = torch.where(own_image_only.view(-1, 1, 1, 1), only, weights)
        parts = views.warped.to(layers.dtype), views.plate[:, :3].to(layers.dtype), torch.tanh(large[:, _OWN])
        frame = sum(weights[:, i : i + 1] * part for i, part in enumerate(parts))
        return frame, weights  # type: ignore[return-value]


def _own_image_share(motion: Tensor) -> Tensor:
    """Return the factor of the own image's weight before the weights are normalised, [B, 1, g, g], for motion
    fields [B, 2, g, g]: from 0 where the nearest reference stays in place to 1 where it moves.
    """
    square = (motion / _SMALL_MOTION).square().sum(1, keepdim=True)
    return 1 - 1 / (1 + square) + _LEAST_SHARE  # right where half precision overflows, too


def resize_area(images: Tensor, size: int) -> Tensor:
    """Shrink images [B, C, S, S] to [B, C, size, size], S a multiple of size, by the mean of each area."""
    factor = images.shape[-1] // size
    return images if factor == 1 else F.avg_pool2d(images, factor)
