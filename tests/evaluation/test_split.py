"""Selection of clips and frames: training and held-out frames never overlap."""

from pathlib import Path

import numpy as np
import pytest

from conftest import RedSquare, draw_video
from talkinghead.dataset.prepare import prepare
from talkinghead.dataset.shard_reader import ShardClip
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation.split import EvalClip, find_eval_clips, read_eval_frames, split


@pytest.mark.parametrize(
    "frames, most, held_out",
    [(33, 32, 32), (34, 32, 32), (48, 32, 32), (300, 32, 32), (2, 1, 32), (3, 1, 1), (100, 8, 5)],
)
def test_split_puts_held_out_frames_last(frames: int, most: int, held_out: int) -> None:
    usable = np.arange(frames) * 3 + 7
    first, held = split(usable, most, held_out, "clip")
    assert len(first) >= most and 1 <= len(held) <= held_out
    assert first[-1] < held[0] and set(first) | set(held) <= set(usable)
    assert len(held) == min(held_out, frames - len(first))
    if frames >= 3 * most:
        assert len(first) == frames * 2 // 3


def test_split_rejects_short_clip() -> None:
    with pytest.raises(
        TalkingheadError,
        match=r"short\.mp4: shows a face clearly in 32 frames, expected 33: 32 to learn from and one",
    ):
        split(np.arange(32), 32, 32, "short.mp4")


def test_eval_frames_share_held_out_frames(tmp_path: Path, red_square: RedSquare) -> None:
    """Identify each frame by its landmarks; frames without a face are not used."""
    faces = [None if i in (0, 5, 20) else (90 + 2 * i, 100, 40) for i in range(30)]
    video = draw_video(tmp_path / "drive.mp4", faces, size=(240, 300))
    frames = read_eval_frames(EvalClip("anna", "drive.mp4", video), 64, (1, 4), 6, red_square)
    assert frames.frames == 27 and len(frames.held_out) == 6
    assert {shots: len(clip) for shots, clip in frames.training.items()} == {1: 1, 4: 4}
    for clip in (*frames.training.values(), frames.held_out):
        for frame, points in zip(
            clip.frames, clip.track.landmarks, strict=True
        ):  # every frame has its own landmarks
            face = red_square(frame)
            assert face is not None
            np.testing.assert_allclose(face, points, atol=1.5)
    lefts = frames.training[4].track.landmarks[:, 0, 0]
    assert lefts.max() < frames.held_out.track.landmarks[:, 0, 0].min()
    assert (np.diff(lefts) > 0).all() and (np.diff(frames.held_out.track.landmarks[:, 0, 0]) > 0).all()
    # the square is twice as wide as all that may be learned from, which the held-out frames leave
    assert frames.training[4].track.landmarks[..., 0].max() - lefts.min() == pytest.approx(32, abs=0.6)


def test_eval_frames_resize_data_set_clip(face_shards: Path, red_square: RedSquare) -> None:
    eval_clip = find_eval_clips([face_shards])[0]
    full_size, half_size = (read_eval_frames(eval_clip, size, (2,), 4, red_square) for size in (64, 32))
    assert half_size.held_out.frames.shape == (4, 32, 32, 3)
    np.testing.assert_allclose(
        half_size.held_out.track.landmarks * 2, full_size.held_out.track.landmarks, atol=1e-4
    )
    mean = full_size.held_out.frames.reshape(4, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(half_size.held_out.frames.astype(float) - mean).mean() < 6


def test_eval_frames_convention_2_masks_border(tmp_path: Path, red_square: RedSquare) -> None:
    inside = EvalClip("anna", "a.mp4", draw_video(tmp_path / "a.mp4", [(2 * i, 0, 60) for i in range(12)]))
    large = EvalClip("anna", "b.mp4", draw_video(tmp_path / "b.mp4", [(20, 4, 110)] * 12))
    first, second, third = (
        read_eval_frames(eval_clip, 64, (1, 2), 3, red_square, convention=convention)
        for eval_clip, convention in ((inside, 1), (inside, 2), (large, 2))
    )
    assert second.held_out.valid is None and all(clip.valid is None for clip in second.training.values())
    for frames in (first, third):
        assert (
            frames.held_out.valid is not None
            and frames.held_out.valid.shape == (3, 64, 64)
            and not frames.held_out.valid.all()
        )
        assert frames.training[2].valid is not None and frames.training[2].valid.shape == (2, 64, 64)
    for frame, points in zip(second.held_out.frames, second.held_out.track.landmarks, strict=True):
        face = red_square(frame)
        assert face is not None
        np.testing.assert_allclose(face, points, atol=1.5)


def test_eval_frames_data_set_clip_masks_border(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "b.mp4", [(20 + i % 2, 4, 110) for i in range(16)])
    prepare([video], tmp_path / "data", 64, red_square, workers=1)
    [eval_clip] = find_eval_clips([tmp_path / "data"])
    frames = read_eval_frames(eval_clip, 32, (2,), 3, red_square)
    assert isinstance(eval_clip.source, ShardClip)
    expected = eval_clip.source.info.valid(32)
    assert expected is not None and frames.held_out.valid is not None
    assert np.array_equal(frames.held_out.valid, np.repeat(expected[None], 3, axis=0))


def test_eval_clips_take_person_from_best_source(tmp_path: Path, face_shards: Path) -> None:
    videos = [
        draw_video(tmp_path / f"{name}.mp4", [(40, 30, 40)] * frames)
        for name, frames in (("a", 2), ("b", 6), ("c", 4))
    ]
    table = {"a.mp4": "anna", "b.mp4": "anna", "c.mp4": "carl"}
    assert [(clip.person, clip.name) for clip in find_eval_clips([tmp_path], table)] == [
        ("anna", "a.mp4"),
        ("anna", "b.mp4"),
        ("carl", "c.mp4"),
    ]
    assert [clip.person for clip in find_eval_clips(videos)] == ["a", "b", "c"]
    assert [clip.name for clip in find_eval_clips([tmp_path], table, clips_each=1)] == ["b.mp4", "c.mp4"]
    both = find_eval_clips([face_shards, *videos], table)
    assert sorted({clip.person for clip in both}) == ["anna", "carl", "first", "second"]
    assert [clip.name for clip in find_eval_clips([face_shards, *videos], table, only=["carl"])] == ["c.mp4"]
    assert len({clip.digest for clip in both}) == len(both)
    with pytest.raises(
        TalkingheadError, match="--only bob: no clip shows this person; there are: anna, carl"
    ):
        find_eval_clips([tmp_path], table, only=["bob"])
    with pytest.raises(TalkingheadError, match="no such file"):
        find_eval_clips([tmp_path / "gone.mp4"])
