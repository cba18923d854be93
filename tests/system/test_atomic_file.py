"""Atomic writes: complete files, synced to disk, without hidden files left behind."""

import os
import signal
import threading
from pathlib import Path

import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.system import atomic_file
from talkinghead.system.atomic_file import atomic_folder, atomic_write, check_writable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_while_writing(path: Path) -> None:
    """Write half of the file in a process that is then killed."""
    child = os.fork()
    if not child:
        try:
            with atomic_write(path) as temp_path:
                temp_path.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_atomic_write_leaves_only_the_target(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "out.txt"
    with atomic_write(path) as temp_path:
        assert temp_path.name == "out.txt" and not path.exists()
        temp_path.write_text("new")
        (temp_path.parent / "scratch").mkdir()  # what a library may leave
    assert path.read_text() == "new" and names(path.parent) == ["out.txt"]
    with pytest.raises(KeyError), atomic_write(path) as temp_path:
        temp_path.write_text("newer")
        raise KeyError
    assert path.read_text() == "new" and names(path.parent) == ["out.txt"]


def test_atomic_write_removes_files_of_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    killed_while_writing(path)
    killed_while_writing(tmp_path / "other.txt")
    assert len(names(tmp_path)) == 2 and all(name.startswith(".o") for name in names(tmp_path))
    (tmp_path / ".out.original.txt").write_text("the user's")
    with atomic_write(path) as first:
        first.write_text("first")
        with atomic_write(path) as second:  # keeps the hidden folder of a living process
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    left = names(tmp_path)
    assert len(left) == 3 and left[0].startswith(".other.") and left[1:] == [".out.original.txt", "out.txt"]


def test_atomic_write_syncs_around_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        done.append(f"sync {os.readlink(f'/proc/self/fd/{handle}')}")
        real_sync(handle)

    def replace(source: Path, target: Path) -> None:
        done.append(f"rename {source}")
        real_replace(source, target)

    monkeypatch.setattr(atomic_file.os, "fsync", sync)
    monkeypatch.setattr(atomic_file.os, "replace", replace)
    with atomic_write(tmp_path / "out.txt") as temp_path:
        temp_path.write_text("new")
    assert done == [f"sync {temp_path}", f"rename {temp_path}", f"sync {tmp_path}"]


def test_atomic_write_keeps_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept = tmp_path / "out.txt", tmp_path / "previous" / "out.txt"
    for number in range(3):
        with atomic_write(path, kept) as temp_path:
            temp_path.write_text(str(number))
        assert path.read_text() == str(number) and (not number or kept.read_text() == str(number - 1))

    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(atomic_file.os, "link", no_links)  # as on FAT
    with atomic_write(path, kept) as temp_path:
        temp_path.write_text("3")
    assert (path.read_text(), kept.read_text()) == ("3", "2") and names(tmp_path) == ["out.txt", "previous"]


def test_check_writable_rejects_bad_targets(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "out.txt")
    assert names(tmp_path / "new") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(TalkingheadError, match=r"cannot write here \(.*\); name another place"):
        check_writable(tmp_path / "file" / "out.txt")
    with pytest.raises(TalkingheadError, match="it is a folder; name a file"):
        check_writable(tmp_path / "new")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_during_rename_acts_afterwards(
    kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def interrupted(handle: int) -> None:
        os.kill(os.getpid(), kind)
        real(handle)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(kind, stop)
    try:
        monkeypatch.setattr(atomic_file.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "out.txt") as temp_path:
            temp_path.write_text("new")
    finally:
        signal.signal(kind, before)
    assert (tmp_path / "out.txt").read_text() == "new" and names(tmp_path) == ["out.txt"]


def test_atomic_write_works_outside_main_thread(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "out.txt") as temp_path:
            temp_path.write_text("new")

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert names(tmp_path) == ["out.txt"]


def test_atomic_folder_replaces_the_folder_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "page"
    for text in ("old", "new"):
        with atomic_folder(path) as folder:
            (folder / "part").mkdir()
            (folder / "part" / f"{text}.txt").write_text(text)
        assert names(path.parent) == ["page"] and names(path / "part") == [f"{text}.txt"]
    with pytest.raises(KeyError), atomic_folder(path) as folder:
        (folder / "newer.txt").write_text("newer")
        raise KeyError
    assert names(path.parent) == ["page"] and names(path) == ["part"]


def test_atomic_folder_reports_what_it_cannot_replace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(TalkingheadError, match="it is no folder; name another"),
        atomic_folder(tmp_path / "file"),
    ):
        pass
    with (
        pytest.raises(TalkingheadError, match="cannot write here"),
        atomic_folder(tmp_path / "file" / "page"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine" and names(tmp_path) == ["file"]
