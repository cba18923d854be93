"""Pictures: files, folders of them, JPEG bytes, resizing. The only module that imports Pillow."""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TalkingheadError, require
from ..files import replacing
from .heif import heif_kind, register_heic
from .size_limits import MAX_PICTURE_PIXELS, check_pixels

WRITABLE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"))
"""Endings of the pictures that are written."""
_MAY_MOVE = frozenset((".gif", ".webp", ".png", ".apng", ".avif"))
PICTURE_SUFFIXES = (
    WRITABLE_SUFFIXES | _MAY_MOVE | frozenset((".jpe", ".jfif", ".jp2", ".dib", ".pbm", ".pgm", ".pnm", ".tga", ".heic", ".heif", ".hif"))
)
"""Endings of the pictures that are read, named one by one or in a folder; those of `_MAY_MOVE` where they do not move."""
# without those that run other programs (EPS) or follow references
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF", "HEIF")
MAX_PICTURE_BYTES = 1 << 29
"""Of a file: as many as the largest picture has without compression."""
_STRIP_PIXELS = 1 << 22  # of a picture that are converted at a time
_JPEG_QUALITY = 95
_NAMED = 6  # of the files that a folder holds besides pictures, how many are named
_SEPARATE_PLANES, _UNCOMPRESSED = 2, 1  # values of TIFF's tags PlanarConfiguration and Compression

log = logging.getLogger(__name__)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, by its ending, or HEIC or AVIF by its content; a GIF, WebP, PNG or AVIF that is animated is a video."""
    suffix = path.suffix.lower()
    return not _is_animated(path) if suffix in _MAY_MOVE else suffix in PICTURE_SUFFIXES or heif_kind(path) != ""


def _is_animated(path: Path) -> bool:
    try:
        with _opened(path) as opened:
            return getattr(opened, "is_animated", False)
    except TalkingheadError:  # said when it is read
        return False


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order of their names (2.png before 10.png), hidden files left out. What else it holds is logged.

    Raises:
        TalkingheadError: there are none, or the folder may not be read.
    """
    try:
        inside = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: natural(path.name))
    except OSError as error:
        raise TalkingheadError(f"{folder}: cannot be read ({error.strerror}), expected a folder of pictures; name another") from error
    found = [path for path in inside if os.path.isfile(path) and is_picture(path)]
    if not found:
        raise TalkingheadError(f"{folder}: holds no pictures, expected files that end in {' '.join(sorted(PICTURE_SUFFIXES))}")
    taken = set(found)
    others = [path.name + "/" * os.path.isdir(path) for path in inside if path not in taken]
    if others:
        names = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
        log.warning("%s: not taken, as they are no pictures: %s", folder.name or folder, names)
    return found


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sorting key that compares numbers within names as numbers."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", name.lower()) if part] + [(2, name)]


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 [H, W, 3], RGB, turned upright as its EXIF orientation says.

    Colours are brought to sRGB by the profile within the file, where there is a usable one. What is transparent is laid on white, as it is
    on a page. 16-bit grey and floats from 0 to 1 are scaled. Of several pages the first is read.

    Raises:
        TalkingheadError: the file is missing, cut, no picture, of more than 128 million pixels, or its values have no known range.
    """
    with _opened(path) as opened, _quiet():
        return _as_array(_upright(opened), opened.info.get("icc_profile"))


def moving_pictures(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    """The pictures of an animated file, uint8 [H, W, 3], and for how many milliseconds each is shown.

    Raises:
        TalkingheadError: the file is missing, damaged, or no picture; before that, what is whole is given.
    """
    with _opened(path) as opened:
        for number in range(opened.n_frames):
            with _quiet():
                opened.seek(number)
                opened.load()
                picture = _as_array(opened, opened.info.get("icc_profile"))
            yield picture, round(opened.info.get("duration", 0))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A picture file opened by Pillow, with everything that can go wrong while it is used."""
    image = require("PIL.Image", "app")
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # it might never end
        raise TalkingheadError(f"{path}: is no regular file, expected a picture; name a file")
    if os.path.isfile(path) and os.path.getsize(path) > MAX_PICTURE_BYTES:  # some readers begin by reading all of it
        raise TalkingheadError(f"{path}: is too large, expected a picture of at most {MAX_PICTURE_BYTES >> 20} MB; name another")
    try:
        _check_readers(path)
        with _quiet():
            image.init()  # registers every format that this Pillow has
            opened = image.open(path, formats=[name for name in _FORMATS if name in image.OPEN])
        with opened:
            check_pixels(opened.width, opened.height, MAX_PICTURE_PIXELS)
            _check_tiff(opened)
            yield opened
    except TalkingheadError as error:
        raise TalkingheadError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise TalkingheadError(f"{path}: no such file; name a picture that exists") from error
    except IsADirectoryError as error:
        raise TalkingheadError(f"{path}: is a folder, expected a picture; name a file") from error
    except PermissionError as error:
        raise TalkingheadError(f"{path}: may not be read, expected a picture; give yourself permission") from error
    except image.DecompressionBombError as error:  # by Pillow's own limit, before it tells the size
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        size = f"of {int(pixels[1]) / 1e6:.4g} million pixels" if pixels else "too large"
        raise TalkingheadError(
            f"{path}: is {size}, expected at most {MAX_PICTURE_PIXELS / 1e6:.4g} million pixels; scale it down"
        ) from error
    except MemoryError as error:
        raise TalkingheadError(f"{path}: there is not enough memory to read it; scale it down") from error
    except Exception as error:  # what Pillow's readers raise for damaged data is not stated: struct.error, KeyError, SyntaxError, ...
        raise TalkingheadError(f"{path}: cannot be read as a picture, it is damaged, cut short or something else; name another") from error


def _check_readers(path: Path) -> None:
    """See that there is a reader for a HEIC or AVIF picture."""
    kind = heif_kind(path)
    if kind == "HEIC":
        register_heic()
    elif kind and not require("PIL.features", "app").check("avif"):
        raise TalkingheadError(
            "is an AVIF picture, which this Pillow cannot read: pip install --upgrade 'pillow>=11.3', or save it as JPEG"
        )


def _check_tiff(opened: Any) -> None:
    """Refuse a TIFF that Pillow garbles: planes of more than 8 bits one after the other, not compressed."""
    if opened.format != "TIFF":
        return
    tags = opened.tag_v2
    if tags.get(284) == _SEPARATE_PLANES and tags.get(259, _UNCOMPRESSED) == _UNCOMPRESSED and max(tags.get(258, (1,))) > 8:
        raise TalkingheadError("is a TIFF of 16-bit colours in separate planes, which cannot be read; save it as PNG, or with 8 bits")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Pillow, and libtiff behind its back, say of damage: what cannot be read becomes an error of ours."""
    log = logging.getLogger("PIL")
    level = log.level
    with warnings.catch_warnings(), no_stderr():
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            log.setLevel(level)


@contextmanager
def no_stderr() -> Iterator[None]:
    """Without what C code writes to the process's stderr."""
    if sys.__stderr__ is None:  # it was closed when the process began: the number 2 may be any file's
        yield
        return
    try:
        stderr = os.dup(2)
    except OSError:  # it has none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _upright(opened: Any) -> Any:
    opened.load()
    with suppress(Exception):  # damaged EXIF, while the picture itself is whole
        require("PIL.ImageOps", "app").exif_transpose(opened, in_place=True)  # else it is copied even when it is upright
    return opened


def _as_array(picture: Any, profile: bytes | None) -> np.ndarray:
    """Return a Pillow image of any mode as uint8 [H, W, 3], sRGB, converted in strips: the copies that takes need little memory."""
    width, height = picture.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return np.array(_to_srgb(picture, profile))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_to_srgb(strip, profile))
    return pixels


def _to_srgb(picture: Any, profile: bytes | None) -> Any:
    """A Pillow image of any mode as one of mode RGB."""
    image = require("PIL.Image", "app")
    if picture.mode == "F" or picture.mode.startswith("I"):
        return image.fromarray(_scaled(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        alpha = clear.getchannel("A")
        colours = _to_srgb(clear.convert("RGB"), profile)
        return image.fromarray(on_white(np.dstack([np.asarray(colours), np.asarray(alpha)])))
    if picture.mode in ("1", "P", "PA", "YCbCr", "HSV"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    if profile:
        cms = require("PIL.ImageCms", "app")
        try:
            return cms.profileToProfile(picture, cms.ImageCmsProfile(io.BytesIO(profile)), cms.createProfile("sRGB"), outputMode="RGB")
        except (cms.PyCMSError, OSError, ValueError, TypeError):  # damaged, or a profile of other channels than these
            pass
    return picture.convert("RGB")


def _scaled(values: np.ndarray) -> np.ndarray:
    """Integers of 16 bits, or floats from 0 to 1, as uint8."""
    low, high = values.min(), values.max()
    most = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (low >= 0 and high <= most):
        raise TalkingheadError(f"its values go from {low:.6g} to {high:.6g}, expected 0 to {most:g}; convert it to 8 bits")
    return np.rint(values * (255 / most)).astype(np.uint8)


def on_white(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 4], RGB and opacity, laid on white: uint8 [H, W, 3]."""
    alpha = picture[..., 3:].astype(np.uint16)
    return ((picture[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


class Pictures:
    """Picture files of one size as frames, read anew each time they are iterated over.

    Attributes:
        path: the only file, or the folder of the first.
        fps: 0, they have no order in time.
        size: (height, width) in pixels.
        count: how many there are.

    Raises:
        TalkingheadError: a file cannot be read; while iterating: one is of another size.
    """

    fps = Fraction(0)

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.path = files[0] if len(files) == 1 else files[0].parent
        self.count = len(files)
        first = read_picture(files[0])
        self.size: tuple[int, int] = (first.shape[0], first.shape[1])

    def __iter__(self) -> Iterator[np.ndarray]:
        for file in self._files:
            picture = read_picture(file)
            if picture.shape[:2] != self.size:
                size, first = f"{picture.shape[1]}x{picture.shape[0]}", f"{self.size[1]}x{self.size[0]}"
                raise TalkingheadError(
                    f"{file}: is {size} but the pictures before it {first}, expected one size; resize it or leave it out"
                )
            yield picture


def encode_jpeg(frame: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as JPEG at full colour resolution."""
    buffer = io.BytesIO()
    require("PIL.Image", "app").fromarray(frame).save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(data: bytes, size: int | None = None) -> np.ndarray:
    """Return JPEG bytes as uint8 [H, W, 3], RGB.

    Args:
        data: the bytes.
        size: side of the square that the picture must be, which is looked at before it is decoded.

    Raises:
        ValueError: the picture is of another size.
        Exception: of many kinds, where it is damaged.
    """
    # unlike Image.open this takes no other format, and does not warn of a size that is refused here
    with require("PIL.JpegImagePlugin", "app").JpegImageFile(io.BytesIO(data)) as opened:
        if size is not None and opened.size != (size, size):
            raise ValueError(f"it is {opened.width}x{opened.height}, expected {size}x{size}")
        return np.array(opened.convert("RGB"))


def resize(frame: np.ndarray, size: int, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """uint8 [H, W, 3], or a box of it, as uint8 [size, size, 3], antialiased.

    Args:
        frame: the picture.
        size: side of the result in pixels.
        box: (left, top, right, bottom) in continuous pixels, inside the frame; the whole frame by default.
    """
    image = require("PIL.Image", "app")
    return np.array(image.fromarray(frame).resize((size, size), image.Resampling.BICUBIC, box=box))


@dataclass(frozen=True)
class Text:
    """A line of text: its left top corner in pixels, what it says, its height in pixels and its RGB colour."""

    left: int
    top: int
    text: str
    height: int
    colour: tuple[int, int, int]


def write_text(canvas: np.ndarray, texts: Iterable[Text]) -> np.ndarray:
    """A copy of uint8 [H, W, 3] with the texts written on it, in the font that Pillow carries."""
    fonts = require("PIL.ImageFont", "app")
    image = require("PIL.Image", "app").fromarray(canvas)
    draw = require("PIL.ImageDraw", "app").Draw(image)
    for text in texts:
        draw.text((text.left, text.top), text.text, fill=text.colour, font=fonts.load_default(text.height))
    return np.array(image)


@dataclass(frozen=True)
class Line:
    """A line through points [n, 2], x and y in continuous pixels; its RGB colour and its width in pixels."""

    points: np.ndarray
    colour: tuple[int, int, int]
    width: int


def draw_lines(canvas: np.ndarray, lines: Iterable[Line]) -> np.ndarray:
    """A copy of uint8 [H, W, 3] with the lines drawn on it, antialiased, later ones over earlier ones; they may reach beyond it."""
    image = require("PIL.Image", "app")
    height, width = canvas.shape[:2]
    twice = image.fromarray(canvas).resize((2 * width, 2 * height), image.Resampling.NEAREST)
    draw = require("PIL.ImageDraw", "app").Draw(twice)
    for line in lines:
        # Pillow's pixel i has its centre at i
        draw.line((2 * line.points - 0.5).ravel().tolist(), fill=line.colour, width=2 * line.width, joint="curve")
    return np.array(twice.reduce(2))


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3] to a file whose ending names the format, such as .png or .jpg.

    Raises:
        TalkingheadError: the ending is unknown or the file cannot be written.
    """
    if Path(path).suffix.lower() not in WRITABLE_SUFFIXES:
        raise TalkingheadError(f"{path}: no ending of a picture, expected one of {' '.join(sorted(WRITABLE_SUFFIXES))}")
    with replacing(path) as beside:
        require("PIL.Image", "app").fromarray(picture).save(beside)
