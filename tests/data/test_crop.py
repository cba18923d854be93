import numpy as np
import pytest

from talkinghead.clip import POINTS
from talkinghead.data.crop import Crop, crop_around
from talkinghead.errors import TalkingheadError


def landmarks_in(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Return landmarks [1, 68, 2] with this bounding box."""
    spread = np.linspace(0, 1, POINTS)
    return np.stack([left + (right - left) * spread, top + (bottom - top) * spread], axis=1)[None]


def test_crop_around_box_has_paper_geometry() -> None:
    # box 60 wide, 90 high: side 2 x 90, centre (130, 145 - 90 / 6)
    crop = crop_around(landmarks_in(100, 100, 160, 190))
    assert crop.side == pytest.approx(180)
    assert (crop.x + crop.side / 2, crop.y + crop.side / 2) == pytest.approx((130, 130))


def test_crop_around_several_frames_covers_all() -> None:
    crop = crop_around(np.concatenate([landmarks_in(100, 100, 160, 160), landmarks_in(130, 110, 200, 170)]))
    assert crop == crop_around(landmarks_in(100, 100, 200, 170))


def test_crop_points_and_pixels_agree() -> None:
    frame = np.zeros((90, 120, 3), np.uint8)
    frame[40:44, 70:74] = 255  # centre (72, 42)
    crop = Crop(30.3, 10.7, 70.9)
    picture = crop.pixels(frame, 128).astype(float).sum(axis=2)
    rows, columns = np.mgrid[:128, :128] + 0.5
    seen = np.array([(columns * picture).sum(), (rows * picture).sum()]) / picture.sum()
    assert np.abs(seen - crop.points(np.array([72.0, 42.0]), 128)).max() < 0.05


def test_crop_points_lie_at_fixed_place() -> None:
    points = crop_around(landmarks_in(100, 100, 190, 190)).points(landmarks_in(100, 100, 190, 190), 60)
    # 90 of 180 pixels, raised by 15: a quarter at the left, a third at the top
    assert points.dtype == np.float32
    assert points.min(axis=(0, 1)) == pytest.approx([15, 20])
    assert points.max(axis=(0, 1)) == pytest.approx([45, 50])


def test_crop_pixels_without_scaling_is_exact() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(Crop(7, 5, 32).pixels(frame, 32), frame[5:37, 7:39])


def test_crop_pixels_beyond_frame_is_mirrored() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    # wider than the frame on every side, more than once around
    padded = np.pad(frame, [(50, 50), (50, 50), (0, 0)], mode="symmetric")
    assert np.array_equal(Crop(-50, -50, 112).pixels(frame, 112), padded[:112, :112])
    assert np.array_equal(Crop(-5, 8, 16).pixels(frame, 16), padded[58:74, 45:61])


def test_crop_pixels_reduced_is_antialiased() -> None:
    frame = np.zeros((256, 256, 3), np.uint8)
    frame[:, ::2] = 255
    assert np.abs(Crop(0, 0, 256).pixels(frame, 64)[4:-4, 4:-4].astype(int) - 127).max() <= 2


@pytest.mark.parametrize(
    "landmarks", [np.zeros((0, POINTS, 2)), np.full((1, POINTS, 2), 5.0), np.full((1, POINTS, 2), np.nan)]
)
def test_crop_around_invalid_landmarks_raises(landmarks: np.ndarray) -> None:
    with pytest.raises(TalkingheadError, match=r"crop_around: no landmarks|crop: .* side above 0"):
        crop_around(landmarks)


@pytest.mark.parametrize("convention", [0, 3])
def test_crop_unknown_convention_raises(convention: int) -> None:
    with pytest.raises(TalkingheadError, match=f"^crop: convention {convention} is unknown; choose 1 or 2$"):
        Crop(0, 0, 1, convention)


def test_crop_around_convention_2_without_frame_size_raises() -> None:
    with pytest.raises(TalkingheadError, match="give the size of the frame"):
        crop_around(landmarks_in(10, 10, 20, 20), convention=2)


def test_crop_around_convention_2_inside_equals_convention_1() -> None:
    points = landmarks_in(200, 200, 260, 290)
    first, second = crop_around(points), crop_around(points, (600, 800), 2)
    assert (second.x, second.y, second.side) == (first.x, first.y, first.side)
    frame = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    assert np.array_equal(first.pixels(frame, 64), second.pixels(frame, 64))
    assert second.valid((600, 800), 64).all()


def test_crop_around_convention_2_near_border_moves_inside() -> None:
    crop = crop_around(landmarks_in(0, 40, 60, 100), (600, 800), 2)
    assert (crop.x, crop.y, crop.side) == (0, 0, 120)
    crop = crop_around(landmarks_in(740, 530, 800, 590), (600, 800), 2)
    assert (crop.x, crop.y, crop.side) == (680, 480, 120)


@pytest.mark.parametrize(
    ("longer", "side"),
    # twice the face, then the side of the frame, then 1.4 times the face
    [(30, 60), (40, 80), (60, 100), (70, 100), (80, 112), (100, 140)],
)
def test_crop_around_convention_2_large_face_reduces_side(longer: int, side: float) -> None:
    crop = crop_around(landmarks_in(10, 0, 10 + longer, longer), (100, 130), 2)
    assert crop.side == pytest.approx(side)
    # what is larger than the frame lies around its middle
    if side > 100:
        assert crop.y == pytest.approx(50 - side / 2)


@pytest.mark.parametrize("longer", [20, 40, 55, 60])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("bottom", [False, True])
def test_crop_around_convention_2_face_in_corner_stays_inside(longer: int, right: bool, bottom: bool) -> None:
    height, width = 60, 80
    left, top = (width - longer) * right, (height - longer) * bottom
    crop = crop_around(landmarks_in(left, top, left + longer, top + longer), (height, width), 2)
    points = crop.points(landmarks_in(left, top, left + longer, top + longer), 64)
    assert points.min() >= 0 and points.max() <= 64
    fits = 1.4 * longer <= height
    assert bool(crop.valid((height, width), 64).all()) == fits
    if fits:
        assert crop.x >= 0 and crop.y >= 0 and crop.x + crop.side <= width and crop.y + crop.side <= height


def test_crop_pixels_convention_2_beyond_frame_blurs_border() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    picture = Crop(-20, 0, 40, 2).pixels(frame, 40)
    assert np.array_equal(picture[:, 20:], frame[:, :20])
    border = frame[:, 0].astype(float)
    padded = np.pad(border, [(10, 10), (0, 0)], mode="edge")
    # averaged to each side over half the distance, rounded up
    for distance, reach in ((1, 1), (6, 3), (20, 10)):
        mean = np.mean([padded[10 + step : 50 + step] for step in range(-reach, reach + 1)], axis=0)
        assert np.abs(picture[:, 20 - distance] - mean).max() <= 0.5
    spreads = picture[:, :20].astype(float).std(axis=0).mean(axis=1)
    assert spreads[0] < spreads[10] < spreads[19] < border.std(axis=0).mean()


def test_crop_pixels_convention_2_above_and_below_repeats_rows() -> None:
    frame = np.zeros((20, 64, 3), np.uint8)
    frame[0], frame[-1] = 200, 90
    picture = Crop(16, -6, 32, 2).pixels(frame, 32)
    assert (picture[:7] == 200).all() and (picture[25:] == 90).all() and (picture[7:25] == 0).all()


def test_crop_valid_is_inside_frame() -> None:
    inside = Crop(-8, -4, 32, 2).valid((20, 40), 32)
    expected = np.zeros((32, 32), bool)
    expected[4:24, 8:] = True
    assert inside.dtype == bool and np.array_equal(inside, expected)
    # pixels of the crop that are four pixels of the frame large: the half of one counts
    assert Crop(-6, 0, 32, 2).valid((40, 40), 8)[0].tolist() == [False] + [True] * 7
    assert Crop(-6.1, 0, 32, 1).valid((40, 40), 8)[0].tolist() == [False] * 2 + [True] * 6
