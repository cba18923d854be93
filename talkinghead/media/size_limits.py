"""How large pictures and video frames may be; checked by their headers, before memory is taken for them."""

from ..errors import TalkingheadError

MAX_PICTURE_PIXELS = 128_000_000  # cameras have up to 102 million; a picture takes 8 bytes a pixel while it is read, a WebP 16
MAX_FRAME_PIXELS = 8192 * 4352  # level 6 of H.264 and 8K; a decoder may hold 17 such frames


class TooLarge(TalkingheadError):
    """A picture or frame has too many pixels. The message has no subject: the caller knows the file."""


def check_pixels(width: int, height: int, limit: int) -> None:
    """Refuse a size of more than `limit` pixels.

    Raises:
        TooLarge: it is larger.
    """
    if width * height > limit:
        size = f"{width}x{height}, {_millions(width * height)} million pixels"
        raise TooLarge(f"is {size}, expected at most {_millions(limit)} million; scale it down")


def check_decoder(width: int, height: int, limit: int) -> None:
    """Raise for a frame size that a decoder refused; do nothing when it failed for another reason.

    Args:
        width, height: what the decoder holds after it failed: 0 before a first whole header, and in some after a refused size.
        limit: pixels that it was allowed.

    Raises:
        TooLarge: it was the size, or may have been.
    """
    check_pixels(width, height, limit)
    if not width:
        raise TooLarge(f"is damaged, or has more than the {_millions(limit)} million pixels expected at most; mend it or scale it down")


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:.4g}"
