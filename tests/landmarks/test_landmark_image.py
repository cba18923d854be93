"""Tests of the drawn landmarks."""

import numpy as np
import pytest
import torch

from talkinghead.landmarks.landmark_image import MIRROR_INDEX, POLYLINES, landmark_image, mirror_irises


def test_every_landmark_is_drawn_and_mirrored_once():
    assert sorted({point for part, _ in POLYLINES for point in part}) == list(range(68))
    assert sorted(MIRROR_INDEX) == list(range(68))
    assert [MIRROR_INDEX[MIRROR_INDEX[i]] for i in range(68)] == list(range(68))


def test_mirrored_landmarks_give_mirrored_image(carphone_clip):
    points = torch.from_numpy(carphone_clip.track.landmarks[:1] / 64)
    mirrored_points = torch.stack([1 - points[..., 0], points[..., 1]], 2)[:, list(MIRROR_INDEX)]
    image, mirrored = landmark_image(points, 64), landmark_image(mirrored_points, 64)
    covered, mirror_covered = (image > -0.9).any(1), (mirrored.flip(3) > -0.9).any(1)
    assert (covered == mirror_covered).float().mean() > 0.99
    assert not torch.allclose(image, mirrored.flip(3))  # left and right differ in colour


def test_landmark_colours_are_at_landmarks(carphone_clip):
    points = torch.from_numpy(carphone_clip.track.landmarks[:1] / 64)
    image = ((landmark_image(points, 256)[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    for point, colour in (
        (8, (255, 255, 255)),
        (19, (255, 0, 0)),
        (24, (0, 255, 0)),
        (28, (0, 0, 255)),
        (37, (255, 0, 255)),
        (57, (255, 255, 0)),
    ):
        x, y = (points[0, point] * 256).long().tolist()
        assert np.abs(image[y, x] - colour).max() <= 0.25 * 255, (
            f"point {point}"
        )  # its pixel centre is up to 0.71 away


@pytest.mark.parametrize("as_tensor", [False, True])
def test_mirrored_irises_keep_their_order_in_the_head(as_tensor):
    # two eyes at x = 20 and 50 of a picture 64 wide: centre, right, top, left, bottom
    edge = np.array([[0, 0], [3, 0], [0, -2], [-3, 0], [0, 2]])
    irises = np.stack([edge + [20, 30], edge + [50, 31]])[None].astype(np.float32)
    expected = np.stack([edge + [14, 31], edge + [44, 30]])[None].astype(np.float32)
    values = torch.from_numpy(irises.copy()) if as_tensor else irises.copy()
    mirrored = mirror_irises(values, 64)
    np.testing.assert_array_equal(np.asarray(mirrored), expected)
    np.testing.assert_array_equal(np.asarray(mirror_irises(mirrored, 64)), irises)
    np.testing.assert_array_equal(np.asarray(values), irises)  # the argument is as it was
