import gc
import logging
import re
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import RedSquare, draw_video, drawn_frame
from talkinghead.clip import Clip
from talkinghead.data import read
from talkinghead.data.crop import Crop, crop_around
from talkinghead.data.read import Faces, read_clip, read_faces, read_track
from talkinghead.data.shots import read_shots
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.face import Face
from talkinghead.landmarks.follow import Chain
from talkinghead.media.pictures import read_picture, write_picture
from talkinghead.media.video import VideoReader

FACES = [(40 + 2 * n, 20 + 4 * n, 60) for n in range(10)]  # even, for two pixels share a colour in a video


def centres(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[:, 4]


def draw_pictures(folder: Path, faces: Sequence[tuple[int, int, int] | None]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(len(faces))]
    for path, face in zip(paths, faces, strict=True):
        write_picture(path, drawn_frame((120, 160), face))
    return paths


class Watching(RedSquare):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.searched = self.followed = 0

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        self.searched += len(frames)
        return super().find(frames)

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        self.followed += len(frames)
        return super().follow(frames, near)


class Ranked(RedSquare):
    """Finds a second, smaller face beside each."""

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [[each for face in faces for each in (Face(face.landmarks, 0.9), self.second(face))] for faces in super().find(frames)]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        first = [Face(face.landmarks, 0.9) for faces in super().find(frames) for face in faces]
        return first if np.ptp(near[:, 0]) > 50 else [self.second(face) for face in first]

    def second(self, face: Face) -> Face:
        return Face((face.landmarks + 3 * face.landmarks[2]) / 4 + np.float32(60), 0.4)


def marked(x: float) -> np.ndarray:
    """Landmarks [68, 2] that all lie in one place."""
    return np.full((68, 2), (x, 2 * x), np.float32)


def found(chains: dict[int, list[tuple[int, float]]], total: int = 10, fps: float = 25.0) -> Faces:
    """Chains of (frame number, x) by their number, without a video."""
    made = [
        Chain(np.array([n for n, _ in each]), np.stack([marked(x) for _, x in each]), np.full(len(each), 0.5 + rank / 10, np.float32))
        for rank, each in chains.items()
    ]
    return Faces(Path("some/a.mp4"), tuple(made), total, (100, 200), fps)


# tracks


def test_a_track_in_pixels_of_the_video(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES, fps=24)
    track = read_track(video, red_square)
    assert (track.size, track.fps, len(track)) == ((120, 160), 24, 10)
    assert track.confidence.tolist() == [1] * 10
    expected = np.array([(left + side / 2, top + side / 2) for left, top, side in FACES])
    assert np.abs(centres(track.landmarks) - expected).max() <= 0.5


def test_where_a_face_was_not_seen_its_landmarks_lie_between_those_around_it() -> None:
    track = found({1: [(1, 10), (4, 40), (5, 60)]}, total=8).track()
    assert track.landmarks[:, 0, 0].tolist() == [10, 10, 20, 30, 40, 60, 60, 60]
    assert track.landmarks[:, 67, 1].tolist() == [20, 20, 40, 60, 80, 120, 120, 120]
    np.testing.assert_allclose(track.confidence, [0, 0.6, 0, 0, 0.6, 0.6, 0, 0], rtol=1e-6)
    assert (track.size, track.fps, track.landmarks.dtype) == ((100, 200), 25.0, np.float32)


def test_the_face_that_is_asked_for() -> None:
    faces = found({1: [(0, 10), (1, 11)], 2: [(1, 50)]}, total=2)
    assert faces.track().landmarks[:, 0, 0].tolist() == [10, 11]
    assert faces.track(2).landmarks[:, 0, 0].tolist() == [50, 50]
    np.testing.assert_allclose(faces.track(2).confidence, [0, 0.7], rtol=1e-6)
    for number in (0, 3, -1):
        with pytest.raises(TalkingheadError, match=rf"^some/a\.mp4: shows 2 faces, number {number} was asked for; .*landmarks some/a\.mp4"):
            faces.track(number)
    with pytest.raises(TalkingheadError, match=r"^some/a\.mp4: no face was found in any of its 10 pictures"):
        found({}).track()


def test_frames_without_a_face_are_in_a_track_and_not_in_a_clip(tmp_path: Path, red_square: RedSquare) -> None:
    faces = [(left + 80, top + 60, side) for left, top, side in FACES]
    video = draw_video(tmp_path / "a.mp4", [None, *faces[:3], None, *faces[3:8], None], size=(240, 320))
    track = read_track(video, red_square)
    assert (np.flatnonzero(track.seen).tolist(), len(track)) == ([1, 2, 3, 5, 6, 7, 8, 9], 11)
    np.testing.assert_allclose(track.landmarks[4], (track.landmarks[3] + track.landmarks[5]) / 2)
    clip = read_clip(video, 64, red_square)
    expected = crop_around(track.landmarks[track.seen]).points(track.landmarks[track.seen], 64)
    assert np.array_equal(clip.track.landmarks, expected)
    assert clip.track.seen.all()
    # each frame holds the face that its landmarks say
    assert all(np.abs(red_square(frame) - points).max() < 1 for frame, points in zip(clip.frames, expected, strict=True))


@pytest.mark.parametrize("stranger", [(0, 0, 18), (118, 0, 40)])
def test_what_is_far_from_the_face_is_another(tmp_path: Path, stranger: tuple[int, int, int], red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", [(20, 70, 40)] * 6 + [stranger] * 3 + [(22, 70, 40)] * 10)
    chains = read_faces(video, red_square).chains
    assert [chain.numbers.tolist() for chain in chains] == [[*range(6), *range(9, 19)], [6, 7, 8]]
    assert np.flatnonzero(read_track(video, red_square).seen).tolist() == [*range(6), *range(9, 19)]


def test_a_video_is_searched_every_eighth_frame_and_followed_between(tmp_path: Path) -> None:
    detector = Watching()
    read_track(draw_video(tmp_path / "a.mp4", [(40 + n, 20, 60) for n in range(33)]), detector)
    assert (detector.searched, detector.followed) == (5, 32)


@pytest.mark.parametrize("limit, stride, numbers", [(None, 3, [0, 3, 6, 9]), (3, 1, [0, 1, 2]), (2, 4, [0, 4]), (50, 2, [0, 2, 4, 6, 8])])
def test_every_so_many_th_frame_and_no_more_than_so_many(
    limit: int | None, stride: int, numbers: list[int], tmp_path: Path, red_square: RedSquare
) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    told: list[Any] = []

    def progress(frames: Any, total: int | None, what: str) -> Any:
        told.append((total, what))
        return frames

    faces = read_faces(video, red_square, limit, stride, progress=progress)
    assert (faces.path, faces.total, faces.size, faces.fps, faces.cuts) == (video, len(numbers), (120, 160), 25 / stride, ())
    [chain] = faces.chains
    assert np.abs(chain.landmarks[:, 4, 0] - [40 + 2 * number + 30 for number in numbers]).max() <= 0.5
    assert told == [(len(numbers), "landmarks of a.mp4")]
    whole, part = read_track(video, red_square), read_track(video, red_square, limit=limit, stride=stride)
    assert np.array_equal(part.landmarks, whole.landmarks[numbers]) and part.fps == 25 / stride


def test_frames_far_apart_are_searched_each(tmp_path: Path) -> None:
    detector = Watching()
    faces = read_faces(draw_video(tmp_path / "a.mp4", FACES), detector, stride=2)
    assert (detector.searched, faces.total) == (5, 5)


def test_several_faces_are_told_and_the_speed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "talkinghead")
    video = draw_video(tmp_path / "a.mp4", FACES)
    first, second = read_track(video, Ranked()), read_track(video, Ranked(), face=2)
    assert centres(first.landmarks)[0, 0] == pytest.approx(70, abs=0.5)
    np.testing.assert_allclose(second.confidence, 0.4, rtol=1e-6)
    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "talkinghead.data.read"]
    assert [level for level, _ in told] == ["INFO", "WARNING"] * 2
    assert re.fullmatch(r"a\.mp4: landmarks of 10 frames in \d+\.\d s, \d+ a second", told[0][1])
    assert told[1][1] == "a.mp4: shows 2 faces, number 1 is taken (--face N takes another)"
    assert told[3][1] == "a.mp4: shows 2 faces, number 2 is taken (--face N takes another)"


def test_one_face_and_a_passer_by_are_no_news(tmp_path: Path, red_square: RedSquare, caplog: pytest.LogCaptureFixture) -> None:
    video = draw_video(tmp_path / "a.mp4", [(10, 10, 60)] * 30 + [(120, 80, 40)])
    assert len(read_faces(video, red_square).chains) == 2
    read_track(video, red_square)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_shows_no_face_is_no_error_yet(tmp_path: Path, red_square: RedSquare) -> None:
    faces = read_faces(draw_video(tmp_path / "a.mp4", [None] * 10), red_square)
    assert (faces.chains, faces.total) == ((), 10)


# clips


def test_a_clip_of_a_video_has_one_crop(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    clip = read_clip(video, 96, red_square, person="someone")
    assert (len(clip), clip.frames.shape, clip.track.size, clip.track.fps) == (10, (10, 96, 96, 3), (96, 96), 25)
    assert (clip.name, clip.person) == ("a.mp4", "someone")
    # from 40 to 118 and from 20 to 116: the longer side is 96, the square 192 wide and drawn half as large
    moved = np.diff(centres(clip.track.landmarks), axis=0)
    assert np.abs(moved - [1, 2]).max() < 1e-4


def test_each_picture_has_its_own_crop(tmp_path: Path, red_square: RedSquare) -> None:
    clip = read_clip(draw_pictures(tmp_path, [(40, 40, 50), (80, 50, 40)]), 64, red_square)
    assert clip.track.fps == 0
    # the box is a quarter from the left, a third from the top, half as wide as the crop
    assert np.abs(clip.track.landmarks.min(axis=1) - [16, 64 / 3]).max() < 0.01
    assert np.abs(clip.track.landmarks.max(axis=1) - [48, 64 / 3 + 32]).max() < 0.01
    assert all(np.abs(red_square(frame) - points).max() < 1 for frame, points in zip(clip.frames, clip.track.landmarks, strict=True))


def test_a_folder_is_its_pictures(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_pictures(tmp_path / "folder", [*FACES[:2], None, *FACES[2:4]])
    clip = read_clip(tmp_path / "folder", 64, red_square)
    named = read_clip([path for path in paths if path.name != "2.png"], 64, red_square)
    assert np.array_equal(clip.frames, named.frames)
    assert np.array_equal(clip.track.landmarks, named.track.landmarks)
    track = read_track(tmp_path / "folder", red_square)
    assert (track.fps, track.size, np.flatnonzero(track.seen).tolist(), len(track)) == (0, (120, 160), [0, 1, 3, 4], 5)


def test_pictures_do_not_follow_each_other(tmp_path: Path) -> None:
    draw_pictures(tmp_path, [(0, 0, 40), None, (100, 60, 50)])
    detector = Watching()
    faces = read_faces(tmp_path, detector)
    assert [chain.numbers.tolist() for chain in faces.chains] == [[0, 2]]
    assert (detector.searched, detector.followed, faces.fps) == (3, 0, 0)


def test_the_second_face_of_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_pictures(tmp_path, [(0, 0, 60), None, (20, 0, 60)])
    first, second = Ranked().find([drawn_frame((120, 160), (20, 0, 60))])[0]
    faces = read_faces(tmp_path, Ranked())
    assert [chain.numbers.tolist() for chain in faces.chains] == [[0, 2], [0, 2]]
    assert np.array_equal(faces.track().landmarks[2], first.landmarks)
    track = read_track(tmp_path, Ranked(), face=2)
    assert np.array_equal(track.landmarks[2], second.landmarks)
    np.testing.assert_allclose(track.confidence, [0.4, 0, 0.4], rtol=1e-6)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]  # of pictures the largest is expected


def test_a_clip_says_how_sure_its_landmarks_are(tmp_path: Path) -> None:
    class Unsure(RedSquare):
        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            return [[Face(face.landmarks, float(face.landmarks[0, 0]) / 100) for face in faces] for faces in super().find(frames)]

        def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
            return [faces[0] for faces in self.find(frames)]

    video = draw_video(tmp_path / "a.mp4", FACES[:3])
    clip = read_clip([video, *draw_pictures(tmp_path, FACES[3:5])], 64, Unsure())
    np.testing.assert_allclose(clip.track.confidence, [0.4, 0.42, 0.44, 0.46, 0.48], rtol=1e-5)


def test_a_video_and_pictures_together(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES[:3])
    clip = read_clip([video, *draw_pictures(tmp_path, FACES[:2])], 64, red_square)
    assert (len(clip), clip.track.fps, clip.name) == (5, 0, "a.mp4 and 2 more")


def test_a_crop_that_is_given_is_used(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    clip = read_clip(video, 120, red_square, crop=Crop(20, 0, 120))
    assert np.abs(clip.frames.astype(int) - [frame[:, 20:140] for frame in VideoReader(video)]).max() == 0
    assert np.abs(centres(clip.track.landmarks) - [(left - 20 + side / 2, top + side / 2) for left, top, side in FACES]).max() <= 0.5


def test_clip_above_memory_limit_is_rejected(tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    paths = draw_pictures(tmp_path / "folder", FACES)
    monkeypatch.setattr(read, "MAX_CLIP_BYTES", 10 * 64 * 64 * 3)
    assert len(read_clip(video, 64, red_square)) == len(read_clip(tmp_path / "folder", 64, red_square)) == 10
    says = r"a\.mp4: 10 frames of 65x65 take 0\.000118 GiB of memory, expected at most 0\.000114; name a shorter video or fewer pictures$"
    with pytest.raises(TalkingheadError, match=says):
        read_clip(video, 65, red_square)
    for several in ([video, *paths], [tmp_path / "folder", video], [tmp_path / "folder", tmp_path / "folder"]):
        with pytest.raises(TalkingheadError, match=r": \d+ frames of 64x64 take"):
            read_clip(several, 64, red_square)


def test_cut_out_rejects_other_number_of_frames(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    track = read_track(video, red_square)
    frames = list(VideoReader(video))
    for given in (frames[:-1], [*frames, frames[0]]):
        with pytest.raises(TalkingheadError, match=rf"clip: {len(given)} frames do not match 10 landmarks"):
            read.cut_out(given, track, Crop(20, 0, 120), 64)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_is_read_than_asked_for(tmp_path: Path, limit: int, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    numbers: list[int] = []

    def counting(frames: Any, total: int | None, what: str) -> Any:
        for number, frame in enumerate(frames):
            numbers.append(number)
            yield frame

    clip = read_clip(video, 64, red_square, limit=limit, progress=counting)
    assert (len(clip), numbers) == (limit, list(range(limit)))
    paths = draw_pictures(tmp_path / "folder", FACES)
    assert len(read_clip(tmp_path / "folder", 64, red_square, limit=limit)) == limit
    assert len(read_clip([video, *paths], 64, red_square, limit=limit)) == limit + len(paths)


def test_a_face_is_needed(tmp_path: Path, red_square: RedSquare) -> None:
    with pytest.raises(TalkingheadError, match="no pictures given, expected at least one"):
        read_clip([], 64, red_square)
    video = draw_video(tmp_path / "a.mp4", [None] * 3)
    for reading in (read_track, lambda path, detector: read_clip(path, 64, detector)):
        with pytest.raises(TalkingheadError, match=f"^{video}: no face was found in any of its 3 pictures"):
            reading(video, red_square)
    pictures = draw_pictures(tmp_path, [FACES[0], None])
    with pytest.raises(TalkingheadError, match=f"^{pictures[1]}: no face was found in it, expected one .*; name another$"):
        read_clip(pictures, 64, red_square)


def test_landmarks_of_a_long_video_take_no_frames_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES * 6)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watching(frames: Any, total: int | None, what: str) -> Any:
        nonlocal most
        for frame in frames:
            alive.append(weakref.ref(frame))
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))
            yield frame

    assert len(read_track(video, RedSquare(), progress=watching)) == len(alive) == 60
    assert most <= 32 + 3  # what is searched at once


def test_a_real_clip(carphone_clip: Clip, carphone: Path) -> None:
    """By dlib, on a small and grainy video: nearly every frame, the eyes above the nose above the mouth, the head inside the crop."""
    assert len(carphone_clip) >= 119
    assert np.median(carphone_clip.track.confidence) > 0.7
    assert carphone_clip.frames.shape[1:] == (64, 64, 3)
    assert carphone_clip.track.fps == pytest.approx(float(VideoReader(carphone).fps))
    points = carphone_clip.track.landmarks
    assert points.min() > 0
    assert points.max() < 64
    eyes, nose, mouth = (points[:, part, 1].mean(axis=1) for part in (slice(36, 48), slice(31, 36), slice(48, 68)))
    assert (eyes < nose).all()
    assert (nose < mouth).all()
    # no jump of more than a tenth of the picture from frame to frame
    assert np.abs(np.diff(points.mean(axis=1), axis=0)).max() < 6.4


# the convention of the crop


def test_read_clip_convention_2_shows_the_source_alone(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", [(2 * n, 0, 50) for n in range(4)])
    first, second = read_clip(video, 64, red_square), read_clip(video, 64, red_square, convention=2)
    assert second.valid is None
    frames = np.stack(list(VideoReader(video)))
    assert np.array_equal(second.frames[1], Crop(0, 0, 112, 2).pixels(frames[1], 64))
    assert all(np.abs(red_square(frame) - points).max() < 1 for frame, points in zip(second.frames, second.track.landmarks, strict=True))
    # the first shows mirrored faces above and at the left, where nothing is valid
    assert first.valid is not None and (first.valid.shape, first.valid.dtype) == ((4, 64, 64), bool)
    assert not first.valid[:, 0].any() and not first.valid[:, :, 0].any() and first.valid[:, -1, -1].all()


def test_read_clip_large_faces_marks_what_is_not_valid(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_pictures(tmp_path, [(60, 60, 20), (20, 5, 110)])
    clip = read_clip(paths, 64, red_square, convention=2)
    assert clip.valid is not None and clip.valid[0].all()
    crop = crop_around(red_square(read_picture(paths[1]))[None], (120, 160), 2)
    assert np.array_equal(clip.valid[1], crop.valid((120, 160), 64)) and not clip.valid[1].all()
    assert read_clip(paths[:1], 64, red_square, convention=2).valid is None


def test_read_clip_crop_of_the_caller_decides_what_is_valid(tmp_path: Path, red_square: RedSquare) -> None:
    path = draw_pictures(tmp_path, [(60, 60, 20)])[0]
    clip = read_clip(path, 64, red_square, crop=Crop(-32, 0, 64, 2))
    assert clip.valid is not None and not clip.valid[:, :, :32].any() and clip.valid[:, :, 32:].all()


def test_read_shots_convention_2_of_videos_and_pictures(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", [(2 * n, 0, 50) for n in range(4)])
    large = draw_pictures(tmp_path / "large", [(20, 5, 110)])[0]
    clip = read_shots([video, large], 64, 2, red_square, convention=2)
    assert (len(clip), clip.track.fps, clip.name) == (3, 0, "a.mp4 and 1 more")
    assert clip.valid is not None and clip.valid[:2].all() and not clip.valid[2].all()
    crop = crop_around(red_square(read_picture(large))[None], (120, 160), 2)
    assert np.array_equal(clip.frames[2], crop.pixels(read_picture(large), 64))
    alone = read_shots([video], 64, 2, red_square, convention=2)
    assert alone.valid is None and np.array_equal(alone.frames, clip.frames[:2])
    assert np.array_equal(alone.track.landmarks[0], Crop(0, 0, 112).points(read_track(video, red_square).landmarks[0], 64))
    mirrored = read_shots([video], 64, 2, red_square)
    assert mirrored.valid is not None and not mirrored.valid.all()
