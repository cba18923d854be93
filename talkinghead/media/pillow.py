"""Opening of image files with Pillow and conversion to RGB. The only module that imports Pillow."""

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError, check_local, require
from ..system.quiet import suppress_stderr, suppress_warnings
from .heif import heif_kind, register_heic
from .size_limits import MAX_IMAGE_PIXELS, check_pixels
from .transparency import composite_on_white

# formats that run other programs (EPS) or follow references are left out
_READ_FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
    "TGA",
    "JPEG2000",
    "AVIF",
    "HEIF",
)
MAX_IMAGE_BYTES = 1 << 29
"""Limit of the file size: that of the largest image without compression."""
_STRIP_PIXELS = 1 << 22  # converted at a time
_PLANAR_CONFIGURATION = 284  # tags of TIFF
_COMPRESSION = 259
_BITS_PER_SAMPLE = 258
_SEPARATE_PLANES = 2  # value of TIFF's tag PlanarConfiguration
_UNCOMPRESSED = 1  # value of TIFF's tag Compression


def pil(module: str) -> Any:
    """Return a module of Pillow, such as "Image" or "ImageDraw"."""
    return require(f"PIL.{module}", "app")


@contextmanager
def open_image(path: Path, data: bytes | None = None) -> Iterator[Any]:
    """Open an image file with Pillow; report all errors, also those while it is used, as TalkingheadError.

    Args:
        path: the file, or the name of the data in messages.
        data: content of a file, read in place of `path`.
    """
    image = require("PIL.Image", "app")
    if data is None:
        _check_file(path)
    with reported_as(path):
        _check_readers(path if data is None else data)
        with silence_pillow():
            image.init()  # registers every format that this Pillow has
            source = path if data is None else io.BytesIO(data)
            opened = image.open(source, formats=[name for name in _READ_FORMATS if name in image.OPEN])
        with opened:
            check_pixels(opened.width, opened.height, MAX_IMAGE_PIXELS)
            _check_tiff(opened)
            yield opened


@contextmanager
def reported_as(path: Path) -> Iterator[None]:
    """Report all errors of reading an image as TalkingheadError, with its name."""
    image = require("PIL.Image", "app")
    try:
        yield
    except TalkingheadError as error:
        raise TalkingheadError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise TalkingheadError(f"{path}: no such file; name a picture that exists") from error
    except IsADirectoryError as error:
        raise TalkingheadError(f"{path}: is a folder, expected a picture; name a file") from error
    except PermissionError as error:
        raise TalkingheadError(
            f"{path}: may not be read, expected a picture; give yourself permission"
        ) from error
    except image.DecompressionBombError as error:  # Pillow's own limit, checked before the size is known
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        size = f"of {int(pixels[1]) / 1e6:.4g} million pixels" if pixels else "too large"
        raise TalkingheadError(
            f"{path}: is {size}, expected at most {MAX_IMAGE_PIXELS / 1e6:.4g} million pixels; scale it down"
        ) from error
    except MemoryError as error:
        raise TalkingheadError(f"{path}: there is not enough memory to read it; scale it down") from error
    # Pillow raises undocumented exceptions for damaged data: struct.error, KeyError, SyntaxError, ...
    except Exception as error:
        raise TalkingheadError(
            f"{path}: cannot be read as a picture, it is damaged, cut short or something else; name another"
        ) from error


def _check_file(path: Path) -> None:
    """Check that a path is not of a file whose reading would not end, or not fit into memory."""
    check_local(path)
    # reading a pipe or a device might never end
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise TalkingheadError(f"{path}: is no regular file, expected a picture; name a file")
    # some readers of Pillow begin by reading the whole file
    if os.path.isfile(path) and os.path.getsize(path) > MAX_IMAGE_BYTES:
        raise TalkingheadError(
            f"{path}: is too large, expected a picture of at most {MAX_IMAGE_BYTES >> 20} MB; name another"
        )


def _check_readers(source: Path | bytes) -> None:
    """Check that Pillow can read a HEIC or AVIF image."""
    kind = heif_kind(source)
    if kind == "HEIC":
        register_heic()
    elif kind and not pil("features").check("avif"):
        raise TalkingheadError(
            "is an AVIF picture, which this Pillow cannot read; pip install --upgrade 'pillow>=11.3', or "
            "save it as JPEG"
        )


def _check_tiff(opened: Any) -> None:
    """Reject a TIFF that Pillow decodes wrongly: uncompressed separate planes of more than 8 bits."""
    if opened.format != "TIFF":
        return
    tags = opened.tag_v2
    if (
        tags.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES
        and tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED
        and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8
    ):
        raise TalkingheadError(
            "is a TIFF of 16-bit colours in separate planes, which cannot be read; save it as PNG, or with "
            "8 bits"
        )


@contextmanager
def silence_pillow() -> Iterator[None]:
    """Silence messages of Pillow and libtiff about damaged files; the caller raises an error instead."""
    with suppress_warnings("PIL", logging.CRITICAL + 1), suppress_stderr():
        yield


def turn_upright(image: Any) -> Any:
    """Load a Pillow image and turn it as its EXIF orientation says."""
    image.load()
    with suppress(Exception):  # damaged EXIF, while the image itself is readable
        # in place, because otherwise an upright image is copied too
        pil("ImageOps").exif_transpose(image, in_place=True)
    return image


def to_srgb_array(image: Any, profile: bytes | None) -> np.ndarray:
    """Convert a Pillow image of any mode to uint8 [H, W, 3], sRGB, in strips: intermediate copies stay small.

    Args:
        image: the image, loaded.
        profile: its ICC profile, None without one.
    """
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return np.array(_to_srgb(image, profile))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_to_srgb(strip, profile))
    return pixels


def _to_srgb(image: Any, profile: bytes | None) -> Any:
    """Convert a Pillow image of any mode to RGB."""
    from_array = require("PIL.Image", "app").fromarray
    if image.mode == "F" or image.mode.startswith("I"):
        return from_array(_scale_to_uint8(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        colours = _to_srgb(rgba.convert("RGB"), profile)
        return from_array(composite_on_white(np.dstack([np.asarray(colours), np.asarray(alpha)])))
    if image.mode in ("1", "P", "PA", "YCbCr", "HSV"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if profile:
        cms = pil("ImageCms")
        try:
            return cms.profileToProfile(
                image, cms.ImageCmsProfile(io.BytesIO(profile)), cms.createProfile("sRGB"), outputMode="RGB"
            )
        except (cms.PyCMSError, OSError, ValueError, TypeError):
            pass  # the profile is damaged, or of other channels
    return image.convert("RGB")


def _scale_to_uint8(values: np.ndarray) -> np.ndarray:
    """Scale integers of 16 bits, or floats from 0 to 1, to uint8."""
    low, high = values.min(), values.max()
    highest = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (low >= 0 and high <= highest):
        raise TalkingheadError(
            f"its values go from {low:.6g} to {high:.6g}, expected 0 to {highest:g}; convert it to 8 bits"
        )
    return np.rint(values * (255 / highest)).astype(np.uint8)
