"""Detection of HEIC and AVIF images by their content. The only module that imports pillow-heif."""

from pathlib import Path

from ..errors import TalkingheadError, require

_STILL = frozenset((b"heic", b"heix", b"heim", b"heis", b"avif", b"mif1", b"mif2"))
"""Major brands of ISO base media files that hold a still image; sequences (msf1, hevc, avis) are videos."""
_HEAD = 256  # bytes that hold the file type box


def heif_kind(source: str | Path | bytes) -> str:
    """Return "HEIC" or "AVIF" for a still image in that container, "" for other and unreadable files.

    The source is a file, or the content of one.

    FFmpeg reads such a file as a video, and of an image of several tiles, such as those of phones, only the
    first tile.
    """
    head = source[:_HEAD] if isinstance(source, bytes) else _read_head(source)
    if head[4:8] != b"ftyp" or head[8:12] not in _STILL:
        return ""
    length = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, length - 3, 4))]
    return "AVIF" if b"avif" in brands else "HEIC"


def _read_head(path: str | Path) -> bytes:
    """Return the first bytes of a regular file, none where it cannot be read."""
    try:
        if not Path(path).is_file():  # reading a pipe would consume its beginning
            return b""
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError):
        return b""


def register_heic() -> None:
    """Register a reader of HEIC images with Pillow, which joins tiles and applies the orientation.

    Raises:
        TalkingheadError: pillow-heif is not installed.
    """
    try:
        heif = require("pillow_heif", "heic")
    except TalkingheadError as error:
        raise TalkingheadError(f"is a HEIC picture: {error}, or save it as JPEG") from error
    heif.register_heif_opener()
