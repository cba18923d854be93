"""Limits of the size of images and video frames, checked by their headers before memory is allocated."""

from ..errors import TalkingheadError

# cameras have up to 102 million; reading an image takes 8 bytes a pixel, a WebP 16
MAX_IMAGE_PIXELS = 128_000_000
MAX_FRAME_PIXELS = 8192 * 4352  # level 6 of H.264 and 8K; a decoder may hold 17 such frames


class TooLargeError(TalkingheadError):
    """Error for an image or frame of too many pixels. Its message has no subject: callers add the file."""


def check_pixels(width: int, height: int, limit: int) -> None:
    """Check that a size has at most `limit` pixels.

    Raises:
        TooLargeError: it is larger.
    """
    if width * height > limit:
        size = f"{width}x{height}, {_millions(width * height)} million pixels"
        raise TooLargeError(f"is {size}, expected at most {_millions(limit)} million; scale it down")


def check_decoder(width: int, height: int, limit: int) -> None:
    """Raise if a decoder failed because of the frame size.

    Args:
        width, height: size that the decoder reports after it failed: 0 before the first complete header, and
            with some decoders after a refused size.
        limit: maximal pixels that were set.

    Raises:
        TooLargeError: the size was the cause, or may have been.
    """
    check_pixels(width, height, limit)
    if not width:
        raise TooLargeError(
            f"is damaged, or has more than the {_millions(limit)} million pixels expected at most; repair it "
            "or scale it down"
        )


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:.4g}"
