import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import RedSquare, draw_video, drawn_frame
from talkinghead.clip import Clip
from talkinghead.data.crop import Crop, crop_around
from talkinghead.data.pictures import write_picture
from talkinghead.data.read import read_clip, read_track
from talkinghead.data.video import VideoReader
from talkinghead.errors import TalkingheadError

FACES = [(40 + 2 * n, 20 + 4 * n, 60) for n in range(10)]  # even, for two pixels share a colour in a video


def centres(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[:, 4]


def draw_pictures(folder: Path, faces: Sequence[tuple[int, int, int] | None]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(len(faces))]
    for path, face in zip(paths, faces, strict=True):
        write_picture(path, drawn_frame((120, 160), face))
    return paths


def test_a_track_in_pixels_of_the_video(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES, fps=24)
    track, kept, total = read_track(video, red_square)
    assert (track.size, track.fps, total) == ((120, 160), 24, 10)
    assert kept.tolist() == list(range(10))
    expected = np.array([(left + side / 2, top + side / 2) for left, top, side in FACES])
    assert np.abs(centres(track.landmarks) - expected).max() <= 0.5


def test_frames_without_a_face_are_left_out(tmp_path: Path, red_square: RedSquare) -> None:
    faces = [(left + 80, top + 60, side) for left, top, side in FACES]
    video = draw_video(tmp_path / "a.mp4", [None, *faces[:3], None, *faces[3:6], None], size=(240, 320))
    track, kept, total = read_track(video, red_square)
    assert (kept.tolist(), total, len(track)) == ([1, 2, 3, 5, 6, 7], 9, 6)
    clip = read_clip(video, 64, red_square)
    expected = crop_around(track.landmarks).points(track.landmarks, 64)
    assert np.array_equal(clip.track.landmarks, expected)
    # each frame holds the face that its landmarks say
    assert all(np.abs(red_square(frame) - points).max() < 1 for frame, points in zip(clip.frames, expected, strict=True))


@pytest.mark.parametrize("stranger", [(0, 0, 20), (118, 0, 40), (0, 0, 120)])
def test_what_is_far_from_the_face_is_left_out(tmp_path: Path, stranger: tuple[int, int, int], red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", [(20, 70, 40)] * 3 + [stranger] * 2 + [(22, 70, 40)] * 2)
    track, kept, total = read_track(video, red_square)
    assert (kept.tolist(), total) == ([0, 1, 2, 5, 6], 7)
    assert len(track) == 5


def test_the_detector_looks_near_the_face_it_saw_last(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", [(20, 60, 40), None, (120, 0, 40), (22, 60, 40)])
    seen: list[float | None] = []

    class Recording(RedSquare):
        def __call__(self, frame: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
            seen.append(None if near is None else round(float(near[4, 0])))
            return super().__call__(frame)

    read_track(video, Recording())
    # not near the poster on the wall, which is what frame 2 shows
    assert seen == [None, 40, 40, 40]


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
    track, kept, total = read_track(tmp_path / "folder", red_square)
    assert (track.fps, track.size, kept.tolist(), total) == (0, (120, 160), [0, 1, 3, 4], 5)


def test_pictures_do_not_follow_each_other(tmp_path: Path) -> None:
    draw_pictures(tmp_path, [(0, 0, 40), (100, 60, 50)])

    class WithoutNear(RedSquare):
        def __call__(self, frame: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
            assert near is None
            return super().__call__(frame)

    assert read_track(tmp_path, WithoutNear())[1].tolist() == [0, 1]


def test_a_video_and_pictures_together(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES[:3])
    clip = read_clip([video, *draw_pictures(tmp_path, FACES[:2])], 64, red_square)
    assert (len(clip), clip.track.fps, clip.name) == (5, 0, "a.mp4 and 2 more")


def test_a_crop_that_is_given_is_used(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    clip = read_clip(video, 120, red_square, crop=Crop(20, 0, 120))
    assert np.abs(clip.frames.astype(int) - [frame[:, 20:140] for frame in VideoReader(video)]).max() == 0
    assert np.abs(centres(clip.track.landmarks) - [(left - 20 + side / 2, top + side / 2) for left, top, side in FACES]).max() <= 0.5


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_is_read_than_asked_for(tmp_path: Path, limit: int, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", [None, *FACES])
    read: list[int] = []

    def counting(frames: Any, total: int | None, what: str) -> Any:
        for number, frame in enumerate(frames):
            read.append(number)
            yield frame

    clip = read_clip(video, 64, red_square, limit=limit, progress=counting)
    assert (len(clip), read) == (limit, list(range(limit + 1)))
    paths = draw_pictures(tmp_path, FACES)
    assert len(read_clip(paths, 64, red_square, limit=limit)) == limit
    assert len(read_clip([video, *paths], 64, red_square, limit=11)) == 11


def test_a_face_is_needed(tmp_path: Path, red_square: RedSquare) -> None:
    with pytest.raises(TalkingheadError, match="no pictures given, expected at least one"):
        read_clip([], 64, red_square)
    video = draw_video(tmp_path / "a.mp4", [None] * 3)
    for read in (read_track, lambda path, detector: read_clip(path, 64, detector)):
        with pytest.raises(TalkingheadError, match=f"^{video}: no face was found in any of its 3 pictures"):
            read(video, red_square)
    pictures = draw_pictures(tmp_path, [FACES[0], None])
    with pytest.raises(TalkingheadError, match=f"^{pictures[1]}: no face was found in it, expected one .*; name another$"):
        read_clip(pictures, 64, red_square)


def test_landmarks_of_a_long_video_take_no_frames_along(tmp_path: Path) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES * 6)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    class Counting(RedSquare):
        def __call__(self, frame: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
            nonlocal most
            alive.append(weakref.ref(frame))
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))
            return super().__call__(frame)

    assert read_track(video, Counting())[2] == len(alive) == 60
    assert most <= 3


def test_a_real_clip(carphone_clip: Clip, carphone: Path) -> None:
    """By dlib, on a small and grainy video: nearly every frame, the eyes above the nose above the mouth, the head inside the crop."""
    assert len(carphone_clip) >= 115
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
