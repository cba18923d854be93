"""Servers that fail now and then, or that send what no `prepare` wrote."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from safetensors import safe_open
from safetensors.torch import save_file

from support.shard_folders import serve, write_shards
from talkinghead.dataset import remote, shard_index
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.dataset.remote import display
from talkinghead.dataset.report import REPORT
from talkinghead.dataset.shard_file import list_shards
from talkinghead.dataset.shard_index import FILE, open_index
from talkinghead.dataset.shard_reader import read_clip, read_shard
from talkinghead.errors import TalkingheadError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return write_shards(tmp_path / "data", 2)


@pytest.fixture
def in_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the URL of the data in fsspec's memory; failed requests are repeated at once."""
    monkeypatch.setattr(remote, "PAUSE_S", 0)
    system = fsspec.filesystem("memory")
    system.put(f"{data}/", "/faulty/", recursive=True)
    yield "memory://faulty"
    system.rm("/faulty", recursive=True)


def source(url: str, **options: Any) -> EpisodeSource:
    return EpisodeSource(url, 32, 2, 4, videos=1, seed=1, **options)


# what is printed


@pytest.mark.parametrize(
    "url, text",
    [
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("https://token@host/x@1", "https://***@host/x@1"),
        ("simplecache::s3://key:secret@bucket/x", "simplecache::s3://***@bucket/x"),
        ("https://host/d?sig=SECRET&X-Amz-Signature=abc", "https://host/d?***"),
        ("https://a:b@h/x?sig=S, message='Forbidden'", "https://***@h/x?*** message='Forbidden'"),
        (
            "abfs://container@account.dfs.core.windows.net/x",
            "abfs://container@account.dfs.core.windows.net/x",
        ),
        ("abfs://container:key@account/x", "abfs://***@account/x"),
        ("clips/who?.mp4 a@b", "clips/who?.mp4 a@b"),
    ],
)
def test_display_hides_secrets_of_url(url: str, text: str) -> None:
    assert display(url) == text


def test_frame_that_cannot_be_read_hides_secrets(in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = source(in_memory)._read_clip(0)
    monkeypatch.setattr(MemoryFile, "read", fail_always("https://me:secret@host/x?sig=secret", ValueError))
    with pytest.raises(TalkingheadError, match=r"cannot be read \(https://\*\*\*@host/x\?\*\*\*\)") as raised:
        clip.frames([0])
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


# requests that fail


def fail_always(text: str, kind: type[Exception]) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise kind(f"{text}\nsecond line")

    return fail


def fail_first(function: Callable[..., Any], times: int) -> Callable[..., Any]:
    """Return a function that raises an error the first times it is called."""
    left = [times]

    def call(*arguments: Any, **options: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise ConnectionResetError("connection reset by peer")
        return function(*arguments, **options)

    return call


def test_part_of_file_is_read_after_failures(in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = source(in_memory)
    monkeypatch.setattr(MemoryFile, "read", fail_first(MemoryFile.read, remote.ATTEMPTS - 1))
    clip = episodes._read_clip(0)
    monkeypatch.setattr(MemoryFile, "read", fail_first(MemoryFile.read, remote.ATTEMPTS - 1))
    assert clip.frames([0, 1]).shape == (2, 32, 32, 3)
    assert not episodes.lost.reasons


def test_part_of_file_is_requested_three_times(in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = source(in_memory)._read_clip(0)
    opened: list[str] = []

    def refuse(self: object, path: str, *_: object, **__: object) -> None:
        opened.append(path)
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(MemoryFileSystem, "_open", refuse)
    with pytest.raises(TalkingheadError, match=r"cannot be read \(connection reset by peer\); check the ser"):
        clip.frames([0])
    assert len(opened) == remote.ATTEMPTS == 3


def test_folder_is_listed_after_failures(in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").rm(f"/faulty/{REPORT}")
    monkeypatch.setattr(MemoryFileSystem, "ls", fail_first(MemoryFileSystem.ls, remote.ATTEMPTS - 1))
    assert len(list_shards(in_memory)) == 2


# what servers send


@pytest.mark.parametrize("shard", [[1], 5, "../../other/shard-000000.tar"])
def test_settings_of_remote_report_name_no_shard(shard: object, data: Path) -> None:
    report = data / REPORT
    first, *others = report.read_text().splitlines()
    settings = json.dumps({**json.loads(first), "shard": shard})
    report.write_text("\n".join([settings, *others, ""]))
    with serve(data) as server:
        server.lists = False
        names = [str(file).rsplit("/", 1)[0] for file, _ in list_shards(server.url)]
        assert names == [server.url] * 2


@pytest.mark.parametrize(
    "column, value, message",
    [
        (1, -1, "a member claims -1 bytes"),
        (1, 1 << 40, "a member claims 1099511627776 bytes"),
        (0, -5, "it is cut short"),
        (0, 1 << 40, "it is cut short"),
    ],
)
def test_wrong_places_of_frames_report_user_error(
    column: int, value: int, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_index, "MIN_SHARDS", 1)
    forge_frames(data, lambda frames: frames.index_fill_(1, torch.tensor(column), value))
    with serve(data) as server, pytest.raises(TalkingheadError, match=message):
        source(f"simplecache::{server.url}", keep_in=tmp_path / "run").draw(0)


@pytest.mark.parametrize("change", [torch.Tensor.float, torch.Tensor.int, lambda frames: frames[:, :1]])
def test_index_with_frames_of_other_type_is_made_again(
    change: Callable[[torch.Tensor], torch.Tensor],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard_index, "MIN_SHARDS", 1)
    forge_frames(data, change)
    with serve(data) as server:
        source(f"simplecache::{server.url}", keep_in=tmp_path / "run").draw(0)
    [kept] = (tmp_path / "run").glob("index-*.safetensors")
    with safe_open(kept, framework="pt") as file:
        frames = file.get_tensor("frames")
    assert frames.dtype == torch.int64 and frames.shape[1] == 2


def forge_frames(data: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the places of the frames in the index beside shards."""
    open_index(data)
    with safe_open(data / FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        metadata = file.metadata()
    tensors["frames"] = change(tensors["frames"]).contiguous()
    save_file(tensors, data / FILE, metadata)


# whole files on the disk

DRAW = """
import sys
import torch
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.training.episode_loader import load_episodes

source = EpisodeSource(sys.argv[1], 32, 2, 4, videos=1, seed=1)
assert len(list(load_episodes(source, range(4), torch.device("cpu"), int(sys.argv[2])))) == 4
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_whole_files_are_removed_at_the_end(workers: int, data: Path) -> None:
    # in a folder with the longest name in which workers can open sockets, of 75 characters
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="x" * 62) as folder, serve(data) as server:
        environment = {**os.environ, "TMPDIR": folder}
        command = [sys.executable, "-W", "ignore", "-c", DRAW, f"simplecache::{server.url}", str(workers)]
        subprocess.run(command, env=environment, check=True, timeout=60)
        assert len(server.paths) > 2
        assert [path.name for path in Path(folder).rglob("*")] == []


def test_whole_file_that_was_cut_is_read_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: object, path: str, target: str, **_: object) -> None:
        Path(target).write_bytes(b"\0" * 1024)
        monkeypatch.undo()
        raise ConnectionResetError("connection reset by peer")

    with serve(data) as server:
        shard = remote.RemoteFile(f"simplecache::{server.url}/shard-000001.tar")
        monkeypatch.setattr(remote, "PAUSE_S", 0)
        monkeypatch.setattr(HTTPFileSystem, "get_file", cut)
        (places, clip), *_ = read_shard(shard)
        assert read_clip(shard, places).info == clip.info


def test_folder_of_whole_files_can_be_set(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "simplecache", {"cache_storage": str(tmp_path / "kept")})
    with serve(data) as server:
        assert remote.RemoteFile(f"simplecache::{server.url}/shard-000001.tar").read_bytes()
    assert len(list((tmp_path / "kept").iterdir())) == 1
