"""Sampling of episodes from shards that are read one after the other."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.shard_folders import clip_info, write_clip, write_shards
from talkinghead.dataset import shard_stream
from talkinghead.dataset.episodes import Episodes, EpisodeSource
from talkinghead.dataset.shard_reader import read_index
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.dataset.streamed_episodes import StreamedEpisodes
from talkinghead.dataset.visit_order import DRAWS_PER_VISIT
from talkinghead.errors import TalkingheadError

BATCH = 4


def source(folders: Any, kind: type = StreamedEpisodes, **options: Any) -> Any:
    """Open data sets for episodes of one target frame and two others."""
    return kind(folders, 32, 2, BATCH, **({"videos": 1, "seed": 1} | options))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 10 shards with 3 clips each, frames of clip N being of grey value N."""
    return write_shards(tmp_path_factory.mktemp("data"), 10, clips=3)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return the shard and key of each clip that is read."""
    clips: list[tuple[str, str]] = []
    read = shard_stream.read_into_memory

    def record(shard: Any, places: Any) -> Any:
        clips.append((shard.name, places.key))
        return read(shard, places)

    monkeypatch.setattr(shard_stream, "read_into_memory", record)
    return clips


def numbers(episodes: Episodes) -> list[int]:
    """Return the numbers of the clips, by their grey values."""
    return [round(float(frames.mean() + 1) * 127.5) for frames in episodes.frames]


def equal(one: Episodes, other: Episodes) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


def test_streaming_draws_every_clip_and_reads_it_once_in_an_epoch(data, reads):
    episodes = source(data)
    shortest, longest = (DRAWS_PER_VISIT * clips for clips in (6, 9))  # of two and of three shards
    counts = Counter(number for step in range(longest) for number in numbers(episodes.draw(step)))
    assert sorted(counts) == list(range(30)) and min(counts.values()) >= DRAWS_PER_VISIT
    reads.clear()
    second = source(data)
    for step in range(shortest):
        second.draw(step)
    assert max(Counter(reads).values()) == 1 and len(reads) > 12


def test_draws_are_in_random_order(data):
    first = [numbers(source(data).draw(step)) for step in range(12)]
    assert first != [numbers(source(data, seed=2).draw(step)) for step in range(12)]
    streams = list(zip(*first, strict=True))
    assert all(len(set(stream)) > 3 and list(stream) != sorted(stream) for stream in streams)


@pytest.mark.parametrize("start", [1, 37, 48, 50, 131])
def test_any_step_has_the_episodes_of_an_uninterrupted_run(start, data):
    run, resumed = source(data), source(data)
    for step in range(start):
        run.draw(step)
    for step in range(start, start + 3):
        assert equal(run.draw(step), resumed.draw(step))


def test_rows_stand_for_the_clips_that_are_drawn(data):
    episodes = source(data)
    assert episodes.columns == 4 * 9 and sorted(set(episodes.own_columns)) == list(range(30))
    for step in range(40):
        batch = episodes.draw(step)
        assert [episodes.own_columns[row] for row in batch.columns] == numbers(batch)
        assert [int(row) % BATCH for row in batch.columns] == list(range(BATCH))


def test_ranks_read_disjoint_shards_and_share_the_episodes(data, reads):
    alone = source(data)
    ranks = [source(data, share=slice(rank, None, 2)) for rank in range(2)]
    shards: list[set[str]] = []
    for rank, part in enumerate(ranks):
        reads.clear()
        for step in range(30):
            whole, own = alone.draw(step), part.draw(step)
            assert torch.equal(own.frames, whole.frames[rank::2])
            assert torch.equal(own.columns * 2 + rank, whole.columns[rank::2])
        reads.clear()
        for step in range(30, 60):
            part.draw(step)
        shards.append({shard for shard, _ in reads})
        assert [part.own_columns[row] for row in part.draw(3).columns] == numbers(part.draw(3))
    assert shards[0] and shards[1] and not shards[0] & shards[1]


def test_data_sets_take_turns(data, tmp_path):
    other = write_shards(tmp_path, 4, clips=1)
    episodes = source([data, other])
    columns = np.array(
        [[episodes.own_columns[row] for row in episodes.draw(step).columns] for step in range(8)]
    )
    assert ((columns >= 30).sum(0) == 4).all() and ((columns >= 30).sum(1) == 2).all()


def test_variants_of_a_clip_are_drawn(data):
    episodes = source(data, videos=60)
    columns = {episodes.own_columns[row] for step in range(72) for row in episodes.draw(step).columns}
    assert len(columns) > 50 and max(columns) < 60


def test_excluded_people_are_not_drawn(data):
    episodes = source(data, exclude_identities=["person7"])
    seen = {number for step in range(72) for number in numbers(episodes.draw(step))}
    assert seen == set(range(30)) - {7}


def test_fewer_shards_than_episodes_report_user_error(tmp_path):
    with pytest.raises(TalkingheadError, match=r"^--streaming: a data set has 3 shards for a batch of 4 epi"):
        source(write_shards(tmp_path, 3))


def test_fewer_shards_name_shard_size_that_is_enough(tmp_path):
    with pytest.raises(
        TalkingheadError, match=r"again into another folder with --shard-clips 2, leave it ou"
    ):
        source(write_shards(tmp_path, 2, clips=8))
    assert len(source(write_shards(tmp_path / "more", 8, clips=2)).draw(0).columns) == 4


def test_fewer_clips_than_episodes_name_no_shard_size(tmp_path):
    with pytest.raises(TalkingheadError, match=r"shards of its own; leave it out, or set a smaller meta.ba"):
        source(write_shards(tmp_path, 1, clips=3))


def test_scaled_frames_are_close_to_resized_ones(tmp_path):
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 255 - ramp[None]), axis=-1)
    with ShardWriter(tmp_path) as writer:
        write_clip(writer, clip_info(0, 2, 256), [image, image])
    (clip,) = read_index(tmp_path)
    assert clip.frames([0], 64).shape == (1, 64, 64, 3) and clip.frames([0], 100).shape == (1, 128, 128, 3)
    scaled, resized = (clip.resized_frames([0, 1], 64, scaled=scaled).float() for scaled in (True, False))
    assert scaled.shape == resized.shape == (2, 3, 64, 64) and (scaled - resized).abs().mean() < 1


# shards that are lost while they are read


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a data set of 100 shards of one clip."""
    return write_shards(tmp_path / "many", 100, clips=1, frames=4)


def damage(shard: Path) -> None:
    """Overwrite the pictures of a shard."""
    content = shard.read_bytes()
    shard.write_bytes(content[:512] + bytes(len(content) - 512))


@pytest.mark.parametrize("lose", [Path.unlink, damage])
@pytest.mark.parametrize("kind", [StreamedEpisodes, EpisodeSource])
def test_one_lost_shard_of_a_hundred_is_skipped(kind, lose, many):
    episodes = source(many, kind)
    shards = sorted(many.glob("*.tar"))
    first = numbers(source(many, kind).draw(0))[0]
    lose(shards[first])
    seen = {number for step in range(60) for number in numbers(episodes.draw(step))}
    assert list(episodes.lost.reasons) == [first] and first not in seen and len(seen) > 60
    assert f"shard-{first:06d}.tar" in episodes.lost.reasons[first]


@pytest.mark.parametrize("kind", [StreamedEpisodes, EpisodeSource])
def test_more_lost_shards_than_one_percent_end_the_run(kind, many):
    episodes = source(many, kind)
    for shard in sorted(many.glob("*.tar"))[::4]:
        shard.unlink()
    with pytest.raises(
        TalkingheadError,
        match=r"^[^\n]*it is no file\); 2 of 100 shards cannot be read, more than 1 %; restore damaged",
    ):
        for step in range(40):
            episodes.draw(step)


def test_shard_lost_while_its_clips_are_held_is_replaced(many):
    episodes = source(many)
    first = numbers(episodes.draw(0))[0]
    episodes.lost.update({first: "it is gone"})
    seen = {number for step in range(1, 200) for number in numbers(episodes.draw(step))}
    assert first not in seen and len(seen) > 60
