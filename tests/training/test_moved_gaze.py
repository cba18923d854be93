"""Frames whose eyes look elsewhere, on which the landmark network learns."""

import numpy as np

from conftest import face_points
from talkinghead.landmarks.face_points import join_points
from talkinghead.landmarks.gaze import look_ahead
from talkinghead.training.moved_gaze import move_gaze, shift_gaze

SIZE = 256
LANDMARKS = face_points((0, 0))[0]
POINTS = join_points(LANDMARKS, look_ahead(LANDMARKS[None])[0]) * SIZE
EYE_WIDTH = float(np.linalg.norm(POINTS[39] - POINTS[36]))
CENTRES = (68, 73)


def frame_with_irises(points):
    """Return a grey frame uint8 [SIZE, SIZE, 3] with a smooth dark disc at each iris."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    dark = sum(np.exp(-(((x - points[c, 0]) ** 2 + (y - points[c, 1]) ** 2) / 12)) for c in CENTRES)
    return np.repeat(np.rint(200 - 150 * dark)[..., None], 3, 2).astype(np.uint8)


def centre_of_darkness(frame, near):
    """Return the centre [2] of what is dark around a position, in pixels."""
    reach = int(0.5 * EYE_WIDTH)
    left, top = (int(value) - reach for value in near)
    weight = (200.0 - frame[top : top + 2 * reach, left : left + 2 * reach, 0]).clip(0)
    y, x = np.mgrid[: 2 * reach, : 2 * reach] + 0.5
    return np.array([left + (weight * x).sum() / weight.sum(), top + (weight * y).sum() / weight.sum()])


def test_irises_in_the_frame_move_as_the_points_do():
    frame, points = shift_gaze(frame_with_irises(POINTS), POINTS, (0.12, 0.0))
    for centre in CENTRES:
        expected_motion = points[centre] - POINTS[centre]
        moved = centre_of_darkness(frame, points[centre]) - centre_of_darkness(
            frame_with_irises(POINTS), POINTS[centre]
        )
        assert expected_motion[0] > 0.1 * EYE_WIDTH
        assert 0.6 < moved @ expected_motion / (expected_motion @ expected_motion) < 1.3
    assert np.array_equal(points[:68], POINTS[:68])


def test_no_shift_keeps_the_frame():
    original = frame_with_irises(POINTS)
    frame, points = shift_gaze(original, POINTS, (0.0, 0.0))
    assert np.abs(frame.astype(int) - original).max() <= 1
    np.testing.assert_allclose(points, POINTS, atol=1e-4)


def test_gaze_is_the_same_for_one_seed_and_differs_for_others():
    original = frame_with_irises(POINTS)
    rows = [move_gaze(original, POINTS, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(rows[0][0], rows[1][0]) and np.array_equal(rows[0][1], rows[1][1])
    assert not np.array_equal(rows[0][1], rows[2][1])
