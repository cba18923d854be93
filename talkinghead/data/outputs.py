"""The check that nothing that is read is written over: every command and function that writes files runs it before any work."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import TalkingheadError
from ..media.pictures import PICTURE_SUFFIXES
from ..media.video import VIDEO_SUFFIXES

_MEDIA = PICTURE_SUFFIXES | VIDEO_SUFFIXES


def check_outputs(outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Refuse an output that is one of the inputs, whatever names, links or spellings lead to the file.

    Args:
        outputs: files that will be written; those that do not exist yet cannot be an input.
        inputs: files that will be read, and folders, whose pictures and videos count, those of subfolders too. None, and names of what is
            no file, such as "webcam", are passed over.

    Raises:
        TalkingheadError: an output is one of them.
    """
    written = {identity: Path(output) for output in outputs if (identity := _identity(output)) is not None}
    if not written:
        return
    for source in inputs:
        for path in () if source is None else _files(Path(source)):
            output = written.get(_identity(path) or (-1, -1))
            if output is not None:
                raise TalkingheadError(f"{output}: is the same file as the input {path}, which would be lost; name another output")


def files_in(folder: str | os.PathLike[str], patterns: Iterable[str]) -> list[Path]:
    """Return the files of a folder that match one of the patterns, such as "shard-*.tar"; none when there is no such folder."""
    try:
        return [path for pattern in patterns for path in Path(folder).glob(pattern)]
    except OSError:  # such as a name that is too long: it holds nothing
        return []


def videos_in(source: str | os.PathLike[str]) -> list[Path]:
    """Return a file itself, and of a folder the videos in it and its subfolders, for what reads nothing else in folders."""
    return list(_files(Path(source), VIDEO_SUFFIXES))


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return what tells a regular file from all others; None when there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # such as a name with a zero in it
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _files(source: Path, suffixes: frozenset[str] = _MEDIA) -> Iterator[Path]:
    """Yield a file itself, and of a folder the files with these suffixes in it and its subfolders, linked ones included."""
    if not os.path.isdir(source):
        yield source
        return
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(source, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # links may lead in a circle
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (path for path in (Path(folder, name) for name in names) if path.suffix.lower() in suffixes)
