"""Write files that are whole or not there: made in a hidden folder beside their place, then renamed into it."""

import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import TalkingheadError
from .interrupt import delayed

if sys.platform != "win32":
    import fcntl

_MARK = ".talkinghead-"  # in the names of hidden folders, so that what a killed process left is known as ours


@contextmanager
def replacing(path: str | os.PathLike[str], keep: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to, with the name of `path`, in a hidden folder beside it; it is renamed to `path` when the block ends well.

    What is written is on the disk when the block has ended. An exception in the block leaves what stood at `path`; a signal that comes
    while the file is put in place acts once it is there. What killed processes left behind for the same file is removed at the start.

    Args:
        path: the file to write; where it is a link, what that leads to.
        keep: where what stood at `path` is moved to, on the same file system; by default it is gone.

    Raises:
        TalkingheadError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)  # what a link leads to is replaced, not the link
    hidden: _HiddenFolder | None = None
    try:
        with delayed():
            hidden = _HiddenFolder(path)
        beside = hidden.path / path.name
        try:
            yield beside
            with delayed():
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(beside, 0o666 & ~umask)  # some writers make private files
                _sync(beside)
                if keep is not None and path.exists():
                    _keep(path, keep, hidden.path / "kept")
                os.replace(beside, path)
                _sync_folder(path.parent)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.filename not in (None, str(beside)):
                raise
            raise TalkingheadError(f"{path}: writing failed ({error.strerror or error}); free some space or name another place") from error
    finally:
        with delayed():
            if hidden is not None:
                hidden.remove()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise what `replacing` would raise, before the work whose outcome is to be written there.

    Raises:
        TalkingheadError: the folder cannot be made or written to.
    """
    with delayed():
        _HiddenFolder(Path(os.path.realpath(path) if os.path.islink(path) else path)).remove()


@contextmanager
def folder_lock(folder: Path, out: Path) -> Iterator[None]:
    """Hold a lock on a folder, which goes with this process, however it ends.

    Args:
        folder: exists.
        out: the folder that the user named, for the message.

    Raises:
        TalkingheadError: another process holds it, or it may not be opened.
    """
    try:
        held = _locked(Path(os.path.realpath(folder)))
    except (BlockingIOError, FileNotFoundError) as error:  # gone: the other run has just removed it
        raise TalkingheadError(f"{out}: another run is writing to it; wait for it to end, or name another place") from error
    except OSError as error:
        raise TalkingheadError(f"{out}: cannot be locked ({error.strerror}); name another place") from error
    try:
        yield
    finally:
        if held is not None:
            os.close(held)


class _HiddenFolder:
    """A private folder beside a file that is to be written, locked as long as its process lives."""

    def __init__(self, target: Path) -> None:
        if os.path.isdir(target):
            raise TalkingheadError(f"{target}: cannot write, it is a folder; name a file")
        if os.path.lexists(target) and not os.path.isfile(target):
            raise TalkingheadError(f"{target}: cannot write, it is a device, a pipe or a broken link; name a file")
        prefix = f".{target.stem[:32]}{_MARK}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_left_over(target.parent, prefix)
            while True:  # until one is locked before another process takes it for left over
                self.path = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
                with suppress(FileNotFoundError, BlockingIOError):
                    self._lock = _locked(self.path)
                    break
        except OSError as error:
            raise TalkingheadError(f"{target}: cannot write here ({error.strerror}); name another place") from error

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that holds a lock on the folder, None where there are no locks.

    Raises:
        BlockingIOError: another process has it.
        FileNotFoundError: it is gone.
    """
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # some network file systems have no locks of folders
            os.close(handle)
            return None
        if not os.path.samestat(os.fstat(handle), os.stat(folder)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    except BaseException:
        os.close(handle)
        raise
    return handle


def _remove_left_over(parent: Path, prefix: str) -> None:
    """Remove the hidden folders of this prefix that no living process holds."""
    left: list[Path] = []
    with suppress(PermissionError), os.scandir(parent) as entries:  # a folder that is written to need not be readable
        left = [Path(entry.path) for entry in entries if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)]
    for folder in left:
        with suppress(OSError):
            lock = _locked(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _keep(path: Path, keep: Path, link: Path) -> None:
    """Put the file at `path` at `keep`; where the file system has links, it stays at `path` as well until it is replaced."""
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
    if sys.platform != "win32":  # which opens no folders
        with suppress(OSError):  # some file systems sync none
            _sync(folder)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits, read in pieces.

    Raises:
        TalkingheadError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        raise TalkingheadError(f"{path}: cannot be read ({error.strerror})") from error


def _digest(file: BinaryIO) -> str:
    # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where downloads are kept: `$XDG_CACHE_HOME/talkinghead`, by default `~/.cache/talkinghead`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "talkinghead"


def state_folder() -> Path:
    """Return where what this machine is to remember is kept: `$XDG_STATE_HOME/talkinghead`, by default `~/.local/state/talkinghead`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "talkinghead"
