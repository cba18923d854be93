"""Tests of reading and writing images."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms, ImageFile

from talkinghead.errors import TalkingheadError
from talkinghead.media import pillow
from talkinghead.media.drawing import Text, draw_text
from talkinghead.media.images import (
    ImageReader,
    decode_jpeg,
    encode_jpeg,
    enlarge,
    is_image_file,
    list_images,
    read_animation,
    read_image,
    resize,
    write_image,
)

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_png_round_trip_is_lossless(tmp_path: Path) -> None:
    write_image(tmp_path / "noise.png", NOISE)
    assert np.array_equal(read_image(tmp_path / "noise.png"), NOISE)


def test_folder_is_listed_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "a3.JPG", "a20.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["2.png", "10.png", "a3.JPG", "a20.jpg"]


def test_folder_without_images_reports_user_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        TalkingheadError, match=f"{tmp_path}: holds no pictures; name a folder of files that end in .*jpg"
    ):
        list_images(tmp_path)


def test_reader_applies_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise by 90 degrees
    Image.fromarray(NOISE).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(NOISE, -1))


def test_reader_ignores_damaged_orientation(tmp_path: Path) -> None:
    Image.fromarray(NOISE).save(tmp_path / "turned.png", exif=b"Exif\0\0MM\xff*\0\0\0\x08")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # and nothing is said of it
        assert np.array_equal(read_image(tmp_path / "turned.png"), NOISE)


@pytest.mark.parametrize(
    ("ending", "mode"),
    [
        *[(".tiff", mode) for mode in ("1", "L", "LA", "RGBA", "P", "CMYK", "YCbCr")],
        *[(".png", mode) for mode in ("1", "L", "LA", "RGBA", "P")],
        *[(".jpg", mode) for mode in ("1", "L", "CMYK", "YCbCr")],
    ],
)
def test_reader_converts_every_mode_to_rgb(tmp_path: Path, mode: str, ending: str) -> None:
    shade = 255 if mode == "1" else 200
    Image.new("RGB", (6, 4), (shade,) * 3).convert(mode).save(tmp_path / f"grey{ending}")
    picture = read_image(tmp_path / f"grey{ending}")
    assert (picture.shape, picture.dtype) == ((4, 6, 3), np.uint8)
    assert np.abs(picture.astype(int) - shade).max() <= 4  # a palette has 204


def test_reader_does_not_invert_cmyk(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    for name in ("ink.jpg", "ink.tif"):
        Image.fromarray(flat).convert("CMYK").save(tmp_path / name, quality=95)
        assert np.abs(read_image(tmp_path / name).astype(int) - flat).max() <= 6


@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [
        ("a.png", "uint16", 65535),
        ("a.tif", "uint16", 65535),
        ("b.tif", "int32", 65535),
        ("c.tif", "float32", 1),
    ],
)
def test_reader_scales_deep_grey(tmp_path: Path, name: str, dtype: str, most: int) -> None:
    values = np.linspace(0, most, 24 * 32).reshape(24, 32)
    Image.fromarray(values.astype(dtype)).save(tmp_path / name)
    picture = read_image(tmp_path / name)
    assert picture.shape == (24, 32, 3)
    assert np.abs(picture - 255 / most * values[..., None]).max() <= 0.51


@pytest.mark.parametrize("values", [[-0.5, 1], [0, 655.25], [0, np.nan]])
def test_reader_rejects_values_of_unknown_range(tmp_path: Path, values: list[float]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(
        TalkingheadError,
        match=r"depth\.tif: its values go from \S+ to \S+, expected 0 to 1; convert it to 8 bits",
    ):
        read_image(tmp_path / "depth.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_reader_makes_transparent_pixels_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (3, 1), (80, 80, 80, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    if mode == "P":
        flat = Image.new("P", (3, 1))
        flat.putpalette([80, 80, 80, 0, 0, 0])
        flat.putpixel((1, 0), 1)
        flat.save(tmp_path / "clear.png", transparency=1)
    elif mode == "RGB":
        picture.convert("RGB").save(tmp_path / "clear.png", transparency=(0, 0, 0))
    else:
        picture.convert(mode).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png")[0].tolist() == [[80] * 3, [255] * 3, [80] * 3]


def test_reader_blends_half_transparent_with_white(tmp_path: Path) -> None:
    Image.new("RGBA", (1, 1), (200, 0, 0, 30)).save(tmp_path / "pale.png")
    assert read_image(tmp_path / "pale.png")[0, 0].tolist() == [249, 225, 225]


def profile_with_red_and_blue_exchanged() -> bytes:
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = data.index(b"rXYZ"), data.index(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_reader_applies_colour_profile(tmp_path: Path, mode: str) -> None:
    flat = Image.new("RGB", (4, 4), (200, 120, 30)).convert(mode)
    flat.save(tmp_path / "profile.png", icc_profile=profile_with_red_and_blue_exchanged())
    flat.save(tmp_path / "plain.png")
    plain = read_image(tmp_path / "plain.png").astype(int)
    assert np.abs(read_image(tmp_path / "profile.png") - plain[..., ::-1]).max() <= 2


@pytest.mark.parametrize(("mode", "profile"), [("RGB", b"no profile" * 20), ("L", None)])
def test_reader_ignores_unusable_profile(tmp_path: Path, mode: str, profile: bytes | None) -> None:
    Image.fromarray(NOISE).convert(mode).save(
        tmp_path / "noise.png", icc_profile=profile or profile_with_red_and_blue_exchanged()
    )
    assert np.array_equal(
        read_image(tmp_path / "noise.png"), np.asarray(Image.fromarray(NOISE).convert(mode).convert("RGB"))
    )


def test_reader_converts_lab_to_rgb(tmp_path: Path) -> None:
    flat = Image.new("RGB", (4, 4), (200, 120, 30))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(flat, srgb, lab, outputMode="LAB")
    assert converted is not None
    converted.save(tmp_path / "lab.tif")
    assert np.abs(read_image(tmp_path / "lab.tif").astype(int) - (200, 120, 30)).max() <= 4


def test_decompression_bomb_reports_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "large.png", np.zeros((1500, 1500, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_200_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "large.png").shape == (1500, 1500, 3)  # large, but no bomb
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    says = r"large\.png: is of 2\.25 million pixels, expected at most 128 million pixels; scale it down"
    with pytest.raises(TalkingheadError, match=says):
        read_image(tmp_path / "large.png")


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".bmp", ".tif", ".ppm"])
def test_reader_rejects_picture_above_limit_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"large{ending}"
    write_image(path, NOISE)
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 700)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: pytest.fail("it was decoded"))
    says = (
        rf"large{ending}: is 32x24, 0\.000768 million pixels, expected at most 0\.0007 million; scale it "
        r"down$"
    )
    with pytest.raises(TalkingheadError, match=says):
        read_image(path)


def test_animation_above_limit_reports_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.fromarray(np.roll(NOISE, 5 * number, axis=1)) for number in range(3)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], duration=40)
    monkeypatch.setattr(pillow, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(TalkingheadError, match=r"moving\.webp: is 32x24"):
        next(read_animation(tmp_path / "moving.webp"))


def test_reader_opens_no_format_that_runs_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that an EPS file with another extension does not start Ghostscript through Pillow."""
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("a program was run")
    )
    Image.fromarray(NOISE).save(tmp_path / "picture.eps")
    (tmp_path / "picture.eps").rename(tmp_path / "picture.png")
    with pytest.raises(TalkingheadError, match="cannot be read as a picture"):
        read_image(tmp_path / "picture.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA", "L", "LA", "I;16", "F", "CMYK", "1"])
def test_picture_read_in_strips_equals_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    noise = Image.fromarray(NOISE)
    if mode == "I;16":
        picture = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(NOISE[..., 0].astype(np.float32) / 255)
    elif mode in ("RGBA", "LA", "PA"):
        noise.putalpha(Image.fromarray(NOISE[..., 1]))
        picture = noise.convert("LA") if mode == "LA" else noise
        picture = picture.quantize(64) if mode == "PA" else picture
    else:
        picture = noise.convert(mode)
    path = tmp_path / ("picture.tif" if mode in ("F", "CMYK") else "picture.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    whole = read_image(path)
    monkeypatch.setattr(pillow, "_STRIP_PIXELS", 100)
    strips = read_image(path)
    assert strips.std() > 20
    assert np.array_equal(strips, whole)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc"
)
def test_large_picture_takes_bounded_memory(tmp_path: Path) -> None:
    """Read 24 million pixels, which take 72 MB as an array and 96 MB in Pillow."""
    Image.new("RGB", (6_000, 4_000), (10, 200, 30)).save(tmp_path / "flat.png", compress_level=1)
    script = (
        "import sys; from pathlib import Path; from talkinghead.media.images import read_image\n"
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) / 1e3\n"
        "import PIL.Image; before = peak(); picture = read_image(Path(sys.argv[1]))\n"
        "assert (picture[::997, ::997] == (10, 200, 30)).all(); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "flat.png"], capture_output=True, text=True, check=True
    )
    assert 160 < float(done.stdout) < 220


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cut.png", 0.5),
        ("cut.jpg", 0.5),
        ("cut.webp", 0.5),
        ("cut.tif", 0.5),
        ("cut.bmp", 0.5),
        ("empty.png", 0.0),
        ("foreign.png", None),
    ],
)
def test_damaged_image_reports_user_error(tmp_path: Path, name: str, part: float | None) -> None:
    path = tmp_path / name
    write_image(path, NOISE)
    path.write_bytes(
        b"no picture at all" if part is None else path.read_bytes()[: int(path.stat().st_size * part)]
    )
    with pytest.raises(TalkingheadError, match=f"{path}: cannot be read as a picture, .* name another"):
        read_image(path)


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png", ".apng"])
def test_animation_is_no_image(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(NOISE[:, column:][:, :16]) for column in range(3)]
    still, moving, damaged = (tmp_path / f"{name}{ending}" for name in ("still", "moving", "damaged"))
    frames[0].save(still)
    frames[0].save(moving, save_all=True, append_images=frames[1:], duration=80)
    damaged.write_bytes(moving.read_bytes()[:20])
    assert is_image_file(still)
    assert not is_image_file(moving)
    assert is_image_file(damaged)  # so the error is that of a picture
    assert list_images(tmp_path) == [damaged, still]
    assert read_image(still).shape == (24, 16, 3)


def test_animated_webp_keeps_frame_durations(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(NOISE, 5 * number, axis=1)) for number in range(3)]
    frames[0].save(
        tmp_path / "moving.webp",
        save_all=True,
        append_images=frames[1:],
        duration=[40, 120, 70],
        lossless=True,
    )
    decoded = list(read_animation(tmp_path / "moving.webp"))
    assert [milliseconds for _, milliseconds in decoded] == [40, 120, 70]
    assert all(np.array_equal(picture, frame) for (picture, _), frame in zip(decoded, frames, strict=True))


def test_folder_as_image_reports_user_error(tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match=f"{tmp_path}: is a folder, expected a picture"):
        read_image(tmp_path)


def test_missing_image_reports_user_error(tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")


def test_image_reader_requires_one_size(tmp_path: Path) -> None:
    for number, side in enumerate((24, 24, 25)):
        write_image(tmp_path / f"{number}.png", np.full((side, 32, 3), number, np.uint8))
    frames = ImageReader(list_images(tmp_path))
    assert (frames.size, frames.fps, frames.count, frames.path) == ((24, 32), 0, 3, tmp_path)
    iterator = iter(frames)
    assert [int(next(iterator)[0, 0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(TalkingheadError, match=r"2\.png: is 32x25 but the pictures before it 32x24"):
        next(iterator)


def test_jpeg_round_trip_keeps_colours() -> None:
    flat = np.zeros((16, 16, 3), np.uint8)
    flat[:, 8:] = (255, 0, 0)  # an edge of colour, which sub-sampling would smear
    assert np.abs(decode_jpeg(encode_jpeg(flat)).astype(int) - flat).max() <= 12


def test_enlarge_is_lanczos_in_place() -> None:
    assert enlarge(NOISE, 1) is NOISE
    wide = enlarge(NOISE[:12, :20], 3)
    assert wide.shape == (36, 60, 3) and wide.dtype == np.uint8
    assert (enlarge(np.full((5, 7, 3), 93, np.uint8), 8) == 93).all()
    # neither side is preferred: a mirrored image becomes the mirrored result
    assert np.array_equal(enlarge(NOISE[:12, :20][:, ::-1], 3), wide[:, ::-1])
    edge = np.zeros((1, 40, 3), np.uint8)
    edge[:, 20:] = 128
    around = enlarge(edge, 8)[4, 152:168, 0].astype(int)
    assert around.max() > 128 and around[7] < 64 < around[8]  # overshoots, at the place of the edge


def test_resize_fills_the_square() -> None:
    assert resize(NOISE, 48).shape == (48, 48, 3)
    assert np.array_equal(resize(NOISE, 8, (4, 6, 12, 14)), NOISE[6:14, 4:12])


def test_draw_text_copies_canvas() -> None:
    canvas = np.zeros((30, 80, 3), np.uint8)
    written = draw_text(canvas, [Text(10, 5, "face", 16, (0, 255, 0))])
    assert not canvas.any()
    assert written[5:25, 10:60, 1].max() > 200
    assert not written[..., [0, 2]].any()
    assert not written[:5].any()


def test_unknown_image_extension_reports_user_error(tmp_path: Path) -> None:
    with pytest.raises(TalkingheadError, match=r"sheet\.txt: has no ending of a picture; choose .*\.png"):
        write_image(tmp_path / "sheet.txt", NOISE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_16_bit_tiff_is_read_or_rejected(tmp_path: Path, planes: str, compression: str | None) -> None:
    tifffile = pytest.importorskip(
        "tifffile", reason="tifffile, which comes with scikit-image, writes the file"
    )
    path, deep = tmp_path / "deep.tif", NOISE.astype(np.uint16) * 257
    values = deep if planes == "contig" else deep.transpose(2, 0, 1)
    tifffile.imwrite(path, values, photometric="rgb", planarconfig=planes, compression=compression)
    if planes == "separate" and compression is None:  # Pillow takes each half of a value for one of its own
        with pytest.raises(
            TalkingheadError,
            match=f"^{path}: is a TIFF of 16-bit colours in separate planes, .*; save it as PNG",
        ):
            read_image(path)
    else:
        assert np.array_equal(read_image(path), NOISE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_reader_rejects_tiff_of_nonfinite_values(tmp_path: Path, value: float) -> None:
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 4] = value
    Image.fromarray(values).save(tmp_path / "float.tif")
    with pytest.raises(TalkingheadError, match=r"float\.tif: its values go from .*expected 0 to 1"):
        read_image(tmp_path / "float.tif")
