"""Reading, writing and resizing images: files, folders of them and JPEG bytes."""

import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError
from ..system.atomic_file import atomic_write
from .heif import heif_kind
from .pillow import open_image, pil, reported_as, silence_pillow, to_srgb_array, turn_upright
from .size_limits import MAX_IMAGE_PIXELS, check_pixels

WRITABLE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"))
"""Suffixes of the image files that can be written."""
_ANIMATION_SUFFIXES = frozenset((".gif", ".webp", ".png", ".apng", ".avif"))
IMAGE_SUFFIXES = (
    WRITABLE_SUFFIXES
    | _ANIMATION_SUFFIXES
    | frozenset((".jpe", ".jfif", ".jp2", ".dib", ".pbm", ".pgm", ".pnm", ".tga", ".heic", ".heif", ".hif"))
)
"""Suffixes of the image files that are read; those of `_ANIMATION_SUFFIXES` only where they are still."""
_JPEG_QUALITY = 95
_MAX_LOGGED_NAMES = 6  # of other files in a folder of images

log = logging.getLogger(__name__)


def is_image_file(path: Path) -> bool:
    """Return whether a file is a still image, by its suffix or, for HEIC and AVIF, by its content.

    An animated GIF, WebP, PNG or AVIF is a video.
    """
    suffix = path.suffix.lower()
    if suffix in _ANIMATION_SUFFIXES:
        return not _is_animated(path)
    return suffix in IMAGE_SUFFIXES or heif_kind(path) != ""


def _is_animated(path: Path) -> bool:
    try:
        with open_image(path) as image:
            return getattr(image, "is_animated", False)
    except TalkingheadError:  # reported when the file is read
        return False


def list_images(folder: Path) -> list[Path]:
    """List the images of a folder in natural order of their names (2.png before 10.png).

    Hidden files are skipped; other contents are logged.

    Raises:
        TalkingheadError: the folder holds no images, or may not be read.
    """
    try:
        paths = sorted(
            (path for path in folder.iterdir() if not path.name.startswith(".")),
            key=lambda path: natural_sort_key(path.name),
        )
    except OSError as error:
        raise TalkingheadError(
            f"{folder}: cannot be read ({error.strerror}), expected a folder of pictures; name another"
        ) from error
    images = [path for path in paths if os.path.isfile(path) and is_image_file(path)]
    if not images:
        raise TalkingheadError(
            f"{folder}: holds no pictures; name a folder of files that end in "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    image_set = set(images)
    _log_ignored(folder, [path for path in paths if path not in image_set])
    return images


def _log_ignored(folder: Path, paths: Sequence[Path]) -> None:
    """Log the contents of a folder that are no images, if there are any."""
    if not paths:
        return
    names = [f"{path.name}/" if os.path.isdir(path) else path.name for path in paths]
    text = ", ".join(names[:_MAX_LOGGED_NAMES])
    if len(names) > _MAX_LOGGED_NAMES:
        text += f" and {len(names) - _MAX_LOGGED_NAMES} more"
    log.warning("%s: not taken, as they are no pictures: %s", folder.name or folder, text)


def natural_sort_key(name: str) -> list[tuple[int, int | str]]:
    """Return a sorting key that compares numbers within names as numbers."""
    parts = [part for part in re.split(r"([0-9]+)", name.lower()) if part]
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts] + [(2, name)]


def read_image(path: Path) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3], RGB, upright as its EXIF orientation says.

    Colours are converted to sRGB by the profile in the file, where there is a usable one. Transparent pixels
    are composited on white. 16-bit grey and floats from 0 to 1 are scaled. Of several pages the first is
    read.

    Raises:
        TalkingheadError: the file is missing, cut short, not an image, of more than 128 million pixels, or
            its values have no known range.
    """
    with open_image(path) as image, silence_pillow():
        return to_srgb_array(turn_upright(image), image.info.get("icc_profile"))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode the content of an image file as `read_image` reads one; `name` stands for it in messages.

    Raises:
        TalkingheadError: as for `read_image`.
    """
    with open_image(Path(name), data) as image, silence_pillow():
        return to_srgb_array(turn_upright(image), image.info.get("icc_profile"))


def convert_image(image: Any, name: str) -> np.ndarray:
    """Convert a `PIL.Image.Image` to uint8 [H, W, 3], RGB, as `read_image` converts a file; it is unchanged.

    Raises:
        TalkingheadError: it cannot be loaded, has more than 128 million pixels or values of no known range.
    """
    with reported_as(Path(name)), silence_pillow():
        check_pixels(image.width, image.height, MAX_IMAGE_PIXELS)
        return to_srgb_array(turn_upright(image.copy()), image.info.get("icc_profile"))


def read_animation(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the frames of an animated image file, uint8 [H, W, 3], with their durations in milliseconds.

    Raises:
        TalkingheadError: the file is missing, damaged or not an image; undamaged frames come first.
    """
    with open_image(path) as image:
        for number in range(image.n_frames):
            with silence_pillow():
                image.seek(number)
                image.load()
                frame = to_srgb_array(image, image.info.get("icc_profile"))
            yield frame, round(image.info.get("duration", 0))


class ImageReader:
    """Image files of one size as frames, read again at each iteration.

    Attributes:
        path: the only file, or the folder of the first.
        fps: 0, because the images have no order in time.
        size: (height, width) in pixels.
        count: number of images.

    Raises:
        TalkingheadError: a file cannot be read; while iterating: an image has another size.
    """

    fps = Fraction(0)

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.path = files[0] if len(files) == 1 else files[0].parent
        self.count = len(files)
        first = read_image(files[0])
        self.size: tuple[int, int] = (first.shape[0], first.shape[1])

    def __iter__(self) -> Iterator[np.ndarray]:
        for file in self._files:
            image = read_image(file)
            if image.shape[:2] != self.size:
                size, first = f"{image.shape[1]}x{image.shape[0]}", f"{self.size[1]}x{self.size[0]}"
                raise TalkingheadError(
                    f"{file}: is {size} but the pictures before it {first}, expected one size; resize it or "
                    "leave it out"
                )
            yield image


def encode_jpeg(frame: np.ndarray, quality: int = _JPEG_QUALITY, comment: str = "") -> bytes:
    """Encode uint8 [H, W, 3] as JPEG of a quality 1..95 at full colour resolution, with a comment inside."""
    buffer, image = io.BytesIO(), pil("Image").fromarray(frame)
    image.save(buffer, "JPEG", quality=quality, subsampling=0, comment=comment.encode())
    return buffer.getvalue()


def decode_jpeg(
    data: bytes, size: int | None = None, max_pixels: int | None = None, min_side: int | None = None
) -> np.ndarray:
    """Decode JPEG bytes to uint8 [H, W, 3], RGB.

    Args:
        data: the bytes.
        size: side that the square image must have, checked before it is decoded.
        max_pixels: that the image may have, checked before it is decoded.
        min_side: decode at the smallest scale of 1, 1/2, 1/4 and 1/8 of which no side is below it.

    Raises:
        ValueError: the image has another size, or more pixels.
        Exception: of various types, for damaged data.
    """
    # unlike Image.open, this accepts no other format and does not warn of large sizes
    with pil("JpegImagePlugin").JpegImageFile(io.BytesIO(data)) as image:
        if size is not None and image.size != (size, size):
            raise ValueError(f"it is {image.width}x{image.height}, expected {size}x{size}")
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise ValueError(f"it is {image.width}x{image.height}, expected at most {max_pixels} pixels")
        if min_side is not None:
            image.draft("RGB", (min_side, min_side))
        return np.array(image.convert("RGB"))


def resize(frame: np.ndarray, size: int, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Resize uint8 [H, W, 3], or a box of it, to uint8 [size, size, 3], antialiased.

    Args:
        frame: the image.
        size: side of the result in pixels.
        box: (left, top, right, bottom) in continuous pixels, inside the frame; the whole frame by default.
    """
    image = pil("Image")
    return np.array(image.fromarray(frame).resize((size, size), image.Resampling.BICUBIC, box=box))


def enlarge(frame: np.ndarray, factor: int) -> np.ndarray:
    """Enlarge uint8 [H, W, 3] by a whole factor, with Lanczos' filter of three lobes."""
    if factor == 1:
        return frame
    image, (height, width) = pil("Image"), frame.shape[:2]
    size = (width * factor, height * factor)
    return np.array(image.fromarray(frame).resize(size, image.Resampling.LANCZOS))


def resize_to_fit(frame: np.ndarray, side: int) -> np.ndarray:
    """Return uint8 [H, W, 3] reduced so that its longer side has at most `side` pixels, antialiased."""
    image, (height, width) = pil("Image"), frame.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return frame
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(image.fromarray(frame).resize(size, image.Resampling.BICUBIC, reducing_gap=3))


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] to a file whose suffix names the format, such as .png or .jpg.

    Raises:
        TalkingheadError: the suffix is unknown or the file cannot be written.
    """
    if Path(path).suffix.lower() not in WRITABLE_SUFFIXES:
        raise TalkingheadError(
            f"{path}: has no ending of a picture; choose one of {' '.join(sorted(WRITABLE_SUFFIXES))}"
        )
    with atomic_write(path) as temp_path:
        pil("Image").fromarray(image).save(temp_path)
