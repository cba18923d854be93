"""Pictures changed together with their landmarks.

`draw_variant` makes people of people, for meta-learning: fixed changes of colour and shape that turn one video into several, each with a
face of its own. Variant 0 is the video itself. Every other variant is drawn once from (seed, clip, variant): all frames of an episode share
it, so that it is an identity to learn and not noise.

`draw_jitter` moves one picture a little, for fine-tuning: so that how the face follows the landmarks is learned, not eight pictures.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..landmarks.draw import MIRROR


@dataclass(frozen=True)
class Variant:
    """One change of colour and shape.

    Attributes:
        colour: [3, 3], applied to RGB in [-1, 1].
        offset: [3], added after it.
        gamma: exponent of the picture in [0, 1].
        affine: [2, 3], output coordinates in [-1, 1] to input coordinates.
        bend: [2, 5, 5], a smooth displacement added to those, as a coarse grid.
        mirrored: whether left and right change places first.
    """

    colour: np.ndarray
    offset: np.ndarray
    gamma: float
    affine: np.ndarray
    bend: np.ndarray
    mirrored: bool

    def apply(self, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Change frames and their landmarks alike.

        Args:
            images: float32 [N, 3, H, W] in [-1, 1].
            points: float32 [N, 68, 2] in fractions of the frame.

        Returns:
            the same shapes.
        """
        if self.mirrored:
            images = images.flip(3)
            points = torch.stack([1 - points[..., 0], points[..., 1]], 2)[:, list(MIRROR)]
        affine, bend, grid = self._warp(images)
        colour, offset = (torch.from_numpy(each).to(images.device) for each in (self.colour, self.offset))
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        images = (images / 2 + 0.5).clamp(1e-4, 1).pow(self.gamma) * 2 - 1
        images = torch.einsum("dc,nchw->ndhw", colour, images) + offset[:, None, None]
        return images.clamp(-1, 1), self._move(points, affine, bend)

    def apply_to_mask(self, masks: Tensor) -> Tensor:
        """Warp masks as `apply` warps frames; a place that shows what lay beyond the frame is 0.

        Args:
            masks: float32 [N, 1, H, W], 0 or 1.

        Returns:
            the same shape, 0 or 1.
        """
        masks = masks.flip(3) if self.mirrored else masks
        _, _, grid = self._warp(masks)
        return (F.grid_sample(masks, grid, padding_mode="zeros", align_corners=False) >= 0.5).float()

    def _warp(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the affine map [2, 3], the displacement [1, 2, H, W] and the places [N, H, W, 2] to sample images [N, C, H, W] at."""
        size = images.shape[2]
        affine, bend = (torch.from_numpy(array).to(images.device) for array in (self.affine, self.bend))
        grid = F.affine_grid(affine[None], [1, 3, size, size], align_corners=False)
        bend = F.interpolate(bend[None], size=(size, size), mode="bicubic", align_corners=False)
        return affine, bend, (grid + bend.permute(0, 2, 3, 1)).expand(len(images), -1, -1, -1)

    @staticmethod
    def _move(points: Tensor, affine: Tensor, bend: Tensor) -> Tensor:
        """Where the input's points come to lie: solves affine(p) + bend(p) = q for p by fixed-point iteration."""
        wanted = points * 2 - 1
        linear, shift = affine[:, :2], affine[:, 2]
        inverse = torch.linalg.inv(linear)
        found = (wanted - shift) @ inverse.T
        field = bend.expand(len(points), -1, -1, -1)
        for _ in range(8):
            moved = F.grid_sample(field, found[:, :, None], padding_mode="border", align_corners=False)[..., 0].transpose(1, 2)
            found = (wanted - shift - moved) @ inverse.T
        return found / 2 + 0.5


def draw_variant(seed: int, clip: int, variant: int) -> Variant | None:
    """The change that makes this variant of a clip; None for variant 0, the clip itself."""
    if variant == 0:
        return None
    random = np.random.default_rng((seed, clip, variant))
    angle = random.normal(0, np.radians(5))
    scale = random.uniform(0.85, 1.15, 2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.concatenate([rotation * scale, random.uniform(-0.08, 0.08, (2, 1))], 1)
    colour = np.diag(random.uniform(0.7, 1.2, 3)) + random.normal(0, 0.1, (3, 3))
    return Variant(
        colour=colour.astype(np.float32),
        offset=random.uniform(-0.15, 0.15, 3).astype(np.float32),
        gamma=float(np.exp(random.uniform(-0.35, 0.35))),
        affine=affine.astype(np.float32),
        bend=random.normal(0, 0.035, (2, 5, 5)).astype(np.float32),
        mirrored=bool(random.random() < 0.5),
    )


def draw_jitter(random: np.random.Generator, amount: float, bend: float = 0.3) -> Variant:
    """Draw a small change of place, angle, size and shape, and none of colour.

    Args:
        random: drawn from.
        amount: the most by which size changes; places move by as much of the frame, angles by about as much in radians.
        bend: how much shapes change, as a share of amount; 0 moves the frame as a hand-held camera does.
    """
    angle, scale = random.normal(0, amount), 1 + random.uniform(-amount, amount)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.concatenate([rotation, random.uniform(-2 * amount, 2 * amount, (2, 1))], 1)
    return Variant(
        colour=np.eye(3, dtype=np.float32),
        offset=np.zeros(3, np.float32),
        gamma=1.0,
        affine=affine.astype(np.float32),
        bend=random.normal(0, bend * amount, (2, 5, 5)).astype(np.float32),
        mirrored=False,
    )
