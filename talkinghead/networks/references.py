"""A person's pictures as a reference-guided generator sees them: warped to the driving landmarks, and as a plate of the scene."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from talkinghead_kernels.warp_by_landmarks import GRID, landmark_motion, warp
from torch import Tensor

from ..clip import POINTS
from ..errors import TalkingheadError
from ..media.pictures import decode_jpeg, encode_jpeg
from ..torch_state import from_numpy
from .reference_guided import ReferenceViews

_BAND = 0.003
"""How much farther than the nearest picture others may be and still count, in fractions of the picture: wide enough to average noise away
where pictures are alike, narrow enough not to blur where all are far."""
_HEAD = (0.78, 1.0, 0.2)  # half axes of a head in widths and heights of its landmark box, and how far its centre lies above the box's
_EDGE = 0.08  # softness of the head's edge, in half axes
_SAME_PLACE = 0.03  # difference of two pictures, in [-1, 1], up to which they show the same at a place
_ALIKE = 0.12  # mean difference of two pictures of one scene outside the heads, in [-1, 1]


@dataclass(frozen=True)
class References:
    """The pictures of one person that a reference-guided generator shows.

    Attributes:
        pictures: uint8 [T, S, S, 3], RGB.
        landmarks: float32 [T, 68, 2], as fractions of the picture.
        one_scene: whether the pictures share a crop, as frames of one video do; then the scene shown follows the nearest of them, else it
            is that of the middle one throughout.
        jpegs: the same pictures as a file holds them; empty where they were never stored.
        scene: number of the picture whose scene is shown where they share none; None for the middle one.
    """

    pictures: np.ndarray
    landmarks: np.ndarray
    one_scene: bool = True
    jpegs: tuple[bytes, ...] = field(default=(), repr=False)
    scene: int | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __post_init__(self) -> None:
        object.__setattr__(self, "landmarks", np.ascontiguousarray(self.landmarks, dtype=np.float32))
        pictures, landmarks = self.pictures, self.landmarks
        square = pictures.ndim == 4 and pictures.shape[1] == pictures.shape[2] and pictures.shape[3] == 3
        if not (square and len(pictures) and pictures.dtype == np.uint8 and landmarks.shape == (len(pictures), POINTS, 2)):
            raise TalkingheadError(
                f"references: pictures {pictures.dtype} {list(pictures.shape)} with landmarks {list(landmarks.shape)}, expected uint8 "
                f"[T, S, S, 3] and [T, {POINTS}, 2]; make the person again"
            )
        if not np.isfinite(landmarks).all():
            raise TalkingheadError("references: a landmark is not finite; make the person again")

    @classmethod
    def stored(cls, pictures: np.ndarray, landmarks: np.ndarray, one_scene: bool = True) -> "References":
        """Return references as a person's file gives them back: their pictures have been through JPEG, and metadata are gone."""
        return cls.decode([encode_jpeg(picture) for picture in pictures], landmarks, one_scene)

    @classmethod
    def decode(cls, jpegs: Sequence[bytes], landmarks: np.ndarray, one_scene: bool = True, size: int | None = None) -> "References":
        """Return references whose pictures are given as JPEG, all `size` pixels wide and high where that is given.

        Raises:
            ValueError: a picture is of another size; it is not decoded then.
        """
        return cls(np.stack([decode_jpeg(data, size) for data in jpegs]), landmarks, one_scene, tuple(jpegs))

    def before(self, picture: np.ndarray, landmarks: np.ndarray) -> "References":
        """Return these references shown before the scene of another picture of the person.

        Args:
            picture: uint8 [S, S, 3], RGB.
            landmarks: float [68, 2], as fractions of the picture.
        """
        pictures, points = np.concatenate([self.pictures, picture[None]]), np.concatenate([self.landmarks, landmarks[None]])
        return References(pictures, points.astype(np.float32), one_scene=False, scene=len(self))

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return pictures float32 [T, 3, S, S] in [-1, 1] and landmarks float32 [T, 68, 2] on a device."""
        pictures = from_numpy(self.pictures).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return pictures, from_numpy(self.landmarks).to(device)


def nearness(landmarks: Tensor, target: Tensor) -> Tensor:
    """Return how much each picture counts for each target, [B, T], rows summing to 1; continuous, so that nothing jumps in a video.

    Args:
        landmarks: [T, 68, 2] or [B, T, 68, 2], of the pictures.
        target: [B, 68, 2], where they are to be.
    """
    distance = (landmarks - target[:, None]).norm(dim=-1).mean(-1)
    nearest = distance.amin(1, keepdim=True)
    weight = (1 - (distance - nearest) / _BAND).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


def shape_distance(landmarks: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return how unlike anything in the pictures each target's face is, [N]: 0 for one that is only moved, turned in the plane or scaled.

    Args:
        landmarks: [T, 68, 2], of the pictures.
        target: [N, 68, 2], driving landmarks in the same unit.

    Returns:
        the least mean distance of the points after the best similarity, in root-mean-square radii of the face.
    """
    faces, pictures = (_as_complex(points) for points in (target, landmarks))
    fit = np.einsum("nk,tk->nt", faces, pictures.conj()) / np.einsum("tk,tk->t", pictures, pictures.conj()).real
    return np.asarray(np.abs(faces[:, None] - fit[..., None] * pictures).mean(axis=2).min(axis=1))


def _as_complex(points: np.ndarray) -> np.ndarray:
    """Return points [N, 68, 2] as complex numbers [N, 68] about their centre, of unit root-mean-square size."""
    numbers = points[..., 0].astype(np.float64) + 1j * points[..., 1]
    numbers = numbers - numbers.mean(axis=1, keepdims=True)
    return np.asarray(numbers / np.sqrt((np.abs(numbers) ** 2).mean(axis=1, keepdims=True)))


def view_references(pictures: Tensor, landmarks: Tensor, target: Tensor, plates: Tensor) -> ReferenceViews:
    """Return what the generator sees of one person's pictures.

    Args:
        pictures: [T, 3, S, S] in [-1, 1].
        landmarks: [T, 68, 2], as fractions.
        target: [B, 68, 2], the driving landmarks as fractions.
        plates: [T, 4, S, S], from `background_plates`.
    """
    weight = nearness(landmarks, target)
    row, number = weight.nonzero(as_tuple=True)
    motion = landmark_motion(landmarks[number], target[row], GRID)
    parts = warp(pictures[number], motion), plates[number], motion
    if len(row) > len(target):
        share = weight[row, number].view(-1, 1, 1, 1)
        parts = tuple(  # type: ignore[assignment]
            part.new_zeros(len(target), *part.shape[1:]).index_add(0, row, share * part) for part in parts
        )
    return ReferenceViews(*parts)


class ReferenceViewer:
    """What a generator sees of one person's references for any driving landmarks; plates are made once.

    Args:
        references: the person's.
        device: where views are made.
    """

    def __init__(self, references: References, device: torch.device | str = "cpu") -> None:
        self._pictures, self._landmarks = references.tensors(device)
        several = not references.one_scene and len(references) > 1
        self._scene = (_middle(self._landmarks) if references.scene is None else references.scene) if several else None
        if self._scene is None:
            self._plates = background_plates(self._pictures, self._landmarks)
        else:
            only = slice(self._scene, self._scene + 1)
            self._plates = background_plates(self._pictures[only], self._landmarks[only]).expand(len(references), -1, -1, -1)

    def __call__(self, target: Tensor) -> ReferenceViews:
        """Return the views for landmarks [B, 68, 2], as fractions."""
        views = view_references(self._pictures, self._landmarks, target, self._plates)
        if self._scene is None:
            return views
        # of pictures of several scenes each may lend its head, but what is around it is one's alone
        only = slice(self._scene, self._scene + 1)
        around = view_references(self._pictures[only], self._landmarks[only], target, self._plates[only])
        outside = _outside_head(target, GRID)[:, None]
        size = self._pictures.shape[-1]
        large = F.interpolate(outside, size=(size, size), mode="bilinear", align_corners=False)
        warped = torch.lerp(views.warped, around.warped, large)
        return ReferenceViews(warped, around.plate, torch.lerp(views.motion, around.motion, outside))


def _middle(landmarks: Tensor) -> int:
    """Return the number of the picture whose landmarks [T, 68, 2] are nearest to the median."""
    return int((landmarks - landmarks.median(0).values).norm(dim=2).sum(1).argmin())


def view_episodes(pictures: Tensor, landmarks: Tensor, target: Tensor) -> ReferenceViews:
    """Return the same for a batch whose rows have pictures of their own: [B, T, 3, S, S], [B, T, 68, 2] and [B, 68, 2]."""
    rows = [
        view_references(shown, points, to[None], background_plates(shown, points))
        for shown, points, to in zip(pictures, landmarks, target, strict=True)
    ]
    return ReferenceViews(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def background_plates(pictures: Tensor, landmarks: Tensor, one_scene: bool = True) -> Tensor:
    """Return the scene behind each of a person's pictures, [T, 4, S, S]: its RGB in [-1, 1], and how far it was seen, from 0 to 1.

    A plate is the picture itself, averaged with others where they show the same place, which takes noise away; where its head covers the
    scene it is what others of the same scene show there, and where all are covered the colours around.

    Args:
        pictures: [T, 3, S, S] in [-1, 1].
        landmarks: [T, 68, 2], as fractions.
        one_scene: False gives all of them the plate of the middle picture, which no other has a part in.
    """
    if not one_scene and len(pictures) > 1:
        middle = _middle(landmarks)
        alone = background_plates(pictures[middle, None], landmarks[middle, None])
        return alone.expand(len(pictures), -1, -1, -1)
    count, size = len(pictures), pictures.shape[-1]
    free, small = _outside_head(landmarks, GRID), F.interpolate(pictures, size=(GRID, GRID), mode="area")
    plates = []
    for number in range(count):
        own = free[number]
        difference = (small - small[number]).abs().mean(1)
        both = free * own
        scene = (difference * both).sum((1, 2)) / both.sum((1, 2)).clamp_min(1e-6)
        same_scene = torch.exp(-((scene / _ALIKE) ** 2)).view(-1, 1, 1)  # 1 for the picture itself
        same_place = torch.exp(-((difference / _SAME_PLACE) ** 2))
        weight = free * same_scene * torch.lerp(torch.ones_like(own), same_place, own)
        seen = weight.amax(0, keepdim=True)
        mean = (weight[:, None] * small).sum(0) / weight.sum(0).clamp_min(1e-6)
        around = _fill(mean[None], seen[None])[0]
        share = torch.cat([weight / weight.sum(0).clamp_min(1e-6) * seen, 1 - seen, seen])
        share = F.interpolate(share[:, None], size=(size, size), mode="bilinear", align_corners=False)
        around = F.interpolate(around[None], size=(size, size), mode="bilinear", align_corners=False)[0]
        plates.append(torch.cat([(share[:count] * pictures).sum(0) + share[count] * around, share[count + 1]]))
    return torch.stack(plates)


def _fill(image: Tensor, weight: Tensor) -> Tensor:
    """Return images [B, 3, g, g] whose places of weight [B, 1, g, g] 0 have the colours around, by a pyramid of means."""
    levels = [(image * weight, weight)]
    while levels[-1][0].shape[-1] > 1:
        levels.append((F.avg_pool2d(levels[-1][0], 2), F.avg_pool2d(levels[-1][1], 2)))
    total, share = levels[-1]
    filled = total / share.clamp_min(1e-6)
    for total, share in levels[-2::-1]:
        filled = F.interpolate(filled, size=total.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.lerp(filled, total / share.clamp_min(1e-6), share.clamp(0, 1))
    return filled


def _outside_head(landmarks: Tensor, grid: int) -> Tensor:
    """Return how far each place of a grid lies outside the heads, [T, grid, grid] from 0 to 1; a head is an ellipse over its landmarks."""
    low, high = landmarks.amin(1), landmarks.amax(1)
    extent, centre = high - low, (low + high) / 2
    wide, tall, raised = _HEAD
    ticks = (torch.arange(grid, device=landmarks.device, dtype=landmarks.dtype) + 0.5) / grid
    x = (ticks[None, None, :] - centre[:, 0, None, None]) / (wide * extent[:, 0, None, None])
    y = (ticks[None, :, None] - (centre[:, 1] - raised * extent[:, 1])[:, None, None]) / (tall * extent[:, 1, None, None])
    return torch.sigmoid((torch.sqrt(x * x + y * y) - 1) / _EDGE)
