"""Smoothing of landmarks, which removes the jitter of the detector.

Each frame is averaged with those within a quarter of a second that differ from it by no more than the jitter:
a still face becomes steady, and real movements are kept without lag. The head (one similarity) and each part
of the face are compared separately, so that the eyes are smoothed while the mouth speaks, and the whole face
while the head turns. Irises move along with the smoothed head; their own movement is averaged over two frames
to either side at most, because a gaze jumps.

Lengths are in radii of the face, the root-mean-square distance of its points from their centre, so smoothing
commutes with rotation, scaling and translation.
"""

from collections import deque
from dataclasses import replace

import numpy as np

from ..clip import POINTS, Track
from .face_points import split_points, track_points

NOISE = 0.005
"""Jitter of a detector: the standard deviation of a coordinate in radii of the face; dlib's is about this."""
WINDOW = 0.25
"""Seconds to either side that are averaged over."""
IRIS_FRAMES = 2
"""Frames to either side that irises are averaged over: a gaze that jumps arrives within so many frames."""
BORDER = 0.5
"""Seconds without a face that are not smoothed across."""

_NOISES = (0.002, 0.012)  # within which the jitter measured on a track is believed
_ENOUGH = 12  # frames to measure it on
_JUMP = 1.5  # radii, half a face, from one frame to the next: another shot
_SHARP = 1.0  # a frame counts 1/e when it differs by the jitter and once more as much (squared)
_HEAD = 0.35  # of the jitter of a point is left in the similarity
_STEADY = np.array(
    [*range(4), *range(13, 36), 36, 39, 42, 45]
)  # points that move with the head: temples, brows, nose, corners of the eyes
# of head, jaw, brows, nose, eyes, lips, irises in the 2 + 78 numbers of a frame, or 2 + 68 without irises
_STARTS = np.array([0, 2, 19, 24, 29, 38, 44, 50, 70])
_FACE = slice(2, 2 + POINTS)
_IRISES = slice(2 + POINTS, None)


def smooth(track: Track) -> Track:
    """Return the track with less jitter and without lag, from frames before and after; for files.

    Nothing is smoothed across 0.5 s without a face or a jump of half a face (a cut). Frames in which no face
    was seen take no part, they move along with their neighbours. Pictures (fps 0) are returned as they are.
    """
    numbers = np.flatnonzero(track.seen)
    if not track.fps or len(numbers) < 2:
        return track
    points = _complex(track_points(track))
    seen = points[numbers]
    borders = np.flatnonzero((np.diff(numbers) > BORDER * track.fps) | _jumps(seen[:-1], seen[1:])) + 1
    shots = zip(np.split(seen, borders), np.split(numbers, borders), strict=True)
    moved = (
        np.concatenate([_smooth_shot(shot, times, int(WINDOW * track.fps)) for shot, times in shots]) - seen
    )
    every = np.arange(len(track))
    points = points + np.stack([np.interp(every, numbers, column) for column in moved.T], axis=1)
    landmarks, irises = split_points(_real(points))
    return replace(track, landmarks=landmarks, irises=irises)


class OnlineSmoother:
    """Smooths landmarks as they come, from the frames before alone.

    Args:
        noise: jitter of the detector, in radii of the face.
    """

    def __init__(self, noise: float = NOISE) -> None:
        self._noise = noise
        self.reset()

    def reset(self) -> None:
        """Forget the previous frames, because another face follows."""
        self._first: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self._window: deque[tuple[float, np.ndarray]] = deque()

    def __call__(self, points: np.ndarray, t: float) -> np.ndarray:
        """Return smoothed points float32 [68 or 78, 2], as many as there are, of the frame at `t` seconds.

        The smoother is reset after 0.5 s without a call, after a jump of half a face, when `t` decreases, and
        when irises come or go.
        """
        current = _complex(points)
        if self._last is not None and (
            len(self._last) != len(current)
            or not 0 < t - self._window[-1][0] <= BORDER
            or _jumps(self._last, current)
        ):
            self.reset()
        self._first = current if self._first is None else self._first
        self._last = current
        self._window.append((t, _split_head_face(current[None], self._first)[0]))
        while t - self._window[0][0] > WINDOW:
            self._window.popleft()
        frames = np.stack([frame for _, frame in self._window])
        weight = _similarity_weight(frames, frames[-1:], self._noise)
        weight[: -1 - IRIS_FRAMES, _IRISES] = 0
        return _real(_merge_head_face((weight * frames).sum(axis=0) / weight.sum(axis=0)))


def _smooth_shot(points: np.ndarray, numbers: np.ndarray, reach: int) -> np.ndarray:
    """Average points complex [n, 68 or 78] of frames with these rising numbers, each with those up to `reach`
    frames away.
    """
    frames = _split_head_face(points, points[0])
    noise = _estimate_noise(frames) if len(frames) >= _ENOUGH else NOISE
    total, weight = frames.copy(), np.ones(frames.shape)
    for step in range(1, min(reach, len(frames) - 1) + 1):
        before, after = frames[:-step], frames[step:]
        like = _similarity_weight(before, after, noise) * (numbers[step:] - numbers[:-step] <= reach)[:, None]
        if step > IRIS_FRAMES:
            like[:, _IRISES] = 0
        total[step:] += like * before
        total[:-step] += like * after
        weight[step:] += like
        weight[:-step] += like
    return _merge_head_face(total / weight)


def _split_head_face(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Split frames into head and face.

    Args:
        points: complex [n, 68 or 78], x + iy, so that turning and scaling is one product.
        reference: complex [68 or 78], of the face that the frames show turned, scaled and shifted.

    Returns:
        complex [n, 70 or 80]: the head's place; its turn and scale, whose modulus is the radius of the face;
        the points as they would be on the upright reference, in radii.
    """
    model = (reference[_STEADY] - reference[_STEADY].mean()) / (_radius(reference) or 1.0)
    steady = points[:, _STEADY]
    place = steady.mean(axis=1, keepdims=True)
    turn = ((steady - place) @ model.conj()[:, None]) / (np.square(np.abs(model)).sum() or 1.0)
    turn[turn == 0] = 1  # no face, all points in one place
    return np.concatenate([place, turn, (points - place) / turn], axis=1)


def _merge_head_face(frames: np.ndarray) -> np.ndarray:
    """Merge complex [..., 70 or 80] into the points [..., 68 or 78], the inverse of `_split_head_face`."""
    return frames[..., :1] + frames[..., 1:2] * frames[..., 2:]


def _similarity_weight(one: np.ndarray, other: np.ndarray, noise: float) -> np.ndarray:
    """Return how similar frames complex [n, 70 or 80] are but for jitter: 0..1, the same for all the points
    of a part.
    """
    starts = _STARTS[one.shape[1] > _STARTS]
    lengths = np.diff([*starts, one.shape[1]])
    differences = np.square(np.abs(one - other))
    differences[:, :2] /= np.abs(one[:, 1:2] * other[:, 1:2]) * _HEAD**2
    # two coordinates of two frames bring four times the variance of one
    excess = np.add.reduceat(differences, starts, axis=1) / lengths / (4 * noise**2) - 1
    return np.repeat(np.exp(-np.square(np.maximum(excess, 0) / _SHARP)), lengths, axis=1)


def _estimate_noise(frames: np.ndarray) -> float:
    """Return the jitter of complex [n, 70 or 80], n >= 4. Third differences leave out motion, the median
    leaves out the points that move fast.
    """
    third = np.median(np.abs(np.diff(frames[:, _FACE], n=3, axis=0)))
    # third differences have 20 times the variance, and the median distance from the middle of a normal
    # distribution is 1.18 deviations
    return float(np.clip(third / np.sqrt(20) / 1.18, *_NOISES))


def _jumps(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return bool [...]: whether a face complex [..., 68 or 78] moved, turned or grew by more than half of
    it.
    """
    moved = np.sqrt(np.square(np.abs((after - before)[..., :POINTS])).mean(axis=-1))
    return moved > _JUMP * np.minimum(_radius(before), _radius(after))


def _radius(points: np.ndarray) -> np.ndarray:
    points = points[..., :POINTS]
    return np.sqrt(np.square(np.abs(points - points.mean(axis=-1, keepdims=True))).mean(axis=-1))


def _complex(points: np.ndarray) -> np.ndarray:
    return points[..., 0].astype(np.float64) + 1j * points[..., 1]


def _real(points: np.ndarray) -> np.ndarray:
    return np.stack([points.real, points.imag], axis=-1).astype(np.float32)
