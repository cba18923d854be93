"""Data sets behind URLs."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from support.shard_folders import Server, serve, write_shards
from talkinghead.dataset import remote, shard_index
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.dataset.report import REPORT
from talkinghead.dataset.shard_index import FILE, open_index
from talkinghead.dataset.shard_reader import read_index
from talkinghead.dataset.streamed_episodes import StreamedEpisodes
from talkinghead.errors import TalkingheadError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data"), 4)


@pytest.fixture
def server(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve a copy of the data, and let failed requests be repeated at once."""
    monkeypatch.setattr(remote, "PAUSE_S", 0)
    with serve(shutil.copytree(data, tmp_path / "served")) as running:
        yield running


@pytest.fixture
def in_memory(data: Path) -> Iterator[str]:
    """Return the URL of the data in fsspec's memory."""
    system = fsspec.filesystem("memory")
    system.put(f"{data}/", "/in-memory/", recursive=True)
    yield "memory://in-memory"
    system.rm("/in-memory", recursive=True)


def source(folder: Any, kind: type = StreamedEpisodes, **options: Any) -> Any:
    return kind(folder, 32, 2, 4, videos=1, seed=1, **options)


def check_same_episodes(url: str, data: Path, kind: type) -> None:
    one, other = source(url, kind), source(data, kind)
    for step in range(20):
        tensors = zip(one.draw(step).tensors, other.draw(step).tensors, strict=True)
        assert all(torch.equal(a, b) for a, b in tensors)


@pytest.mark.parametrize("kind", [EpisodeSource, StreamedEpisodes])
@pytest.mark.parametrize("prefix", ["", "simplecache::"])
def test_memory_url_has_the_episodes_of_the_folder(prefix, kind, in_memory, data):
    check_same_episodes(prefix + in_memory, data, kind)


@pytest.mark.parametrize("kind", [EpisodeSource, StreamedEpisodes])
def test_file_url_is_the_folder(kind, data):
    check_same_episodes(f"file://{data}", data, kind)
    with pytest.raises(TalkingheadError, match="a data set is named twice"):
        source([data, f"file://{data}"], kind)


@pytest.mark.parametrize("lists", [True, False])
def test_http_url_is_streamed(lists, server, data):
    server.lists = lists
    check_same_episodes(server.url, data, StreamedEpisodes)
    assert (f"/{REPORT}" in server.paths) != lists


def test_streaming_asks_for_each_shard_once_an_epoch(server):
    episodes = source(server.url)
    server.paths.clear()
    for step in range(4):  # each of 4 streams has one shard, the next one of which is itself
        episodes.draw(step)
    assert sorted(set(server.paths)) == [f"/shard-{number:06d}.tar" for number in range(4)]
    assert len(server.paths) <= 8


def test_videos_of_rows_are_read_with_one_request_a_shard(server, data):
    episodes, local = source(server.url), source(data, EpisodeSource)
    server.paths.clear()
    for column in episodes.own_columns:
        frames, points = episodes.clip_for_column(column)
        expected = local.clip_for_column(column)
        assert torch.equal(frames, expected[0]) and torch.equal(points, expected[1])
    assert sorted(server.paths) == [f"/shard-{number:06d}.tar" for number in range(4)]


def test_http_server_without_parts_of_files_needs_a_cache(server, data):
    with pytest.raises(TalkingheadError, match=r"support range requests.*put simplecache:: before the URL"):
        source(server.url, EpisodeSource).draw(0)
    check_same_episodes(f"simplecache::{server.url}", data, EpisodeSource)


# the index


def test_index_of_url_is_made_once_and_kept(in_memory, tmp_path, monkeypatch):
    open_index(in_memory, tmp_path / "run")
    (path,) = (tmp_path / "run").iterdir()
    assert path.name.startswith("index-")
    monkeypatch.setattr(shard_index, "read_shard", lambda shard: pytest.fail(f"{shard} was read"))
    assert len(open_index(in_memory, tmp_path / "run").keys) == 8


def test_index_beside_shards_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "MIN_SHARDS", 1)
    open_index(tmp_path / "served")
    assert (tmp_path / "served" / FILE).exists()
    with monkeypatch.context() as patch:
        patch.setattr(shard_index, "read_shard", lambda shard: pytest.fail(f"{shard} was read"))
        assert len(open_index(server.url, tmp_path / "run").keys) == 8
    (tmp_path / "served" / "shard-000003.tar").unlink()
    assert len(open_index(server.url, tmp_path / "run").keys) == 6


@pytest.mark.parametrize("damage", ["shard", "people", "frames", "text"])
def test_forged_index_is_made_again(damage, server, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_index, "MIN_SHARDS", 1)
    write = shard_index.write_tensors

    def forge(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any], **options: Any) -> None:
        if damage == "shard":
            tensors["shard"] += 4
        elif damage == "people":
            header["people"] = [7] * 8
        elif damage == "frames":
            tensors["first_frame"] = tensors["first_frame"].flip(0)
        write(path, tensors, header, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shard_index, "write_tensors", forge)
        open_index(tmp_path / "served")
    if damage == "text":
        (tmp_path / "served" / FILE).write_text("no index")
    index = open_index(server.url, tmp_path / "run")
    assert [clip.key for clip in read_index(tmp_path / "served")] == index.keys
    assert list(index.shard) == [0, 0, 1, 1, 2, 2, 3, 3]


# errors


@pytest.mark.parametrize(
    "url, message",
    [
        ("memory://gone", r"\(it is not there\); name a folder of shards \(shard-\*.tar\) with the report"),
        ("unknown://host/data", r"Protocol not known: unknown\); check the address"),
        ("http://127.0.0.1:1/data", r"Cannot connect to host .*; check the address, the network and your cr"),
        ("file:///gone", r"holds no shards \(shard-\*.tar\); make them with: talkinghead prepare"),
    ],
)
def test_url_that_cannot_be_read_reports_user_error(url, message, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0)
    with pytest.raises(TalkingheadError, match=message) as raised:
        open_index(url)
    assert str(raised.value).startswith(url) and "\n" not in str(raised.value)


@pytest.mark.parametrize("status, reason", [(401, "Unauthorized"), (403, "Forbidden"), (500, "Internal")])
def test_status_of_server_is_reported(status, reason, server):
    server.status = status
    with pytest.raises(TalkingheadError, match=rf"{status}, message='{reason}.*your credentials$"):
        open_index(server.url)


def test_server_that_closes_connections_is_reported_after_attempts(server):
    server.closes = True
    with pytest.raises(TalkingheadError, match=r"cannot be read \(Server disconnected\); check the address"):
        open_index(server.url)
    assert server.paths.count(f"/{REPORT}") >= remote.ATTEMPTS


def test_file_is_read_after_connections_were_closed(server, monkeypatch):
    server.closes = True
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: setattr(server, "closes", False))
    assert remote.RemoteFile(f"{server.url}/shard-000000.tar").read_bytes()


def test_password_of_url_is_hidden(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0)
    with pytest.raises(TalkingheadError, match=r"^http://\*\*\*@127.0.0.1:1/data: cannot be read") as raised:
        open_index("http://me:secret@127.0.0.1:1/data")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("protocol, package", [("s3", "s3fs"), ("gs", "gcsfs"), ("simplecache::s3", "s3fs")])
def test_missing_package_of_protocol_is_named(protocol, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TalkingheadError, match=rf"needs a package .*; pip install {package}$"):
        open_index(f"{protocol}://bucket/data")


def test_missing_fsspec_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        TalkingheadError, match=r"fsspec is needed here .*; pip install 'talkinghead\[remote]'$"
    ):
        open_index("memory://data")


def test_report_that_is_damaged_is_named(server, tmp_path):
    server.lists = False
    (tmp_path / "served" / REPORT).write_text("no report\n")
    with pytest.raises(TalkingheadError, match=rf"^{server.url}/{REPORT}: line 1 cannot be read"):
        open_index(server.url)
