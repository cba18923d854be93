"""Gaze: irises in the frame of their eye, from where they are put at the same place of another person's eye.

The frame of an eye has its origin between the lids, one axis from corner to corner and the other across it.
Along the first, lengths are in widths of the eye; across it, a centre is in openings of the lids, so that an
iris that a lid half covers is half covered on the other face too. The radius is in widths of the eye.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip import IRIS_POINTS
from .face_points import HIDDEN_IRIS, are_hidden, fit_points, join_points, split_points

EYES = ((36, (37, 41), (38, 40), 39), (42, (43, 47), (44, 46), 45))
"""Landmarks of each eye: a corner, two pairs of upper and lower lid, the other corner."""
_CORNERS = [[eye[0], eye[3]] for eye in EYES]
_UPPER_LIDS = [[upper for upper, _ in eye[1:3]] for eye in EYES]
_LOWER_LIDS = [[lower for _, lower in eye[1:3]] for eye in EYES]
_MIN_WIDTH = 0.3
"""Least width of an eye, in widths of the other: the far eye of a head in profile has almost none."""
_MIN_OPENING = 0.12
"""Least opening of an eye, in its widths, that a gaze is relative to: that of a shut eye says nothing."""
EYE_POINTS = [[36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47]]
"""Landmarks of each eye."""
_GAZE_GAIN = 0.6
"""Share by which an iris is moved farther within its eye than it should be: the motion field is smooth, and
reaches about 0.62 of the way (docs/reference_guided.md).
"""
_MAX_ASIDE, _MAX_UPWARDS = 0.28, 0.3
"""Distance of an iris from the middle of its eye: aside in widths of the eye, and up or down in openings."""
_EPSILON = 1e-9
_IRIS_RADIUS = 0.2
"""Radius of an iris, in widths of its eye."""
_EDGES = _IRIS_RADIUS * np.array([[0, 0], [1, 0], [0, -1], [-1, 0], [0, 1]])


def retarget_irises(irises: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Put the irises of one person's eyes at the same relative places of another's.

    Args:
        irises: [N, 2, 5, 2] in the unit of `source`, in the order of `talkinghead.Track`.
        source: landmarks [N, 68, 2] of the eyes that the irises are of.
        target: landmarks [N, 68, 2] of the other person in the same poses and expressions, in fractions of
            the crop.

    Returns:
        float32 [N, 2, 5, 2] in fractions of the crop; hidden irises stay hidden.
    """
    eyes, other_eyes = EyeFrames.of(source), EyeFrames.of(target)
    places = eyes.to_frame(irises.astype(np.float64))
    centres, edges = places[..., :1, :], places - places[..., :1, :]
    centres = centres * np.stack([np.ones_like(eyes.opening), other_eyes.opening / eyes.opening], -1)
    moved = other_eyes.from_frame(centres + edges).astype(np.float32)
    return np.where(are_hidden(irises)[..., None, None], np.float32(HIDDEN_IRIS), moved)


def look_ahead(landmarks: np.ndarray) -> np.ndarray:
    """Return the irises of faces that look straight ahead: [N, 68, 2] -> float32 [N, 2, 5, 2]."""
    places = np.broadcast_to(_EDGES, (len(landmarks), 2, IRIS_POINTS, 2))
    return EyeFrames.of(landmarks).from_frame(places).astype(np.float32)


def points_looking_ahead(landmarks: np.ndarray, num_points: int) -> np.ndarray:
    """Return the points of one face [68, 2] as a model of 68 or 78 takes them: float32 [num_points, 2]."""
    points = join_points(landmarks, look_ahead(landmarks[None])[0])
    return fit_points(points, num_points).astype(np.float32)


def points_to_warp(points: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points by which images are warped to a driver's and their targets, both of the shape of
    `points`.

    An iris that is hidden in one of the two, or that the driver lacks, is replaced by landmarks of its eye,
    so that it moves with the lids. One of which the driver's lids cover more than the image's is flattened
    as the eye is.

    Args:
        points, target: [B, 68 or 78, 2], of the images and of the driver.
    """
    target = fit_points(target, points.shape[-2])
    (source, irises), (goal, goal_irises) = split_points(points), split_points(target)
    if irises is None or goal_irises is None:
        return source, goal
    is_hidden = (are_hidden(irises) | are_hidden(goal_irises))[..., None, None]
    eyes, goal_eyes = source[:, EYE_POINTS], goal[:, EYE_POINTS]
    goal_irises = goal_irises - _covered(goal_irises, eyes, goal_eyes)
    gaze = (irises - goal_irises).mean(2, keepdim=True) - (eyes - goal_eyes).mean(2, keepdim=True)
    irises = torch.where(is_hidden, eyes[:, :, :IRIS_POINTS], irises + _GAZE_GAIN * gaze)
    goal_irises = torch.where(is_hidden, goal_eyes[:, :, :IRIS_POINTS], goal_irises)
    return join_points(source, irises), join_points(goal, goal_irises)


def _covered(irises: Tensor, eyes: Tensor, goal_eyes: Tensor) -> Tensor:
    """Return how far the points of irises lie behind lids that close, [B, 2, 5, 2], across the eye.

    Args:
        irises: [B, 2, 5, 2], where they are to lie.
        eyes, goal_eyes: [B, 2, 6, 2], landmarks of the eyes as they are and as they are to be.
    """
    along = F.normalize(goal_eyes[:, :, 3] - goal_eyes[:, :, 0], dim=-1)
    across = torch.stack([-along[..., 1], along[..., 0]], -1)[:, :, None]
    openings = [((eye[:, :, 4:] - eye[:, :, 1:3]) * across).sum(-1).mean(-1) for eye in (eyes, goal_eyes)]
    open_share = (openings[1] / openings[0].clamp_min(_EPSILON)).clamp(0, 1)[..., None, None]
    height = ((irises - goal_eyes.mean(2, keepdim=True)) * across).sum(-1, keepdim=True)
    return (1 - open_share) * height * across


def shift_irises(irises: np.ndarray, landmarks: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Move irises within their eyes, as far as eyes look.

    Args:
        irises: [N, 2, 5, 2] in the unit of `landmarks`; hidden ones stay hidden.
        landmarks: [N, 68, 2].
        shift: along the eye in widths of it, and across it in openings of the lids.

    Returns:
        float32 [N, 2, 5, 2].
    """
    eyes = EyeFrames.of(landmarks)
    places = eyes.to_frame(irises.astype(np.float64))
    centres = places[..., :1, :]
    opening = eyes.opening[..., None, :]
    unit = np.concatenate([np.ones_like(opening), opening], -1)
    limits = unit * np.array([_MAX_ASIDE, _MAX_UPWARDS])
    goals = np.clip(centres + unit * np.array(shift), -limits, limits)
    moved = eyes.from_frame(places + goals - centres).astype(np.float32)
    return np.where(are_hidden(irises)[..., None, None], irises.astype(np.float32), moved)


@dataclass(frozen=True)
class EyeFrames:
    """Frames of the left and the right eye of N faces.

    Attributes:
        origin: [N, 2, 1, 2], in the middle of the lids.
        axes: [N, 2, 2, 2], the unit vectors along the eye and across it, downwards, as rows.
        width: [N, 2, 1, 1], of the eye in the unit of the landmarks.
        opening: [N, 2, 1], of the lids in widths of the eye.
    """

    origin: np.ndarray
    axes: np.ndarray
    width: np.ndarray
    opening: np.ndarray

    @classmethod
    def of(cls, landmarks: np.ndarray) -> "EyeFrames":
        """Return the frames of the eyes of landmarks [N, 68, 2]."""
        points = landmarks.astype(np.float64)
        corners = points[:, _CORNERS]
        along = corners[:, :, 1] - corners[:, :, 0]
        width = np.linalg.norm(along, axis=-1, keepdims=True)
        along = along / np.maximum(width, _EPSILON)
        axes = np.stack([along, np.stack([-along[..., 1], along[..., 0]], -1)], -2)
        width = np.maximum(width, np.maximum(_MIN_WIDTH * width.max(axis=1, keepdims=True), _EPSILON))
        middle = corners.mean(axis=2)
        heights = [
            ((points[:, lids].mean(axis=2) - middle) * axes[:, :, 1]).sum(-1, keepdims=True)
            for lids in (_UPPER_LIDS, _LOWER_LIDS)
        ]
        origin = middle + axes[:, :, 1] * (heights[0] + heights[1]) / 2
        opening = np.maximum((heights[1] - heights[0]) / width, _MIN_OPENING)
        return cls(origin[:, :, None], axes, width[..., None], opening)

    def to_frame(self, points: np.ndarray) -> np.ndarray:
        """Return points [N, 2, P, 2] as widths along and across their eyes."""
        return (points - self.origin) @ self.axes.swapaxes(-1, -2) / self.width

    def from_frame(self, places: np.ndarray) -> np.ndarray:
        """Return the points [N, 2, P, 2] of such places, the inverse of `to_frame`."""
        return places * self.width @ self.axes + self.origin
