"""Tests of smoothing of irises: steadier with the head, and quick where the gaze jumps."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from test_retarget import BOB, make_track, motion

from talkinghead.clip import Track
from talkinghead.landmarks.face_points import split_points, track_points
from talkinghead.landmarks.gaze import look_ahead
from talkinghead.landmarks.smoothing import NOISE, OnlineSmoother, smooth

FRAMES, FPS, JUMP = 50, 25, 25
REST = {name: np.full(FRAMES, float(name == "lids")) for name in motion()}


def online(track: Track) -> Track:
    """Smooth a track with an `OnlineSmoother`, frame by frame."""
    smoother = OnlineSmoother()
    points = [smoother(frame, i / track.fps) for i, frame in enumerate(track_points(track))]
    landmarks, irises = split_points(np.stack(points))
    return replace(track, landmarks=landmarks, irises=irises)


BOTH = pytest.mark.parametrize("smoothing", [smooth, online])


def looking(shift: np.ndarray, noise: float = 0.0) -> Track:
    """Return a still, noisy head whose gaze moves along x by `shift` [N] in widths of an eye."""
    track = make_track(BOB, REST)
    width = np.linalg.norm(track.landmarks[0, 39] - track.landmarks[0, 36])
    irises = look_ahead(track.landmarks)
    irises[..., 0] += (shift * width)[:, None, None]
    centred = track.landmarks[0] - track.landmarks[0].mean(axis=0)
    scale = noise * np.sqrt((centred**2).sum(axis=1).mean())
    random = np.random.default_rng(0)
    return replace(
        track,
        landmarks=track.landmarks + random.normal(0, scale, track.landmarks.shape),
        irises=irises + random.normal(0, scale, irises.shape),
    )


@BOTH
@pytest.mark.parametrize("size", [0.008, 0.02, 0.15, 0.4])  # the first two are within the jitter
def test_gaze_that_jumps_arrives_within_two_frames(smoothing: Callable[[Track], Track], size: float) -> None:
    track = looking(np.where(np.arange(FRAMES) < JUMP, 0, size))
    before, after = track.irises[0], track.irises[-1]
    smoothed = smoothing(track).irises
    share = ((smoothed - before)[..., 0] / (after - before)[..., 0]).mean(axis=(1, 2))
    np.testing.assert_allclose(share[JUMP + 2 :], 1, atol=1e-3)
    np.testing.assert_allclose(share[: JUMP - 2], 0, atol=1e-3)


@BOTH
def test_smoothed_irises_of_still_gaze_are_steadier(smoothing: Callable[[Track], Track]) -> None:
    track = looking(np.zeros(FRAMES), NOISE)
    smoothed = smoothing(track)
    steps, detected = (np.abs(np.diff(values.irises[10:], axis=0)).mean() for values in (smoothed, track))
    assert steps < 0.7 * detected
    landmark_steps, landmarks_detected = (
        np.abs(np.diff(values.landmarks[10:], axis=0)).mean() for values in (smoothed, track)
    )
    assert landmark_steps / landmarks_detected < steps / detected  # irises are smoothed less


@BOTH
def test_irises_change_no_smoothed_landmark(smoothing: Callable[[Track], Track]) -> None:
    track = looking(0.1 * np.sin(np.arange(FRAMES)), NOISE)
    alone = smoothing(replace(track, irises=None))
    assert alone.irises is None
    np.testing.assert_array_equal(smoothing(track).landmarks, alone.landmarks)


def test_smoothed_irises_stay_with_the_head() -> None:
    movement = {**REST, "roll": 0.3 * np.sin(np.arange(FRAMES) / 4)}
    track = make_track(BOB, movement, noise=0.3)
    clean = make_track(BOB, movement)
    track = replace(track, irises=look_ahead(track.landmarks))
    smoothed = smooth(track)
    truth = look_ahead(clean.landmarks)
    assert np.abs(smoothed.irises - truth).mean() < np.abs(track.irises - truth).mean()


def test_online_smoother_starts_over_when_irises_come() -> None:
    track = looking(np.zeros(FRAMES), NOISE)
    smoother = OnlineSmoother()
    for number in range(10):
        smoother(track.landmarks[number], number / FPS)
    points = track_points(track)[10]
    np.testing.assert_allclose(smoother(points, 10 / FPS), points, atol=1e-3)
