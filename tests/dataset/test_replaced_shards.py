"""Indexes of shards behind a URL that are replaced by others."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec.implementations.http
import pytest

from support.shard_folders import Server, serve, write_shards
from talkinghead.dataset import remote, shard_index
from talkinghead.dataset.shard_index import FILE, open_index


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serve(write_shards(tmp_path / "served", 2)) as running:
        yield running


def num_frames(url: str, folder: Path) -> list[int]:
    return [int(number) for number in open_index(url, folder / "run").num_frames]


@pytest.mark.parametrize("prefix", ["", "simplecache::"])
@pytest.mark.parametrize("lists", [True, False])
def test_index_of_replaced_shards_is_made_again(
    lists: bool, prefix: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.lists = lists
    url = prefix + server.url
    assert num_frames(url, tmp_path) == [6] * 4
    for shard in (tmp_path / "served").glob("shard-*"):
        shard.unlink()
    write_shards(tmp_path / "served", 2, frames=9)
    monkeypatch.setattr(remote, "_copy_folders", {})  # as in another process
    assert num_frames(url, tmp_path) == [9] * 4
    with monkeypatch.context() as patch:
        patch.setattr(shard_index, "read_shard", lambda shard: pytest.fail(f"{shard} was read"))
        assert num_frames(url, tmp_path) == [9] * 4


def test_index_of_shards_of_same_size_and_other_time_is_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_index, "MIN_SHARDS", 1)
    open_index(tmp_path / "served")
    for _ in range(2):
        num_frames(server.url, tmp_path)
    assert server.paths.count(f"/{FILE}") == 1
    os.utime(tmp_path / "served" / "shard-000001.tar", (1e9, 1e9))
    for _ in range(2):
        num_frames(server.url, tmp_path)
    assert server.paths.count(f"/{FILE}") == 2
    assert not [path for path in server.paths if path.endswith(".tar")]


def test_kept_index_is_used_where_server_tells_nothing_of_shards(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionResetError("connection reset by peer")

    assert num_frames(server.url, tmp_path) == [6] * 4
    monkeypatch.setattr(fsspec.implementations.http, "_file_info", fail)
    monkeypatch.setattr(shard_index, "read_shard", lambda shard: pytest.fail(f"{shard} was read"))
    assert num_frames(server.url, tmp_path) == [6] * 4
