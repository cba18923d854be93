"""Locks on folders: one holder at a time, and errors of the user."""

import errno
import os
from pathlib import Path

import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.system.folder_lock import folder_lock


def test_folder_lock_excludes_second_holder(tmp_path: Path) -> None:
    refused = pytest.raises(TalkingheadError, match="another run is writing to it; wait for it to end")
    with folder_lock(tmp_path, tmp_path), refused, folder_lock(tmp_path, tmp_path):
        pass
    with folder_lock(tmp_path, tmp_path):
        pass


def test_folder_lock_rejects_removed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open the folder before it is removed and created again: the lock would be on the removed one."""
    folder, real_open = tmp_path / "work", os.open
    folder.mkdir()

    def open_late(path: str, *flags: int) -> int:
        handle = real_open(path, *flags)
        folder.rmdir()
        folder.mkdir()
        return handle

    monkeypatch.setattr(os, "open", open_late)
    with pytest.raises(TalkingheadError, match="another run is writing to it"), folder_lock(folder, tmp_path):
        pytest.fail("two runs would work in it")


def test_folder_lock_unreadable_folder_reports_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(TalkingheadError, match="cannot be locked .Permission denied."),
        folder_lock(tmp_path, tmp_path),
    ):
        pytest.fail("there is no lock")
