"""Damaged and odd files, made with a seed: what people's disks hold, and what somebody could make to break this.

`make_media` makes videos and pictures, `make_checkpoints`, `make_shards` and `make_tables` the project's own files, damaged likewise.
Every file is named after what is wrong with it; the same seed gives the same files. Real faces are in the pictures and videos: their
frames are parts of `skimage.data.astronaut()`.
"""

import io
import os
import random
import socket
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from skimage import data

FRAMES, SIZE = 24, (96, 128)
LONG = 10_000
Made = Iterator[tuple[str, bytes]]


def make_media(folder: Path, seed: int) -> dict[str, list[Path]]:
    """Videos, pictures, and what only looks like them, by group: "whole", "cut", "flipped", "overwritten", "swapped", "videos",
    "pictures", "strangers", "names", "special". Those of "whole" must work everywhere; the rest may be refused."""
    chance = random.Random(seed)
    folder.mkdir()
    base = {**_videos(folder), **_pictures()}
    groups: dict[str, list[Path]] = {"whole": _write(folder / "whole", iter(base.items()))}
    for group, damages in _DAMAGES.items():
        made = ((f"{kind}-{name}", damage(content, chance)) for (name, content), kind, damage in _pairs(base, damages, group))
        groups[group] = _write(folder / group, made)
    groups["swapped"] += _write(folder / "swapped", _swapped(base, chance))
    groups["videos"] = _write(folder / "videos", _odd_videos(folder, base, chance))
    groups["pictures"] = _write(folder / "pictures", _odd_pictures(base, chance))
    groups["strangers"] = _write(folder / "strangers", _strangers(chance))
    groups["names"] = _names(folder / "names", base)
    groups["special"] = _special(folder / "special", base)
    return groups


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _write(folder: Path, made: Made) -> list[Path]:
    return [write(folder / name, content) for name, content in made]


# what is done to a good file


def cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


def flipped(content: bytes, chance: random.Random, low: float, high: float, count: int) -> bytes:
    """`count` bytes between two shares of the file changed to others."""
    changed = bytearray(content)
    for _ in range(count):
        place = min(int(len(content) * chance.uniform(low, high)), len(content) - 1)
        changed[place] ^= chance.randrange(1, 256)
    return bytes(changed)


def overwritten(content: bytes, chance: random.Random, low: float, high: float, byte: int | None = None) -> bytes:
    low, high = int(len(content) * low), int(len(content) * high)
    return content[:low] + (chance.randbytes(high - low) if byte is None else bytes([byte]) * (high - low)) + content[high:]


def _shuffled(content: bytes, chance: random.Random) -> bytes:
    step = -(-len(content) // 8)
    pieces = [content[start : start + step] for start in range(0, len(content), step)]
    chance.shuffle(pieces)
    return b"".join(pieces)


Damage = Callable[[bytes, random.Random], bytes]


def _cuts() -> dict[str, Damage]:
    def at(share: float) -> Damage:
        return lambda content, _: cut(content, share)

    cuts = {f"at-{share:g}": at(share) for share in (0.002, 0.05, 0.2, 0.4, 0.6, 0.8, 0.97)}
    return {
        **cuts,
        "at-0-bytes": lambda content, _: b"",
        "at-12-bytes": lambda content, _: content[:12],
        "by-1": lambda content, _: content[:-1],
    }


_DAMAGES: dict[str, dict[str, Damage]] = {
    "cut": _cuts(),
    "flipped": {
        "head": lambda content, chance: flipped(content, chance, 0, 48 / len(content), 3),
        "early": lambda content, chance: flipped(content, chance, 0, 0.15, 8),
        "middle": lambda content, chance: flipped(content, chance, 0.3, 0.7, 8),
        "late": lambda content, chance: flipped(content, chance, 0.85, 1, 8),
        "everywhere": lambda content, chance: flipped(content, chance, 0, 1, max(4, len(content) // 100)),
    },
    "overwritten": {
        "noise": lambda content, chance: overwritten(content, chance, 0.4, 0.6),
        "zeros": lambda content, chance: overwritten(content, chance, 0.5, 1, 0),
        "ones": lambda content, chance: overwritten(content, chance, 32 / len(content), 0.1, 255),
    },
    "swapped": {
        "pieces": _shuffled,
        "doubled": lambda content, _: content + content,
        "junk-before": lambda content, chance: chance.randbytes(100) + content,
    },
}
_KINDS_PER_FILE = {"cut": 3, "flipped": 3, "overwritten": 2, "swapped": 1}


def _pairs(base: dict[str, bytes], damages: dict[str, Damage], group: str) -> Iterator[tuple[tuple[str, bytes], str, Damage]]:
    """Some damages for each file, taken in turn so that all occur."""
    turn = cycle(damages.items())
    for item in base.items():
        for _ in range(_KINDS_PER_FILE[group]):
            kind, damage = next(turn)
            yield item, kind, damage


def _swapped(base: dict[str, bytes], chance: random.Random) -> Made:
    """Heads of other formats, and endings of others."""
    names = list(base)
    for name, other in zip(names, names[3:] + names[:3], strict=True):
        yield f"head-of-{other.replace('.', '-')}-on-{name}", base[other][:48] + base[name][48:]
        yield f"{name.replace('.', '-')}-called{Path(other).suffix}", base[name]


# good files


def frames(count: int = FRAMES, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """A face that moves a little: uint8 [count] x [*size, 3]."""
    picture = Image.fromarray(data.astronaut())
    made = []
    for number in range(count):
        x, y = 60 + 8 * np.sin(number / 3), 6 + 5 * np.cos(number / 4)
        made.append(np.array(picture.resize(size[::-1], box=(x, y, x + 320, y + 240))))
    return made


def encoded(
    path: Path,
    pictures: Sequence[np.ndarray],
    codec: str = "libx264",
    rate: Fraction | int = 25,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    sound: str = "",
    settings: dict[str, str] | None = None,
    **of_container: Any,
) -> bytes:
    """A video file's bytes; `times` are in 1/1000 s and replace the even ones."""
    with av.open(str(path), "w", **of_container) as container:
        stream = container.add_stream(codec, rate=rate, options=settings or {})
        stream.height, stream.width = pictures[0].shape[:2] if len(pictures) else SIZE
        stream.pix_fmt = pix_fmt
        heard = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        if not len(pictures):
            container.start_encoding()
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, 1 / Fraction(rate)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        if len(pictures):
            container.mux(stream.encode(None))
        if heard is not None:
            _hum(container, heard, 1.0)
    content = path.read_bytes()
    path.unlink()
    return content


def _hum(container: Any, stream: Any, seconds: float) -> None:
    step = 960
    for start in range(0, int(seconds * 48000), step):
        wave = 8000 * np.sin(np.arange(start, start + step) * 0.03)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _videos(folder: Path) -> dict[str, bytes]:
    shown = frames()
    made = {
        "h264.mp4": {"sound": "aac"},
        "faststart.mp4": {"options": {"movflags": "+faststart"}},
        "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}, "settings": {"g": "6"}},
        "h264.mkv": {"sound": "aac"},
        "mpeg1.mpg": {"codec": "mpeg1video", "sound": "mp2"},
        "mpeg4.avi": {"codec": "mpeg4", "sound": "mp2"},
        "h264.mov": {},
        "h264.ts": {"sound": "aac"},
        "animation.gif": {"codec": "gif", "pix_fmt": "rgb8", "rate": 10},
    }
    if "libvpx-vp9" in av.codecs_available:
        made["vp9.webm"] = {"codec": "libvpx-vp9", "settings": {"cpu-used": "8", "deadline": "realtime"}}
    return {name: encoded(folder / name, shown, **how) for name, how in made.items()}


def _saved(picture: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def _pictures() -> dict[str, bytes]:
    first, *rest = [Image.fromarray(frame) for frame in frames()]
    return {
        "picture.png": _saved(first, "PNG"),
        "picture.jpg": _saved(first, "JPEG"),
        "picture.webp": _saved(first, "WEBP"),
        "picture.tiff": _saved(first, "TIFF", compression="tiff_lzw"),
        "picture.bmp": _saved(first, "BMP"),
        "picture.ppm": _saved(first, "PPM"),
        "animation.webp": _saved(first, "WEBP", save_all=True, append_images=rest, duration=40),
    }


# odd videos


def after(content: bytes, tag: bytes, offset: int, replacement: bytes) -> bytes:
    """Overwrite at `offset` bytes after the first `tag`."""
    start = content.index(tag) + len(tag) + offset
    return content[:start] + replacement + content[start + len(replacement) :]


def _u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def _odd_videos(folder: Path, base: dict[str, bytes], chance: random.Random) -> Made:
    def video(name: str, pictures: Sequence[np.ndarray], **how: Any) -> tuple[str, bytes]:
        return name, encoded(folder / name, pictures, **how)

    def plain(height: int, width: int, count: int = FRAMES) -> list[np.ndarray]:
        return [np.full((height, width, 3), 40 + 7 * number % 200, np.uint8) for number in range(count)]

    shown = frames()
    lossless = {"codec": "png", "pix_fmt": "rgb24"}
    yield video("zero-frames.mp4", [], format="mp4")
    yield video("zero-frames.mkv", [])
    yield "zero-frames.gif", b"GIF89a\x10\x00\x10\x00\x00\x00\x00;"
    yield video("one-frame.mp4", shown[:1])
    yield video("two-frames.mkv", shown[:2])
    yield video("8x8.mp4", plain(8, 8))
    yield video("8x8.gif", plain(8, 8), codec="gif", pix_fmt="rgb8")
    yield video("1-pixel-high.mov", plain(1, 64), **lossless)
    yield video("1-pixel-wide.mov", plain(64, 1), **lossless)
    yield video("1-pixel.mov", plain(1, 1), **lossless)
    yield video("1-pixel-high.gif", plain(1, 300), codec="gif", pix_fmt="rgb8")
    yield video("4000-wide-2-high.mov", plain(2, 4000), **lossless)
    yield video("odd-size.mov", frames(size=(95, 127)), **lossless)
    yield f"{LONG}-frames.mp4", _repeated(folder / "long.mp4", plain(16, 16, 1)[0], LONG)
    for name, rate in (("0.001", Fraction(1, 1000)), ("10000", 10_000), ("1e6", 1_000_000)):
        yield video(f"rate-{name}.mp4", shown, rate=rate)
    yield video("rate-1e6.mkv", shown[:3], rate=1_000_000)
    yield video("rate-0.001.mkv", shown, rate=Fraction(1, 1000))
    yield video("ten-bit.mp4", shown, pix_fmt="yuv420p10le")
    yield video("grey.mov", shown, codec="png", pix_fmt="gray16be")
    yield video("alpha.mov", shown, codec="qtrle", pix_fmt="argb")
    yield video("wide-pixels.mkv", shown, codec="mpeg4", settings={"aspect": "4:1"})

    # time stamps
    yield video("times-irregular.mkv", shown, times=sorted(chance.sample(range(3000), FRAMES)))
    yield video("times-hour-gap.mkv", shown, times=[*range(0, 480, 40), *range(3_600_000, 3_600_480, 40)])
    yield video("times-year-gap.mkv", shown, times=[*range(0, 480, 40), *range(31_536_000_000, 31_536_000_480, 40)])
    yield video("times-far.mkv", shown, times=range(2**40, 2**40 + FRAMES * 40, 40))
    mp4, avi, gif, ts = base["faststart.mp4"], base["mpeg4.avi"], base["animation.gif"], base["h264.ts"]
    yield "times-same.mp4", after(mp4, b"stts", 12, _u32(0))
    yield "times-negative.mp4", after(mp4, b"stts", 12, _u32(-512))
    yield "times-huge.mp4", after(mp4, b"stts", 12, _u32(2**31 - 1))
    yield "times-few.mp4", after(mp4, b"stts", 8, _u32(3))
    yield "times-many.mp4", after(mp4, b"stts", 8, _u32(2**32 - 1))
    yield "times-shuffled.mp4", after(mp4, b"ctts", 8, _u32(*(chance.randrange(2**31) if i % 2 else 1 for i in range(20))))
    yield "times-none.264", encoded(folder / "raw.264", shown, format="h264")
    yield "times-none.mjpg", b"".join(_saved(Image.fromarray(frame), "JPEG") for frame in shown)
    yield "time-scale-0.mp4", after(mp4, b"mdhd", 12, _u32(0))
    yield "time-scale-max.mp4", after(mp4, b"mdhd", 12, _u32(2**32 - 1))
    yield "length-max.mp4", after(after(mp4, b"mdhd", 16, _u32(2**32 - 1)), b"mvhd", 16, _u32(2**32 - 1))
    yield "edits-odd.mp4", after(mp4, b"elst", 4, _u32(1, 2**31 - 1, 2**31 - 1, 0))
    yield "rate-0.avi", after(after(avi, b"avih", 4, _u32(0)), b"strh", 4 + 20, _u32(0, 0))
    yield "rate-max.avi", after(avi, b"strh", 4 + 20, struct.pack("<II", 1, 2**31 - 1))
    for delay in (0, 65535):
        yield f"delay-{delay}.gif", _replaced_everywhere(gif, b"\x21\xf9\x04", 1, struct.pack("<H", delay))

    # sizes
    small = {"codec": "mpeg1video", "settings": {"g": "4"}}
    parts = [encoded(folder / f"part{i}.mpg", frames(size=size), **small) for i, size in enumerate(((96, 128), (48, 64), (160, 96)))]
    yield "size-changes.mpg", b"".join(parts)
    yield "size-changes.ts", ts + encoded(folder / "part.ts", frames(size=(48, 64)))
    yield "size-changes.mjpg", b"".join(_saved(Image.fromarray(frames(1, (16 + 8 * i, 144 - 4 * i))[0]), "JPEG") for i in range(FRAMES))
    yield "pixels-100000-wide.mp4", _with_pixels(folder, shown, 100_000, 1)
    yield "pixels-100000-high.mp4", _with_pixels(folder, shown, 1, 100_000)
    yield "pixels-0.mp4", _with_pixels(folder, shown, 0, 0)
    yield "pixels-max.mp4", _with_pixels(folder, shown, 2**31 - 1, 1)
    yield "size-65535.mp4", after(after(mp4, b"avc1", 24, b"\xff\xff\xff\xff"), b"tkhd", 76, _u32(65535 << 16, 65535 << 16))
    yield "size-0.mp4", after(after(mp4, b"avc1", 24, b"\0\0\0\0"), b"tkhd", 76, _u32(0, 0))
    yield "size-65535.gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    yield "size-max.avi", after(avi, b"strf", 8, struct.pack("<ii", 2**31 - 1, 2**31 - 1))
    turned = {
        "30-degrees": (56756, 32768, -32768, 56756),
        "mirrored": (-65536, 0, 0, 65536),
        "flat": (0, 0, 0, 0),
        "skewed": (65536, 65536, 0, 65536),
    }
    for name, (a, b, c, d) in turned.items():
        yield f"turned-{name}.mp4", after(mp4, b"tkhd", 40, _u32(a, b, 0, c, d, 0, 0, 0, 1 << 30))

    # boxes
    yield "samples-max.mp4", after(mp4, b"stsz", 8, _u32(2**31 - 1))
    yield "samples-huge.mp4", after(mp4, b"stsz", 12, _u32(*(2**31 - 1,) * 8))
    yield "places-beyond.mp4", after(mp4, b"stco", 8, _u32(2**32 - 1))
    yield "box-4-gigabytes.mp4", mp4[: mp4.index(b"moov") - 4] + _u32(2**32 - 1) + mp4[mp4.index(b"moov") :]
    yield "box-in-box.mp4", mp4[:32] + b"".join(_u32(2**20 - 8 * i) + b"moov" for i in range(5000)) + mp4[32:]
    yield "index-before-no-frames.mp4", mp4[: mp4.index(b"mdat") + 4]
    yield "no-codec.mp4", mp4.replace(b"avc1", b"zzzz")
    yield "other-codec.mp4", mp4.replace(b"avc1", b"mp4v")
    yield "empty-codec-data.mp4", after(mp4, b"avcC", 0, bytes(12))

    # sound
    yield "only-sound.mp4", _only_sound(folder / "sound.m4a", "aac")
    yield "only-sound.avi", _only_sound(folder / "sound.wav", "pcm_s16le")
    yield "sound-damaged.mkv", base["h264.mkv"].replace(b"A_AAC", b"A_ZZZ")
    yield "sound-rate-0.mp4", after(base["h264.mp4"], b"mp4a", 24, _u32(0))
    yield "sound-times-huge.mp4", _second(base["h264.mp4"], b"stts", 8, _u32(1, 2**31 - 1))
    yield "sound-as-video.mp4", _second(base["h264.mp4"], b"hdlr", 8, b"vide")


def _repeated(path: Path, picture: np.ndarray, count: int) -> bytes:
    """One coded picture, shown again and again: many frames made quickly."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        (packet,) = [*stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")), *stream.encode(None)]
        content = bytes(packet)
        for number in range(count):
            again = av.Packet(content)
            again.stream, again.pts, again.dts, again.time_base, again.is_keyframe = stream, number, number, Fraction(1, 25), True
            container.mux(again)
    made = path.read_bytes()
    path.unlink()
    return made


def _with_pixels(folder: Path, pictures: Sequence[np.ndarray], wide: int, high: int) -> bytes:
    """An mp4 whose pixels claim to be `wide` times as wide as `high`."""
    content = encoded(folder / "pixels.mp4", pictures, codec="mpeg4", settings={"aspect": "2:1"}, options={"movflags": "+faststart"})
    return after(content, b"pasp", 0, _u32(wide, high))


def _replaced_everywhere(content: bytes, tag: bytes, offset: int, replacement: bytes) -> bytes:
    changed, place = bytearray(content), content.find(tag)
    while place >= 0:
        start = place + len(tag) + offset
        changed[start : start + len(replacement)] = replacement
        place = content.find(tag, start)
    return bytes(changed)


def _second(content: bytes, tag: bytes, offset: int, replacement: bytes) -> bytes:
    """`after`, of the last track."""
    place = content.rindex(tag)
    return content[:place] + after(content[place:], tag, offset, replacement)


def _only_sound(path: Path, codec: str) -> bytes:
    with av.open(str(path), "w") as container:
        _hum(container, container.add_stream(codec, rate=48000, layout="mono"), 0.3)
    content = path.read_bytes()
    path.unlink()
    return content


# odd pictures


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, pixels: bytes = b"", depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")


def _with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + bytes([255, marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def _exif(entries: Sequence[tuple[int, int, int, bytes]], following: int = 0) -> bytes:
    """A little-endian EXIF block of (tag, type, count, four bytes of value)."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def _odd_pictures(base: dict[str, bytes], chance: random.Random) -> Made:
    face = Image.fromarray(frames(1)[0])
    jpg = base["picture.jpg"]
    for kind in ("png", "jpg", "webp", "bmp", "tiff", "ppm"):
        for name, size in (("1-pixel", (1, 1)), ("1-high", (200, 1)), ("1-wide", (1, 200))):
            yield f"{name}.{kind}", _saved(Image.new("RGB", size, (200, 120, 90)), {"jpg": "JPEG"}.get(kind, kind.upper()))
    yield "8x8.png", _saved(face.resize((8, 8)), "PNG")
    yield "10000-wide.png", _saved(Image.new("RGB", (10_000, 2)), "PNG")
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        picture = Image.fromarray(np.array(face.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else face.convert(mode)
        yield f"mode-{mode.replace(';', '-')}.png", _saved(picture, "PNG")
    yield "mode-CMYK.jpg", _saved(face.convert("CMYK"), "JPEG")
    yield "mode-F.tiff", _saved(face.convert("F"), "TIFF")
    yield "mode-F-not-finite.tiff", _saved(Image.fromarray(np.full((64, 64), np.nan, np.float32)), "TIFF")
    yield "mode-LAB.tiff", _saved(Image.new("LAB", (64, 64)), "TIFF")

    # sizes that are only claimed
    yield "claims-100000x100000.png", png(100_000, 100_000)
    yield "claims-12000x12000.png", png(12_000, 12_000)  # below what Pillow refuses
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
    yield "claims-huge.gif", b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\x00\x02\x00;"
    yield "claims-huge.webp", b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/\xff\xff\xff\x0f" + bytes(9)
    tiff = _saved(face, "TIFF")
    yield "claims-huge.tiff", _tiff_entries(tiff, {256: 100_000, 257: 100_000})
    yield "claims-no-strips.tiff", _tiff_entries(tiff, {273: 2**31 - 1, 279: 2**31 - 1})
    yield "claims-many-samples.tiff", _tiff_entries(tiff, {277: 65535})
    yield "directory-loops.tiff", _tiff_loop(tiff)
    yield "text-bomb.png", png(8, 8, bytes(200), extra=_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20))))
    yield "text-many.png", png(8, 8, bytes(200), extra=b"".join(_chunk(b"tEXt", b"k%d\0v" % i) for i in range(5000)))
    yield "pixels-missing.png", png(64, 64, bytes(100))
    yield "pixels-too-many.png", png(8, 8, bytes(1 << 20))
    yield "palette-missing.png", png(8, 8, bytes(80), colour=3)
    yield "palette-short.png", png(8, 8, bytes([255] * 72), colour=3, extra=_chunk(b"PLTE", bytes(3)))
    yield "checksum-wrong.png", base["picture.png"].replace(b"IDAT", b"IDAT", 1)[:60] + b"\0" + base["picture.png"][61:]
    yield "chunk-huge.png", base["picture.png"][:33] + b"\x7f\xff\xff\xffabcd" + base["picture.png"][33:]

    # what pictures carry beside pixels
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
    yield "exif-loops.jpg", _with_segment(jpg, 0xE1, _exif([(34665, 4, 1, b"\x08\0\0\0"), (274, 3, 1, b"\3\0\0\0")], following=8))
    yield "exif-many.jpg", _with_segment(jpg, 0xE1, _exif([(274, 3, 1, b"\3\0\0\0")] * 5000)[:65000])
    yield "exif-noise.png", png(8, 8, bytes(200), extra=_chunk(b"eXIf", chance.randbytes(300)))
    yield "exif-noise.webp", _saved(face, "WEBP", exif=b"Exif\0\0" + chance.randbytes(300))
    yield "xmp-orientation.jpg", _with_segment(jpg, 0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="77777777777777777777"/>')
    yield "colours-cut.jpg", _with_segment(jpg, 0xE2, b"ICC_PROFILE\0\1\1" + chance.randbytes(100))
    yield "colours-misnumbered.jpg", _with_segment(jpg, 0xE2, b"ICC_PROFILE\0\7\2" + chance.randbytes(100))
    yield "colours-cut.png", png(8, 8, bytes(200), extra=_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(300))[:20]))
    yield "colours-huge.png", png(8, 8, bytes(200), extra=_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(80 << 20))))
    yield "colours-odd.tiff", _saved(face, "TIFF", icc_profile=chance.randbytes(200))
    yield "adobe-odd.jpg", _with_segment(jpg, 0xEE, b"Adobe\0\x64\0\0\0\0\7")
    yield "several-in-one-cut.jpg", cut(_saved(face, "MPO", save_all=True, append_images=[face]), 0.7)
    yield "progressive-cut.jpg", cut(_saved(face, "JPEG", progressive=True), 0.5)
    yield "pages.tiff", _saved(face, "TIFF", save_all=True, append_images=[face.resize((40, 30)), face])
    yield "animation.png", _saved(face, "PNG", save_all=True, append_images=[face.rotate(5)] * 3)
    yield "sizes-differ.gif", _sizes_differ()
    yield "durations-0.webp", _saved(face, "WEBP", save_all=True, append_images=[face.rotate(i) for i in range(1, FRAMES)], duration=0)
    yield "durations-max.webp", _saved(face, "WEBP", save_all=True, append_images=[face.rotate(5), face], duration=2**23)
    yield "postscript-loop.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n%%EOF\n"


def _tiff_entries(tiff: bytes, values: dict[int, int]) -> bytes:
    """Other values in the first directory of a little-endian TIFF."""
    changed, place = bytearray(tiff), struct.unpack_from("<I", tiff, 4)[0]
    for index in range(struct.unpack_from("<H", tiff, place)[0]):
        start = place + 2 + 12 * index
        tag = struct.unpack_from("<H", tiff, start)[0]
        if tag in values:
            struct.pack_into("<HHII", changed, start, tag, 4, 1, values[tag])
    return bytes(changed)


def _tiff_loop(tiff: bytes) -> bytes:
    place = struct.unpack_from("<I", tiff, 4)[0]
    end = place + 2 + 12 * struct.unpack_from("<H", tiff, place)[0]
    return tiff[:end] + struct.pack("<I", place) + tiff[end + 4 :]


def _sizes_differ() -> bytes:
    """A GIF whose second picture lies partly outside of the first's canvas."""
    first, second = (_saved(Image.new("P", size, 3), "GIF") for size in ((32, 32), (64, 8)))
    place = second.index(b",")
    moved = second[:place] + b",\x10\0\x10\0" + second[place + 5 :]
    return first[:-1] + moved[place:]


# no pictures at all


def _strangers(chance: random.Random) -> Made:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("film.mp4", "nothing")
    contents = {
        "empty": b"",
        "text": b"This is no video.\n" * 50,
        "zip": packed.getvalue(),
        "noise": chance.randbytes(20_000),
        "zeros": bytes(20_000),
        "ones": b"\xff" * 20_000,
        "pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
        "page": b"<!doctype html><title>404 Not Found</title>",
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n",
        "list": b"ffconcat version 1.0\nfile /dev/zero\nduration 5\n",
        "session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "drawing": b'<svg xmlns="http://www.w3.org/2000/svg" width="1e9" height="1e9"><rect width="9" height="9"/></svg>',
        "subtitles": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n",
    }
    for name, content in contents.items():
        yield f"{name}.mp4", content
        yield f"{name}.png", content
    for ending in ("mkv", "gif", "avi", "mpg", "webm", "mov", "ts", "jpg", "webp", "tiff", "bmp", "ppm"):
        yield f"empty.{ending}", b""
    yield "text-without-ending", b"no ending\n"


# names and places


def _names(folder: Path, base: dict[str, bytes]) -> list[Path]:
    folder.mkdir()
    composed = "Zoë Ångström 이름"
    stems = {
        "with space": ".mp4",
        " space before": ".png",
        "space after ": ".mp4",
        unicodedata.normalize("NFC", composed): ".mp4",
        unicodedata.normalize("NFD", composed): ".png",
        "\u202eright to left \u05e9\u05dc\u05d5\u05dd": ".mp4",
        "\U0001f600\U0001f469\u200d\U0001f680": ".png",
        "-n": ".mp4",
        "--out": ".png",
        "%d": ".mp4",
        "%03d": ".png",
        "%s%n": ".mp4",
        "new\nline": ".mp4",
        "new\nline\r": ".png",
        "tab\tin": ".mp4",
        "bell\a\x1b[31m": ".png",
        "quote'\"`": ".mp4",
        "$HOME": ".png",
        "*?[a]": ".mp4",
        "back\\slash": ".png",
        "file:x": ".mp4",
        "http:": ".mp4",
        "pipe:0": ".mp4",
        "concat:a|b": ".mp4",
        "C:x": ".png",
        "a=b&c;d": ".mp4",
        "~": ".mp4",
        "..dots..": ".mp4",
        ".hidden": ".mp4",
        "SHOUTED": ".MP4",
        "l" * 251: ".mp4",
        "\u00e9" * 125: ".png",
        "no-ending": "",
        "dot-at-end.mp4": ".",
        "two.endings.png": ".mp4",
        "two.endings.mp4": ".png",
    }
    contents = {
        "": base["faststart.mp4"],
        ".": base["faststart.mp4"],
        ".mp4": base["faststart.mp4"],
        ".MP4": base["faststart.mp4"],
        ".png": base["picture.png"],
    }
    made = [write(folder / f"{stem}{ending}", contents[ending]) for stem, ending in stems.items()]
    made += [
        write(folder / f"{stem}{ending}", b"nothing") for stem in ("no\nvideo", "no\r\x1b[2J", "%s {0}") for ending in (".avi", ".jpg")
    ]
    for name, ending in ((b"not utf-8 \xff\xfe", ".mp4"), (b"\x80\xe9", ".png")):
        try:
            made.append(write(folder / os.fsdecode(name + ending.encode()), contents[ending]))
        except OSError:  # a file system that holds UTF-8 alone
            continue
    return made


def _special(folder: Path, base: dict[str, bytes]) -> list[Path]:
    """What is no regular file; nothing here can be read to its end by reading on."""
    folder.mkdir()
    made = []
    for ending in (".mp4", ".png"):
        (folder / f"folder{ending}").mkdir()
        (folder / f"dangling{ending}").symlink_to(folder / "nowhere")
        (folder / f"loop{ending}").symlink_to(folder / f"loop{ending}")
        (folder / f"zeros{ending}").symlink_to("/dev/zero")
        (folder / f"null{ending}").symlink_to("/dev/null")
        (folder / f"terminal{ending}").symlink_to("/dev/tty")
        os.mkfifo(folder / f"pipe{ending}")
        with socket.socket(socket.AF_UNIX) as plug:
            here = os.open(folder, os.O_RDONLY)
            plug.bind(f"/proc/self/fd/{here}/socket{ending}" if os.path.exists("/proc/self/fd") else str(folder / f"socket{ending}"))
            os.close(here)
        made += [
            folder / f"{name}{ending}" for name in ("folder", "dangling", "loop", "zeros", "null", "terminal", "pipe", "socket", "missing")
        ]
    good = write(folder / "good" / "good.mp4", base["faststart.mp4"])
    (folder / "link.mp4").symlink_to(good)
    (folder / "good" / "round").symlink_to(folder / "good")  # a folder that holds itself
    (folder / "away").symlink_to(folder / "away")
    mixed = folder / "mixed"
    mixed.mkdir()
    for name in ("pipe.png", "folder.png", "dangling.png", "loop.png"):
        (mixed / name).symlink_to(folder / name)
    (mixed / "deep").symlink_to(mixed)
    write(mixed / "a.png", base["picture.png"])
    return [
        *made,
        folder / "link.mp4",
        folder / "good",
        folder / "away",
        folder / "away" / "a.mp4",
        mixed,
        folder / "good/good.mp4/inside.mp4",
    ]
