import gc
import logging
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import RedSquare, draw_pictures, draw_video, drawn_frame
from talkinghead.data.load import FaceTracks, read_faces, read_track
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.tracking import FaceTrack

FACES = [(40 + 2 * n, 20 + 4 * n, 60) for n in range(10)]  # even, for two pixels share a colour in a video


def centres(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[:, 4]


class CountingDetector(RedSquare):
    """Detector that counts the frames it searches and follows."""

    def __init__(self) -> None:
        self.searched = self.followed = 0

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        self.searched += len(frames)
        return super().find(frames)

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        self.followed += len(frames)
        return super().follow(frames, near)


class TwoFaceDetector(RedSquare):
    """Detector that reports a second, smaller face for each face."""

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [
            [copy for face in faces for copy in (Face(face.landmarks, 0.9), self.second(face))]
            for faces in super().find(frames)
        ]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        first = [Face(face.landmarks, 0.9) for faces in super().find(frames) for face in faces]
        return first if np.ptp(near[:, 0]) > 50 else [self.second(face) for face in first]

    def second(self, face: Face) -> Face:
        return Face((face.landmarks + 3 * face.landmarks[2]) / 4 + np.float32(60), 0.4)


def point_landmarks(x: float) -> np.ndarray:
    """Return landmarks [68, 2] that all lie at (x, 2 x)."""
    return np.full((68, 2), (x, 2 * x), np.float32)


def face_tracks(points: dict[int, list[tuple[int, float]]], total: int = 10, fps: float = 25.0) -> FaceTracks:
    """Return the tracks of faces from the (frame number, x) of each face by its rank."""
    tracks = [
        FaceTrack(
            np.array([number for number, _ in positions]),
            np.stack([point_landmarks(x) for _, x in positions]),
            np.full(len(positions), 0.5 + rank / 10, np.float32),
        )
        for rank, positions in points.items()
    ]
    return FaceTracks(Path("some/a.mp4"), tuple(tracks), total, (100, 200), fps)


# tracks


def test_read_track_is_in_pixels_of_video(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES, fps=24)
    track = read_track(video, red_square)
    assert (track.size, track.fps, len(track)) == ((120, 160), 24, 10)
    assert track.confidence.tolist() == [1] * 10
    expected = np.array([(left + side / 2, top + side / 2) for left, top, side in FACES])
    assert np.abs(centres(track.landmarks) - expected).max() <= 0.5


def test_track_interpolates_frames_without_face() -> None:
    track = face_tracks({1: [(1, 10), (4, 40), (5, 60)]}, total=8).track()
    assert track.landmarks[:, 0, 0].tolist() == [10, 10, 20, 30, 40, 60, 60, 60]
    assert track.landmarks[:, 67, 1].tolist() == [20, 20, 40, 60, 80, 120, 120, 120]
    np.testing.assert_allclose(track.confidence, [0, 0.6, 0, 0, 0.6, 0.6, 0, 0], rtol=1e-6)
    assert (track.size, track.fps, track.landmarks.dtype) == ((100, 200), 25.0, np.float32)


def test_track_of_face_number_or_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some").mkdir()
    Path("some/a.mp4").touch()
    faces = face_tracks({1: [(0, 10), (1, 11)], 2: [(1, 50)]}, total=2)
    assert faces.track().landmarks[:, 0, 0].tolist() == [10, 11]
    assert faces.track(2).landmarks[:, 0, 0].tolist() == [50, 50]
    np.testing.assert_allclose(faces.track(2).confidence, [0, 0.7], rtol=1e-6)
    for number in (0, 3, -1):
        with pytest.raises(
            TalkingheadError,
            match=rf"^some/a\.mp4: shows 2 faces, number {number} was asked for; .*landmarks some/a\.mp4",
        ):
            faces.track(number)
    with pytest.raises(TalkingheadError, match=r"^some/a\.mp4: no face was found in any of its 10 pictures"):
        face_tracks({}).track()


@pytest.mark.parametrize("stranger", [(0, 0, 18), (118, 0, 40)])
def test_read_faces_distant_face_is_another_track(
    tmp_path: Path, stranger: tuple[int, int, int], red_square: RedSquare
) -> None:
    video = draw_video(tmp_path / "a.mp4", [(20, 70, 40)] * 6 + [stranger] * 3 + [(22, 70, 40)] * 10)
    tracks = read_faces(video, red_square).tracks
    assert [track.numbers.tolist() for track in tracks] == [[*range(6), *range(9, 19)], [6, 7, 8]]
    assert np.flatnonzero(read_track(video, red_square).seen).tolist() == [*range(6), *range(9, 19)]


def test_read_track_searches_every_eighth_frame(tmp_path: Path) -> None:
    detector = CountingDetector()
    read_track(draw_video(tmp_path / "a.mp4", [(40 + n, 20, 60) for n in range(33)]), detector)
    assert (detector.searched, detector.followed) == (5, 32)


@pytest.mark.parametrize(
    "limit, stride, numbers",
    [(None, 3, [0, 3, 6, 9]), (3, 1, [0, 1, 2]), (2, 4, [0, 4]), (50, 2, [0, 2, 4, 6, 8])],
)
def test_read_faces_respects_limit_and_stride(
    limit: int | None, stride: int, numbers: list[int], tmp_path: Path, red_square: RedSquare
) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    calls: list[Any] = []

    def progress(frames: Any, /, *, desc: str, total: int | None) -> Any:
        calls.append((total, desc))
        return frames

    faces = read_faces(video, red_square, limit, stride, progress=progress)
    assert (faces.path, faces.total, faces.size, faces.fps, faces.cuts) == (
        video,
        len(numbers),
        (120, 160),
        25 / stride,
        (),
    )
    [face_track] = faces.tracks
    assert np.abs(face_track.landmarks[:, 4, 0] - [40 + 2 * number + 30 for number in numbers]).max() <= 0.5
    assert calls == [(len(numbers), "landmarks of a.mp4")]
    complete, part = read_track(video, red_square), read_track(video, red_square, limit=limit, stride=stride)
    assert np.array_equal(part.landmarks, complete.landmarks[numbers]) and part.fps == 25 / stride


def test_read_faces_with_stride_searches_every_frame(tmp_path: Path) -> None:
    detector = CountingDetector()
    faces = read_faces(draw_video(tmp_path / "a.mp4", FACES), detector, stride=2)
    assert (detector.searched, faces.total) == (5, 5)


def test_read_track_logs_speed_and_several_faces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "talkinghead")
    video = draw_video(tmp_path / "a.mp4", FACES)
    first, second = read_track(video, TwoFaceDetector()), read_track(video, TwoFaceDetector(), face=2)
    assert centres(first.landmarks)[0, 0] == pytest.approx(70, abs=0.5)
    np.testing.assert_allclose(second.confidence, 0.4, rtol=1e-6)
    messages = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "talkinghead.data.load"
    ]
    assert [level for level, _ in messages] == ["INFO", "WARNING"] * 2
    assert re.fullmatch(r"a\.mp4: landmarks of 10 frames in \d+\.\d s, \d+ a second", messages[0][1])
    assert messages[1][1] == "a.mp4: shows 2 faces, number 1 is taken (--face N takes another)"
    assert messages[3][1] == "a.mp4: shows 2 faces, number 2 is taken (--face N takes another)"


def test_read_track_short_second_face_does_not_warn(
    tmp_path: Path, red_square: RedSquare, caplog: pytest.LogCaptureFixture
) -> None:
    video = draw_video(tmp_path / "a.mp4", [(10, 10, 60)] * 30 + [(120, 80, 40)])
    assert len(read_faces(video, red_square).tracks) == 2
    read_track(video, red_square)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_read_faces_without_face_is_empty(tmp_path: Path, red_square: RedSquare) -> None:
    faces = read_faces(draw_video(tmp_path / "a.mp4", [None] * 10), red_square)
    assert (faces.tracks, faces.total) == ((), 10)


def test_read_faces_of_pictures_searches_every_one(tmp_path: Path) -> None:
    draw_pictures(tmp_path, [(0, 0, 40), None, (100, 60, 50)])
    detector = CountingDetector()
    faces = read_faces(tmp_path, detector)
    assert [track.numbers.tolist() for track in faces.tracks] == [[0, 2]]
    assert (detector.searched, detector.followed, faces.fps) == (3, 0, 0)


def test_read_faces_of_pictures_ranks_by_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_pictures(tmp_path, [(0, 0, 60), None, (20, 0, 60)])
    first, second = TwoFaceDetector().find([drawn_frame((120, 160), (20, 0, 60))])[0]
    faces = read_faces(tmp_path, TwoFaceDetector())
    assert [track.numbers.tolist() for track in faces.tracks] == [[0, 2], [0, 2]]
    assert np.array_equal(faces.track().landmarks[2], first.landmarks)
    track = read_track(tmp_path, TwoFaceDetector(), face=2)
    assert np.array_equal(track.landmarks[2], second.landmarks)
    np.testing.assert_allclose(track.confidence, [0.4, 0, 0.4], rtol=1e-6)
    assert not [
        record for record in caplog.records if record.levelno >= logging.WARNING
    ]  # of pictures the largest is expected


def test_read_track_keeps_few_frames_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES * 6)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watching(frames: Any, /, *, desc: str, total: int | None) -> Any:
        nonlocal most
        for frame in frames:
            alive.append(weakref.ref(frame))
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))
            yield frame

    assert len(read_track(video, RedSquare(), progress=watching)) == len(alive) == 60
    assert most <= 32 + 3  # what is searched at once
