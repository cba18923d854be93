import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.landmark_image import IRIS_POLYLINES, POLYLINES
from talkinghead.media.images import read_image, write_image
from talkinghead.media.video import VideoReader, write_video
from talkinghead.pipelines.landmark_overlay import OverlayResult, draw_landmark_overlay

SIZE = (120, 160)
BAR = 32
RED, AMBER = (255, 92, 82), (255, 190, 70)
SHAPE = np.random.default_rng(0).uniform(0.1, 0.9, (68, 2))  # landmarks in fractions of a square
Square = tuple[int, int, int]


class Squares:
    """Detector of bright squares; the brightness, 201 to 250, sets the confidence, 0.02 to 1."""

    name = "squares"

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [
            sorted(map(self._face, self._squares(frame)), key=lambda face: -np.ptp(face.landmarks))
            for frame in frames
        ]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        followed: list[Face] = []
        for frame in frames:
            nearby = [face for face in self.find([frame])[0] if np.abs(face.landmarks - near).max() < 10]
            if not nearby:
                break
            followed.append(nearby[0])
            near = nearby[0].landmarks
        return followed

    @staticmethod
    def _squares(frame: np.ndarray) -> list[tuple[int, int, int, int]]:
        bright = frame.min(axis=2) > 190
        # Each half of the frame shows at most one square.
        half = frame.shape[1] // 2
        squares = []
        for start in (0, half):
            rows, columns = np.nonzero(bright[:, start : start + half])
            if len(rows):
                shade = int(np.median(frame[rows, columns + start].mean(axis=1)))
                left, top, side = int(columns.min()) + start, int(rows.min()), int(np.ptp(columns)) + 1
                squares.append((left, top, side, shade))
        return squares

    @staticmethod
    def _face(square: tuple[int, int, int, int]) -> Face:
        left, top, side, shade = square
        points = (np.array([left, top]) + SHAPE * side).astype(np.float32)
        return Face(points, float(np.clip((shade - 200) / 50, 0.02, 1)))


def draw_frame(
    faces: Sequence[tuple[int, int, int, int]], size: tuple[int, int] = SIZE, shade: int = 40
) -> np.ndarray:
    """Return a dark frame with bright squares (left, top, side, brightness)."""
    frame = np.full((*size, 3), shade, dtype=np.uint8)
    for left, top, side, bright in faces:
        frame[top : top + side, left : left + side] = bright
    return frame


def write_frames(path: Path, frames: Sequence[np.ndarray], fps: int = 10) -> Path:
    with write_video(path, fps, (frames[0].shape[0], frames[0].shape[1])) as video:
        for frame in frames:
            video.write(frame)
    return path


LARGE, SMALL = (16, 30, 48, 240), (108, 40, 24, 240)


@pytest.fixture(scope="module")
def meeting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 30 frames, 10 a second: a small face; a large one, doubtful in frames 5 and 7, absent from 1.0 to
    1.8 s; a cut at 2.5 s.
    """
    frames = []
    for number in range(30):
        faces = [SMALL]
        if not 10 <= number < 18:
            faces.append((*LARGE[:3], 210 if number in (5, 7) else 240))
        frames.append(draw_frame(faces, shade=40 if number < 25 else 110))
    return write_frames(tmp_path_factory.mktemp("meeting") / "meeting.mp4", frames)


def overlay(path: Path, out: Path, face: int = 1) -> OverlayResult:
    return draw_landmark_overlay(path, out, Squares(), face)


def near(picture: np.ndarray, colour: tuple[int, int, int], within: int = 50) -> np.ndarray:
    """Return bool [H, W]: the pixels near a colour, within the errors of a video codec."""
    return np.abs(picture.astype(int) - colour).max(axis=2) < within


def test_overlay_video_shows_faces_and_labels(meeting: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen.mp4"
    result = overlay(meeting, out)
    written = VideoReader(out)
    assert written.size == (BAR + 4 * SIZE[0], 4 * SIZE[1])  # to 640 pixels, by a whole factor
    assert written.fps == 10
    frames = list(written)
    assert len(frames) == result.frames == 30
    bars, pictures = [frame[:BAR] for frame in frames], [frame[BAR:] for frame in frames]
    # the red of a brow: on the followed face alone, where its points are
    brow = LARGE[:2] + SHAPE[list(POLYLINES[1][0])] * LARGE[2]
    for number, picture in enumerate(pictures):
        rows, columns = np.nonzero(near(picture, (255, 0, 0), 100))
        assert (len(rows) > 20) == (not 10 <= number < 18), number
        if len(rows):
            assert (
                np.abs([columns.min() / 4 - brow[:, 0].min(), columns.max() / 4 - brow[:, 0].max()]).max()
                < 1.5
            )
            assert np.abs([rows.min() / 4 - brow[:, 1].min(), rows.max() / 4 - brow[:, 1].max()]).max() < 1.5
    # the other face has a number, with a dark shadow, the followed one has none
    for (left, top, side, _), numbered in ((LARGE, False), (SMALL, True)):
        above = pictures[0][
            4 * top + 2 : int(4 * (top + SHAPE[:, 1].min() * side)) - 5, 4 * left : 4 * (left + side)
        ]
        assert (above.min() < 100) == numbered
    left, top, side, _ = SMALL
    # the other face has grey lines on its white
    others = pictures[0][4 * top : 4 * (top + side), 4 * left : 4 * (left + side)]
    assert np.ptp(others.astype(int), axis=2).max() < 40
    assert near(others, (176, 180, 188), 20).sum() > 50
    # the text above
    labels = [(bool(near(bar, RED, 60).any()), bool(near(bar, AMBER, 60)[:, :270].any())) for bar in bars]
    assert labels == [(10 <= number < 18, number in (5, 7)) for number in range(30)]
    assert [bool(near(bar, AMBER, 60)[:, 275:].any()) for bar in bars] == [
        25 <= number < 30 for number in range(30)
    ]


def test_overlay_result_counts_frames_and_spans(meeting: Path, tmp_path: Path) -> None:
    result = overlay(meeting, tmp_path / "seen.png")
    assert (result.frames, result.frames_with_face, result.face, result.faces, result.fps) == (
        30,
        22,
        1,
        2,
        10,
    )
    assert result.gaps == [(1.0, 1.8)]
    assert result.doubtful == [(0.5, 0.8)]
    assert result.cuts == [2.5]
    assert result.confidence == pytest.approx((20 * 0.8 + 2 * 0.2) / 22, abs=0.03)
    assert result.frames_per_second > 1
    plain = json.loads(json.dumps(result.as_dict()))
    assert plain["file"] == str(tmp_path / "seen.png")
    assert (plain["found"], "frames_with_face" in plain) == (22, False)
    assert (plain["gaps"], plain["doubtful"], plain["cuts"]) == ([[1.0, 1.8]], [[0.5, 0.8]], [2.5])
    assert result.lines() == [
        f"face 1 of 2 in 22 of the 30 frames of meeting.mp4, mean confidence {result.confidence:.2f}",
        "no face: 1.0 to 1.8 s",
        "profile, occluded or a poor fit: 0.5 to 0.8 s",
        "new shot: 2.5 s",
    ]


def test_overlay_face_2_follows_second_face(meeting: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen.mp4"
    result = overlay(meeting, out, face=2)
    assert (result.frames_with_face, result.face, result.gaps, result.doubtful) == (30, 2, [], [])
    red = near(next(iter(VideoReader(out)))[BAR:], (255, 0, 0), 100)
    assert red[:, 320:].sum() > 20
    assert not red[:, :320].any()
    with pytest.raises(TalkingheadError, match="meeting.mp4: shows 2 faces, number 3 was asked for"):
        overlay(meeting, tmp_path / "third.mp4", face=3)
    assert not (tmp_path / "third.mp4").exists()


def test_overlay_shows_square_of_crop(tmp_path: Path) -> None:
    video = write_frames(tmp_path / "one.mp4", [draw_frame([(36, 45, 40, 240)])] * 3)
    overlay(video, tmp_path / "seen.mp4")
    picture = next(iter(VideoReader(tmp_path / "seen.mp4")))[BAR:]
    points = np.array([36, 45]) + SHAPE * 40
    side = 2 * np.ptp(points, axis=0).max()
    left = 4 * ((points[:, 0].min() + points[:, 0].max()) / 2 - side / 2)
    row = picture[300].astype(int).mean(axis=1)
    edge = int(row[: int(left) + 20].argmax())
    assert row[edge] > 80  # on a ground of 40
    assert abs(edge + 0.5 - left) < 2


def test_overlay_sheet_shows_worst_frames(meeting: Path, tmp_path: Path) -> None:
    out = tmp_path / "seen.png"
    overlay(meeting, out)
    picture = read_image(out)
    # three rows of four: evenly spaced, then those without a face
    assert abs(picture.shape[0] - (64 + 3 * (240 + 28) + 12)) < 10
    assert picture.shape[1] == 20 + 156 + 4 * 328 - 8 + 20
    step = (picture.shape[0] - 76) // 3
    rows = [picture[64 + step * row : 64 + step * row + 240, 176:] for row in range(3)]
    reds = [
        [near(row[:40, 328 * column : 328 * column + 100], RED, 20).any() for column in range(4)]
        for row in rows
    ]
    assert reds[2] == [True] * 4
    # frames 0, 4, 8, 12, 17, 21, 25, 29
    assert reds[:2] == [[False, False, False, True], [True, False, False, False]]


def test_overlay_without_face_reports_no_face(tmp_path: Path) -> None:
    video = write_frames(tmp_path / "empty.mp4", [draw_frame([], shade=8 * number) for number in range(20)])
    for name in ("seen.mp4", "seen.jpg"):
        result = overlay(video, tmp_path / name, face=2)
        assert result.lines() == ["no face was found in any of the 20 frames of empty.mp4"]
        assert (result.frames_with_face, result.faces, result.confidence, result.gaps) == (
            0,
            0,
            None,
            [(0.0, 2.0)],
        )
        assert result.as_dict()["confidence"] is None
    picture = read_image(tmp_path / "seen.jpg")
    assert near(picture, RED, 60).sum() > 12 * 20
    # none is worse than another: the last of 12 is the last of all
    assert picture[-90:-50, -90:-50].mean() > 130
    assert all(near(frame[:BAR], RED, 60).any() for frame in VideoReader(tmp_path / "seen.mp4"))


def test_overlay_of_picture_and_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shots"
    for name, faces in (("a10.png", []), ("a2.png", [LARGE]), ("a1.png", [(20, 60, 30, 240)])):
        write_image(folder / name, draw_frame(faces))
    result = overlay(folder, tmp_path / "all.png")
    assert result.lines() == ["a face in 2 of the 3 pictures of shots, mean confidence 0.80"]
    assert (result.fps, result.gaps, result.doubtful, result.cuts) == (0, [], [], [])
    picture = read_image(tmp_path / "all.png")[64:304, 176:]
    assert [
        bool(near(picture[:40, 328 * place : 328 * place + 100], RED, 20).any()) for place in range(3)
    ] == [False, False, True]
    # each has its own place: the lips, yellow, lower in the first
    heights = [
        np.nonzero(near(picture[:, 328 * place : 328 * place + 320], (255, 255, 0), 60))[0].mean()
        for place in range(2)
    ]
    assert heights[0] > heights[1] + 20
    # and its own square
    tops = [
        np.nonzero(near(picture[:, 328 * place : 328 * place + 320], (150, 152, 160), 45).sum(axis=1) > 80)[
            0
        ][0]
        for place in range(2)
    ]
    assert abs(tops[0] - tops[1]) > 10

    assert overlay(folder / "a2.png", tmp_path / "one.png").lines() == ["a face in a2.png, confidence 0.80"]
    assert overlay(folder / "a10.png", tmp_path / "none.png").lines() == ["no face was found in a10.png"]
    overlay(folder, tmp_path / "all.mp4")
    assert len(list(VideoReader(tmp_path / "all.mp4"))) == 3


@pytest.mark.parametrize(
    "size, output_size",
    [
        ((8, 8), (640, 640)),
        ((1, 64), (10, 640)),
        ((480, 640), (480, 640)),
        ((300, 800), (300, 800)),
        ((1600, 900), (1280, 720)),
        ((90, 60), (720, 480)),
    ],
)
def test_overlay_video_size_is_between_limits(
    tmp_path: Path, size: tuple[int, int], output_size: tuple[int, int]
) -> None:
    write_image(tmp_path / "shots" / "one.png", draw_frame([], size))
    overlay(tmp_path / "shots", tmp_path / "seen.mp4")
    assert VideoReader(tmp_path / "seen.mp4").size == (BAR + output_size[0], output_size[1])
    overlay(tmp_path / "shots", tmp_path / "seen.png")


def test_overlay_sheet_enlarges_far_face(tmp_path: Path) -> None:
    write_image(tmp_path / "far.png", draw_frame([(500, 300, 24, 240)], (720, 1280)))
    overlay(tmp_path / "far.png", tmp_path / "seen.png")
    red = np.nonzero(near(read_image(tmp_path / "seen.png")[64:], (255, 0, 0), 60))
    assert np.ptp(red[1]) > 60


@pytest.mark.parametrize("out", ["seen.txt", "seen", "seen.avi", "seen.gif"])
def test_overlay_unknown_suffix_fails_before_work(meeting: Path, tmp_path: Path, out: str) -> None:
    with pytest.raises(
        TalkingheadError, match=f"{out}: expected a name that ends in .mp4 for a video, .png or .jpg"
    ):
        overlay(meeting, tmp_path / out)
    assert not list(tmp_path.iterdir())


def test_overlay_bad_paths_report_user_error(meeting: Path, tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match="is the same file as the input"):
        overlay(meeting, meeting)
    with pytest.raises(TalkingheadError, match="missing.mp4: no such file"):
        overlay(tmp_path / "missing.mp4", tmp_path / "seen.png")
    (tmp_path / "file").write_text("x")
    with pytest.raises(TalkingheadError, match="cannot write here"):
        overlay(meeting, tmp_path / "file" / "seen.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


class SquaresWithIrises(Squares):
    """Detector that sees an iris in the left and the right half of each square."""

    @staticmethod
    def _face(square: tuple[int, int, int, int]) -> Face:
        face = Squares._face(square)
        left, top, side, _ = square
        edge = np.array([[0, 0], [0.1, 0], [0, -0.1], [-0.1, 0], [0, 0.1]])
        irises = np.array([left, top]) + (np.array([[[0.25, 0.5]], [[0.75, 0.5]]]) + edge) * side
        return Face(face.landmarks, face.confidence, irises.astype(np.float32))


@pytest.mark.parametrize("detector, shows", [(Squares(), False), (SquaresWithIrises(), True)])
def test_overlay_shows_irises_that_the_detector_sees(tmp_path: Path, detector: Squares, shows: bool) -> None:
    picture = tmp_path / "face.png"
    write_image(picture, draw_frame([LARGE]))
    for name in ("sheet.png", "video.mp4"):
        draw_landmark_overlay(picture, tmp_path / name, detector)
    sheet = read_image(tmp_path / "sheet.png")
    for _, colour in IRIS_POLYLINES:
        assert (near(sheet, colour, 12).sum() > 40) == shows  # edges of other lines have a few such pixels
