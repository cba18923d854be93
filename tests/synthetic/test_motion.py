"""Heads move smoothly and as heads do, and as a track says."""

import numpy as np
import pytest

pytest.importorskip("anny", reason="anny, whose heads are drawn here, is not installed")

from talkinghead.clip import Track
from talkinghead.errors import TalkingheadError
from talkinghead.synthetic.actor import rotation
from talkinghead.synthetic.driven import motion_from_track
from talkinghead.synthetic.head import Head, load_head
from talkinghead.synthetic.landmarks import Landmarks
from talkinghead.synthetic.motion import FPS, PITCH, ROLL, YAW, Motion, draw_motion
from talkinghead.synthetic.person import draw_person


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head()


@pytest.fixture(scope="module")
def motions(head: Head) -> list[Motion]:
    return [draw_motion(list(head.action), 75, np.random.default_rng(seed)) for seed in range(40)]


def level(head: Head, motion: Motion, name: str) -> np.ndarray:
    return motion.actions[:, head.action[name]]


def test_within_natural_limits(motions: list[Motion]) -> None:
    turns = np.concatenate([motion.turn for motion in motions])
    assert (np.abs(turns) <= [YAW, PITCH, ROLL]).all()
    assert (turns.std(axis=0) > [5, 2.5, 1.5]).all()
    actions = np.concatenate([motion.actions for motion in motions])
    assert actions.min() >= 0 and actions.max() <= 1
    assert np.abs(np.concatenate([motion.gaze for motion in motions])).max() <= 26
    assert np.abs(np.concatenate([motion.shift for motion in motions])).max() < 0.06


def test_smooth_at_25_frames_a_second(motions: list[Motion]) -> None:
    speed = np.abs(np.concatenate([np.diff(motion.turn, axis=0) for motion in motions])) * FPS
    assert speed.max() < 180  # degrees a second
    jerk = np.concatenate([np.diff(motion.turn, n=2, axis=0) for motion in motions])
    assert np.abs(jerk).max() < 1.5  # degrees a frame a frame
    mouths = np.concatenate([np.diff(motion.actions[:, 22:49], axis=0) for motion in motions])
    assert np.abs(mouths).max() < 0.6


def test_mouths_speak_and_eyes_blink(head: Head, motions: list[Motion]) -> None:
    opened = np.array([level(head, motion, "jawOpen") for motion in motions])
    assert 0.5 < (opened.max(axis=1) > 0.2).mean() < 1  # some are silent
    talking = opened[opened.max(axis=1) > 0.2]
    middle = talking - talking.mean(axis=1, keepdims=True)
    turns = (np.diff(np.sign(middle), axis=1) != 0).sum(axis=1) / 2 / (75 / FPS)
    assert 1.5 < np.median(turns) < 6  # syllables a second
    left, right = (np.array([level(head, motion, f"eyeBlink{side}") for motion in motions]) for side in ("Left", "Right"))
    assert np.abs(left - right).max() < 1e-6
    blinks = ((left[:, 1:] > 0.5) & (left[:, :-1] <= 0.5)).sum() / (40 * 75 / FPS)
    assert 0.15 < blinks < 0.8  # a second
    assert (left > 0.5).mean() < 0.15


def test_a_track_drives(head: Head, motions: list[Motion]) -> None:
    talking = [motion for motion in motions if level(head, motion, "jawOpen").std() > 0.1]
    drawn = max(talking, key=lambda motion: float(np.ptp(motion.turn[:, 1])))
    person, landmarks = draw_person(head, 3, 1), Landmarks(head, head.template)
    points = []
    for turn, actions in zip(drawn.turn, drawn.actions, strict=True):
        face = person.vertices + (actions @ head.actions.reshape(len(actions), -1)).reshape(-1, 3)
        space = np.stack([face[:, 0], -face[:, 2], face[:, 1]], axis=1) @ rotation(turn).T + [0, 0, 1.2]
        points.append(landmarks.of(space.astype(np.float32), 900.0, (200.0, 180.0)))
    found = motion_from_track(head, Track(np.stack(points), (400, 400), 25.0))
    assert len(found) == len(drawn)
    for axis, off in ((0, 6), (1, 8), (2, 3)):
        assert np.corrcoef(found.turn[:, axis], drawn.turn[:, axis])[0, 1] > 0.9
        difference = found.turn[:, axis] - drawn.turn[:, axis]
        assert np.abs(difference - np.median(difference)).max() < off
    for name in ("jawOpen", "eyeBlinkLeft"):
        assert np.corrcoef(level(head, found, name), level(head, drawn, name))[0, 1] > 0.6  # lids also follow the gaze


def test_a_track_of_another_rate_keeps_its_length(head: Head) -> None:
    points = np.random.default_rng(0).normal(0, 0.3, (60, 68, 2)) + np.stack([np.arange(68), np.arange(68) ** 2 % 50], axis=1)
    assert len(motion_from_track(head, Track(points, (80, 80), 30.0))) == 50


def test_pictures_do_not_drive(head: Head) -> None:
    with pytest.raises(TalkingheadError, match="expected those of a video"):
        motion_from_track(head, Track(np.zeros((3, 68, 2)), (80, 80)))
