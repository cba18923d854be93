"""Points of a face as models take them: the 68 landmarks, and after them the irises where they are known.

Points are [..., 68, 2] or [..., 78, 2]. A model with irises (`NetworkConfig.irises`) takes 78; where the
irises are unknown, theirs lie outside the picture, so that no line of them is visible. Whatever depends on
the shape of the face takes the landmarks alone.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..clip import IRIS_POINTS, POINTS, Track

Points = TypeVar("Points", np.ndarray, Tensor)

HIDDEN_IRIS = -1.0
"""Both coordinates of the points of an iris that is unknown, in fractions of the crop: outside of it."""


def join_points(landmarks: Points, irises: Points | None) -> Points:
    """Join landmarks and irises: [..., 68, 2], [..., 2, 5, 2] -> [..., 78, 2]; landmarks alone if None."""
    if irises is None:
        return landmarks
    edges = irises.reshape(*landmarks.shape[:-2], 2 * IRIS_POINTS, 2)
    if isinstance(landmarks, Tensor):
        return torch.cat([landmarks, edges], -2)
    return np.concatenate([landmarks, edges], axis=-2)


def split_points(points: Points) -> tuple[Points, Points | None]:
    """Split [..., 68 or 78, 2] into landmarks [..., 68, 2] and irises [..., 2, 5, 2]; None of 68 points."""
    landmarks, edges = points[..., :POINTS, :], points[..., POINTS:, :]
    if not edges.shape[-2]:
        return landmarks, None
    return landmarks, edges.reshape(*edges.shape[:-2], 2, IRIS_POINTS, 2)


def fit_points(points: Points, num_points: int) -> Points:
    """Return points [..., 68 or 78, 2] as [..., num_points, 2]: irises are cut off, or hidden ones appended.

    Args:
        points: as fractions of the crop.
        num_points: of the model, 68 or 78.
    """
    missing = num_points - points.shape[-2]
    if missing <= 0:
        return points[..., :num_points, :]
    shape = (*points.shape[:-2], missing, 2)
    if isinstance(points, Tensor):
        return torch.cat([points, points.new_full(shape, HIDDEN_IRIS)], -2)
    return np.concatenate([points, np.full(shape, HIDDEN_IRIS, points.dtype)], axis=-2)


def are_hidden(irises: Points) -> Points:
    """Return which irises [..., 5, 2] are hidden, bool [...]; the points of a visible one differ."""
    return (irises == irises[..., :1, :]).all(-1).all(-1)


def track_points(track: Track) -> np.ndarray:
    """Return the points of a track in its pixels, float32 [N, 78, 2], or [N, 68, 2] without irises."""
    return join_points(track.landmarks, track.irises)


def concatenate_irises(tracks: Sequence[Track]) -> np.ndarray | None:
    """Return the irises of tracks in order, float32 [N, 2, 5, 2], hidden for tracks without; None if none has
    any.
    """
    if all(track.irises is None for track in tracks):
        return None
    parts = []
    for track in tracks:
        hidden = np.full((len(track), 2, IRIS_POINTS, 2), HIDDEN_IRIS * max(track.size), np.float32)
        parts.append(hidden if track.irises is None else track.irises)
    return np.concatenate(parts)
