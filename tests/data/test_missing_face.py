"""Errors about pictures in which no face was found."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from talkinghead.data.load import read_clip
from talkinghead.errors import TalkingheadError
from talkinghead.media.images import write_image


@pytest.fixture(scope="module")
def skimage_data() -> ModuleType:
    """Import scikit-image's pictures; skip without them."""
    return pytest.importorskip("skimage.data", reason="scikit-image's pictures are needed")


@pytest.fixture(scope="module")
def face(skimage_data: ModuleType) -> np.ndarray:
    """Return a woman's face, uint8 [260, 260, 3]."""
    return skimage_data.astronaut()[:260, 90:350]


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_turned_picture_names_the_angle(face: np.ndarray, tmp_path: Path, quarter_turns: int) -> None:
    path = tmp_path / "turned.png"
    write_image(path, np.ascontiguousarray(np.rot90(face, -quarter_turns)))  # clockwise
    message = (
        f"turned.png: its face is turned by {90 * quarter_turns} degrees clockwise; turn the picture upright"
    )
    for source in (path, tmp_path):
        with pytest.raises(TalkingheadError, match="degrees clockwise" if source == tmp_path else message):
            read_clip(source, 64, "network")
    write_image(tmp_path / "z.png", np.zeros((30, 30, 3), np.uint8))
    with pytest.raises(TalkingheadError, match="no face was found in any of its 2 pictures, expected one"):
        read_clip(tmp_path, 64, "network")


def test_small_picture_names_its_size(face: np.ndarray) -> None:
    small = np.asarray(Image.fromarray(face).resize((20, 20)))
    with pytest.raises(TalkingheadError, match="picture 1: no face was found in it, it has 20x20 pixels"):
        read_clip(small, 64, "network")


def test_picture_of_no_face_names_none(skimage_data: ModuleType) -> None:
    with pytest.raises(TalkingheadError, match="no face was found in it, expected one seen from the front"):
        read_clip(skimage_data.coffee(), 64, "network")
