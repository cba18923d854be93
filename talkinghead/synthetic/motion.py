"""Head motion over time: speech, blinks, brows, gaze and pose, sampled at random or estimated from a Track.

All motion is smooth and stays within the range of real people.
"""

from dataclasses import dataclass

import numpy as np

from ..clip import Track
from ..errors import TalkingheadError
from .head import Head
from .head_pose import PITCH, ROLL, YAW, check_poses, sample_head_pose
from .landmarks import LandmarkLocator
from .smooth_noise import FPS, SUBSTEPS, smooth_noise, smooth_over_time

_LIDS = ("eyeBlinkLeft", "eyeBlinkRight")
_RIGID_LANDMARKS = np.array([*range(27, 36), 36, 39, 42, 45])  # they hardly move relative to the head
_ESTIMATED_ACTIONS = (
    "jawOpen",
    "mouthFunnel",
    "mouthPucker",
    "mouthSmileLeft",
    "mouthSmileRight",
    "mouthStretchLeft",
    "mouthStretchRight",
    "mouthLeft",
    "mouthRight",
    "browInnerUp",
    "browOuterUpLeft",
    "browOuterUpRight",
    "browDownLeft",
    "browDownRight",
    "eyeBlinkLeft",
    "eyeBlinkRight",
)
_RIDGE_M = 0.002  # regularization: actions that landmarks do not show stay at rest
_REST_PERCENTILE = 5  # of an action over the clip: its level at rest
_JITTER_S = 0.03  # time over which the jitter of a detector is smoothed
_MAX_SHIFT_M = 0.04  # of a head to each side

# facial actions of the mouth for each sound
_VOWELS: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.52, "mouthLowerDown": 0.25, "mouthUpperUp": 0.12},  # a
    {"jawOpen": 0.30, "mouthStretch": 0.35, "mouthLowerDown": 0.22, "mouthUpperUp": 0.15},  # e
    {
        "jawOpen": 0.16,
        "mouthSmile": 0.28,
        "mouthStretch": 0.22,
        "mouthUpperUp": 0.2,
        "mouthLowerDown": 0.2,
    },  # i
    {"jawOpen": 0.38, "mouthFunnel": 0.55},  # o
    {"jawOpen": 0.18, "mouthPucker": 0.75, "mouthFunnel": 0.2},  # u
)
_CONSONANTS: tuple[dict[str, float], ...] = (
    {"mouthPress": 0.35, "mouthRollLower": 0.3, "mouthRollUpper": 0.25},  # m b p
    {"jawOpen": 0.06, "mouthRollLower": 0.55, "mouthUpperUp": 0.25},  # f v
    {"jawOpen": 0.16, "mouthUpperUp": 0.12, "mouthLowerDown": 0.15},  # t d n l
    {"jawOpen": 0.07, "mouthStretch": 0.25, "mouthLowerDown": 0.28, "mouthUpperUp": 0.15},  # s z
    {"jawOpen": 0.12, "mouthFunnel": 0.5},  # sh
    {"jawOpen": 0.22},  # k g h
)
_MOODS: tuple[dict[str, float], ...] = (
    {},
    {},
    {"mouthSmile": 0.35, "cheekSquint": 0.25},
    {"mouthSmile": 0.65, "cheekSquint": 0.45, "eyeSquint": 0.2, "mouthUpperUp": 0.12},
    {"mouthFrown": 0.4, "browDown": 0.3},
    {"browDown": 0.55, "eyeSquint": 0.3},
    {"browInnerUp": 0.5, "eyeWide": 0.3},
    {"mouthDimple": 0.4, "mouthPress": 0.2},
)


@dataclass(frozen=True)
class Motion:
    """Motion of a head over N frames of 1/25 s.

    Attributes:
        turn: float32 [N, 3], degrees: yaw (to the right of the image), pitch (down), roll (clockwise in the
            image).
        shift: float32 [N, 3], metres to the right of the image, down and away from the camera.
        actions: float32 [N, A], facial actions, 0..1, in the order of their names.
        gaze: float32 [N, 2], degrees that the eyes look to the right of the image and down, relative to the
            head.
    """

    turn: np.ndarray
    shift: np.ndarray
    actions: np.ndarray
    gaze: np.ndarray

    def __len__(self) -> int:
        return len(self.turn)

    def __getitem__(self, index: slice | np.ndarray) -> "Motion":
        return Motion(self.turn[index], self.shift[index], self.actions[index], self.gaze[index])


def sample_motion(
    names: list[str], frames: int, random: np.random.Generator, poses: str = "talking"
) -> Motion:
    """Return a random motion.

    Args:
        names: names of the facial actions, such as "jawOpen".
        frames: number of frames.
        random: the random number generator.
        poses: "talking", or "wide": the yaw is spread evenly over +-90 degrees, pitch reaches 40 degrees and
            roll 35; face and gaze move as in "talking" of the same random numbers.

    Raises:
        TalkingheadError: `poses` is something else.
    """
    check_poses(poses)
    steps = frames * SUBSTEPS
    actions = np.zeros((steps, len(names)))
    curves = _ActionCurves(actions, names)
    _add_speech(curves, steps, random)
    mood = _MOODS[int(random.integers(len(_MOODS)))]
    intensity = np.clip(0.75 + 0.35 * smooth_noise(steps, 0.8, random), 0.2, 1.2)
    for name, value in mood.items():
        curves.add(name, value * intensity)
    _add_brow_motion(curves, steps, random)
    actions = smooth_over_time(actions, 0.042)
    gaze = _sample_gaze(steps, random)
    turn, shift = sample_head_pose(steps, random, is_wide=poses == "wide")
    actions = np.clip(actions, 0, 1)
    curves = _ActionCurves(actions, names)
    curves.follow_gaze(gaze)
    for start in _sample_blink_starts(steps, random):
        curves.blink(start, random)
    middle = slice(SUBSTEPS // 2, None, SUBSTEPS)
    return Motion(
        turn=turn[middle].astype(np.float32),
        shift=shift[middle].astype(np.float32),
        actions=np.clip(actions[middle], 0, 1).astype(np.float32),
        gaze=gaze[middle].astype(np.float32),
    )


class _ActionCurves:
    """Facial actions over time, float64 [steps, A]; a name without a side stands for both sides."""

    def __init__(self, actions: np.ndarray, names: list[str]) -> None:
        self._actions, self._column = actions, {name: column for column, name in enumerate(names)}

    def add(self, name: str, values: np.ndarray | float, interval: slice = slice(None)) -> None:
        """Add values to an action over an interval of steps."""
        for sided_name in (name, name + "Left", name + "Right"):
            if sided_name in self._column:
                self._actions[interval, self._column[sided_name]] += values

    def blink(self, start: int, random: np.random.Generator) -> None:
        """Close the lids within 80 ms and open them within 160 ms."""
        times = np.arange(len(self._actions)) - start
        closing, opening = 0.08 * FPS * SUBSTEPS, 0.17 * FPS * SUBSTEPS
        closed_until = closing + 0.03 * FPS * SUBSTEPS
        curve = np.interp(times, (0, closing, closed_until, closing + opening), (0, 1, 1, 0))
        curve = curve * curve * (3 - 2 * curve) * random.uniform(0.9, 1.0)
        for name in _LIDS:
            column = self._column[name]
            self._actions[:, column] = np.maximum(self._actions[:, column], curve)

    def follow_gaze(self, gaze: np.ndarray) -> None:
        """Move the lids with the eyes."""
        down, up = np.clip(gaze[:, 1] / 30, 0, 1), np.clip(-gaze[:, 1] / 30, 0, 1)
        self.add("eyeLookDown", down)
        self.add("eyeLookUp", up)
        left, right = np.clip(gaze[:, 0] / 35, 0, 1), np.clip(-gaze[:, 0] / 35, 0, 1)
        # the left of the head is the right of the image
        for name, value in (
            ("eyeLookOutLeft", left),
            ("eyeLookInRight", left),
            ("eyeLookInLeft", right),
            ("eyeLookOutRight", right),
        ):
            self.add(name, value)


def _add_speech(curves: _ActionCurves, steps: int, random: np.random.Generator) -> None:
    """Add four or five syllables a second, with pauses."""
    rate = FPS * SUBSTEPS
    loudness = random.choice((0.0, 0.75, 1.0, 1.35), p=(0.1, 0.25, 0.4, 0.25)) * random.uniform(0.85, 1.15)
    step = int(-random.uniform(0, 0.4) * rate)
    while step < steps:
        if random.random() < 0.13:
            step += int(random.uniform(0.15, 0.6) * rate)
        weight = loudness * random.uniform(0.65, 1.25)
        for sounds, shortest, longest in ((_CONSONANTS, 0.05, 0.09), (_VOWELS, 0.09, 0.19)):
            length = int(random.uniform(shortest, longest) * rate)
            sound = sounds[int(random.integers(len(sounds)))]
            interval = slice(max(step, 0), max(step + length, 0))
            for name, value in sound.items():
                curves.add(name, min(value * weight, 0.95), interval)
            step += length


def _add_brow_motion(curves: _ActionCurves, steps: int, random: np.random.Generator) -> None:
    """Add slow motion of brows, nose and corners of the mouth."""
    base = smooth_noise(steps, 0.5, random)
    curves.add("browInnerUp", np.clip(0.25 * base, 0, 0.6))
    outer = np.clip(0.3 * smooth_noise(steps, 0.5, random) + 0.1 * base, 0, 0.7)
    asymmetry = random.uniform(0, 0.3)
    curves.add("browOuterUpLeft", outer)
    curves.add("browOuterUpRight", outer * (1 - asymmetry))
    curves.add("browDown", np.clip(-0.25 * base, 0, 0.5))
    curves.add("noseSneer", np.clip(0.12 * smooth_noise(steps, 0.4, random) - 0.08, 0, 0.3))
    curves.add("mouthLeft", np.clip(0.12 * smooth_noise(steps, 0.4, random), 0, 0.3))
    curves.add("mouthRight", np.clip(0.12 * smooth_noise(steps, 0.4, random), 0, 0.3))


def _sample_blink_starts(steps: int, random: np.random.Generator) -> list[int]:
    """Return the steps at which blinks start."""
    starts, seconds = [], random.uniform(-0.5, 2.5)
    while seconds * FPS * SUBSTEPS < steps:
        starts.append(int(seconds * FPS * SUBSTEPS))
        seconds += random.uniform(1.2, 4.5)
    return starts


def _sample_gaze(steps: int, random: np.random.Generator) -> np.ndarray:
    """Return the gaze in degrees, float64 [steps, 2]: the eyes jump and rest in between."""
    gaze = np.zeros((steps, 2))
    step, target = 0, random.normal(0, (5, 3))
    while step < steps:
        length = int(random.uniform(0.3, 1.6) * FPS * SUBSTEPS)
        gaze[step : step + length] = target
        step += length
        target = random.normal(0, (9, 5)) if random.random() < 0.5 else random.normal(0, (2, 1.5))
    return np.clip(smooth_over_time(gaze, 0.025), (-26, -16), (26, 18))


def motion_from_track(head: Head, track: Track) -> Motion:
    """Return the motion, at 25 frames a second, that moves the landmarks of a head like those of a track.

    The median shape over the track is taken for the neutral face of the person in it. The gaze stays ahead.

    Args:
        head: the head model.
        track: landmarks of one person, with a frame rate.

    Raises:
        TalkingheadError: the track has no frame rate or no frames.
    """
    if not track.fps or not len(track):
        raise TalkingheadError(
            f"motion_from_track: {len(track)} frames at {track.fps:g} a second, expected those of a video; "
            "read the track from a video"
        )
    neutral = _upright_landmarks(head, head.template)
    points = track.landmarks.astype(np.float64)
    rotations, scales, positions = _fit_poses(points, neutral)
    actions = _estimate_actions(head, neutral, points, (rotations, scales, positions))
    angles = np.degrees(
        np.stack(
            [
                np.arcsin(np.clip(rotations[:, 2, 0], -1, 1)),
                np.arctan2(rotations[:, 2, 1], rotations[:, 2, 2]),
                np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]),
            ],
            axis=1,
        )
    )
    nearer = np.median(scales) / scales - 1
    sideways = (positions - np.median(positions, axis=0)) / scales[:, None]
    shift = np.concatenate([sideways, nearer[:, None]], axis=1)
    limits = np.array([YAW, PITCH, ROLL])
    count = max(1, round(len(track) / track.fps * FPS))
    times = np.arange(count) / FPS * track.fps

    def resample(values: np.ndarray) -> np.ndarray:
        steady = smooth_over_time(values, _JITTER_S, track.fps)
        columns = [np.interp(times, np.arange(len(steady)), column) for column in steady.T]
        return np.stack(columns, axis=1).astype(np.float32)

    return Motion(
        turn=resample(limits * np.tanh(angles / limits)),
        shift=resample(_MAX_SHIFT_M * np.tanh(shift / _MAX_SHIFT_M)),
        actions=resample(actions),
        gaze=np.zeros((count, 2), np.float32),
    )


def _estimate_actions(
    head: Head, neutral: np.ndarray, points: np.ndarray, poses: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the facial actions, float64 [N, A], that explain what the pose of the head does not.

    Args:
        head: the head model.
        neutral: float64 [68, 3], landmarks of the neutral face.
        points: float64 [N, 68, 2], landmarks of the track in pixels.
        poses: rotations, scales and positions, as `_fit_poses` returns them.
    """
    rotations, scales, positions = poses
    posed = np.einsum("nij,kj->nki", rotations[:, :2] * scales[:, None, None], neutral) + positions[:, None]
    # into the axes of the image of an upright head
    to_upright = np.linalg.inv(rotations[:, :2, :2])
    residual = np.einsum("nij,nkj->nki", to_upright, points - posed) / scales[:, None, None]
    residual -= np.median(residual, axis=0)
    directions = np.stack(
        [
            _upright_landmarks(head, head.template + head.actions[head.action[name]])[:, :2] - neutral[:, :2]
            for name in _ESTIMATED_ACTIONS
        ]
    )
    directions = directions.reshape(len(_ESTIMATED_ACTIONS), -1)
    gram = directions @ directions.T + _RIDGE_M**2 * np.eye(len(directions))
    levels = residual.reshape(len(residual), -1) @ np.linalg.solve(gram, directions).T
    actions = np.zeros((len(points), len(head.actions)))
    for name, level in zip(_ESTIMATED_ACTIONS, levels.T, strict=True):
        actions[:, head.action[name]] = np.clip(level - np.percentile(level, _REST_PERCENTILE), 0, 1)
    return actions


def _upright_landmarks(head: Head, face: np.ndarray) -> np.ndarray:
    """Return the landmarks of an upright face, float64 [68, 3].

    Axes: x right, y down, z away; the origin is the middle between the eyes.
    """
    space = np.stack([face[:, 0], -face[:, 2], face[:, 1] + 1.0], axis=1).astype(np.float32)
    return LandmarkLocator(head, head.template).locate(space) - [0, 0, 1.0]


def _fit_poses(points: np.ndarray, neutral: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scaled orthographic poses that bring neutral [68, 3] nearest to points [N, 68, 2].

    Returns:
        Rotations float64 [N, 3, 3], scales [N] and positions [N, 2].
    """
    rigid = neutral[_RIGID_LANDMARKS]
    model = np.concatenate([rigid, np.ones((len(rigid), 1))], axis=1)
    affine = np.einsum("ij,njk->nki", np.linalg.pinv(model), points[:, _RIGID_LANDMARKS])
    left, sizes, right = np.linalg.svd(affine[:, :, :3], full_matrices=False)
    rows = left @ right
    rotations = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    scales = sizes.mean(axis=1)
    rotated_middle = np.einsum("nij,j->ni", rows, rigid.mean(axis=0))
    positions = points[:, _RIGID_LANDMARKS].mean(axis=1) - scales[:, None] * rotated_middle
    return rotations, scales, positions
