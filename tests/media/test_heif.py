"""Tests of HEIC and AVIF images, which consist of tiles."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from talkinghead.errors import TalkingheadError
from talkinghead.media.heif import heif_kind
from talkinghead.media.images import IMAGE_SUFFIXES, is_image_file, list_images, read_image
from talkinghead.media.video import VideoReader

FOUR_TILES = Path(__file__).with_name("four_tiles.heic")
"""HEIC image as written by phones: 2 by 2 HEVC tiles of 64x64, red, green, blue and light grey."""
TILES = {(32, 32): (200, 40, 40), (32, 96): (40, 200, 40), (96, 32): (40, 40, 200), (96, 96): (220, 220, 220)}
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")


@pytest.mark.parametrize(
    "name", ["photo.heic", "photo.HEIC", "photo.heif", "photo.jpg", "photo.mov", "photo"]
)
def test_reader_joins_tiles_of_heic(tmp_path: Path, name: str) -> None:
    pytest.importorskip(
        "pillow_heif", reason="the extra heic is not installed: pip install 'talkinghead[heic]'"
    )
    path = shutil.copy(FOUR_TILES, tmp_path / name)
    assert is_image_file(path)
    picture = read_image(path)
    assert picture.shape == (128, 128, 3)
    for (row, column), colour in TILES.items():
        assert np.abs(picture[row, column].astype(int) - colour).max() <= 4


@pytest.mark.parametrize("name", ["photo.heic", "photo.jpg", "photo.mov"])
def test_heic_without_plugin_reports_user_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = shutil.copy(FOUR_TILES, tmp_path / name)
    assert is_image_file(path)
    with pytest.raises(
        TalkingheadError,
        match=rf"^{path}: is a HEIC picture: .*pip install 'talkinghead\[heic\]', or save it as JPEG$",
    ):
        read_image(path)
    with pytest.raises(
        TalkingheadError, match=f"^{path}: is a picture .HEIC., expected a video; name another$"
    ):
        VideoReader(path)


@needs_avif
@pytest.mark.parametrize("name", ["photo.avif", "photo.png", "photo.mp4"])
def test_reader_joins_tiles_of_avif(tmp_path: Path, name: str) -> None:
    shade = np.zeros((200, 600, 3), np.uint8)
    shade[:, 300:] = (200, 40, 40)
    Image.fromarray(shade).save(tmp_path / name, "AVIF", quality=90)
    assert heif_kind(tmp_path / name) == "AVIF" and is_image_file(tmp_path / name)
    picture = read_image(tmp_path / name)
    assert (
        picture.shape == shade.shape
        and np.abs(picture[100, [50, 550]].astype(int) - shade[100, [50, 550]]).max() <= 4
    )
    with pytest.raises(TalkingheadError, match="is a picture .AVIF., expected a video"):
        VideoReader(tmp_path / name)


def test_avif_is_refused_by_pillow_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.avif"
    path.write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(100))
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(
        TalkingheadError,
        match=f"^{path}: is an AVIF picture, .*pip install --upgrade 'pillow>=11.3', or save it as JPEG$",
    ):
        read_image(path)


def test_heif_kind_distinguishes_formats(tmp_path: Path) -> None:
    heads = {
        "": b"",
        "short": b"\0\0\0\x18ftyp",
        "mp4": b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
        "burst": b"\0\0\0\x18ftyphevc\0\0\0\0hevcmsf1",  # image sequence
        "HEIC": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    }
    for kind, head in heads.items():
        path = tmp_path / f"{kind}x"
        path.write_bytes(head)
        assert heif_kind(path) == ("HEIC" if kind == "HEIC" else "")
    assert (
        heif_kind(tmp_path / "gone")
        == heif_kind(tmp_path)
        == heif_kind("/dev/null")
        == heif_kind("a\0b")
        == ""
    )


def test_folder_lists_images_and_reports_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kinds = [".png", ".gif", ".jpe", ".jfif", ".jp2", ".pgm", ".tga", ".heic", ".heif", ".avif"]
    assert set(kinds) < IMAGE_SUFFIXES
    for number, kind in enumerate(kinds):
        (tmp_path / f"{number}{kind}").touch()
        assert is_image_file(tmp_path / f"{number}{kind}")  # also as a single file
    for name in ("clip.mp4", "notes.txt", ".hidden.txt"):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    shutil.copy(FOUR_TILES, tmp_path / "10")
    assert [path.name for path in list_images(tmp_path)] == [
        *(f"{number}{kind}" for number, kind in enumerate(kinds)),
        "10",
    ]
    [record] = caplog.records
    assert (
        record.getMessage()
        == f"{tmp_path.name}: not taken, as they are no pictures: clip.mp4, more/, notes.txt"
    )


@pytest.mark.parametrize("ending", ["jfif", "jpe", "jp2", "tga", "pgm"])
def test_reader_accepts_uncommon_extensions(tmp_path: Path, ending: str) -> None:
    grey = np.full((16, 24, 3), 90, np.uint8)
    Image.fromarray(grey).convert("L" if ending == "pgm" else "RGB").save(
        tmp_path / f"grey.{ending}", "JPEG" if ending[0] == "j" and ending != "jp2" else None
    )
    assert np.abs(read_image(tmp_path / f"grey.{ending}").astype(int) - grey).max() <= 2
