"""A person's reference images, and the views of them that a reference-guided generator takes: warped to the
driving landmarks, and the background plate of the scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from talkinghead_kernels.warp_by_landmarks import GRID, landmark_motion, warp
from torch import Tensor

from ..clip import IRIS_POINTS, POINTS, POINTS_WITH_IRISES
from ..errors import TalkingheadError
from ..landmarks.eyelids import close_lids, closing_lids
from ..landmarks.face_points import fit_points, join_points, split_points
from ..landmarks.gaze import points_to_warp
from ..media.images import decode_jpeg, encode_jpeg
from ..media.pixel_range import uint8_to_float
from ..system.torch_state import from_numpy
from .reference_guided import ReferenceViews

_WEIGHT_BAND = 0.003
"""Distance beyond the nearest image within which another has a weight, as a fraction of the image.

It is wide enough to average noise away where images are alike, and narrow enough not to blur where all are
far.
"""
_HEAD_HALF_WIDTH = 0.78
"""Half axis of the head's ellipse, in widths of the landmark box."""
_HEAD_HALF_HEIGHT = 1.0
"""Half axis of the head's ellipse, in heights of the landmark box."""
_HEAD_RAISE = 0.2
"""Height of the ellipse's centre above the landmark box's centre, in heights of the box."""
_HEAD_EDGE = 0.08
"""Softness of the ellipse's edge, in half axes."""
_SAME_PIXEL_DIFFERENCE = 0.03
"""Difference of two images, in [-1, 1], up to which they show the same at a position."""
_SAME_SCENE_DIFFERENCE = 0.12
"""Mean difference of two images of one scene outside the heads, in [-1, 1]."""


@dataclass(frozen=True)
class References:
    """The reference images of one person, which a reference-guided generator copies from.

    Attributes:
        images: uint8 [T, S, S, 3], RGB.
        landmarks: float32 [T, 68, 2], as fractions of the image.
        irises: float32 [T, 2, 5, 2], as fractions of the image; None where they are unknown. With them, the
            images follow the driver's gaze.
        one_scene: whether the images share a crop, as frames of one video do; then the background is that of
            the nearest of them, else that of the middle one throughout.
        jpegs: the same images as a file holds them; empty where they were never stored.
        scene: number of the image whose scene is the background where they do not share one; None for the
            middle one.
    """

    images: np.ndarray
    landmarks: np.ndarray
    one_scene: bool = True
    jpegs: tuple[bytes, ...] = field(default=(), repr=False)
    scene: int | None = None
    irises: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __post_init__(self) -> None:
        object.__setattr__(self, "landmarks", np.ascontiguousarray(self.landmarks, dtype=np.float32))
        images, landmarks = self.images, self.landmarks
        square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
        if not (
            square
            and len(images)
            and images.dtype == np.uint8
            and landmarks.shape == (len(images), POINTS, 2)
        ):
            raise TalkingheadError(
                f"references: pictures {images.dtype} {list(images.shape)} with landmarks "
                f"{list(landmarks.shape)}, expected uint8 [T, S, S, 3] and [T, {POINTS}, 2]; make the person "
                "again"
            )
        shape = (len(images), 2, IRIS_POINTS, 2)
        if self.irises is not None and self.irises.shape != shape:
            raise TalkingheadError(
                f"references: irises {list(self.irises.shape)}, expected {list(shape)}; make the person again"
            )
        if not np.isfinite(landmarks).all() or (
            self.irises is not None and not np.isfinite(self.irises).all()
        ):
            raise TalkingheadError("references: a landmark is not finite; make the person again")

    @classmethod
    def encode(
        cls,
        images: np.ndarray,
        landmarks: np.ndarray,
        one_scene: bool = True,
        irises: np.ndarray | None = None,
    ) -> "References":
        """Return references whose images are encoded as JPEG and decoded, as if loaded from a person's file;
        metadata are dropped.
        """
        return cls.decode([encode_jpeg(image) for image in images], landmarks, one_scene, irises=irises)

    @classmethod
    def decode(
        cls,
        jpegs: Sequence[bytes],
        landmarks: np.ndarray,
        one_scene: bool = True,
        size: int | None = None,
        irises: np.ndarray | None = None,
    ) -> "References":
        """Return references from JPEG files.

        Args:
            jpegs: the files' contents.
            landmarks, one_scene, irises: as for `References`.
            size: expected width and height in pixels; None for any.

        Raises:
            ValueError: an image is of another size; it is not decoded then.
        """
        images = np.stack([decode_jpeg(data, size) for data in jpegs])
        return cls(images, landmarks, one_scene, tuple(jpegs), irises=irises)

    def with_scene(self, image: np.ndarray, landmarks: np.ndarray) -> "References":
        """Return these references, to be rendered, with the scene of another image of the person as
        background.

        Args:
            image: uint8 [S, S, 3], RGB.
            landmarks: float [68, 2], as fractions of the image.
        """
        images = np.concatenate([self.images, image[None]])
        points = np.concatenate([self.points, fit_points(landmarks, self.points.shape[1])[None]])
        faces, irises = split_points(points.astype(np.float32))
        return References(images, faces, one_scene=False, scene=len(self), irises=irises)

    @property
    def points(self) -> np.ndarray:
        """float32 [T, 78, 2], landmarks and irises as fractions of the image; [T, 68, 2] without irises."""
        return join_points(self.landmarks, self.irises)

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return images float32 [T, 3, S, S] in [-1, 1] and points float32 [T, 68 or 78, 2] on a device."""
        images = uint8_to_float(from_numpy(self.images).to(device).permute(0, 3, 1, 2))
        return images, from_numpy(self.points).to(device)


def reference_weights(landmarks: Tensor, target: Tensor) -> Tensor:
    """Return the weight of each reference for each target, [B, T], rows summing to 1; continuous, so that
    nothing jumps in a video.

    Args:
        landmarks: [T, 68, 2] or [B, T, 68, 2], of the references.
        target: [B, 68, 2], the driving landmarks.
    """
    distance = (landmarks - target[:, None]).norm(dim=-1).mean(-1)
    nearest = distance.amin(1, keepdim=True)
    weight = (1 - (distance - nearest) / _WEIGHT_BAND).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


def shape_distance(landmarks: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the distance between each target's face shape and the most similar reference, [N]; 0 where one
    is a shifted, rotated or scaled copy of the other.

    Args:
        landmarks: [T, 68, 2], of the references.
        target: [N, 68 or 78, 2], driving points in the same unit; their landmarks count.

    Returns:
        the least mean distance of the points after the best similarity transform, in root-mean-square radii
        of the face.
    """
    faces, references = (_as_complex(points) for points in (split_points(target)[0], landmarks))
    norms = np.einsum("tk,tk->t", references, references.conj()).real
    fit = np.einsum("nk,tk->nt", faces, references.conj()) / norms
    return np.asarray(np.abs(faces[:, None] - fit[..., None] * references).mean(axis=2).min(axis=1))


def _as_complex(points: np.ndarray) -> np.ndarray:
    """Return points [N, 68, 2] as complex numbers [N, 68] with their centre at 0, of unit root-mean-square
    size.
    """
    numbers = points[..., 0].astype(np.float64) + 1j * points[..., 1]
    numbers = numbers - numbers.mean(axis=1, keepdims=True)
    return np.asarray(numbers / np.sqrt((np.abs(numbers) ** 2).mean(axis=1, keepdims=True)))


def view_references(images: Tensor, points: Tensor, target: Tensor, plates: Tensor) -> ReferenceViews:
    """Return the views of one person's references for driving points.

    Args:
        images: [T, 3, S, S] in [-1, 1].
        points: [T, 68 or 78, 2], of the references as fractions.
        target: [B, 68 or 78, 2], the driving points as fractions. The nearest references are chosen by the
            landmarks alone; they are warped by the irises too where both have them.
        plates: [T, 4, S, S], from `background_plates`.
    """
    weight = reference_weights(split_points(points)[0], split_points(target)[0])
    row, number = weight.nonzero(as_tuple=True)
    motion, fine_motion = _motion_to(target[row], points[number], images.shape[-1])
    parts = warp(images[number], fine_motion), plates[number], motion
    if len(row) > len(target):
        share = weight[row, number].view(-1, 1, 1, 1)
        parts = tuple(  # type: ignore[assignment]
            part.new_zeros(len(target), *part.shape[1:]).index_add(0, row, share * part) for part in parts
        )
    return ReferenceViews(*parts)


def _motion_to(target: Tensor, points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the motion field of images to a driver, [B, 2, GRID, GRID], and the finer one that warps them.

    Args:
        target, points: [B, 68 or 78, 2], of the driver and of the images.
        size: of the images in pixels.
    """
    lids = closing_lids(points, target)
    motion = landmark_motion(*points_to_warp(points, target if lids is None else lids.points), GRID)
    return motion, motion if lids is None else close_lids(motion, lids, size)


class ReferenceViewer:
    """Computes the views of one person's references for any driving landmarks; plates are computed once.

    Args:
        references: the person's.
        device: of the views.

    Attributes:
        images: [T, 3, S, S] in [-1, 1].
        points: [T, 68 or 78, 2], as fractions of the image.
        plates: [T, 4, S, S], from `background_plates`.
        scene: number of the image whose scene is the background; None where they share one.
    """

    def __init__(self, references: References, device: torch.device | str = "cpu") -> None:
        self.images, self.points = references.tensors(device)
        landmarks, _ = split_points(self.points)
        self.scene: int | None = None
        if not references.one_scene and len(references) > 1:
            middle = references.scene is None
            self.scene = _middle(landmarks) if middle else references.scene
        if self.scene is None:
            self.plates = background_plates(self.images, landmarks)
        else:
            only = slice(self.scene, self.scene + 1)
            plate = background_plates(self.images[only], landmarks[only])
            self.plates = plate.expand(len(references), -1, -1, -1)

    def __call__(self, target: Tensor | np.ndarray) -> ReferenceViews:
        """Return the views for points float32 [B, 68 or 78, 2], as fractions.

        Raises:
            TalkingheadError: they are no such array or tensor.
        """
        target = _as_points(target, self.images.device)
        views = view_references(self.images, self.points, target, self.plates)
        if self.scene is None:
            return views
        # the head may come from an image of any scene, its surroundings only from the image of `scene`
        only = slice(self.scene, self.scene + 1)
        surroundings = view_references(self.images[only], self.points[only], target, self.plates[only])
        outside = _outside_head(split_points(target)[0], GRID)[:, None]
        size = self.images.shape[-1]
        large = F.interpolate(outside, size=(size, size), mode="bilinear", align_corners=False)
        warped = torch.lerp(views.warped, surroundings.warped, large)
        motion = torch.lerp(views.motion, surroundings.motion, outside)
        return ReferenceViews(warped, surroundings.plate, motion)


def _as_points(target: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """Return points as a tensor; those of an array are on the device."""
    if not isinstance(target, (Tensor, np.ndarray)):
        problem = f"got {type(target).__name__}"
    elif target.ndim != 3 or target.shape[1] not in (POINTS, POINTS_WITH_IRISES) or target.shape[2] != 2:
        problem = f"have shape {list(target.shape)}"
    elif isinstance(target, Tensor):
        return target
    else:
        return from_numpy(np.ascontiguousarray(target, dtype=np.float32)).to(device)
    raise TalkingheadError(
        f"points: {problem}; give an array or a tensor float32 [N, {POINTS} or {POINTS_WITH_IRISES}, 2], "
        "such as person.points(driver)"
    )


def _middle(landmarks: Tensor) -> int:
    """Return the number of the image whose landmarks [T, 68, 2] are nearest to the median."""
    return int((landmarks - landmarks.median(0).values).norm(dim=2).sum(1).argmin())


def view_episodes(images: Tensor, points: Tensor, target: Tensor) -> ReferenceViews:
    """Return views for a batch in which each row has its own references.

    Args:
        images: [B, T, 3, S, S] in [-1, 1].
        points: [B, T, 68 or 78, 2], of the references as fractions.
        target: [B, 68 or 78, 2], the driving points as fractions.
    """
    rows = [
        view_references(row_images, known, to[None], background_plates(row_images, split_points(known)[0]))
        for row_images, known, to in zip(images, points, target, strict=True)
    ]
    return ReferenceViews(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def background_plates(images: Tensor, landmarks: Tensor, one_scene: bool = True) -> Tensor:
    """Return the scene behind the head in each of a person's images, [T, 4, S, S]: its RGB in [-1, 1], and
    how far it was observed, from 0 to 1.

    A plate is the image itself, averaged with others where they show the same, which removes noise. Where the
    head covers the scene it is what other images of the scene show there, and where it is covered in all of
    them it is filled with the colours around.

    Args:
        images: [T, 3, S, S] in [-1, 1].
        landmarks: [T, 68, 2], as fractions.
        one_scene: False returns for each the plate of the middle image alone.
    """
    if not one_scene and len(images) > 1:
        middle = _middle(landmarks)
        plate = background_plates(images[middle, None], landmarks[middle, None])
        return plate.expand(len(images), -1, -1, -1)
    count, size = len(images), images.shape[-1]
    free, small = _outside_head(landmarks, GRID), F.interpolate(images, size=(GRID, GRID), mode="area")
    plates = []
    for number in range(count):
        own = free[number]
        difference = (small - small[number]).abs().mean(1)
        both = free * own
        scene = (difference * both).sum((1, 2)) / both.sum((1, 2)).clamp_min(1e-6)
        same_scene = torch.exp(-((scene / _SAME_SCENE_DIFFERENCE) ** 2)).view(
            -1, 1, 1
        )  # 1 for the image itself
        same_pixel = torch.exp(-((difference / _SAME_PIXEL_DIFFERENCE) ** 2))
        weight = free * same_scene * torch.lerp(torch.ones_like(own), same_pixel, own)
        seen = weight.amax(0, keepdim=True)
        mean = (weight[:, None] * small).sum(0) / weight.sum(0).clamp_min(1e-6)
        filled = _fill(mean[None], seen[None])[0]
        share = torch.cat([weight / weight.sum(0).clamp_min(1e-6) * seen, 1 - seen, seen])
        share = F.interpolate(share[:, None], size=(size, size), mode="bilinear", align_corners=False)
        filled = F.interpolate(filled[None], size=(size, size), mode="bilinear", align_corners=False)[0]
        colours = (share[:count] * images).sum(0) + share[count] * filled
        plates.append(torch.cat([colours, share[count + 1]]))
    return torch.stack(plates)


def _fill(image: Tensor, weight: Tensor) -> Tensor:
    """Return images [B, 3, g, g] whose pixels of weight [B, 1, g, g] 0 have the colours around, from a
    pyramid of means.
    """
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
    """Return how far each position of a grid lies outside the heads, [T, grid, grid] from 0 to 1; a head is
    an ellipse over its landmarks.
    """
    low, high = landmarks.amin(1), landmarks.amax(1)
    extent, centre = high - low, (low + high) / 2
    ticks = (torch.arange(grid, device=landmarks.device, dtype=landmarks.dtype) + 0.5) / grid
    x = (ticks[None, None, :] - centre[:, 0, None, None]) / (_HEAD_HALF_WIDTH * extent[:, 0, None, None])
    y = (ticks[None, :, None] - (centre[:, 1] - _HEAD_RAISE * extent[:, 1])[:, None, None]) / (
        _HEAD_HALF_HEIGHT * extent[:, 1, None, None]
    )
    return torch.sigmoid((torch.sqrt(x * x + y * y) - 1) / _HEAD_EDGE)
