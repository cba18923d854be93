"""Eyelids that close, by a motion finer than the field that moves the rest of the face.

That field has 64 x 64 cells and is smooth, so it brings lids half of the way together at most. For lids that
close beyond a part of their opening it therefore moves the eye with its lids open, and here they are closed:
above a lid the skin is stretched, and between the lids the eye is compressed into a line.

The frame of an eye has its origin between its corners, one axis from corner to corner and the other across
it, downwards, both in widths of the eye. A lid is a parabola through the corners.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .face_points import fit_points
from .gaze import EYE_POINTS

_CLOSING_BEGINS = 0.8
"""Opening of the driver's lids, as a share of that in the image, below which they are closed further."""
_CLOSED = 0.55
"""The same, at which they are shut: landmarks on shut lids are still apart (docs/reference_guided.md)."""
_LINE = 0.05
"""Height of the line between shut lids."""
_HIDDEN = 0.7
"""Share of the eye, from below, that shut lids hide; the rest, with the lashes, is the line between them."""
_RIM = 0.07
"""Height of the rim of the lower lid, which is hidden too: it is as bright as the eye."""
_SKIN_ABOVE, _SKIN_BELOW = 0.35, 0.3
"""Height of the skin that is stretched above and below the open eye."""
_LID_HEIGHT = 8 / 9
"""Height of a parabola at the landmarks of a lid, a third from each corner, as a share of its greatest."""
_BOX_HALF_SIDE = 1.0
"""Half side of the square around an eye that holds all that moves."""
_PROFILE, _TURNED = 0.3, 0.5
"""Width of an eye, in widths of the other, up to which it is not closed, and from which it is."""
_TINY, _SMALL = 0.006, 0.012
"""Opening of an eye in the image, in fractions of it, up to which it is not closed, and from which it is."""
_CORNERS = [[36, 39], [42, 45]]
"""Landmarks of the corners of each eye."""
_NOSE_BASE = 33
_EPSILON = 1e-6
_LEAST_SPAN = 1e-4


@dataclass(frozen=True)
class ClosingLids:
    """Closing lids of B faces.

    Attributes:
        share: [B, 2], how far each eye is shut, from 0 to 1.
        points: [B, 68 or 78, 2], those of the driver with the lids open.
        frames: of the driver's eyes.
        opened, closed: [B, 2, 2], heights of the upper and the lower lid in `points`, and as they are shown.
    """

    share: Tensor
    points: Tensor
    frames: "EyeAxes"
    opened: Tensor
    closed: Tensor


@dataclass(frozen=True)
class EyeAxes:
    """Frames of the two eyes of B faces.

    Attributes:
        origin: [B, 2, 1, 2], in fractions of the image.
        axes: [B, 2, 2, 2], the unit vectors along the eye and across it, as rows.
        width: [B, 2, 1, 1], in fractions of the image.
        face_height: [B, 2, 1, 1], from the corners of the eyes to the base of the nose across the eye, in its
            widths. Heights relative to it are the same for a head that turns aside, unlike widths.
        certainty: [B, 2], from 0 to 1; 0 of an eye of a head in profile.
    """

    origin: Tensor
    axes: Tensor
    width: Tensor
    face_height: Tensor
    certainty: Tensor

    @classmethod
    def of(cls, landmarks: Tensor) -> "EyeAxes":
        """Return the frames of the eyes of landmarks [B, 68 or 78, 2]."""
        corners = landmarks[:, _CORNERS]
        along = corners[:, :, 1] - corners[:, :, 0]
        width = along.norm(dim=-1, keepdim=True).clamp_min(_EPSILON)
        along = along / width
        across = torch.stack([-along[..., 1], along[..., 0]], -1)
        middles = corners.mean(2)
        down = (landmarks[:, _NOSE_BASE] - middles.mean(1))[:, None]
        face_height = (down * across).sum(-1, keepdim=True) / width
        is_ahead = ((middles[:, 1:] - middles[:, :1]) * along).sum(-1) > 0
        relative_width = (width / width.amax(1, keepdim=True))[..., 0]
        certainty = ((relative_width - _PROFILE) / (_TURNED - _PROFILE)).clamp(0, 1)
        return cls(
            middles[:, :, None],
            torch.stack([along, across], 2),
            width[..., None],
            face_height=face_height.clamp_min(_EPSILON)[..., None],
            certainty=certainty * (is_ahead & (face_height[..., 0] > 0)),
        )

    def to_frame(self, points: Tensor) -> Tensor:
        """Return points [B, 2, P, 2] in the frames of their eyes."""
        return (points - self.origin) @ self.axes.mT / self.width

    def from_frame(self, places: Tensor) -> Tensor:
        """Return the points [B, 2, P, 2] of places, the inverse of `to_frame`."""
        return places * self.width @ self.axes + self.origin


def closing_lids(points: Tensor, target: Tensor) -> ClosingLids | None:
    """Return how lids close from images to a driver; None where none of them does.

    Args:
        points, target: [B, 68 or 78, 2], of the images and of the driver.
    """
    target = fit_points(target, points.shape[-2])
    eyes, frames = EyeAxes.of(points), EyeAxes.of(target)
    image_shapes = eyes.to_frame(points[:, EYE_POINTS])
    goal_shapes = frames.to_frame(target[:, EYE_POINTS])
    # widths shrink when a head turns aside, and the height of the nose when it nods: the one that says less
    heights = image_shapes[..., 1:] * (frames.face_height / eyes.face_height).clamp_max(1)
    shapes = torch.cat([image_shapes[..., :1], heights], -1)
    open_share = _openings(goal_shapes) / _openings(shapes).clamp_min(_EPSILON)
    share = ((_CLOSING_BEGINS - open_share) / (_CLOSING_BEGINS - _CLOSED)).clamp(0, 1)
    # landmarks of a small eye are too uncertain to tell whether it closes
    size = _openings(image_shapes) * eyes.width[..., 0, 0]
    share = share * ((size - _TINY) / (_SMALL - _TINY)).clamp(0, 1) * eyes.certainty * frames.certainty
    if not bool((share > 0).any()):
        return None
    opened_shapes = torch.lerp(goal_shapes, shapes, share[..., None, None])
    opened_points = target.clone()
    opened_points[:, EYE_POINTS] = frames.from_frame(opened_shapes)
    upper, lower = _lid_heights(goal_shapes).unbind(-1)
    meeting = torch.stack([lower - _LINE / 2, lower + _LINE / 2], -1)
    closed = torch.lerp(torch.stack([upper, lower], -1), meeting, share[..., None])
    return ClosingLids(share, opened_points, frames, opened=_lid_heights(opened_shapes), closed=closed)


def _lid_heights(shapes: Tensor) -> Tensor:
    """Return the heights of the upper and the lower lid of eyes [B, 2, 6, 2] in their frames, [B, 2, 2]."""
    height = shapes[..., 1]
    return torch.stack([height[..., 1:3].mean(-1), height[..., 4:].mean(-1)], -1)


def _openings(shapes: Tensor) -> Tensor:
    """Return the openings of eyes [B, 2, 6, 2] in their frames, [B, 2]."""
    return _lid_heights(shapes).diff(dim=-1)[..., 0]


def close_lids(motion: Tensor, lids: ClosingLids, size: int) -> Tensor:
    """Return the motion of each pixel, [B, 2, size, size], of images whose lids close.

    Args:
        motion: [B, 2, grid, grid], the field that moves images to `lids.points`.
        lids: of the same faces.
        size: of the images in pixels.
    """
    fine = F.interpolate(motion, size=(size, size), mode="bilinear", align_corners=False)
    origins, widths = lids.frames.origin[:, :, 0].cpu(), lids.frames.width[:, :, 0, 0].cpu()
    for row, eye in (lids.share > 0).nonzero().tolist():
        half = float(_BOX_HALF_SIDE * widths[row, eye])
        (left, right), (top, bottom) = (
            (max(int((at - half) * size), 0), min(int((at + half) * size) + 1, size))
            for at in origins[row, eye].tolist()
        )
        if left >= right or top >= bottom:
            continue
        x, y = (
            (torch.arange(first, last, device=motion.device, dtype=motion.dtype) + 0.5) / size
            for first, last in ((left, right), (top, bottom))
        )
        pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        shift = _lid_shift(pixels, lids, row, eye)
        positions = (pixels + shift)[None] * 2 - 1
        moved = F.grid_sample(motion[row, None], positions, padding_mode="border", align_corners=False)[0]
        box = fine[row, :, top:bottom, left:right]
        is_moved = (shift != 0).any(-1)
        box.copy_(torch.where(is_moved, moved + shift.permute(2, 0, 1), box))
    return fine


def _lid_shift(pixels: Tensor, lids: ClosingLids, row: int, eye: int) -> Tensor:
    """Return from where the pixels [H, W, 2] of an eye are taken, as a shift, where its lids were open."""
    frames = lids.frames
    axes, width = frames.axes[row, eye], frames.width[row, eye]
    along, height = ((pixels - frames.origin[row, eye]) @ axes.T / width).unbind(-1)
    bow = (1 - (2 * along).square()).clamp_min(0) / _LID_HEIGHT
    upper, lower = (bow * lid for lid in lids.opened[row, eye])
    closed_upper, closed_lower = (bow * lid for lid in lids.closed[row, eye])
    top, bottom = upper - _SKIN_ABOVE, lower + _SKIN_BELOW
    share = lids.share[row, eye]
    seen, rim = torch.lerp(lower, upper, _HIDDEN * share), _RIM * share * bow
    moved = height
    for ends, open_ends in (
        ((top, closed_upper), (top, upper)),
        ((closed_upper, closed_lower), (upper, seen)),
        ((closed_lower, bottom), (lower + rim, bottom)),
    ):
        place = (height - ends[0]) / (ends[1] - ends[0]).clamp_min(_LEAST_SPAN)
        is_between = (height >= ends[0]) & (height < ends[1]) & (bow > 0)
        moved = torch.where(is_between, torch.lerp(open_ends[0], open_ends[1], place), moved)
    return (moved - height)[..., None] * width * axes[1]
