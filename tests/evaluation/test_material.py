"""Who is measured on which frames: learned and held-out ones never overlap, clips of one person are one person's."""

from pathlib import Path

import numpy as np
import pytest

from conftest import RedSquare, draw_video
from talkinghead.corpus.prepare import prepare
from talkinghead.data.shards import ShardClip
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation.material import Subject, find_subjects, read_material, split


@pytest.mark.parametrize(
    "frames, most, held_out", [(33, 32, 32), (34, 32, 32), (48, 32, 32), (300, 32, 32), (2, 1, 32), (3, 1, 1), (100, 8, 5)]
)
def test_what_is_learned_is_before_what_is_held_out(frames: int, most: int, held_out: int) -> None:
    usable = np.arange(frames) * 3 + 7
    first, held = split(usable, most, held_out, "clip")
    assert len(first) >= most and 1 <= len(held) <= held_out
    assert first[-1] < held[0] and set(first) | set(held) <= set(usable)
    assert len(held) == min(held_out, frames - len(first))
    if frames >= 3 * most:
        assert len(first) == frames * 2 // 3


def test_a_clip_shorter_than_t_and_one_is_told() -> None:
    with pytest.raises(
        TalkingheadError, match=r"short\.mp4: shows a face clearly in 32 frames, 33 were expected: 32 to learn from and one"
    ):
        split(np.arange(32), 32, 32, "short.mp4")


def test_all_t_share_the_held_out_frames_of_a_video(tmp_path: Path, red_square: RedSquare) -> None:
    """Its landmarks tell which frame each is; frames without a face are not used."""
    faces = [None if i in (0, 5, 20) else (90 + 2 * i, 100, 40) for i in range(30)]
    video = draw_video(tmp_path / "drive.mp4", faces, size=(240, 300))
    material = read_material(Subject("anna", "drive.mp4", video), 64, (1, 4), 6, red_square)
    assert material.frames == 27 and len(material.held) == 6
    assert {shots: len(clip) for shots, clip in material.pictures.items()} == {1: 1, 4: 4}
    for clip in (*material.pictures.values(), material.held):
        for frame, points in zip(clip.frames, clip.track.landmarks, strict=True):  # each frame with its own landmarks
            found = red_square(frame)
            assert found is not None
            np.testing.assert_allclose(found, points, atol=1.5)
    lefts = material.pictures[4].track.landmarks[:, 0, 0]
    assert lefts.max() < material.held.track.landmarks[:, 0, 0].min()
    assert (np.diff(lefts) > 0).all() and (np.diff(material.held.track.landmarks[:, 0, 0]) > 0).all()
    # the square is twice as wide as all that may be learned from, which the held-out frames leave
    assert material.pictures[4].track.landmarks[..., 0].max() - lefts.min() == pytest.approx(32, abs=0.6)


def test_a_data_set_is_brought_to_the_models_size(face_shards: Path, red_square: RedSquare) -> None:
    subject = find_subjects([face_shards])[0]
    whole, half = (read_material(subject, size, (2,), 4, red_square) for size in (64, 32))
    assert half.held.frames.shape == (4, 32, 32, 3)
    np.testing.assert_allclose(half.held.track.landmarks * 2, whole.held.track.landmarks, atol=1e-4)
    mean = whole.held.frames.reshape(4, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(half.held.frames.astype(float) - mean).mean() < 6


def test_read_material_convention_2_marks_what_is_not_valid(tmp_path: Path, red_square: RedSquare) -> None:
    inside = Subject("anna", "a.mp4", draw_video(tmp_path / "a.mp4", [(2 * i, 0, 60) for i in range(12)]))
    large = Subject("anna", "b.mp4", draw_video(tmp_path / "b.mp4", [(20, 4, 110)] * 12))
    first, second, third = (
        read_material(subject, 64, (1, 2), 3, red_square, convention=convention)
        for subject, convention in ((inside, 1), (inside, 2), (large, 2))
    )
    assert second.held.valid is None and all(clip.valid is None for clip in second.pictures.values())
    for material in (first, third):
        assert material.held.valid is not None and material.held.valid.shape == (3, 64, 64) and not material.held.valid.all()
        assert material.pictures[2].valid is not None and material.pictures[2].valid.shape == (2, 64, 64)
    for frame, points in zip(second.held.frames, second.held.track.landmarks, strict=True):
        found = red_square(frame)
        assert found is not None
        np.testing.assert_allclose(found, points, atol=1.5)


def test_read_material_data_set_clip_says_what_is_valid(tmp_path: Path, red_square: RedSquare) -> None:
    video = draw_video(tmp_path / "b.mp4", [(20 + i % 2, 4, 110) for i in range(16)])
    prepare([video], tmp_path / "data", 64, red_square, workers=1)
    [subject] = find_subjects([tmp_path / "data"])
    material = read_material(subject, 32, (2,), 3, red_square)
    assert isinstance(subject.source, ShardClip)
    expected = subject.source.info.valid(32)
    assert expected is not None and material.held.valid is not None
    assert np.array_equal(material.held.valid, np.repeat(expected[None], 3, axis=0))


def test_people_come_from_the_table_the_data_set_or_the_file(tmp_path: Path, face_shards: Path) -> None:
    videos = [draw_video(tmp_path / f"{name}.mp4", [(40, 30, 40)] * frames) for name, frames in (("a", 2), ("b", 6), ("c", 4))]
    table = {"a.mp4": "anna", "b.mp4": "anna", "c.mp4": "carl"}
    assert [(each.person, each.name) for each in find_subjects([tmp_path], table)] == [
        ("anna", "a.mp4"),
        ("anna", "b.mp4"),
        ("carl", "c.mp4"),
    ]
    assert [each.person for each in find_subjects(videos)] == ["a", "b", "c"]
    assert [each.name for each in find_subjects([tmp_path], table, clips_each=1)] == ["b.mp4", "c.mp4"]
    both = find_subjects([face_shards, *videos], table)
    assert sorted({each.person for each in both}) == ["anna", "carl", "first", "second"]
    assert [each.name for each in find_subjects([face_shards, *videos], table, only=["carl"])] == ["c.mp4"]
    assert len({each.digest for each in both}) == len(both)
    with pytest.raises(TalkingheadError, match="--only bob: no clip shows this person; there are: anna, carl"):
        find_subjects([tmp_path], table, only=["bob"])
    with pytest.raises(TalkingheadError, match="no such file"):
        find_subjects([tmp_path / "gone.mp4"])
