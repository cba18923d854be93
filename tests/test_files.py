"""Files appear whole, stay on the disk, and leave nothing hidden behind."""

import errno
import os
import signal
import threading
from pathlib import Path

import pytest

from talkinghead import files
from talkinghead.errors import TalkingheadError
from talkinghead.files import check_writable, folder_lock, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_while_writing(path: Path) -> None:
    """A process writes half of the file and is killed."""
    child = os.fork()
    if not child:
        try:
            with replacing(path) as beside:
                beside.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def test_replacing_writes_under_the_own_name_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "out.txt"
    with replacing(path) as beside:
        assert beside.name == "out.txt" and not path.exists()
        beside.write_text("new")
        (beside.parent / "scratch").mkdir()  # what a library may leave
    assert path.read_text() == "new" and names(path.parent) == ["out.txt"]
    with pytest.raises(KeyError), replacing(path) as beside:
        beside.write_text("newer")
        raise KeyError
    assert path.read_text() == "new" and names(path.parent) == ["out.txt"]


def test_replacing_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    killed_while_writing(path)
    killed_while_writing(tmp_path / "other.txt")
    assert len(names(tmp_path)) == 2 and all(name.startswith(".o") for name in names(tmp_path))
    (tmp_path / ".out.original.txt").write_text("the user's")
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:  # the folder of one that lives stays
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    left = names(tmp_path)
    assert len(left) == 3 and left[0].startswith(".other.") and left[1:] == [".out.original.txt", "out.txt"]


def test_replacing_syncs_file_and_folder_around_the_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        done.append(f"sync {os.readlink(f'/proc/self/fd/{handle}')}")
        real_sync(handle)

    def replace(source: Path, target: Path) -> None:
        done.append(f"rename {source}")
        real_replace(source, target)

    monkeypatch.setattr(files.os, "fsync", sync)
    monkeypatch.setattr(files.os, "replace", replace)
    with replacing(tmp_path / "out.txt") as beside:
        beside.write_text("new")
    assert done == [f"sync {beside}", f"rename {beside}", f"sync {tmp_path}"]


def test_replacing_keeps_what_stood_there_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept = tmp_path / "out.txt", tmp_path / "previous" / "out.txt"
    for number in range(3):
        with replacing(path, kept) as beside:
            beside.write_text(str(number))
        assert path.read_text() == str(number) and (not number or kept.read_text() == str(number - 1))

    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(files.os, "link", no_links)  # as on FAT
    with replacing(path, kept) as beside:
        beside.write_text("3")
    assert (path.read_text(), kept.read_text()) == ("3", "2") and names(tmp_path) == ["out.txt", "previous"]


def test_check_writable_raises_before_the_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "out.txt")
    assert names(tmp_path / "new") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(TalkingheadError, match=r"cannot write here \(.*\); name another place"):
        check_writable(tmp_path / "file" / "out.txt")
    with pytest.raises(TalkingheadError, match="it is a folder; name a file"):
        check_writable(tmp_path / "new")


def test_folder_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(TalkingheadError, match="another run is writing to it; wait for it to end")
    with folder_lock(tmp_path, tmp_path), refused, folder_lock(tmp_path, tmp_path):
        pass
    with folder_lock(tmp_path, tmp_path):
        pass


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_a_file_is_put_in_place_acts_afterwards(kind: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def interrupted(handle: int) -> None:
        os.kill(os.getpid(), kind)
        real(handle)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(kind, stop)
    try:
        monkeypatch.setattr(files.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "out.txt") as beside:
            beside.write_text("new")
    finally:
        signal.signal(kind, before)
    assert (tmp_path / "out.txt").read_text() == "new" and names(tmp_path) == ["out.txt"]


def test_replacing_works_outside_the_main_thread(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "out.txt") as beside:
            beside.write_text("new")

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert names(tmp_path) == ["out.txt"]


def test_folder_lock_refuses_a_folder_that_its_former_holder_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened the folder before it was removed and made anew holds a lock on what is no longer there."""
    folder, real_open = tmp_path / "work", os.open
    folder.mkdir()

    def open_late(path: str, *flags: int) -> int:
        handle = real_open(path, *flags)
        folder.rmdir()
        folder.mkdir()
        return handle

    monkeypatch.setattr(files.os, "open", open_late)
    with pytest.raises(TalkingheadError, match="another run is writing to it"), folder_lock(folder, tmp_path):
        pytest.fail("two runs would work in it")


def test_folder_lock_reports_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(TalkingheadError, match="cannot be locked .Permission denied."), folder_lock(tmp_path, tmp_path):
        pytest.fail("there is no lock")
