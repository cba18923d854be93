"""The motion of a real head, read off its landmarks, for a drawn one."""

import numpy as np

from ..clip import Track
from ..errors import TalkingheadError
from .head import Head
from .landmarks import Landmarks
from .motion import FPS, PITCH, ROLL, YAW, Motion, smoothed

_RIGID = np.array([*range(27, 36), 36, 39, 42, 45])  # points that hardly move but with the head
_ACTIONS = (
    *("jawOpen", "mouthFunnel", "mouthPucker", "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight"),
    *("mouthLeft", "mouthRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "browDownLeft", "browDownRight"),
    *("eyeBlinkLeft", "eyeBlinkRight"),
)
_RIDGE = 0.002  # metres that an action at its full is held to be worth: what the landmarks do not show stays at rest
_REST = 5  # percentile of an action over the clip that is taken for rest
_STEADY = 0.03  # seconds over which a detector's jitter is smoothed
_REACH = 0.04  # metres that a head moves to each side, at most


def motion_from_track(head: Head, track: Track) -> Motion:
    """What a head does so that its landmarks move like those of a track, at 25 frames a second; the gaze stays ahead.

    The proportions of the person in the track are told from their motion by taking the middle of the clip for their face at rest.

    Args:
        head: the model.
        track: of one person, with its frame rate.

    Raises:
        TalkingheadError: the track has no frame rate, or no frame.
    """
    if not track.fps or not len(track):
        raise TalkingheadError(f"motion_from_track: {len(track)} frames at {track.fps:g} a second, expected those of a video")
    rest = _places(head, head.template)
    points = track.landmarks.astype(np.float64)
    turns, scales, places = _poses(points, rest)
    expected = np.einsum("nij,kj->nki", turns[:, :2] * scales[:, None, None], rest) + places[:, None]
    # into the axes of the picture of an upright head
    across = turns[:, :2, :2]
    moved = np.einsum("nij,nkj->nki", np.linalg.inv(across), points - expected) / scales[:, None, None]
    moved -= np.median(moved, axis=0)
    ways = np.stack([_places(head, head.template + head.actions[head.action[name]])[:, :2] - rest[:, :2] for name in _ACTIONS])
    ways = ways.reshape(len(_ACTIONS), -1)
    levels = moved.reshape(len(moved), -1) @ np.linalg.solve(ways @ ways.T + _RIDGE**2 * np.eye(len(ways)), ways).T
    actions = np.zeros((len(track), len(head.actions)))
    for name, level in zip(_ACTIONS, levels.T, strict=True):
        actions[:, head.action[name]] = np.clip(level - np.percentile(level, _REST), 0, 1)
    angles = np.degrees(
        np.stack(
            [
                np.arcsin(np.clip(turns[:, 2, 0], -1, 1)),
                np.arctan2(turns[:, 2, 1], turns[:, 2, 2]),
                np.arctan2(turns[:, 1, 0], turns[:, 0, 0]),
            ],
            axis=1,
        )
    )
    nearer = np.median(scales) / scales - 1
    shift = np.concatenate([(places - np.median(places, axis=0)) / scales[:, None], nearer[:, None]], axis=1)
    limits = np.array([YAW, PITCH, ROLL])
    count = max(1, round(len(track) / track.fps * FPS))
    at = np.arange(count) / FPS * track.fps

    def resampled(values: np.ndarray) -> np.ndarray:
        steady = smoothed(values, _STEADY, track.fps)
        return np.stack([np.interp(at, np.arange(len(steady)), column) for column in steady.T], axis=1).astype(np.float32)

    return Motion(
        resampled(limits * np.tanh(angles / limits)),
        resampled(_REACH * np.tanh(shift / _REACH)),
        resampled(actions),
        np.zeros((count, 2), np.float32),
    )


def _places(head: Head, face: np.ndarray) -> np.ndarray:
    """float64 [68, 3]: the landmarks of an upright face; x right, y down, z away, from the middle of the eyes."""
    space = np.stack([face[:, 0], -face[:, 2], face[:, 1] + 1.0], axis=1).astype(np.float32)
    return Landmarks(head, head.template).places(space) - [0, 0, 1.0]


def _poses(points: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scaled orthography: rotations [N, 3, 3], scales [N] and places [N, 2] that bring `rest` [68, 3] nearest to points [N, 68, 2]."""
    model = np.concatenate([rest[_RIGID], np.ones((len(_RIGID), 1))], axis=1)
    fitted = np.einsum("ij,njk->nki", np.linalg.pinv(model), points[:, _RIGID])
    left, sizes, right = np.linalg.svd(fitted[:, :, :3], full_matrices=False)
    rows = left @ right
    rotations = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    scales = sizes.mean(axis=1)
    centre = points[:, _RIGID].mean(axis=1) - scales[:, None] * np.einsum("nij,j->ni", rows, rest[_RIGID].mean(axis=0))
    return rotations, scales, centre
