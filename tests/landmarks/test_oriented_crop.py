"""Crops that turn with the head."""

import numpy as np
import pytest

from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.landmarks.oriented_crop import OrientedCrop, crop_of_landmarks, head_roll, sample_crops

TURNED = OrientedCrop(x=61.0, y=45.0, side=40.0, angle=0.4)


def disc_frame(x: float, y: float, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Return a frame with a soft white disc of radius 3 at a place."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    shade = np.clip(3.5 - np.hypot(columns - x, rows - y), 0, 1)
    return np.repeat((255 * shade)[..., None].round(), 3, axis=2).astype(np.uint8)


def centre_of_light(picture: np.ndarray) -> np.ndarray:
    """Return the centre of light of [S, S] in fractions."""
    rows, columns = (np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5) / len(picture)
    return np.array([(columns * picture).sum(), (rows * picture).sum()]) / picture.sum()


def test_points_return_from_crop() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (68, 2))
    np.testing.assert_allclose(TURNED.to_frame(TURNED.to_crop(points)), points, atol=1e-9)


def test_axes_turn_clockwise() -> None:
    quarter = OrientedCrop(10.0, 20.0, 8.0, np.pi / 2)
    np.testing.assert_allclose(quarter.to_frame(np.array([1.0, 0.5])), [10, 24], atol=1e-9)
    np.testing.assert_allclose(quarter.to_frame(np.array([0.5, 1.0])), [6, 20], atol=1e-9)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_sampled_picture_shows_points_where_to_crop_says(size: int) -> None:
    place = (66.0, 40.0)
    picture = sample_crops([disc_frame(*place)], [TURNED], size)[0, 0].numpy()
    np.testing.assert_allclose(centre_of_light(picture), TURNED.to_crop(np.array(place)), atol=0.004)


def test_sampling_small_keeps_mean_of_fine_pattern() -> None:
    frame = np.zeros((128, 128, 3), np.uint8)
    frame[::2] = 255
    picture = sample_crops([frame], [OrientedCrop(64, 64, 100)], 20)[0, :, 4:-4, 4:-4]
    assert float(picture.std()) < 0.02
    assert abs(float(picture.mean()) - 0.5) < 0.02


def test_crop_beyond_frame_is_black() -> None:
    frame = np.full((20, 30, 3), 255, np.uint8)
    assert float(sample_crops([frame], [OrientedCrop(-500, 3, 20)], 16).max()) == 0
    half = sample_crops([frame], [OrientedCrop(0, 10, 10)], 16)[0, 0].numpy()
    assert half[:, :7].max() == 0
    assert half[:, 9:].min() == 1


def test_read_only_and_reversed_frames_are_sampled() -> None:
    frame = disc_frame(66.0, 40.0)
    frame.flags.writeable = False
    expected = sample_crops([frame.copy()], [TURNED], 32)
    assert sample_crops([frame], [TURNED], 32).equal(expected)
    mirrored = sample_crops([frame[:, ::-1]], [OrientedCrop(128 - 61.0, 45.0, 40.0, -0.4)], 32)
    np.testing.assert_allclose(mirrored.flip(3).numpy(), expected.numpy(), atol=0.01)


def test_channels_stay_red_green_blue() -> None:
    frame = np.zeros((20, 20, 3), np.uint8)
    frame[..., 0] = 255
    assert sample_crops([frame], [OrientedCrop(10, 10, 8)], 4).mean(dim=(0, 2, 3)).tolist() == [1, 0, 0]


@pytest.mark.parametrize("degrees", [-120, -30, 0, 15, 90, 179])
def test_crop_of_landmarks_is_upright(degrees: float) -> None:
    roll = np.radians(degrees)
    turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    face = MEAN_FACE[:, :2] @ turn * 30 + [200, 100]
    assert head_roll(face) == pytest.approx(roll, abs=1e-6)
    crop = crop_of_landmarks(face, side=4.0, raise_by=0.5)
    fractions = crop.to_crop(face)
    np.testing.assert_allclose(fractions, MEAN_FACE[:, :2] / 4 + [0.5, 0.625], atol=0.01)


def test_varied_crop_moves_by_shares_of_its_side() -> None:
    moved = TURNED.varied((0.5, 0.0), 2.0, 10.0)
    np.testing.assert_allclose([moved.x, moved.y], TURNED.to_frame(np.array([1.0, 0.5])))
    assert (moved.side, moved.angle) == (80.0, pytest.approx(0.4 + np.radians(10)))
