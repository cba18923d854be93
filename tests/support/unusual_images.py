"""Images with unusual modes, headers and profiles."""

import random
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from support.sample_media import FRAMES, NamedContents, cut, frames, saved


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, pixels: bytes = b"", depth: int = 8, colour: int = 2, extra: bytes = b""
) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + extra
        + _chunk(b"IDAT", zlib.compress(pixels))
        + _chunk(b"IEND", b"")
    )


def _with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def _exif(entries: Sequence[tuple[int, int, int, bytes]], following: int = 0) -> bytes:
    """Return a little-endian EXIF block of (tag, type, count, four bytes of value)."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def unusual_images(base: dict[str, bytes], chance: random.Random) -> NamedContents:
    """Yield unusual images; `base` holds intact ones."""
    face = Image.fromarray(frames(1)[0])
    yield from _unusual_modes(face)
    yield from _false_headers(base, face)
    yield from _damaged_png_chunks(base)
    yield from _exif_blocks(base["picture.jpg"], face, chance)
    yield from _colour_profiles(base["picture.jpg"], face, chance)
    yield from _several_frames(face)


def _unusual_modes(face: Image.Image) -> NamedContents:
    for kind in ("png", "jpg", "webp", "bmp", "tiff", "ppm"):
        for name, size in (("1-pixel", (1, 1)), ("1-high", (200, 1)), ("1-wide", (1, 200))):
            yield (
                f"{name}.{kind}",
                saved(Image.new("RGB", size, (200, 120, 90)), {"jpg": "JPEG"}.get(kind, kind.upper())),
            )
    yield "8x8.png", saved(face.resize((8, 8)), "PNG")
    yield "10000-wide.png", saved(Image.new("RGB", (10_000, 2)), "PNG")
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        picture = (
            Image.fromarray(np.array(face.convert("L")).astype(np.uint16) * 257)
            if mode == "I;16"
            else face.convert(mode)
        )
        yield f"mode-{mode.replace(';', '-')}.png", saved(picture, "PNG")
    yield "mode-CMYK.jpg", saved(face.convert("CMYK"), "JPEG")
    yield "mode-F.tiff", saved(face.convert("F"), "TIFF")
    yield "mode-F-not-finite.tiff", saved(Image.fromarray(np.full((64, 64), np.nan, np.float32)), "TIFF")
    yield "mode-LAB.tiff", saved(Image.new("LAB", (64, 64)), "TIFF")


def _false_headers(base: dict[str, bytes], face: Image.Image) -> NamedContents:
    """Yield images whose headers state other sizes and formats than they have."""
    yield "claims-100000x100000.png", png(100_000, 100_000)
    yield "claims-12000x12000.png", png(12_000, 12_000)  # below the limit of Pillow
    yield "claims-0x0.png", png(0, 0)
    yield "claims-max.png", png(2**31 - 1, 2**31 - 1)
    yield "claims-odd-depth.png", png(64, 64, bytes(64 * 193), depth=3)
    bmp = base["picture.bmp"]
    for name, width, height in (
        ("huge", 100_000, 100_000),
        ("negative-high", 128, -96),
        ("negative-wide", -128, 96),
        ("zero", 0, 0),
        ("least", -(2**31), -(2**31)),
    ):
        yield f"claims-{name}.bmp", bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
    yield "claims-odd-depth.bmp", bmp[:28] + struct.pack("<H", 7) + bmp[30:]
    for name, head in (
        ("huge", b"P6 100000 100000 255\n"),
        ("negative", b"P6 -5 5 255\n"),
        ("depth-0", b"P6 8 8 0\n"),
        ("depth-max", b"P6 8 8 99999\n"),
        ("words", b"P3 a b c\n"),
        ("endless-comment", b"P6\n#" + b"x" * 100_000),
        ("nothing", b"P6"),
        ("no-numbers", b"P6 " + b" " * 100_000),
    ):
        yield f"claims-{name}.ppm", head + bytes(192)
    yield (
        "claims-huge.gif",
        b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\x00\x02\x00;",
    )
    yield "claims-huge.webp", b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/\xff\xff\xff\x0f" + bytes(9)
    tiff = saved(face, "TIFF")
    yield "claims-huge.tiff", _tiff_entries(tiff, {256: 100_000, 257: 100_000})
    yield "claims-no-strips.tiff", _tiff_entries(tiff, {273: 2**31 - 1, 279: 2**31 - 1})
    yield "claims-many-samples.tiff", _tiff_entries(tiff, {277: 65535})
    yield "directory-loops.tiff", _tiff_loop(tiff)


def _damaged_png_chunks(base: dict[str, bytes]) -> NamedContents:
    yield (
        "text-bomb.png",
        png(8, 8, bytes(200), extra=_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20)))),
    )
    yield (
        "text-many.png",
        png(8, 8, bytes(200), extra=b"".join(_chunk(b"tEXt", b"k%d\0v" % i) for i in range(5000))),
    )
    yield "pixels-missing.png", png(64, 64, bytes(100))
    yield "pixels-too-many.png", png(8, 8, bytes(1 << 20))
    yield "palette-missing.png", png(8, 8, bytes(80), colour=3)
    yield "palette-short.png", png(8, 8, bytes([255] * 72), colour=3, extra=_chunk(b"PLTE", bytes(3)))
    yield (
        "checksum-wrong.png",
        base["picture.png"].replace(b"IDAT", b"IDAT", 1)[:60] + b"\0" + base["picture.png"][61:],
    )
    yield "chunk-huge.png", base["picture.png"][:33] + b"\x7f\xff\xff\xffabcd" + base["picture.png"][33:]


def _exif_blocks(jpg: bytes, face: Image.Image, chance: random.Random) -> NamedContents:
    orientations = {
        "0": (3, 1, b"\0\0\0\0"),
        "9": (3, 1, b"\x09\0\0\0"),
        "65535": (3, 1, b"\xff\xff\0\0"),
        "text": (2, 4, b"six\0"),
        "fraction": (5, 1, b"\xff\xff\0\0"),
        "many": (3, 2**31, b"\x08\0\0\0"),
        "6": (3, 1, b"\6\0\0\0"),
        "none": (3, 0, b"\6\0\0\0"),
    }
    for name, (kind, count, value) in orientations.items():
        yield f"orientation-{name}.jpg", _with_segment(jpg, 0xE1, _exif([(274, kind, count, value)]))
    yield "exif-noise.jpg", _with_segment(jpg, 0xE1, b"Exif\0\0" + chance.randbytes(500))
    yield "exif-empty.jpg", _with_segment(jpg, 0xE1, b"Exif\0\0")
    yield "exif-cut.jpg", _with_segment(jpg, 0xE1, _exif([(274, 3, 1, b"\6\0\0\0")])[:20])
    yield (
        "exif-loops.jpg",
        _with_segment(
            jpg, 0xE1, _exif([(34665, 4, 1, b"\x08\0\0\0"), (274, 3, 1, b"\3\0\0\0")], following=8)
        ),
    )
    yield "exif-many.jpg", _with_segment(jpg, 0xE1, _exif([(274, 3, 1, b"\3\0\0\0")] * 5000)[:65000])
    yield "exif-noise.png", png(8, 8, bytes(200), extra=_chunk(b"eXIf", chance.randbytes(300)))
    yield "exif-noise.webp", saved(face, "WEBP", exif=b"Exif\0\0" + chance.randbytes(300))
    yield (
        "xmp-orientation.jpg",
        _with_segment(
            jpg, 0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="77777777777777777777"/>'
        ),
    )


def _colour_profiles(jpg: bytes, face: Image.Image, chance: random.Random) -> NamedContents:
    yield "colours-cut.jpg", _with_segment(jpg, 0xE2, b"ICC_PROFILE\0\1\1" + chance.randbytes(100))
    yield "colours-misnumbered.jpg", _with_segment(jpg, 0xE2, b"ICC_PROFILE\0\7\2" + chance.randbytes(100))
    yield (
        "colours-cut.png",
        png(8, 8, bytes(200), extra=_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(300))[:20])),
    )
    yield (
        "colours-huge.png",
        png(8, 8, bytes(200), extra=_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(80 << 20)))),
    )
    yield "colours-odd.tiff", saved(face, "TIFF", icc_profile=chance.randbytes(200))
    yield "adobe-odd.jpg", _with_segment(jpg, 0xEE, b"Adobe\0\x64\0\0\0\0\7")


def _several_frames(face: Image.Image) -> NamedContents:
    """Yield files of several frames, and one that is a program."""
    yield "several-in-one-cut.jpg", cut(saved(face, "MPO", save_all=True, append_images=[face]), 0.7)
    yield "progressive-cut.jpg", cut(saved(face, "JPEG", progressive=True), 0.5)
    yield "pages.tiff", saved(face, "TIFF", save_all=True, append_images=[face.resize((40, 30)), face])
    yield "animation.png", saved(face, "PNG", save_all=True, append_images=[face.rotate(5)] * 3)
    yield "sizes-differ.gif", _sizes_differ()
    yield (
        "durations-0.webp",
        saved(
            face, "WEBP", save_all=True, append_images=[face.rotate(i) for i in range(1, FRAMES)], duration=0
        ),
    )
    yield (
        "durations-max.webp",
        saved(face, "WEBP", save_all=True, append_images=[face.rotate(5), face], duration=2**23),
    )
    yield (
        "postscript-loop.png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n%%EOF\n",
    )


def _tiff_entries(tiff: bytes, values: dict[int, int]) -> bytes:
    """Replace values in the first directory of a little-endian TIFF."""
    changed, position = bytearray(tiff), struct.unpack_from("<I", tiff, 4)[0]
    for index in range(struct.unpack_from("<H", tiff, position)[0]):
        start = position + 2 + 12 * index
        tag = struct.unpack_from("<H", tiff, start)[0]
        if tag in values:
            struct.pack_into("<HHII", changed, start, tag, 4, 1, values[tag])
    return bytes(changed)


def _tiff_loop(tiff: bytes) -> bytes:
    position = struct.unpack_from("<I", tiff, 4)[0]
    end = position + 2 + 12 * struct.unpack_from("<H", tiff, position)[0]
    return tiff[:end] + struct.pack("<I", position) + tiff[end + 4 :]


def _sizes_differ() -> bytes:
    """Return a GIF whose second frame is partly outside the canvas of the first."""
    first, second = (saved(Image.new("P", size, 3), "GIF") for size in ((32, 32), (64, 8)))
    position = second.index(b",")
    moved = second[:position] + b",\x10\0\x10\0" + second[position + 5 :]
    return first[:-1] + moved[position:]
