"""Tests of pictures in memory: every type that a user may have, and the message for every other."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from talkinghead.data.load import read_clip
from talkinghead.data.pictures import Picture, one_bar, picture_sources
from talkinghead.errors import TalkingheadError


@pytest.fixture
def pixels() -> np.ndarray:
    """Return a picture uint8 [5, 7, 3] of random colours."""
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def read(pictures: Any) -> list[np.ndarray]:
    """Return the pixels of pictures in memory."""
    return [source.pixels for source in picture_sources(pictures, "test") if isinstance(source, Picture)]


def png_bytes(pixels: np.ndarray) -> bytes:
    """Return the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_type_of_picture_gives_the_same_pixels(pixels: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png_bytes(pixels))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    with open(file, "rb") as opened:
        pictures = [
            pixels,
            pixels.astype(np.float32) / 255,
            pixels.astype(np.float64) / 255,
            np.dstack([pixels, np.full((5, 7), 255, np.uint8)]),
            tensor,
            (tensor / 255).requires_grad_(),
            Image.fromarray(pixels),
            png_bytes(pixels),
            bytearray(png_bytes(pixels)),
            io.BytesIO(png_bytes(pixels)),
            opened,
        ]
        results = read(pictures)
    assert len(results) == len(pictures)
    for result in results:
        assert result.dtype == np.uint8
        assert np.array_equal(result, pixels)


def test_paths_stay_paths(tmp_path: Path) -> None:
    sources = list(picture_sources([str(tmp_path), tmp_path / "a.jpg"], "test"))
    assert sources == [tmp_path, tmp_path / "a.jpg"]


def test_stacks_and_nested_lists_are_several_pictures(pixels: np.ndarray) -> None:
    stack = np.stack([pixels, 255 - pixels])
    for pictures in (stack, [stack], [[pixels], [255 - pixels]], torch.from_numpy(stack).permute(0, 3, 1, 2)):
        first, second = read(pictures)
        assert np.array_equal(first, pixels)
        assert np.array_equal(second, 255 - pixels)


def test_grey_becomes_rgb_and_bfloat16_is_read() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(read(grey)[0], np.dstack([grey] * 3))
    (half,) = read(torch.full((3, 4, 5), 0.5, dtype=torch.bfloat16))
    assert (half == 128).all()


def test_pil_image_is_turned_upright_and_left_unchanged(pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    image = Image.open(buffer)
    assert np.array_equal(read(image)[0], np.rot90(pixels, -1))
    assert image.size == (7, 5)


@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        (None, r"pictures: got NoneType None; give a path, bytes, an open file, a PIL image"),
        ([7], r"picture 1: got int 7; give"),
        ({"a": 1}, r"pictures: got dict .*; give"),
        (np.zeros((3, 5, 7), np.uint8), r"is an array \[3, 5, 7\], expected .*transpose\(1, 2, 0\)"),
        (np.zeros((0, 7, 3), np.uint8), r"is an array \[0, 7, 3\], expected"),
        (torch.zeros(5, 7, 3), r"is a tensor \[5, 7, 3\], expected .*permute\(2, 0, 1\)"),
        (
            np.zeros((5, 7, 3), np.int64),
            r"values are int64, expected uint8 or float .*astype\(np.uint8\)",
        ),
        (np.full((5, 7, 3), -1.0), r"its floats go from -1 to -1, expected 0 to 1; .*\(x \+ 1\) / 2"),
        (np.full((5, 7, 3), np.nan), r"its floats go from nan to nan"),
        (b"no picture", r"picture 1: cannot be read as a picture"),
        (io.StringIO("text"), r"was opened as text; open it with mode \"rb\""),
    ],
)
def test_what_is_no_picture_is_refused_with_what_would_do(picture: Any, problem: str) -> None:
    with pytest.raises(TalkingheadError, match=problem):
        read(picture)


def test_read_clip_takes_pictures_in_memory(carphone_clip: Any) -> None:
    frame = carphone_clip.frames[0]
    image = Image.fromarray(frame).resize((256, 256))
    clip = read_clip([image, np.asarray(image)], size=64)
    assert len(clip) == 2
    assert clip.name == "picture 1 and 1 more"
    assert np.array_equal(clip.frames[0], clip.frames[1])
    with pytest.raises(TalkingheadError, match="picture 1: no face was found in it"):
        read_clip(np.zeros((64, 64, 3), np.uint8), size=64)


def test_one_bar_counts_picture_files_together() -> None:
    calls: list[tuple[str, int | None]] = []

    def progress(iterable: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        calls.append((desc, total))
        return iterable

    for pictures in (["a.jpg", Path("b.jpg")], ["a.jpg"], "a.jpg", ["a.jpg", "b.mp4"]):
        sources, rest = one_bar(pictures, [Path("a.jpg")], progress)
        assert list(sources) == [Path("a.jpg")]
        assert (rest is progress) == (len(pictures) != 2 or "b.mp4" in pictures)
    assert calls == [("landmarks of pictures", 2)]
