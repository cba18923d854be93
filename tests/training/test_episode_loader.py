"""Episodes that worker processes draw ahead of their use."""

import os
import signal
import tempfile
from pathlib import Path

import pytest
import torch

from support.minimal_training import write_data
from support.shard_folders import write_shards
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.dataset.lost_shards import LostShards
from talkinghead.dataset.remote import RemoteFile
from talkinghead.dataset.streamed_episodes import StreamedEpisodes
from talkinghead.errors import TalkingheadError
from talkinghead.training import episode_loader
from talkinghead.training.episode_loader import load_episodes, share_lost_shards
from talkinghead.training.ranks import ONE_RANK

CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path: Path) -> EpisodeSource:
    return EpisodeSource(write_data(tmp_path), 32, 2, 3, 8, seed=1, camera_motion=0.5)


@pytest.mark.parametrize("workers", [None, 1, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core
def test_workers_draw_same_episodes_in_order(workers, source, threads):
    threads(1)
    steps = range(4, 9)
    batches = list(load_episodes(source, steps, CPU, workers))
    assert len(batches) == len(steps)
    for step, batch in zip(steps, batches, strict=True):
        for tensor, expected in zip(batch.tensors, source.draw(step).tensors, strict=True):
            assert torch.equal(tensor, expected)


def test_error_of_worker_is_raised_as_it_is(source, tmp_path):
    batches = load_episodes(source, range(3), CPU, 1)
    (tmp_path / "shard-000000.tar").unlink()
    with pytest.raises(
        TalkingheadError, match=r"^[^\n]*it is no file[^\n]*prepare the data into another folder$"
    ):
        next(batches)


class _Fatal(EpisodeSource):
    """Source that kills its process at the second step."""

    def draw(self, step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(step)


def test_killed_worker_reports_error(tmp_path):
    source = _Fatal(write_data(tmp_path), 32, 2, 3, 8, seed=1)
    with pytest.raises(TalkingheadError, match="--workers: a process that reads the data was killed"):
        list(load_episodes(source, range(3), CPU, 1))


@pytest.mark.parametrize("cores, workers", [(16, 4), (2, 2)])
def test_gpu_has_workers_by_default_for_urls_too(cores, workers, source, monkeypatch):
    started = []
    monkeypatch.setattr(type(source.clips), "shards", [RemoteFile("https://host/shard-000000.tar")])
    monkeypatch.setattr(episode_loader, "cpu_count", lambda: cores)
    monkeypatch.setattr(
        episode_loader, "_start_workers", lambda *arguments: started.append(arguments[-1]) or iter(())
    )
    assert list(load_episodes(source, range(2), torch.device("cuda"), None)) == []
    assert started == [workers]


def test_system_without_fork_reads_here_or_reports_error(source, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    assert len(list(load_episodes(source, range(2), CPU, None))) == 2
    with pytest.raises(TalkingheadError, match="--workers: this system cannot fork processes; leave it out"):
        next(load_episodes(source, range(2), CPU, 1))


def test_too_long_name_of_temporary_folder_reports_error(source, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 75)
    assert len(list(load_episodes(source, range(2), CPU, None))) == 2
    with pytest.raises(
        TalkingheadError, match="of 76 characters, and sockets need at most 75; set TMPDIR to"
    ):
        next(load_episodes(source, range(2), CPU, 1))


# streamed episodes


@pytest.fixture
def streamed(tmp_path: Path) -> StreamedEpisodes:
    return StreamedEpisodes(write_shards(tmp_path / "shards", 4), 32, 2, 4, 1, seed=1)


@pytest.mark.parametrize("workers", [1, 3, 9])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core
def test_workers_stream_same_episodes_from_shards_of_their_own(workers, streamed, threads):
    threads(1)
    steps = range(4, 40)
    batches = list(load_episodes(streamed, steps, CPU, workers))
    assert len(batches) == len(steps)
    for step, batch in zip(steps, batches, strict=True):
        for tensor, expected in zip(batch.tensors, streamed.draw(step).tensors, strict=True):
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("kind", [EpisodeSource, StreamedEpisodes])
def test_shard_that_workers_lose_is_counted(kind, tmp_path):
    source = kind(write_shards(tmp_path, 100, clips=1, frames=4), 32, 2, 4, 1, seed=1)
    first = int(source.draw(0).frames[0].mean().add(1).mul(127.5).round())
    (tmp_path / f"shard-{first:06d}.tar").unlink()
    batches = list(load_episodes(source, range(60), CPU, 1))
    assert len(batches) == 60 and list(source.lost.reasons) == [first] and source.lost.changed


def test_lost_shards_of_all_ranks_are_logged_once_and_end_the_run(caplog):
    lost = LostShards(200)
    lost.add(7, TalkingheadError("seven: is gone; prepare it again"))
    share_lost_shards(lost, ONE_RANK)
    assert caplog.messages == [
        "seven: is gone",
        "1 of 200 shards cannot be read and are skipped; more than 1 % end the run",
    ]
    assert not lost.changed
    lost.update({8: "eight: is gone", 9: "nine: is gone"})
    with pytest.raises(
        TalkingheadError, match=r"^seven: is gone; 3 of 200 shards cannot be read, more than 1"
    ):
        share_lost_shards(lost, ONE_RANK)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core
def test_cache_of_workers_is_the_same_after_starting_again(source):
    def decoded(workers: int) -> int:
        source.share_cache(workers)
        return source._cache_bytes

    first = decoded(2)
    assert 0 < first < decoded(1)
    for _ in range(3):
        next(iter(load_episodes(source, range(2), CPU, 2)))
    assert source._cache_bytes == first
