import dataclasses
import shutil

import numpy as np
import pytest
import torch

from talkinghead.data.crop import Crop
from talkinghead.dataset.augment import sample_augmentation
from talkinghead.dataset.episodes import Episodes, EpisodeSource
from talkinghead.dataset.shard_reader import read_index
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.errors import TalkingheadError


def test_episodes_depend_on_seed_and_step(face_shards):
    first, repeated = (EpisodeSource(face_shards, 64, 3, 4, 4, seed=5) for _ in range(2))
    first.draw(0)  # what was drawn before does not matter
    a, b = first.draw(7), repeated.draw(7)
    assert (
        torch.equal(a.frames, b.frames)
        and torch.equal(a.points, b.points)
        and torch.equal(a.columns, b.columns)
    )
    assert not torch.equal(a.frames, first.draw(8).frames)


def test_episodes_have_expected_shapes_and_columns(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 4, 3, seed=0)
    assert source.variants == [2, 2]  # two videos are to count as three
    episodes = source.draw(0)
    assert episodes.frames.shape == (4, 4, 3, 64, 64) and episodes.points.shape == (4, 4, 68, 2)
    assert episodes.frames.abs().max() <= 1 and 0 < episodes.points.mean() < 1
    seen = torch.cat([source.draw(step).columns for step in range(40)])
    assert sorted(set(seen.tolist())) == list(range(source.columns))


def test_episode_frames_differ(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0)
    frames = source.draw(3).frames[0]
    assert all(not torch.equal(frames[i], frames[j]) for i in range(4) for j in range(i))


def test_episode_frames_match_shard_and_landmarks(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0)
    episodes = source.draw(0)
    clip = source.clips[int(episodes.columns[0])]
    landmarks = (episodes.points[0] * clip.size).numpy()
    where = [int(np.abs(clip.landmarks - expected).sum((1, 2)).argmin()) for expected in landmarks]
    stored = clip.frames(where).astype(np.float32) / 127.5 - 1
    assert stored.shape[1] == 64
    np.testing.assert_allclose(episodes.frames[0].permute(0, 2, 3, 1).numpy(), stored, atol=1e-6)


def test_excluded_people_do_not_appear(face_shards):
    everyone = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0)
    without = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0, exclude_identities=["second"])
    assert {clip.person for clip in everyone.clips} == {"first", "second"}
    assert {clip.person for clip in without.clips} == {"first"}
    with pytest.raises(TalkingheadError, match="no person is called ghost; exclude names"):
        EpisodeSource(face_shards, 64, 3, 1, 1, seed=0, exclude_identities=["ghost"])


def test_short_clips_report_user_error(face_shards):
    with pytest.raises(TalkingheadError, match="no clip has the 301 frames"):
        EpisodeSource(face_shards, 64, 300, 1, 1, seed=0)


def test_data_sets_are_sampled_equally(face_shards, tmp_path):
    copy = shutil.copytree(face_shards, tmp_path / "copy")
    source = EpisodeSource([face_shards, copy], 64, 3, 8, 4, seed=0)
    source.sets[1] = source.sets[1][:1]  # of fewer people
    columns = torch.cat([source.draw(step).columns for step in range(60)])
    assert 0.44 < (columns < source.columns // 2).float().mean() < 0.56
    assert (
        len({clip.key for clip in source.clips}) == len(source.clips) // 2
    )  # the same names, and yet columns of their own


def test_repeated_data_set_reports_user_error(face_shards):
    with pytest.raises(TalkingheadError, match="named twice"):
        EpisodeSource([face_shards, str(face_shards) + "/"], 64, 3, 1, 1, seed=0)


def test_clip_for_column_returns_video_and_variant(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 1, 4, seed=0)
    seen = [source.clip_for_column(column) for column in range(4)]
    clip = source.clips[1]
    assert len(clip.landmarks) > 3
    np.testing.assert_allclose(
        seen[2][1][[0, -1]] * 64, clip.landmarks[[0, -1]], atol=1e-4
    )  # the second video as it is
    assert all(frames.shape == (3, 3, 64, 64) and points.shape == (3, 68, 2) for frames, points in seen)
    assert all(not torch.equal(seen[a][0], seen[b][0]) for a in range(4) for b in range(a))
    episodes = source.draw(0)
    column = int(episodes.columns[0])
    changed = source.variants[0] > 1 and column % 2 == 1
    plain = source.clip_for_column(column - 1 if changed else column)[0].mean()
    assert changed == bool((source.clip_for_column(column)[0].mean() - plain).abs() > 1e-6)


@pytest.fixture
def half_shards(face_shards, tmp_path):
    """Copy the clips of face_shards, whose source ends in the middle of their crops."""
    with ShardWriter(tmp_path / "half") as writer:
        for clip in read_index(face_shards):
            info = dataclasses.replace(clip.info, crop=Crop(-32, 0, 64, 2))
            writer.write(info, clip.landmarks, clip.frames(range(len(clip))))
    return tmp_path / "half"


def test_episodes_of_whole_frames_are_valid_everywhere(face_shards):
    episodes = EpisodeSource(face_shards, 32, 3, 2, 1, seed=0).draw(0)
    assert episodes.valid.dtype == torch.float32
    assert torch.equal(episodes.valid, torch.ones(2, 1, 32, 32))


def test_episodes_beyond_the_source_are_not_valid(half_shards, face_shards):
    source = EpisodeSource(half_shards, 32, 3, 2, 1, seed=0)
    valid = torch.zeros(2, 1, 32, 32)
    valid[..., 16:] = 1
    assert torch.equal(source.draw(0).valid, valid)
    # and nothing else is drawn for it
    whole = EpisodeSource(face_shards, 32, 3, 2, 1, seed=0)
    for step in (0, 5):
        assert torch.equal(source.draw(step).columns, whole.draw(step).columns)
        assert torch.equal(source.draw(step).points, whole.draw(step).points)


def test_episodes_valid_is_warped_as_their_frames(half_shards, face_shards):
    source = EpisodeSource(half_shards, 64, 3, 8, 40, seed=1)
    episodes = source.draw(0)
    assert ((episodes.valid == 0) | (episodes.valid == 1)).all()
    mirrored = 0
    for column, valid in zip(episodes.columns.tolist(), episodes.valid, strict=True):
        index, number = divmod(column, source.variants[0])
        variant = sample_augmentation(1, index, number)
        assert variant is not None
        # a picture that is white where the source is, and wide enough that nothing is reflected in it
        picture = torch.full((1, 3, 192, 192), -1.0)
        picture[:, :, 64:128, 96:128] = 1
        plain = dataclasses.replace(
            variant, colour=np.eye(3, dtype=np.float32), offset=np.zeros(3, np.float32), gamma=1.0
        )
        wide = plain.affine.copy()
        wide[:, 2] /= 3
        warp_field = np.zeros_like(plain.warp_field)
        warped, _ = dataclasses.replace(plain, affine=wide, warp_field=warp_field).apply(
            picture, torch.rand(1, 68, 2)
        )
        straight = dataclasses.replace(plain, warp_field=warp_field)
        mask = torch.zeros(1, 1, 64, 64)
        mask[..., 32:] = 1
        expected = warped[0, :1, 64:128, 64:128] > 0
        assert (straight.apply_to_mask(mask)[0] != expected).float().mean() < 0.03
        torch.testing.assert_close(variant.apply_to_mask(mask)[0], valid, atol=0, rtol=0)
        mirrored += variant.mirrored
    assert 0 < mirrored < 8


def test_variant_of_a_whole_clip_is_not_valid_where_it_is_reflected(face_shards):
    valid = EpisodeSource(face_shards, 64, 3, 8, 40, seed=1).draw(0).valid
    shares = valid.mean(dim=(1, 2, 3))
    assert shares.min() < 0.97 and shares.min() > 0.6
    assert (valid[:, 0, 16:48, 16:48] == 1).all()


def test_episodes_to_and_split_carry_valid(half_shards):
    episodes = EpisodeSource(half_shards, 32, 3, 5, 8, seed=0).draw(3)
    parts = episodes.split(2)
    assert [len(part.valid) for part in parts] == [3, 2]
    assert torch.equal(torch.cat([part.valid for part in parts]), episodes.valid)
    assert episodes.to(torch.device("meta")).valid.device.type == "meta"
    bare = Episodes(episodes.frames, episodes.points, episodes.columns)
    assert torch.equal(bare.valid, torch.ones(5, 1, 32, 32))


def test_camera_motion_moves_every_frame_but_the_target(face_shards):
    still, moved = (
        EpisodeSource(face_shards, 64, 3, 2, 1, seed=0, camera_motion=share).draw(1) for share in (0.0, 1.0)
    )
    first = still.columns[0] == moved.columns[0] and torch.equal(still.points[0, 0], moved.points[0, 0])
    assert first and torch.equal(still.frames[0, 0], moved.frames[0, 0])
    distance = (still.points[0, 1:] - moved.points[0, 1:]).norm(dim=2)
    assert (distance.mean(1) > 1e-3).all() and distance.max() < 0.08
    assert all(not torch.equal(still.frames[0, k], moved.frames[0, k]) for k in (1, 2, 3))


def test_camera_motion_takes_a_share_of_the_episodes(face_shards):
    """Recognise moved episodes by their values: resampled frames have more than 8 bits."""
    source = EpisodeSource(face_shards, 64, 3, 8, 1, seed=0, camera_motion=0.3)
    levels = torch.cat([source.draw(step).frames[:, 1] for step in range(12)]).add(1).mul(127.5)
    moved = (levels - levels.round()).abs().flatten(1).amax(1) > 1e-2
    assert 0.15 < moved.float().mean() < 0.45
