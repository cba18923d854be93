"""Pictures as a user has them: paths, images in memory, bytes, open files, and lists of these."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
from torch import Tensor

from ..clip import Clip, Track
from ..errors import TalkingheadError, shorten
from ..media.images import convert_image, decode_image, is_image_file
from ..media.transparency import composite_on_white
from ..system.progress import Progress, no_progress


class PilImage(Protocol):
    """Image of Pillow, by the attributes that this package needs, so that the type needs no Pillow."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def height(self) -> int:
        """Rows."""

    def getexif(self) -> Any:
        """Return the metadata."""


Pictures: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | PilImage | np.ndarray | Tensor "
    "| Picture | Iterable[Pictures]"
)
"""Types of pictures: a path of a picture, a folder or a video; the bytes of an image file, or an open one; a
`PIL.Image.Image`; an array [H, W, 3] or [N, H, W, 3], RGB, uint8 or float from 0 to 1; a tensor [3, H, W] or
[N, 3, H, W] of the same values; or several of these.
"""
Driver: TypeAlias = "Track | Clip | np.ndarray | Tensor | str | os.PathLike[str] | Iterable[Pictures]"
"""Types of drivers: a Track; landmarks [N, 68, 2] in pixels; a path of a video, GIF, picture or folder;
frames of any type of picture, as an iterable or a Clip.
"""
KINDS = (
    "a path, bytes, an open file, a PIL image, an RGB array [H, W, 3], a tensor [3, H, W] or a list of them, "
    'such as ["a.jpg", image]'
)
_TOLERANCE = 1e-3
"""Distance by which a float may lie outside of 0..1, as after resampling."""


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes:
        name: of it in messages.
        pixels: uint8 [H, W, 3], RGB.
    """

    name: str
    pixels: np.ndarray


def picture_sources(pictures: Pictures, subject: str) -> Iterator[Path | Picture]:
    """Yield the paths and the pictures in memory that a user gave, in order.

    Args:
        pictures: as the type says.
        subject: of error messages, such as "finetune".

    Raises:
        TalkingheadError: something is no picture; the message shows what came and what would do.
    """
    return _sources(pictures, subject, "")


def one_bar(
    pictures: Pictures, sources: Iterable[Path | Picture], progress: Progress
) -> tuple[Iterable[Path | Picture], Progress]:
    """Return sources that show one bar where they are several picture files, and what each still shows.

    Args:
        pictures: what a user gave.
        sources: the same, from `picture_sources`.
        progress: shows the advance.
    """
    files = pictures if isinstance(pictures, (list, tuple)) else ()
    paths = [Path(file) for file in files if isinstance(file, (str, os.PathLike))]
    if len(paths) < 2 or len(paths) < len(files) or not all(map(is_image_file, paths)):
        return sources, progress
    return progress(sources, desc="landmarks of pictures", total=len(files)), no_progress


def _sources(value: Any, subject: str, number: str) -> Iterator[Path | Picture]:
    """Yield the sources of one value; `number` is its place in a list, as text."""
    name = f"picture {number or 1}"
    if isinstance(value, Picture):
        yield value
    elif isinstance(value, (str, os.PathLike)):
        yield Path(value)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        yield Picture(name, decode_image(bytes(value), name))
    elif is_pil_image(value):
        yield Picture(name, convert_image(value, name))
    elif isinstance(value, Tensor):
        yield from _from_tensor(value, name)
    elif isinstance(value, np.ndarray):
        yield from _from_array(value, name)
    elif hasattr(value, "read"):
        yield _from_file(value, name)
    elif isinstance(value, Iterable) and not isinstance(value, dict):
        for position, item in enumerate(value, 1):
            yield from _sources(item, subject, f"{number}.{position}" if number else str(position))
    else:
        where = f"picture {number}" if number else "pictures"
        kind = type(value).__name__
        raise TalkingheadError(f"{subject}: {where}: got {kind} {_short_repr(value)}; give {KINDS}")


def is_pil_image(value: Any) -> bool:
    """Return whether a value is a `PIL.Image.Image`, without importing Pillow."""
    image = sys.modules.get("PIL.Image")  # nobody has one who has not imported it
    return image is not None and isinstance(value, image.Image)


def _from_file(file: BinaryIO, name: str) -> Picture:
    """Return the picture that an open file holds from where it stands."""
    label = str(getattr(file, "name", name))
    data = file.read()
    if not isinstance(data, bytes):
        raise TalkingheadError(f'{label}: was opened as text; open it with mode "rb"')
    return Picture(label, decode_image(data, label))


def _from_tensor(tensor: Tensor, name: str) -> Iterator[Picture]:
    """Yield the picture of a tensor [C, H, W], or those of [N, C, H, W]."""
    shape = list(tensor.shape)
    if tensor.dim() not in (3, 4) or shape[-3] not in (1, 3, 4):
        raise TalkingheadError(
            f"{name}: is a tensor {shape}, expected [3, H, W] or [N, 3, H, W]; "
            "of [H, W, 3] pass tensor.permute(2, 0, 1)"
        )
    values = tensor.detach().cpu()
    if values.is_floating_point():
        values = values.float()
    yield from _from_array(np.moveaxis(values.numpy(), -3, -1), name)


def _from_array(array: np.ndarray, name: str) -> Iterator[Picture]:
    """Yield the picture of an array [H, W, C] or [H, W], or those of [N, H, W, C]."""
    shape = list(array.shape)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, 4) or 0 in shape:
        raise TalkingheadError(
            f"{name}: is an array {shape}, expected [H, W, 3] or [N, H, W, 3]; "
            "of [3, H, W] pass array.transpose(1, 2, 0)"
        )
    if array.ndim == 3:
        yield Picture(name, _to_rgb(array, name))
        return
    for position, image in enumerate(array, 1):
        label = f"{name}.{position}"
        yield Picture(label, _to_rgb(image, label))


def _to_rgb(image: np.ndarray, name: str) -> np.ndarray:
    """Convert [H, W, C] of 1, 3 or 4 channels to uint8 [H, W, 3]."""
    if image.dtype != np.uint8:
        image = _to_uint8(image, name)
    if image.shape[-1] == 4:
        return composite_on_white(image)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _to_uint8(image: np.ndarray, name: str) -> np.ndarray:
    """Convert floats from 0 to 1 to uint8."""
    if image.dtype.kind != "f":
        raise TalkingheadError(
            f"{name}: its values are {image.dtype}, expected uint8 or float from 0 to 1; "
            "convert it, as with array.astype(np.uint8)"
        )
    low, high = float(image.min()), float(image.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise TalkingheadError(
            f"{name}: its floats go from {low:.4g} to {high:.4g}, expected 0 to 1; "
            "of -1 to 1 pass (x + 1) / 2, of 0 to 255 pass x / 255"
        )
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


def _short_repr(value: object) -> str:
    return shorten(repr(value), 40)
