"""Opening videos with FFmpeg's libraries. The only module that imports PyAV."""

from pathlib import Path
from typing import Any

from ..errors import TalkingheadError, require

_NO_VIDEO = frozenset(("tty", "image2"))  # ffmpeg would also draw a text file


def av() -> Any:
    """The module PyAV."""
    return require("av", "app")


def open_video(path: Path) -> Any:
    """The container of a file that holds moving pictures; `pictures_of` gives their stream.

    Raises:
        TalkingheadError: it is missing, may not be read, or is no video.
    """
    try:
        there, folder = path.is_file(), path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise TalkingheadError(f"{path}: cannot be read ({error.strerror}), expected a video; name another") from error
    if not there:
        what = "is a folder" if folder else "no such file"
        raise TalkingheadError(f"{path}: {what}, expected a video; name one that exists")
    # a demuxer that is named does not take % in a name for a number
    options = {"format": "apng"} if path.suffix.lower() in (".png", ".apng") else {}
    if int(av().__version__.split(".")[0]) < 19:  # later ones never fail on metadata
        options["metadata_errors"] = "replace"
    try:
        container = av().open(str(path.absolute()), **options)  # absolute, so that no name reads as an address
    except PermissionError as error:
        raise TalkingheadError(f"{path}: may not be read, expected a video; give yourself permission") from error
    except (av().error.FFmpegError, OSError) as error:
        raise TalkingheadError(
            f"{path}: cannot be read as a video, it is empty, damaged, cut short or something else; name another"
        ) from error
    if pictures_of(container) is None or container.format.name in _NO_VIDEO:
        container.close()
        raise TalkingheadError(f"{path}: holds no moving pictures, expected a video; name another")
    return container


def pictures_of(container: Any) -> Any:
    """The first stream of moving pictures that can be decoded, None when there is none; the cover of an album is none."""
    cover = av().stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if stream.codec_context and not stream.disposition & cover), None)
