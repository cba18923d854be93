"""Workers that are forked by a process that sends requests, in threads of fsspec and of streams."""

import json
import subprocess
import sys
from pathlib import Path

import fsspec.asyn
import pytest

from support.shard_folders import Handler, serve, write_shards
from talkinghead.dataset.remote import RemoteFile, paused_requests

FORK = """
import gc, json, os, sys, threading, time
import torch
from talkinghead.dataset import shard_stream
from talkinghead.dataset.streamed_episodes import StreamedEpisodes
from talkinghead.training.episode_loader import load_episodes

read_whole = shard_stream.read_whole


def read_slowly(shard):
    time.sleep(0.5)
    return read_whole(shard)


def threads():
    return sorted({thread.name for thread in threading.enumerate()} & {"fsspecIO", "next shard"})


shard_stream.read_whole = read_slowly
source = StreamedEpisodes(sys.argv[1], 32, 2, 2, videos=1, seed=1)
source.draw(0)
before, forks = threads(), []
os.register_at_fork(before=lambda: forks.append(threads()), after_in_child=gc.collect)
episodes = load_episodes(source, range(2), torch.device("cpu"), 2)
first = next(episodes)
is_equal = [torch.equal(a, b) for a, b in zip(first.tensors, source.draw(0).tensors, strict=True)]
episodes.close()  # ends the workers
after = len(source.draw(1).columns)
print(json.dumps({"before": before, "forks": forks, "is_equal": is_equal, "rows_after": after}))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return write_shards(tmp_path / "data", 4)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])  # the latter keeps connections open
def test_no_thread_sends_requests_while_workers_are_forked(
    protocol: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "protocol_version", protocol)
    with serve(data) as server:
        command = [sys.executable, "-W", "ignore", "-c", FORK, server.url]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    values = json.loads(done.stdout)
    assert values["before"] == ["fsspecIO", "next shard"]
    assert values["forks"] == [[], []]
    # what is collected in a worker ends no connection of this process, which goes on to send requests
    assert all(values["is_equal"]) and values["rows_after"] == 2


def test_requests_go_on_after_a_failed_fork(data: Path) -> None:
    with serve(data) as server:
        shard = RemoteFile(f"{server.url}/shard-000000.tar")
        content, loop = shard.read_bytes(), fsspec.asyn.loop[0]
        with pytest.raises(BlockingIOError), paused_requests():
            assert not fsspec.asyn.iothread[0].is_alive()
            raise BlockingIOError("no process is left")
        assert shard.read_bytes() == content
        assert fsspec.asyn.iothread[0].is_alive() and fsspec.asyn.loop[0] is loop
