"""Write files and folders completely or not at all: in a hidden folder next to the target, then renamed."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import TalkingheadError
from .folder_lock import lock_folder
from .signals import defer_signals

_MARK = ".talkinghead-"  # part of the names of hidden folders, to recognize what killed processes left


@contextmanager
def atomic_write(path: str | os.PathLike[str], keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` when the block succeeds.

    The temporary path has the name of `path`, in a hidden folder next to it. When the block has ended, the
    content is on the disk. An exception in the block leaves the previous file unchanged; a signal that
    arrives during the rename acts after it. Files that killed processes left behind for the same target are
    removed at the start.

    Args:
        path: the file to write; of a link, the file that it points to.
        keep: where the previous file is moved to, on the same file system; by default it is deleted.

    Raises:
        TalkingheadError: the folder cannot be created or written to, or the disk is full.
    """
    path = _resolve_link(path)
    hidden: _HiddenFolder | None = None
    try:
        _check_file(path)
        with defer_signals():
            hidden = _HiddenFolder(path)
        temp_path = hidden.path / path.name
        try:
            yield temp_path
            with defer_signals():
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(temp_path, 0o666 & ~umask)  # some writers create private files
                _sync(temp_path)
                if keep is not None and path.exists():
                    _move_previous(path, keep, hidden.path / "kept")
                os.replace(temp_path, path)
                _sync_folder(path.parent)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename not in (None, str(temp_path)):
                raise
            raise TalkingheadError(
                f"{path}: writing failed ({error.strerror or error}); free some space or name another place"
            ) from error
    finally:
        with defer_signals():
            if hidden is not None:
                hidden.remove()


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden folder to fill, and put it in the place of the folder `path` when the block succeeds.

    An exception in the block leaves the previous folder unchanged.

    Args:
        path: the folder; one that exists is replaced.

    Raises:
        TalkingheadError: `path` is a file, or the folder around it cannot be written to, or the disk is full.
    """
    path = _resolve_link(path)
    if os.path.lexists(path) and not path.is_dir():
        raise TalkingheadError(f"{path}: cannot write, it is no folder; name another one")
    with defer_signals():
        hidden = _HiddenFolder(path)
    try:
        folder = hidden.path / "new"
        folder.mkdir()
        yield folder
        with defer_signals():
            if path.exists():
                os.replace(path, hidden.path / "previous")
            os.replace(folder, path)
            _sync_folder(path.parent)
    except OSError as error:
        raise TalkingheadError(
            f"{path}: writing failed ({error.strerror or error}); free some space or name another place"
        ) from error
    finally:
        with defer_signals():
            hidden.remove()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check before a long computation that `atomic_write` can write to a path.

    Raises:
        TalkingheadError: the folder cannot be created or written to.
    """
    path = _resolve_link(path)
    _check_file(path)
    with defer_signals():
        _HiddenFolder(path).remove()


def _resolve_link(path: str | os.PathLike[str]) -> Path:
    """Return the target of a link, so that the target is replaced and not the link; else the path."""
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def _check_file(target: Path) -> None:
    """Check that a target, if there is one, is a file."""
    if os.path.isdir(target):
        raise TalkingheadError(f"{target}: cannot write, it is a folder; name a file")
    if os.path.lexists(target) and not os.path.isfile(target):
        raise TalkingheadError(
            f"{target}: cannot write, it is a device, a pipe or a broken link; name a file"
        )


class _HiddenFolder:
    """A private folder next to a target to be written, locked as long as its process lives."""

    def __init__(self, target: Path) -> None:
        prefix = f".{target.stem[:32]}{_MARK}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(target.parent, prefix)
            # repeat until the new folder is locked before another process takes it for an abandoned one
            while True:
                self.path = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
                with suppress(FileNotFoundError, BlockingIOError):
                    self._lock = lock_folder(self.path)
                    break
        except OSError as error:
            raise TalkingheadError(
                f"{target}: cannot write here ({error.strerror}); name another place"
            ) from error

    def remove(self) -> None:
        """Delete the folder and release its lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the hidden folders of this prefix that no living process holds."""
    folders: list[Path] = []
    # a folder that can be written to may be unreadable
    with suppress(PermissionError), os.scandir(parent) as entries:
        folders = [
            Path(entry.path)
            for entry in entries
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
        ]
    for folder in folders:
        with suppress(OSError):
            lock = lock_folder(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _move_previous(path: Path, keep: Path, link: Path) -> None:
    """Move the file at `path` to `keep`.

    Where the file system has hard links, the file also stays at `path` until it is replaced.
    """
    keep.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, link)
        os.replace(link, keep)
    except OSError:
        os.replace(path, keep)
    _sync_folder(keep.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    if sys.platform != "win32":  # Windows cannot open folders
        with suppress(OSError):  # some file systems cannot sync folders
            _sync(folder)
