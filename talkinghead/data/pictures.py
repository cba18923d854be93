"""Pictures: files, folders of them, JPEG bytes, resizing. The only module that imports Pillow."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import TalkingheadError, require
from ..files import replacing

PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"))
_JPEG_QUALITY = 95


def is_picture(path: Path) -> bool:
    """Whether the file's ending says that it is a picture (an animated GIF counts as a video)."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order of their names (2.png before 10.png), hidden files left out.

    Raises:
        TalkingheadError: there are none.
    """
    found = [path for path in folder.iterdir() if is_picture(path) and path.is_file() and not path.name.startswith(".")]
    if not found:
        raise TalkingheadError(f"{folder}: holds no pictures, expected files that end in {' '.join(sorted(PICTURE_SUFFIXES))}")
    return sorted(found, key=lambda path: natural(path.name))


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sorting key that compares numbers within names as numbers."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", name.lower()) if part] + [(2, name)]


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 [H, W, 3], RGB, turned upright as its EXIF orientation says.

    Raises:
        TalkingheadError: the file is missing, cut, or no picture.
    """
    image, ops = require("PIL.Image", "app"), require("PIL.ImageOps", "app")
    try:
        with image.open(path) as opened:
            return np.array(ops.exif_transpose(opened).convert("RGB"))
    except FileNotFoundError as error:
        raise TalkingheadError(f"{path}: no such file; name a picture that exists") from error
    except (OSError, EOFError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise TalkingheadError(f"{path}: cannot be read as a picture, it is damaged, cut short or something else; name another") from error


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


def decode_jpeg(data: bytes) -> np.ndarray:
    """JPEG bytes as uint8 [H, W, 3], RGB."""
    with require("PIL.Image", "app").open(io.BytesIO(data)) as opened:
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


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 [H, W, 3] to a file whose ending names the format, such as .png or .jpg.

    Raises:
        TalkingheadError: the ending is unknown or the file cannot be written.
    """
    if not is_picture(Path(path)):
        raise TalkingheadError(f"{path}: no ending of a picture, expected one of {' '.join(sorted(PICTURE_SUFFIXES))}")
    with replacing(path) as beside:
        require("PIL.Image", "app").fromarray(picture).save(beside)
