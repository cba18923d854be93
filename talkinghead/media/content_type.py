"""Kind of a media file by its content alone, whatever its name."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import TalkingheadError
from .pillow import open_image
from .pyav import open_video

_IMAGE_SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "TIFF": ".tif",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
    "HEIF": ".heic",
}
"""Suffixes by which the readers of this package know an image, by Pillow's name of its format."""
_OTHER_VIDEO = ".video"


@dataclass(frozen=True)
class MediaType:
    """Kind of a file.

    Attributes:
        kind: "picture" or "video"; an animated image is a video.
        suffix: that a file needs so that this package reads it as what it is, such as ".png".
    """

    kind: str
    suffix: str


def detect_media_type(path: Path) -> MediaType:
    """Return what a file is by its content.

    Raises:
        TalkingheadError: it is neither a picture nor a video that this package reads, or of too many pixels.
    """
    try:
        with open_image(path) as image:
            if image.format in _IMAGE_SUFFIXES:
                kind = "video" if getattr(image, "is_animated", False) else "picture"
                # several pages of a TIFF and several views of an MPO are no motion
                if image.format in ("TIFF", "MPO"):
                    kind = "picture"
                return MediaType(kind, _IMAGE_SUFFIXES[image.format])
    except TalkingheadError as error:
        if _is_too_large(error):
            raise
    try:
        with open_video(path) as container:
            names = container.format.name.split(",")
    except TalkingheadError as error:
        if _is_too_large(error):
            raise
        raise TalkingheadError(
            f"{path}: is no picture or video that can be read; choose a JPEG, PNG, WebP or HEIC picture, or "
            "an mp4, mov, mkv, webm or avi video"
        ) from error
    if "mp4" in names:
        return MediaType("video", ".mp4")
    return MediaType("video", ".webm" if "webm" in names else _OTHER_VIDEO)


def _is_too_large(error: TalkingheadError) -> bool:
    return "million pixels" in str(error) or "is too large" in str(error)
