import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import RedSquare, draw_video, drawn_frame
from support.red_square_person import red_square_person
from talkinghead import Person
from talkinghead.data.crop import Crop, crop_around
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detector import Face, largest_face
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.media.images import resize, write_image
from talkinghead.media.video import VideoReader
from talkinghead.networks.references import References
from talkinghead.pipelines.paste_back import PasteBack, find_place, open_place

FRAMING = (20 / 64, 20 / 64, 24 / 64)  # left, top and side of the person's red square, fractions of the crop


@pytest.fixture(scope="module")
def person() -> Person:
    return red_square_person("digest", feed_forward=False)


def with_references(person: Person, landmarks: np.ndarray) -> Person:
    pictures = np.zeros((len(landmarks), 64, 64, 3), np.uint8)
    return replace(person, references=References(pictures, landmarks.astype(np.float32)))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def shares(picture_size: tuple[int, int], crop: Crop) -> np.ndarray:
    """Return the share of the head in each pixel, from a white head on black."""
    place = PasteBack(np.zeros((*picture_size, 3), np.uint8), crop)
    return place.frame(np.full((16, 16, 3), 255, np.uint8))[..., 0] / 255


def assert_crop(crop: Crop, x: float, y: float, side: float) -> None:
    assert (crop.x, crop.y, crop.side) == pytest.approx((x, y, side), abs=0.05)


# PasteBack


def test_paste_back_outside_crop_is_picture() -> None:
    picture = noise(200, 300)
    before = picture.copy()
    frame = PasteBack(picture, Crop(60, 50, 100)).frame(noise(64, 64, 1))
    inside = np.zeros((200, 300), bool)
    inside[50:150, 60:160] = True
    assert frame.shape == picture.shape
    assert np.array_equal(frame[~inside], picture[~inside])
    assert np.abs(frame[inside].astype(int) - picture[inside]).mean() > 40
    assert np.array_equal(picture, before)


def test_paste_back_inside_ramp_is_head() -> None:
    head = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    frame = PasteBack(noise(200, 300), Crop(60, 50, 100)).frame(head)
    resized = resize(head, 100)
    assert np.abs(frame[58:142, 68:152].astype(int) - resized[8:92, 8:92]).max() <= 1


@pytest.mark.parametrize("size", [64, 256])
def test_paste_back_of_own_crop_is_picture(size: int) -> None:
    rows, columns = np.mgrid[:300, :400]
    wave = np.sin(rows / 17) * 60 + np.cos(columns / 23) * 60 + 128
    picture = np.repeat(wave.astype(np.uint8)[..., None], 3, axis=2)
    crop = Crop(100.4, 60.3, 171.6)
    frame = PasteBack(picture, crop).frame(crop.pixels(picture, size))
    assert np.abs(frame.astype(int) - picture).max() <= 6  # half a pixel of the steepest slope, and rounding


def test_paste_back_frames_are_independent() -> None:
    place = PasteBack(noise(200, 300), Crop(60, 50, 100))
    first = place.frame(noise(64, 64, 1))
    before = first.copy()
    second = place.frame(noise(64, 64, 2))
    assert np.array_equal(first, before)
    assert not np.array_equal(first, second)
    assert np.array_equal(place.frame(noise(64, 64, 1)), before)


@pytest.mark.parametrize("along", ["columns", "rows"])
def test_paste_back_ramp_is_smooth(along: str) -> None:
    share = shares((400, 400), Crop(100, 100, 200))
    line = (share if along == "columns" else share.T)[200, 100:300]
    assert line[0] < 0.01
    assert line[7:9].mean() == pytest.approx(0.5, abs=0.01)
    assert (line[16:-16] == 1).all()
    assert line[15] < 1
    steps = np.diff(line[:17])
    assert (steps >= 0).all()
    assert steps.max() < 0.11  # a jump nowhere: the steepest of a smooth ramp is 1.5 times a straight one's
    assert np.array_equal(line, line[::-1])


@pytest.mark.parametrize(
    ("crop", "plain", "ramped"),
    [
        (Crop(0, 0, 100), {"left", "top"}, {"right", "bottom"}),
        (Crop(-30, 40, 100), {"left"}, {"top", "right", "bottom"}),
        (Crop(0.6, 99.3, 100.4), {"left", "bottom"}, {"top", "right"}),
        (Crop(100, 100, 100), {"right", "bottom"}, {"left", "top"}),
        (Crop(-50, -50, 300), {"left", "top", "right", "bottom"}, set()),
        (Crop(2, 2, 100), set(), {"left", "top", "right", "bottom"}),
    ],
)
def test_paste_back_at_picture_border_has_no_ramp(crop: Crop, plain: set[str], ramped: set[str]) -> None:
    share = shares((200, 200), crop)
    rows, columns = np.nonzero(share.any(axis=1))[0], np.nonzero(share.any(axis=0))[0]
    row, column = rows[len(rows) // 2], columns[len(columns) // 2]
    borders = {
        "left": share[row, columns[0]],
        "right": share[row, columns[-1]],
        "top": share[rows[0], column],
        "bottom": share[rows[-1], column],
    }
    touches = {
        "left": columns[0] == 0,
        "right": columns[-1] == 199,
        "top": rows[0] == 0,
        "bottom": rows[-1] == 199,
    }
    assert plain | ramped == set(borders)
    assert all(borders[name] == 1 and touches[name] for name in plain)
    assert all(borders[name] < 0.05 for name in ramped)


def test_paste_back_crop_beyond_picture_is_clipped() -> None:
    head = noise(100, 100, 1)
    frame = PasteBack(noise(60, 80), Crop(-10, -30, 100)).frame(head)
    assert np.array_equal(frame[:60, :80], head[30:90, 10:90])


def test_paste_back_odd_picture_has_even_size() -> None:
    picture = noise(201, 301)
    place = PasteBack(picture, Crop(60, 50, 100))
    frame = place.frame(noise(64, 64, 1))
    assert place.size == frame.shape[:2] == (200, 300)
    assert np.array_equal(frame[:50], picture[:50, :300])


def test_paste_back_invalid_image_raises() -> None:
    with pytest.raises(TalkingheadError, match="float64 .* expected uint8"):
        PasteBack(np.zeros((20, 20, 3)), Crop(0, 0, 10))
    with pytest.raises(TalkingheadError, match="the crop lies outside"):
        PasteBack(noise(20, 20), Crop(30, 0, 10))
    with pytest.raises(TalkingheadError, match="give a square picture"):
        PasteBack(noise(20, 20), Crop(0, 0, 10)).frame(noise(8, 9))


# find_place


@pytest.mark.parametrize("convention", [1, 2])
def test_find_place_in_own_picture_is_own_crop(convention: int, person: Person) -> None:
    picture = pytest.importorskip("skimage.data").astronaut()
    detector = open_detector("network")
    face = largest_face(detector, picture)
    assert face is not None
    crop = crop_around(face.landmarks, picture.shape[:2], convention)
    person = replace(person, config=replace(person.config, crop=convention))
    for own in (
        replace(person, neutral_landmarks=crop.points(face.landmarks, 1)),
        with_references(person, crop.points(face.landmarks, 1)[None]),
    ):
        place = find_place(own, picture, detector)
        assert place.convention == convention
        assert_crop(place, crop.x, crop.y, crop.side)


@pytest.mark.parametrize("side", [24, 60, 150])
def test_find_place_of_other_size_keeps_framing(side: int, person: Person) -> None:
    place = find_place(person, drawn_frame((300, 400), (170, 90, side)), RedSquare())
    left, top, share = FRAMING
    crop_side = side / share
    assert_crop(place, 170 - left * crop_side, 90 - top * crop_side, crop_side)


def test_find_place_uses_nearest_reference(person: Person) -> None:
    wide, tall = person.neutral_landmarks * [1, 0.5], person.neutral_landmarks * [0.5, 1]
    picture = drawn_frame((300, 400), None)
    picture[90:190, 170:220] = (230, 20, 20)
    several = with_references(person, np.stack([wide, tall, person.neutral_landmarks]))
    place = find_place(several, picture, RedSquare())
    left, top, share = FRAMING
    assert_crop(place, 170 - left / 2 * 100 / share, 90 - top * 100 / share, 100 / share)


def test_find_place_without_face_reports_user_error(person: Person) -> None:
    with pytest.raises(TalkingheadError, match=r"^anna\.png: no face was found.*; name another$"):
        find_place(person, drawn_frame((100, 100), None), RedSquare(), "anna.png")


def test_find_place_upside_down_face_reports_user_error(person: Person) -> None:
    upside_down = with_references(person, 1 - person.neutral_landmarks[None])
    with pytest.raises(TalkingheadError, match="upside down"):
        find_place(upside_down, drawn_frame((100, 100), (20, 20, 40)), RedSquare())


# open_place


class PositionConfidence(RedSquare):
    """Detector whose confidence grows towards the right; from column 100 on a face is clear."""

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        faces = super().find(frames)
        return [[Face(face.landmarks, min(face.box[0] / 200, 1.0)) for face in row] for row in faces]


def test_open_place_of_video_uses_first_clear_frame(person: Person, tmp_path: Path) -> None:
    video = draw_video(tmp_path / "place.mp4", [None, (20, 30, 40), (90, 30, 40), (110, 30, 40), None])
    frames = list(VideoReader(video))
    place = open_place(person, video, PositionConfidence())
    head = np.zeros((64, 64, 3), np.uint8)
    expected = PasteBack(frames[2], find_place(person, frames[2], PositionConfidence()))
    assert np.array_equal(place.frame(head), expected.frame(head))


def test_open_place_of_unclear_video_uses_clearest_frame(person: Person, tmp_path: Path) -> None:
    video = draw_video(tmp_path / "place.mp4", [(10, 30, 40), (50, 30, 40), (30, 30, 40)])
    frames = list(VideoReader(video))
    head = np.zeros((64, 64, 3), np.uint8)
    expected = PasteBack(frames[1], find_place(person, frames[1], PositionConfidence()))
    assert np.array_equal(open_place(person, video, PositionConfidence()).frame(head), expected.frame(head))


def test_open_place_of_video_without_face_reports_user_error(person: Person, tmp_path: Path) -> None:
    video = draw_video(tmp_path / "place.mp4", [None] * 3)
    with pytest.raises(TalkingheadError, match=r"place\.mp4: no face was found"):
        open_place(person, video, RedSquare())


def test_open_place_of_transparent_picture_is_on_white(person: Person, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    clear = np.zeros((100, 160, 4), np.uint8)
    clear[30:54, 60:84] = (230, 20, 20, 255)
    image.fromarray(clear).save(tmp_path / "clear.png")
    frame = open_place(person, tmp_path / "clear.png", RedSquare()).frame(np.zeros((64, 64, 3), np.uint8))
    assert (frame[:, 150] == 255).all()


def test_open_place_of_large_picture_is_reduced(
    person: Person,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_image(tmp_path / "large.png", drawn_frame((1200, 5000), (2000, 400, 300)))
    with caplog.at_level(logging.INFO):
        place = open_place(person, tmp_path / "large.png", RedSquare())
    assert place.size == (922, 3840)
    assert "large.png: 5000x1200 is too large, scaled down to 3840x922" in caplog.text
    frame = place.frame(np.zeros((64, 64, 3), np.uint8))
    assert (frame[420, 1650] == 0).all()  # the face is covered
