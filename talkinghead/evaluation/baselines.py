"""Baselines without a network: copy the nearest of a person's frames, or warp it to the driving landmarks."""

import numpy as np

from ..clip import Clip, Track
from ..errors import TalkingheadError, require


def nearest_frames(clip: Clip, track: Track) -> np.ndarray:
    """Find for every driving frame the frame of a person's clip with the nearest landmarks.

    Args:
        clip: N frames of the person.
        track: M driving landmarks, in pixels of the clip's frames.

    Returns:
        int64 [M], indices into `clip`, by the mean distance of the 68 points without alignment.

    Raises:
        TalkingheadError: the clip is empty, or the landmarks refer to another frame size.
    """
    if not len(clip) or tuple(clip.track.size) != tuple(track.size):
        raise TalkingheadError(
            f"nearest_frames: {len(clip)} frames of {clip.track.size} for driving landmarks of "
            f"{track.size}; give frames and landmarks of the same size"
        )
    nearest = [
        int(np.linalg.norm(clip.track.landmarks - driving, axis=2).mean(axis=1).argmin())
        for driving in track.landmarks
    ]  # one driving frame at a time: a long drive stays small
    return np.array(nearest, dtype=np.int64)


def warp_to_landmarks(frame: np.ndarray, from_points: np.ndarray, to_points: np.ndarray) -> np.ndarray:
    """Warp a frame so that its landmarks move to target positions: piecewise affine, with a fixed border.

    Args:
        frame: uint8 [H, W, 3].
        from_points: float [68, 2], its landmarks in pixels.
        to_points: float [68, 2], the target positions. Both may reach beyond the frame.

    Returns:
        uint8 [H, W, 3].

    Raises:
        TalkingheadError: scikit-image is not installed, or the points form no face.
    """
    transform = require("skimage.transform", "app")
    limit = np.array(frame.shape[1::-1])
    # touching lips have coinciding points, which give degenerate triangles: move each point a little
    angle = np.arange(len(from_points)) * 2.4
    offsets = 0.01 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    border = np.array([(x, y) for x in (0, 0.5, 1) for y in (0, 0.5, 1) if (x, y) != (0.5, 0.5)]) * limit
    # scikit-image's coordinates are those of pixel centres
    source, target = (np.concatenate([points + offsets, border]) - 0.5 for points in (from_points, to_points))
    piecewise = transform.PiecewiseAffineTransform
    if hasattr(piecewise, "from_estimate"):
        back = piecewise.from_estimate(target, source)
    else:  # before scikit-image 0.26
        back = piecewise()
        back = back if back.estimate(target, source) else None
    if not back:
        raise TalkingheadError(
            "warp_to_landmarks: the landmarks are no face that could be bent into the other; check both"
        )
    return np.rint(transform.warp(frame, back, order=1, mode="edge", preserve_range=True)).astype(np.uint8)
