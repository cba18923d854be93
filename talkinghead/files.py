"""Files that are whole or not there: written beside their place, then renamed into it."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import TalkingheadError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, beside `path` and with its ending; renamed to `path` when the block ends well.

    On any exception the partial file is removed and what stood at `path` before is left as it was.

    Raises:
        TalkingheadError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)  # what a link leads to is replaced, not the link
    if os.path.isdir(path):
        raise TalkingheadError(f"{path}: cannot write, it is a folder; name a file")
    if os.path.lexists(path) and not os.path.isfile(path):
        raise TalkingheadError(f"{path}: cannot write, it is a device, a pipe or a broken link; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:32]}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise TalkingheadError(f"{path}: cannot write here ({error.strerror}); name another place") from error
    beside = Path(name)
    try:
        yield beside
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)  # mkstemp, and some writers, make private files
        os.replace(beside, path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename not in (None, str(beside)):
            raise
        raise TalkingheadError(f"{path}: writing failed ({error.strerror or error}); free some space or name another place") from error
    finally:
        beside.unlink(missing_ok=True)


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
