from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from talkinghead.data.pictures import (
    Pictures,
    Text,
    decode_jpeg,
    encode_jpeg,
    pictures_in,
    read_picture,
    resize,
    write_picture,
    write_text,
)
from talkinghead.errors import TalkingheadError

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_a_png_comes_back_as_it_was(tmp_path: Path) -> None:
    write_picture(tmp_path / "noise.png", NOISE)
    assert np.array_equal(read_picture(tmp_path / "noise.png"), NOISE)


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "a3.JPG", "a20.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in pictures_in(tmp_path)] == ["2.png", "10.png", "a3.JPG", "a20.jpg"]


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(TalkingheadError, match=f"{tmp_path}: holds no pictures, expected .*jpg"):
        pictures_in(tmp_path)


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise by 90 degrees
    Image.fromarray(NOISE).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "turned.png"), np.rot90(NOISE, -1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode).save(tmp_path / "grey.tiff")
    picture = read_picture(tmp_path / "grey.tiff")
    assert picture.shape == (4, 6, 3)
    assert np.abs(picture.astype(int) - 200).max() <= 4  # a palette has 204


@pytest.mark.parametrize(("name", "part"), [("cut.png", 0.5), ("cut.jpg", 0.5), ("empty.png", 0.0), ("foreign.png", None)])
def test_a_damaged_picture_is_named(tmp_path: Path, name: str, part: float | None) -> None:
    path = tmp_path / name
    write_picture(path, NOISE)
    path.write_bytes(b"no picture at all" if part is None else path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(TalkingheadError, match=f"{path}: cannot be read as a picture, .* name another"):
        read_picture(path)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match=r"gone\.png: no such file"):
        read_picture(tmp_path / "gone.png")


def test_pictures_of_one_size_are_frames(tmp_path: Path) -> None:
    for number, side in enumerate((24, 24, 25)):
        write_picture(tmp_path / f"{number}.png", np.full((side, 32, 3), number, np.uint8))
    frames = Pictures(pictures_in(tmp_path))
    assert (frames.size, frames.fps, frames.count, frames.path) == ((24, 32), 0, 3, tmp_path)
    iterator = iter(frames)
    assert [int(next(iterator)[0, 0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(TalkingheadError, match=r"2\.png: is 32x25 but the pictures before it 32x24"):
        next(iterator)


def test_jpeg_is_near_and_keeps_colours() -> None:
    flat = np.zeros((16, 16, 3), np.uint8)
    flat[:, 8:] = (255, 0, 0)  # an edge of colour, which sub-sampling would smear
    assert np.abs(decode_jpeg(encode_jpeg(flat)).astype(int) - flat).max() <= 12


def test_resize_fills_the_square() -> None:
    assert resize(NOISE, 48).shape == (48, 48, 3)
    assert np.array_equal(resize(NOISE, 8, (4, 6, 12, 14)), NOISE[6:14, 4:12])


def test_text_is_written_on_a_copy() -> None:
    canvas = np.zeros((30, 80, 3), np.uint8)
    written = write_text(canvas, [Text(10, 5, "face", 16, (0, 255, 0))])
    assert not canvas.any()
    assert written[5:25, 10:60, 1].max() > 200
    assert not written[..., [0, 2]].any()
    assert not written[:5].any()


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match=r"sheet\.txt: no ending of a picture, expected one of .*\.png"):
        write_picture(tmp_path / "sheet.txt", NOISE)
    assert not list(tmp_path.iterdir())
