"""Augmentations that change images together with their landmarks.

`sample_augmentation` creates additional identities for meta-learning: a fixed change of colour and shape that
turns one video into another with a face of its own. Augmentation 0 is the video itself. Every other one is
sampled from (seed, clip, number): all frames of an episode share it, so that it is an identity to learn, not
noise.

`sample_jitter` moves one image a little during fine-tuning, so that the model learns how the face follows the
landmarks instead of memorizing eight images.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..landmarks.landmark_image import mirror_points


@dataclass(frozen=True)
class Augmentation:
    """A change of colour and shape.

    Attributes:
        colour: [3, 3], applied to RGB in [-1, 1].
        offset: [3], added to the result.
        gamma: exponent of the image in [0, 1].
        affine: [2, 3], output coordinates in [-1, 1] to input coordinates.
        warp_field: [2, 5, 5], a smooth displacement of the input coordinates, as a coarse grid.
        mirrored: whether the image is mirrored first.
    """

    colour: np.ndarray
    offset: np.ndarray
    gamma: float
    affine: np.ndarray
    warp_field: np.ndarray
    mirrored: bool

    def apply(self, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the change to frames and their landmarks.

        Args:
            images: float32 [N, 3, H, W] in [-1, 1].
            points: float32 [N, 68 or 78, 2] in fractions of the frame; hidden irises stay outside of it.

        Returns:
            images and points in the same shapes.
        """
        if self.mirrored:
            images = images.flip(3)
            points = mirror_points(points)
        affine, warp_field, grid = self._warp(images)
        colour, offset = (torch.from_numpy(array).to(images.device) for array in (self.colour, self.offset))
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        images = (images / 2 + 0.5).clamp(1e-4, 1).pow(self.gamma) * 2 - 1
        images = torch.einsum("dc,nchw->ndhw", colour, images) + offset[:, None, None]
        return images.clamp(-1, 1), self._move(points, affine, warp_field)

    def apply_to_mask(self, masks: Tensor) -> Tensor:
        """Warp masks as `apply` warps frames; pixels that come from outside the frame are 0.

        Args:
            masks: float32 [N, 1, H, W], 0 or 1.

        Returns:
            the same shape, 0 or 1.
        """
        masks = masks.flip(3) if self.mirrored else masks
        _, _, grid = self._warp(masks)
        return (F.grid_sample(masks, grid, padding_mode="zeros", align_corners=False) >= 0.5).float()

    def _warp(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the affine map [2, 3], the displacement [1, 2, H, W] and the sampling grid [N, H, W, 2] for
        images [N, C, H, W].
        """
        size = images.shape[2]
        affine, warp_field = (
            torch.from_numpy(array).to(images.device) for array in (self.affine, self.warp_field)
        )
        grid = F.affine_grid(affine[None], [1, 3, size, size], align_corners=False)
        warp_field = F.interpolate(warp_field[None], size=(size, size), mode="bicubic", align_corners=False)
        return affine, warp_field, (grid + warp_field.permute(0, 2, 3, 1)).expand(len(images), -1, -1, -1)

    @staticmethod
    def _move(points: Tensor, affine: Tensor, warp_field: Tensor) -> Tensor:
        """Move points as `apply` moves the image.

        Solves affine(p) + warp_field(p) = q for p by fixed-point iteration.
        """
        target = points * 2 - 1
        linear, shift = affine[:, :2], affine[:, 2]
        inverse = torch.linalg.inv(linear)
        position = (target - shift) @ inverse.T
        field = warp_field.expand(len(points), -1, -1, -1)
        for _ in range(8):
            sampled = F.grid_sample(field, position[:, :, None], padding_mode="border", align_corners=False)
            displacement = sampled[..., 0].transpose(1, 2)
            position = (target - shift - displacement) @ inverse.T
        return position / 2 + 0.5


def sample_augmentation(seed: int, clip: int, variant: int) -> Augmentation | None:
    """Return augmentation number `variant` of a clip; None for variant 0, the clip itself."""
    if variant == 0:
        return None
    random = np.random.default_rng((seed, clip, variant))
    angle = random.normal(0, np.radians(5))
    scale = random.uniform(0.85, 1.15, 2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.concatenate([rotation * scale, random.uniform(-0.08, 0.08, (2, 1))], 1)
    colour = np.diag(random.uniform(0.7, 1.2, 3)) + random.normal(0, 0.1, (3, 3))
    return Augmentation(
        colour=colour.astype(np.float32),
        offset=random.uniform(-0.15, 0.15, 3).astype(np.float32),
        gamma=float(np.exp(random.uniform(-0.35, 0.35))),
        affine=affine.astype(np.float32),
        warp_field=random.normal(0, 0.035, (2, 5, 5)).astype(np.float32),
        mirrored=bool(random.random() < 0.5),
    )


def sample_jitter(random: np.random.Generator, amount: float, warp_share: float = 0.3) -> Augmentation:
    """Sample a small change of position, angle, size and shape, without a change of colour.

    Args:
        random: the generator to sample from.
        amount: the largest relative change of size; positions move by up to about as much of the frame,
            angles by about as much in radians.
        warp_share: how much shapes change, as a share of `amount`; 0 moves the frame as a hand-held camera
            does.
    """
    angle, scale = random.normal(0, amount), 1 + random.uniform(-amount, amount)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.concatenate([rotation, random.uniform(-2 * amount, 2 * amount, (2, 1))], 1)
    return Augmentation(
        colour=np.eye(3, dtype=np.float32),
        offset=np.zeros(3, np.float32),
        gamma=1.0,
        affine=affine.astype(np.float32),
        warp_field=random.normal(0, warp_share * amount, (2, 5, 5)).astype(np.float32),
        mirrored=False,
    )
