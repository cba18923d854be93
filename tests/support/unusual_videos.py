"""Videos with unusual sizes, rates, time stamps and headers."""

import random
import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from support.sample_media import FRAMES, LONG, NamedContents, encoded, frames, hum, saved


def after(content: bytes, tag: bytes, offset: int, replacement: bytes) -> bytes:
    """Overwrite at `offset` bytes after the first `tag`."""
    start = content.index(tag) + len(tag) + offset
    return content[:start] + replacement + content[start + len(replacement) :]


def _u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def unusual_videos(folder: Path, base: dict[str, bytes], chance: random.Random) -> NamedContents:
    """Yield unusual videos; `base` holds intact ones, `folder` temporary files."""
    moving = frames()
    yield from _lengths_and_formats(folder, moving)
    yield from _time_stamps(folder, base, moving, chance)
    yield from _sizes(folder, base, moving)
    yield from _boxes(base["faststart.mp4"])
    yield from _sound(folder, base)


def _video(folder: Path, name: str, pictures: Sequence[np.ndarray], **options: Any) -> tuple[str, bytes]:
    return name, encoded(folder / name, pictures, **options)


def _plain(height: int, width: int, count: int = FRAMES) -> list[np.ndarray]:
    """Return frames uint8 [count] x [height, width, 3] of one grey each."""
    return [np.full((height, width, 3), 40 + 7 * number % 200, np.uint8) for number in range(count)]


def _lengths_and_formats(folder: Path, moving: Sequence[np.ndarray]) -> NamedContents:
    video = partial(_video, folder)
    lossless = {"codec": "png", "pix_fmt": "rgb24"}
    yield video("zero-frames.mp4", [], format="mp4")
    yield video("zero-frames.mkv", [])
    yield "zero-frames.gif", b"GIF89a\x10\x00\x10\x00\x00\x00\x00;"
    yield video("one-frame.mp4", moving[:1])
    yield video("two-frames.mkv", moving[:2])
    yield video("8x8.mp4", _plain(8, 8))
    yield video("8x8.gif", _plain(8, 8), codec="gif", pix_fmt="rgb8")
    yield video("1-pixel-high.mov", _plain(1, 64), **lossless)
    yield video("1-pixel-wide.mov", _plain(64, 1), **lossless)
    yield video("1-pixel.mov", _plain(1, 1), **lossless)
    yield video("1-pixel-high.gif", _plain(1, 300), codec="gif", pix_fmt="rgb8")
    yield video("4000-wide-2-high.mov", _plain(2, 4000), **lossless)
    yield video("odd-size.mov", frames(size=(95, 127)), **lossless)
    yield f"{LONG}-frames.mp4", _repeated(folder / "long.mp4", _plain(16, 16, 1)[0], LONG)
    for name, rate in (("0.001", Fraction(1, 1000)), ("10000", 10_000), ("1e6", 1_000_000)):
        yield video(f"rate-{name}.mp4", moving, rate=rate)
    yield video("rate-1e6.mkv", moving[:3], rate=1_000_000)
    yield video("rate-0.001.mkv", moving, rate=Fraction(1, 1000))
    yield video("ten-bit.mp4", moving, pix_fmt="yuv420p10le")
    yield video("grey.mov", moving, codec="png", pix_fmt="gray16be")
    yield video("alpha.mov", moving, codec="qtrle", pix_fmt="argb")
    yield video("wide-pixels.mkv", moving, codec="mpeg4", settings={"aspect": "4:1"})


def _time_stamps(
    folder: Path, base: dict[str, bytes], moving: Sequence[np.ndarray], chance: random.Random
) -> NamedContents:
    video = partial(_video, folder)
    yield video("times-irregular.mkv", moving, times=sorted(chance.sample(range(3000), FRAMES)))
    yield video("times-hour-gap.mkv", moving, times=[*range(0, 480, 40), *range(3_600_000, 3_600_480, 40)])
    yield video(
        "times-year-gap.mkv", moving, times=[*range(0, 480, 40), *range(31_536_000_000, 31_536_000_480, 40)]
    )
    yield video("times-far.mkv", moving, times=range(2**40, 2**40 + FRAMES * 40, 40))
    mp4, avi, gif = base["faststart.mp4"], base["mpeg4.avi"], base["animation.gif"]
    yield "times-same.mp4", after(mp4, b"stts", 12, _u32(0))
    yield "times-negative.mp4", after(mp4, b"stts", 12, _u32(-512))
    yield "times-huge.mp4", after(mp4, b"stts", 12, _u32(2**31 - 1))
    yield "times-few.mp4", after(mp4, b"stts", 8, _u32(3))
    yield "times-many.mp4", after(mp4, b"stts", 8, _u32(2**32 - 1))
    yield (
        "times-shuffled.mp4",
        after(mp4, b"ctts", 8, _u32(*(chance.randrange(2**31) if i % 2 else 1 for i in range(20)))),
    )
    yield "times-none.264", encoded(folder / "raw.264", moving, format="h264")
    yield "times-none.mjpg", b"".join(saved(Image.fromarray(frame), "JPEG") for frame in moving)
    yield "time-scale-0.mp4", after(mp4, b"mdhd", 12, _u32(0))
    yield "time-scale-max.mp4", after(mp4, b"mdhd", 12, _u32(2**32 - 1))
    yield "length-max.mp4", after(after(mp4, b"mdhd", 16, _u32(2**32 - 1)), b"mvhd", 16, _u32(2**32 - 1))
    yield "edits-odd.mp4", after(mp4, b"elst", 4, _u32(1, 2**31 - 1, 2**31 - 1, 0))
    yield "rate-0.avi", after(after(avi, b"avih", 4, _u32(0)), b"strh", 4 + 20, _u32(0, 0))
    yield "rate-max.avi", after(avi, b"strh", 4 + 20, struct.pack("<II", 1, 2**31 - 1))
    for delay in (0, 65535):
        yield f"delay-{delay}.gif", _replaced_everywhere(gif, b"\x21\xf9\x04", 1, struct.pack("<H", delay))


def _sizes(folder: Path, base: dict[str, bytes], moving: Sequence[np.ndarray]) -> NamedContents:
    mp4, avi, gif, ts = base["faststart.mp4"], base["mpeg4.avi"], base["animation.gif"], base["h264.ts"]
    small = {"codec": "mpeg1video", "settings": {"g": "4"}}
    parts = [
        encoded(folder / f"part{i}.mpg", frames(size=size), **small)
        for i, size in enumerate(((96, 128), (48, 64), (160, 96)))
    ]
    yield "size-changes.mpg", b"".join(parts)
    yield "size-changes.ts", ts + encoded(folder / "part.ts", frames(size=(48, 64)))
    yield (
        "size-changes.mjpg",
        b"".join(
            saved(Image.fromarray(frames(1, (16 + 8 * i, 144 - 4 * i))[0]), "JPEG") for i in range(FRAMES)
        ),
    )
    yield "pixels-100000-wide.mp4", _with_pixel_aspect(folder, moving, 100_000, 1)
    yield "pixels-100000-high.mp4", _with_pixel_aspect(folder, moving, 1, 100_000)
    yield "pixels-0.mp4", _with_pixel_aspect(folder, moving, 0, 0)
    yield "pixels-max.mp4", _with_pixel_aspect(folder, moving, 2**31 - 1, 1)
    yield (
        "size-65535.mp4",
        after(after(mp4, b"avc1", 24, b"\xff\xff\xff\xff"), b"tkhd", 76, _u32(65535 << 16, 65535 << 16)),
    )
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


def _boxes(mp4: bytes) -> NamedContents:
    """Yield mp4 files with damaged boxes."""
    yield "samples-max.mp4", after(mp4, b"stsz", 8, _u32(2**31 - 1))
    yield "samples-huge.mp4", after(mp4, b"stsz", 12, _u32(*(2**31 - 1,) * 8))
    yield "places-beyond.mp4", after(mp4, b"stco", 8, _u32(2**32 - 1))
    yield "box-4-gigabytes.mp4", mp4[: mp4.index(b"moov") - 4] + _u32(2**32 - 1) + mp4[mp4.index(b"moov") :]
    yield "box-in-box.mp4", mp4[:32] + b"".join(_u32(2**20 - 8 * i) + b"moov" for i in range(5000)) + mp4[32:]
    yield "index-before-no-frames.mp4", mp4[: mp4.index(b"mdat") + 4]
    yield "no-codec.mp4", mp4.replace(b"avc1", b"zzzz")
    yield "other-codec.mp4", mp4.replace(b"avc1", b"mp4v")
    yield "empty-codec-data.mp4", after(mp4, b"avcC", 0, bytes(12))


def _sound(folder: Path, base: dict[str, bytes]) -> NamedContents:
    yield "only-sound.mp4", _only_sound(folder / "sound.m4a", "aac")
    yield "only-sound.avi", _only_sound(folder / "sound.wav", "pcm_s16le")
    yield "sound-damaged.mkv", base["h264.mkv"].replace(b"A_AAC", b"A_ZZZ")
    yield "sound-rate-0.mp4", after(base["h264.mp4"], b"mp4a", 24, _u32(0))
    yield "sound-times-huge.mp4", _after_last(base["h264.mp4"], b"stts", 8, _u32(1, 2**31 - 1))
    yield "sound-as-video.mp4", _after_last(base["h264.mp4"], b"hdlr", 8, b"vide")


def _repeated(path: Path, picture: np.ndarray, count: int) -> bytes:
    """Return a video of one coded frame that is repeated, which is quick to write."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        (packet,) = [
            *stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")),
            *stream.encode(None),
        ]
        content = bytes(packet)
        for number in range(count):
            repeated = av.Packet(content)
            repeated.stream, repeated.pts, repeated.dts, repeated.time_base, repeated.is_keyframe = (
                stream,
                number,
                number,
                Fraction(1, 25),
                True,
            )
            container.mux(repeated)
    video = path.read_bytes()
    path.unlink()
    return video


def _with_pixel_aspect(folder: Path, pictures: Sequence[np.ndarray], wide: int, high: int) -> bytes:
    """Return an mp4 that states a pixel aspect ratio of `wide` to `high`."""
    content = encoded(
        folder / "pixels.mp4",
        pictures,
        codec="mpeg4",
        settings={"aspect": "2:1"},
        options={"movflags": "+faststart"},
    )
    return after(content, b"pasp", 0, _u32(wide, high))


def _replaced_everywhere(content: bytes, tag: bytes, offset: int, replacement: bytes) -> bytes:
    """Overwrite at `offset` bytes after every `tag`."""
    changed, place = bytearray(content), content.find(tag)
    while place >= 0:
        start = place + len(tag) + offset
        changed[start : start + len(replacement)] = replacement
        place = content.find(tag, start)
    return bytes(changed)


def _after_last(content: bytes, tag: bytes, offset: int, replacement: bytes) -> bytes:
    """Overwrite bytes of the last track, as `after`."""
    place = content.rindex(tag)
    return content[:place] + after(content[place:], tag, offset, replacement)


def _only_sound(path: Path, codec: str) -> bytes:
    with av.open(str(path), "w") as container:
        hum(container, container.add_stream(codec, rate=48000, layout="mono"), 0.3)
    content = path.read_bytes()
    path.unlink()
    return content
