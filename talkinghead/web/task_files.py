"""Files and messages of tasks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import TalkingheadError
from ..media.images import encode_jpeg
from ..pipelines.animate import SYNTHESISED
from ..system.atomic_file import atomic_write


def named_error(error: TalkingheadError, names: Mapping[Path, str]) -> TalkingheadError:
    """Return an error in which users' names of files stand in place of their paths."""
    text = str(error)
    for path, name in names.items():
        text = text.replace(str(path), name).replace(path.name, name)
    return TalkingheadError(text)


def write_jpeg(path: Path, image: np.ndarray, comment: str = SYNTHESISED) -> None:
    """Write a picture as JPEG, whatever the suffix of its name; by default it says that it is synthesised."""
    with atomic_write(path) as temp_path:
        temp_path.write_bytes(encode_jpeg(image, comment=comment))
