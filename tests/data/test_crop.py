import numpy as np
import pytest

from talkinghead.clip import POINTS
from talkinghead.data.crop import Crop, crop_around
from talkinghead.errors import TalkingheadError


def landmarks_in(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """[1, 68, 2] whose box is the given one."""
    spread = np.linspace(0, 1, POINTS)
    return np.stack([left + (right - left) * spread, top + (bottom - top) * spread], axis=1)[None]


def test_the_square_of_the_paper() -> None:
    # box 60 wide, 90 high: side 2 x 90, centre (130, 145 - 90 / 6)
    crop = crop_around(landmarks_in(100, 100, 160, 190))
    assert crop.side == pytest.approx(180)
    assert (crop.x + crop.side / 2, crop.y + crop.side / 2) == pytest.approx((130, 130))


def test_one_crop_holds_all_frames_of_a_clip() -> None:
    crop = crop_around(np.concatenate([landmarks_in(100, 100, 160, 160), landmarks_in(130, 110, 200, 170)]))
    assert crop == crop_around(landmarks_in(100, 100, 200, 170))


def test_points_and_pixels_agree() -> None:
    frame = np.zeros((90, 120, 3), np.uint8)
    frame[40:44, 70:74] = 255  # centre (72, 42)
    crop = Crop(30.3, 10.7, 70.9)
    picture = crop.pixels(frame, 128).astype(float).sum(axis=2)
    rows, columns = np.mgrid[:128, :128] + 0.5
    seen = np.array([(columns * picture).sum(), (rows * picture).sum()]) / picture.sum()
    assert np.abs(seen - crop.points(np.array([72.0, 42.0]), 128)).max() < 0.05


def test_landmarks_keep_their_place_in_the_crop() -> None:
    points = crop_around(landmarks_in(100, 100, 190, 190)).points(landmarks_in(100, 100, 190, 190), 60)
    # 90 of 180 pixels, raised by 15: a quarter at the left, a third at the top
    assert points.dtype == np.float32
    assert points.min(axis=(0, 1)) == pytest.approx([15, 20])
    assert points.max(axis=(0, 1)) == pytest.approx([45, 50])


def test_a_crop_of_whole_pixels_is_exact() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(Crop(7, 5, 32).pixels(frame, 32), frame[5:37, 7:39])


def test_beyond_the_frame_it_is_mirrored() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    # wider than the frame on every side, more than once around
    padded = np.pad(frame, [(50, 50), (50, 50), (0, 0)], mode="symmetric")
    assert np.array_equal(Crop(-50, -50, 112).pixels(frame, 112), padded[:112, :112])
    assert np.array_equal(Crop(-5, 8, 16).pixels(frame, 16), padded[58:74, 45:61])


def test_shrinking_is_antialiased() -> None:
    frame = np.zeros((256, 256, 3), np.uint8)
    frame[:, ::2] = 255
    assert np.abs(Crop(0, 0, 256).pixels(frame, 64)[4:-4, 4:-4].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("landmarks", [np.zeros((0, POINTS, 2)), np.full((1, POINTS, 2), 5.0), np.full((1, POINTS, 2), np.nan)])
def test_no_square_around_nothing(landmarks: np.ndarray) -> None:
    with pytest.raises(TalkingheadError, match=r"crop_around: no landmarks|Crop: .* side above 0"):
        crop_around(landmarks)
