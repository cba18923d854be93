"""Index of a data set's shards, in memory and in a file."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from support.minimal_training import write_data
from talkinghead.dataset import shard_index
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.dataset.shard_index import FILE, open_index
from talkinghead.dataset.shard_reader import read_index
from talkinghead.errors import TalkingheadError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data set of two shards with two clips each, the second a copy of the first."""
    folder = write_data(tmp_path / "data")
    shutil.copy(folder / "shard-000000.tar", folder / "shard-000001.tar")
    return folder


@pytest.fixture
def kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the data set with the file of its index."""
    monkeypatch.setattr(shard_index, "MIN_SHARDS", 2)
    open_index(data)
    return data


def forbid_reading(monkeypatch):
    """Let a test fail that makes an index."""
    monkeypatch.setattr(shard_index, "read_shard", lambda shard: pytest.fail(f"{shard} was read"))


@pytest.mark.parametrize("from_file", [False, True])
def test_index_reads_clips_of_shards(from_file, data, monkeypatch):
    if from_file:
        monkeypatch.setattr(shard_index, "MIN_SHARDS", 2)
        open_index(data)
        forbid_reading(monkeypatch)
    index, expected = open_index(data), read_index(data)
    assert (data / FILE).exists() == from_file
    assert index.keys == [clip.key for clip in expected] and list(index.num_frames) == [12] * 4
    assert [index.people[person] for person in index.person] == ["first", "second"] * 2
    assert not index.has_irises.any()
    for number, clip in enumerate(expected):
        other = index.read(number)
        assert (other.key, other.info) == (clip.key, clip.info)
        assert np.array_equal(other.landmarks, clip.landmarks)
        assert np.array_equal(other.frames([3, 0, 11]), clip.frames([3, 0, 11]))


def test_episodes_are_the_same_with_kept_index(data, monkeypatch):
    draws = [EpisodeSource(data, 32, 2, 3, 8, seed=1).draw(5)]
    monkeypatch.setattr(shard_index, "MIN_SHARDS", 2)
    draws += [EpisodeSource(data, 32, 2, 3, 8, seed=1).draw(5) for _ in range(2)]
    for draw in draws[1:]:
        assert torch.equal(draw.frames, draws[0].frames) and torch.equal(draw.columns, draws[0].columns)


def test_index_is_made_again_when_shards_change(kept):
    shutil.copy(kept / "shard-000000.tar", kept / "shard-000002.tar")
    assert len(open_index(kept).keys) == 6
    (kept / "shard-000001.tar").unlink()
    assert len(open_index(kept).keys) == 4


@pytest.mark.parametrize(
    "damage", [lambda content: content[:500], lambda content: b"", lambda content: content[8:]]
)
def test_damaged_index_is_made_again(damage, kept):
    content = (kept / FILE).read_bytes()
    (kept / FILE).write_bytes(damage(content))
    assert len(open_index(kept).keys) == 4
    assert len((kept / FILE).read_bytes()) == len(content)


def test_folder_that_cannot_be_written_to_warns(data, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise TalkingheadError("index.safetensors: cannot write here (Read-only file system); name another")

    monkeypatch.setattr(shard_index, "MIN_SHARDS", 2)
    monkeypatch.setattr(shard_index, "write_tensors", refuse)
    with caplog.at_level(logging.WARNING):
        assert len(open_index(data).keys) == 4
    (record,) = caplog.records
    assert record.getMessage().endswith("; the index stays in memory")


def test_shard_that_disappears_reports_error(kept):
    source = EpisodeSource(kept, 32, 2, 3, 8, seed=1)
    for shard in kept.glob("*.tar"):
        shard.unlink()
    with pytest.raises(TalkingheadError, match="it is no file.*, or prepare the data into another folder$"):
        source.draw(0)


def test_clips_of_several_data_sets_follow_each_other(data, tmp_path):
    other = write_data(tmp_path / "other")
    clips = EpisodeSource([data, other], 32, 2, 3, 1, seed=0, exclude_identities=["second"]).clips
    assert len(clips) == 3 and clips.people == ["first"] * 3
    assert [clip.key for clip in clips] == clips.keys
    assert clips[-1].key == clips[2].key and list(clips.num_frames) == [12] * 3
    with pytest.raises(IndexError):
        clips[3]
