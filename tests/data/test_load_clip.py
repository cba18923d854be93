from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import RedSquare, draw_pictures, draw_video
from talkinghead.clip import Clip
from talkinghead.data import load
from talkinghead.data.crop import Crop, crop_around
from talkinghead.data.few_shot import read_shots
from talkinghead.data.load import read_clip, read_track
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detector import Face
from talkinghead.media.images import read_image
from talkinghead.media.video import VideoReader

FACES = [(40 + 2 * n, 20 + 4 * n, 60) for n in range(10)]  # even, for two pixels share a colour in a video


def centres(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[:, 4]


def test_read_clip_omits_frames_without_face(tmp_path: Path, red_square: RedSquare) -> None:
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
    assert all(
        np.abs(red_square(frame) - points).max() < 1
        for frame, points in zip(clip.frames, expected, strict=True)
    )


# clips


def test_read_clip_of_video_has_one_crop(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    clip = read_clip(video, 96, red_square, person="someone")
    assert (len(clip), clip.frames.shape, clip.track.size, clip.track.fps) == (
        10,
        (10, 96, 96, 3),
        (96, 96),
        25,
    )
    assert (clip.name, clip.person) == ("a.mp4", "someone")
    # from 40 to 118 and from 20 to 116: the longer side is 96, the square 192 wide and drawn half as large
    moved = np.diff(centres(clip.track.landmarks), axis=0)
    assert np.abs(moved - [1, 2]).max() < 1e-4


def test_read_clip_of_pictures_has_own_crops(tmp_path: Path, red_square: RedSquare) -> None:
    clip = read_clip(draw_pictures(tmp_path, [(40, 40, 50), (80, 50, 40)]), 64, red_square)
    assert clip.track.fps == 0
    # the box is a quarter from the left, a third from the top, half as wide as the crop
    assert np.abs(clip.track.landmarks.min(axis=1) - [16, 64 / 3]).max() < 0.01
    assert np.abs(clip.track.landmarks.max(axis=1) - [48, 64 / 3 + 32]).max() < 0.01
    assert all(
        np.abs(red_square(frame) - points).max() < 1
        for frame, points in zip(clip.frames, clip.track.landmarks, strict=True)
    )


def test_read_clip_of_folder_equals_its_pictures(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_pictures(tmp_path / "folder", [*FACES[:2], None, *FACES[2:4]])
    clip = read_clip(tmp_path / "folder", 64, red_square)
    named = read_clip([path for path in paths if path.name != "2.png"], 64, red_square)
    assert np.array_equal(clip.frames, named.frames)
    assert np.array_equal(clip.track.landmarks, named.track.landmarks)
    track = read_track(tmp_path / "folder", red_square)
    assert (track.fps, track.size, np.flatnonzero(track.seen).tolist(), len(track)) == (
        0,
        (120, 160),
        [0, 1, 3, 4],
        5,
    )


def test_read_clip_keeps_confidence(tmp_path: Path) -> None:
    class Unsure(RedSquare):
        def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
            return [
                [Face(face.landmarks, float(face.landmarks[0, 0]) / 100) for face in faces]
                for faces in super().find(frames)
            ]

        def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
            return [faces[0] for faces in self.find(frames)]

    video = draw_video(tmp_path / "a.mp4", FACES[:3])
    clip = read_clip([video, *draw_pictures(tmp_path, FACES[3:5])], 64, Unsure())
    np.testing.assert_allclose(clip.track.confidence, [0.4, 0.42, 0.44, 0.46, 0.48], rtol=1e-5)


def test_read_clip_joins_video_and_pictures(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES[:3])
    clip = read_clip([video, *draw_pictures(tmp_path, FACES[:2])], 64, red_square)
    assert (len(clip), clip.track.fps, clip.name) == (5, 0, "a.mp4 and 2 more")


def test_read_clip_uses_crop_of_caller(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    clip = read_clip(video, 120, red_square, crop=Crop(20, 0, 120))
    assert np.abs(clip.frames.astype(int) - [frame[:, 20:140] for frame in VideoReader(video)]).max() == 0
    assert (
        np.abs(
            centres(clip.track.landmarks)
            - [(left - 20 + side / 2, top + side / 2) for left, top, side in FACES]
        ).max()
        <= 0.5
    )


def test_clip_above_memory_limit_is_rejected(
    tmp_path: Path, red_square: RedSquare, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    paths = draw_pictures(tmp_path / "folder", FACES)
    monkeypatch.setattr(load, "MAX_CLIP_BYTES", 10 * 64 * 64 * 3)
    assert len(read_clip(video, 64, red_square)) == len(read_clip(tmp_path / "folder", 64, red_square)) == 10
    says = (
        r"a\.mp4: 10 frames of 65x65 take 0\.000118 GiB of memory, expected at most 0\.000114; name a "
        r"shorter video or fewer pictures$"
    )
    with pytest.raises(TalkingheadError, match=says):
        read_clip(video, 65, red_square)
    for several in (
        [video, *paths],
        [tmp_path / "folder", video],
        [tmp_path / "folder", tmp_path / "folder"],
    ):
        with pytest.raises(TalkingheadError, match=r": \d+ frames of 64x64 take"):
            read_clip(several, 64, red_square)


def test_cut_out_rejects_other_number_of_frames(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    track = read_track(video, red_square)
    frames = list(VideoReader(video))
    for wrong in (frames[:-1], [*frames, frames[0]]):
        with pytest.raises(TalkingheadError, match=rf"clip: {len(wrong)} frames do not match 10 landmarks"):
            load.cut_out(wrong, track, Crop(20, 0, 120), 64)


@pytest.mark.parametrize("limit", [1, 3])
def test_read_clip_reads_no_more_than_limit(tmp_path: Path, limit: int, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", FACES)
    numbers: list[int] = []

    def counting(frames: Any, /, *, desc: str, total: int | None) -> Any:
        for number, frame in enumerate(frames):
            numbers.append(number)
            yield frame

    clip = read_clip(video, 64, red_square, limit=limit, progress=counting)
    assert (len(clip), numbers) == (limit, list(range(limit)))
    paths = draw_pictures(tmp_path / "folder", FACES)
    assert len(read_clip(tmp_path / "folder", 64, red_square, limit=limit)) == limit
    assert len(read_clip([video, *paths], 64, red_square, limit=limit)) == limit + len(paths)


def test_read_clip_without_face_reports_user_error(tmp_path: Path, red_square: RedSquare) -> None:
    with pytest.raises(TalkingheadError, match="^read_clip: no pictures; give at least one"):
        read_clip([], 64, red_square)
    video = draw_video(tmp_path / "a.mp4", [None] * 3)
    for reading in (read_track, lambda path, detector: read_clip(path, 64, detector)):
        with pytest.raises(TalkingheadError, match=f"^{video}: no face was found in any of its 3 pictures"):
            reading(video, red_square)
    pictures = draw_pictures(tmp_path, [FACES[0], None])
    with pytest.raises(
        TalkingheadError, match=f"^{pictures[1]}: no face was found in it, expected one .*; name another$"
    ):
        read_clip(pictures, 64, red_square)


def test_read_clip_of_carphone_has_plausible_faces(carphone_clip: Clip, carphone: Path) -> None:
    # on a small and grainy video: a face in nearly every frame, the eyes above the nose above the mouth,
    # the head inside the crop
    assert len(carphone_clip) >= 119
    assert np.median(carphone_clip.track.confidence) > 0.7
    assert carphone_clip.frames.shape[1:] == (64, 64, 3)
    assert carphone_clip.track.fps == pytest.approx(float(VideoReader(carphone).fps))
    points = carphone_clip.track.landmarks
    assert points.min() > 0
    assert points.max() < 64
    eyes, nose, mouth = (
        points[:, part, 1].mean(axis=1) for part in (slice(36, 48), slice(31, 36), slice(48, 68))
    )
    assert (eyes < nose).all()
    assert (nose < mouth).all()
    # no jump of more than a tenth of the picture from frame to frame
    assert np.abs(np.diff(points.mean(axis=1), axis=0)).max() < 6.4


# the convention of the crop


def test_read_clip_convention_2_shows_source_alone(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", [(2 * n, 0, 50) for n in range(4)])
    first, second = read_clip(video, 64, red_square), read_clip(video, 64, red_square, convention=2)
    assert second.valid is None
    frames = np.stack(list(VideoReader(video)))
    assert np.array_equal(second.frames[1], Crop(0, 0, 112, 2).pixels(frames[1], 64))
    assert all(
        np.abs(red_square(frame) - points).max() < 1
        for frame, points in zip(second.frames, second.track.landmarks, strict=True)
    )
    # the first shows mirrored faces above and at the left, where nothing is valid
    assert first.valid is not None and (first.valid.shape, first.valid.dtype) == ((4, 64, 64), bool)
    assert not first.valid[:, 0].any() and not first.valid[:, :, 0].any() and first.valid[:, -1, -1].all()


def test_read_clip_large_face_marks_invalid_pixels(tmp_path: Path, red_square: RedSquare) -> None:
    paths = draw_pictures(tmp_path, [(60, 60, 20), (20, 5, 110)])
    clip = read_clip(paths, 64, red_square, convention=2)
    assert clip.valid is not None and clip.valid[0].all()
    crop = crop_around(red_square(read_image(paths[1]))[None], (120, 160), 2)
    assert np.array_equal(clip.valid[1], crop.valid((120, 160), 64)) and not clip.valid[1].all()
    assert read_clip(paths[:1], 64, red_square, convention=2).valid is None


def test_read_clip_crop_of_caller_sets_valid_pixels(tmp_path: Path, red_square: RedSquare) -> None:
    path = draw_pictures(tmp_path, [(60, 60, 20)])[0]
    clip = read_clip(path, 64, red_square, crop=Crop(-32, 0, 64, 2))
    assert clip.valid is not None and not clip.valid[:, :, :32].any() and clip.valid[:, :, 32:].all()


def test_read_shots_convention_2_joins_video_and_pictures(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "a.mp4", [(2 * n, 0, 50) for n in range(4)])
    large = draw_pictures(tmp_path / "large", [(20, 5, 110)])[0]
    clip = read_shots([video, large], 64, 2, red_square, convention=2)
    assert (len(clip), clip.track.fps, clip.name) == (3, 0, "a.mp4 and 1 more")
    assert clip.valid is not None and clip.valid[:2].all() and not clip.valid[2].all()
    crop = crop_around(red_square(read_image(large))[None], (120, 160), 2)
    assert np.array_equal(clip.frames[2], crop.pixels(read_image(large), 64))
    alone = read_shots([video], 64, 2, red_square, convention=2)
    assert alone.valid is None and np.array_equal(alone.frames, clip.frames[:2])
    assert np.array_equal(
        alone.track.landmarks[0], Crop(0, 0, 112).points(read_track(video, red_square).landmarks[0], 64)
    )
    mirrored = read_shots([video], 64, 2, red_square)
    assert mirrored.valid is not None and not mirrored.valid.all()
