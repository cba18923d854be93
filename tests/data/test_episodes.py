import shutil

import numpy as np
import pytest
import torch

from talkinghead.data.episodes import EpisodeSource
from talkinghead.errors import TalkingheadError


def test_a_step_is_drawn_the_same_again(face_shards):
    first, again = (EpisodeSource(face_shards, 64, 3, 4, 4, seed=5) for _ in range(2))
    first.draw(0)  # what was drawn before does not matter
    a, b = first.draw(7), again.draw(7)
    assert torch.equal(a.frames, b.frames) and torch.equal(a.points, b.points) and torch.equal(a.columns, b.columns)
    assert not torch.equal(a.frames, first.draw(8).frames)


def test_shapes_ranges_and_columns(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 4, 3, seed=0)
    assert source.variants == [2, 2]  # two videos are to count as three
    episodes = source.draw(0)
    assert episodes.frames.shape == (4, 4, 3, 64, 64) and episodes.points.shape == (4, 4, 68, 2)
    assert episodes.frames.abs().max() <= 1 and 0 < episodes.points.mean() < 1
    seen = torch.cat([source.draw(step).columns for step in range(40)])
    assert sorted(set(seen.tolist())) == list(range(source.columns))


def test_frames_of_an_episode_differ(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0)
    frames = source.draw(3).frames[0]
    assert all(not torch.equal(frames[i], frames[j]) for i in range(4) for j in range(i))


def test_frames_are_those_of_the_shard_with_their_landmarks(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0)
    episodes = source.draw(0)
    clip = source.clips[int(episodes.columns[0])]
    landmarks = (episodes.points[0] * clip.size).numpy()
    where = [int(np.abs(clip.landmarks - wanted).sum((1, 2)).argmin()) for wanted in landmarks]
    stored = clip.frames(where).astype(np.float32) / 127.5 - 1
    assert stored.shape[1] == 64
    np.testing.assert_allclose(episodes.frames[0].permute(0, 2, 3, 1).numpy(), stored, atol=1e-6)


def test_people_left_out_do_not_appear(face_shards):
    everyone = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0)
    without = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0, leave_out=["second"])
    assert {clip.person for clip in everyone.clips} == {"first", "second"}
    assert {clip.person for clip in without.clips} == {"first"}
    with pytest.raises(TalkingheadError, match="nobody called ghost"):
        EpisodeSource(face_shards, 64, 3, 1, 1, seed=0, leave_out=["ghost"])


def test_clips_shorter_than_an_episode_are_named(face_shards):
    with pytest.raises(TalkingheadError, match="no clip has the 301 frames"):
        EpisodeSource(face_shards, 64, 300, 1, 1, seed=0)


def test_each_data_set_gives_as_many_episodes(face_shards, tmp_path):
    copy = shutil.copytree(face_shards, tmp_path / "copy")
    source = EpisodeSource([face_shards, copy], 64, 3, 8, 4, seed=0)
    source.sets[1] = source.sets[1][:1]  # of fewer people
    columns = torch.cat([source.draw(step).columns for step in range(60)])
    assert 0.44 < (columns < source.columns // 2).float().mean() < 0.56
    assert len({clip.key for clip in source.clips}) == len(source.clips) // 2  # the same names, and yet columns of their own


def test_a_data_set_named_twice_is_told(face_shards):
    with pytest.raises(TalkingheadError, match="named twice"):
        EpisodeSource([face_shards, str(face_shards) + "/"], 64, 3, 1, 1, seed=0)


def test_a_column_shows_its_video_and_variant(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 1, 4, seed=0)
    seen = [source.of_column(column) for column in range(4)]
    clip = source.clips[1]
    assert len(clip.landmarks) > 3
    np.testing.assert_allclose(seen[2][1][[0, -1]] * 64, clip.landmarks[[0, -1]], atol=1e-4)  # the second video as it is
    assert all(frames.shape == (3, 3, 64, 64) and points.shape == (3, 68, 2) for frames, points in seen)
    assert all(not torch.equal(seen[a][0], seen[b][0]) for a in range(4) for b in range(a))
    episodes = source.draw(0)
    column = int(episodes.columns[0])
    changed = source.variants[0] > 1 and column % 2 == 1
    plain = source.of_column(column - 1 if changed else column)[0].mean()
    assert changed == bool((source.of_column(column)[0].mean() - plain).abs() > 1e-6)
