"""Checks of outputs that every command and function that writes files runs first: none overwrites an input,
and names end as their kind of file does.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import TalkingheadError
from ..media.images import IMAGE_SUFFIXES
from ..media.video import VIDEO_SUFFIXES

_MEDIA = IMAGE_SUFFIXES | VIDEO_SUFFIXES
_FOREIGN_ENDINGS = frozenset(
    f".{name}"
    for names in (
        "safetensors pt pth ckpt bin pkl npz npy onnx pt2 engine plan trt",
        "json toml tsv csv txt md tar zip",
        "mp4 m4v mov avi mkv webm gif webp png apng jpg jpeg bmp tif tiff heic heif avif wav mp3",
    )
    for name in names.split()
)
"""Endings that say what a file is: another kind of output that has one was meant to be something else."""


def check_outputs(
    outputs: Iterable[str | os.PathLike[str]], inputs: Iterable[str | os.PathLike[str] | None]
) -> None:
    """Reject an output that is one of the inputs, by whatever names, links or spellings.

    Args:
        outputs: files that will be written; those that do not exist yet cannot be an input.
        inputs: files that will be read, and folders, whose pictures and videos count, those of subfolders
            too. None, and names of what is no file, such as "webcam", are passed over.

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
                raise TalkingheadError(
                    f"{output}: is the same file as the input {path}, which would be lost; name another "
                    "output"
                )


def check_ending(path: str | os.PathLike[str], kind: str, accepted: Sequence[str]) -> None:
    """Reject the name of an output that ends as another kind of file does; other endings, and none, pass.

    Args:
        path: the output.
        kind: what it is, such as "a person".
        accepted: its own endings, the usual one first.

    Raises:
        TalkingheadError: it has the ending of another kind of file.
    """
    if Path(path).suffix.lower() in _FOREIGN_ENDINGS - {*accepted}:
        raise ending_error(path, kind, accepted[0])


def ending_error(path: str | os.PathLike[str], kind: str, ending: str) -> TalkingheadError:
    """Return the error for the name of an output that should have another ending."""
    better = Path(path).with_suffix(ending).name if Path(path).name else f"NAME{ending}"
    return TalkingheadError(f"{path}: {kind} is a {ending} file; name it {better} instead")


def files_in(folder: str | os.PathLike[str], patterns: Iterable[str]) -> list[Path]:
    """Return the files of a folder that match one of the patterns, such as "shard-*.tar"; none when there is
    no such folder.
    """
    try:
        return [path for pattern in patterns for path in Path(folder).glob(pattern)]
    except OSError:  # such as a name that is too long
        return []


def videos_in(source: str | os.PathLike[str]) -> list[Path]:
    """Return the file itself, or the videos of a folder and its subfolders."""
    return list(_files(Path(source), VIDEO_SUFFIXES))


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Return the device and inode of a regular file; None when there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # such as a name with a null character
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _files(source: Path, suffixes: frozenset[str] = _MEDIA) -> Iterator[Path]:
    """Yield the file itself, or the files with these suffixes of a folder and its subfolders, linked ones
    included.
    """
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
        yield from (
            path for path in (Path(folder, name) for name in names) if path.suffix.lower() in suffixes
        )
