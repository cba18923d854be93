"""HEIC and AVIF pictures, told by their content whatever they are called. The only module that imports pillow-heif."""

from pathlib import Path

from ..errors import TalkingheadError, require

_STILL = frozenset((b"heic", b"heix", b"heim", b"heis", b"avif", b"mif1", b"mif2"))
"""Major brands of ISO base media files that hold a still picture. Those of moving ones, such as msf1, hevc and avis, are videos here."""
_HEAD = 256  # bytes that hold the file type box


def heif_kind(path: str | Path) -> str:
    """Return "HEIC" or "AVIF" for a still picture in that container, "" for any other file and for one that cannot be read.

    FFmpeg takes such a file for a video, and of a picture that is a grid of tiles, as all of phones are, it gives the first tile alone.
    """
    try:
        if not Path(path).is_file():  # a pipe is not to lose its beginning
            return ""
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):
        return ""
    if head[4:8] != b"ftyp" or head[8:12] not in _STILL:
        return ""
    length = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, length - 3, 4))]
    return "AVIF" if b"avif" in brands else "HEIC"


def register_heic() -> None:
    """Teach Pillow to read HEIC pictures, whole and upright.

    Raises:
        TalkingheadError: pillow-heif is not installed.
    """
    try:
        heif = require("pillow_heif", "heic")
    except TalkingheadError as error:
        raise TalkingheadError(f"is a HEIC picture: {error}, or save it as JPEG") from error
    heif.register_heif_opener()
