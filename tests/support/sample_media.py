"""Intact videos and images of a real face, which other modules damage."""

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from skimage import data

FRAMES = 24
SIZE = (96, 128)  # height and width
LONG = 10_000  # frames of the long video
NamedContents = Iterator[tuple[str, bytes]]
"""File names and contents."""


def frames(count: int = FRAMES, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Return frames of a face that moves a little: uint8 [count] x [*size, 3]."""
    portrait = Image.fromarray(data.astronaut())
    moving = []
    for number in range(count):
        x, y = 60 + 8 * np.sin(number / 3), 6 + 5 * np.cos(number / 4)
        moving.append(np.array(portrait.resize(size[::-1], box=(x, y, x + 320, y + 240))))
    return moving


def encoded(
    path: Path,
    pictures: Sequence[np.ndarray],
    codec: str = "libx264",
    rate: Fraction | int = 25,
    pix_fmt: str = "yuv420p",
    times: Sequence[int] | None = None,
    sound: str = "",
    settings: dict[str, str] | None = None,
    **container_options: Any,
) -> bytes:
    """Encode a video and return the bytes of its file.

    Args:
        path: a temporary file, whose extension selects the container.
        pictures: frames uint8 [H, W, 3].
        codec: of the frames.
        rate: frames per second.
        pix_fmt: pixel format.
        times: time stamps in milliseconds, by default those of a constant rate.
        sound: codec of a sound track, empty for none.
        settings: options of the codec.
        container_options: arguments of `av.open`.
    """
    with av.open(str(path), "w", **container_options) as container:
        stream = container.add_stream(codec, rate=rate, options=settings or {})
        stream.height, stream.width = pictures[0].shape[:2] if len(pictures) else SIZE
        stream.pix_fmt = pix_fmt
        audio = container.add_stream(sound, rate=48000, layout="mono") if sound else None
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
        if audio is not None:
            hum(container, audio, 1.0)
    content = path.read_bytes()
    path.unlink()
    return content


def hum(container: Any, stream: Any, seconds: float) -> None:
    """Encode a tone and write it to the container."""
    step = 960
    for start in range(0, int(seconds * 48000), step):
        wave = 8000 * np.sin(np.arange(start, start + step) * 0.03)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def videos(folder: Path) -> dict[str, bytes]:
    """Return the contents of intact videos by file name; `folder` holds temporary files."""
    moving = frames()
    options: dict[str, dict[str, Any]] = {
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
        options["vp9.webm"] = {"codec": "libvpx-vp9", "settings": {"cpu-used": "8", "deadline": "realtime"}}
    return {name: encoded(folder / name, moving, **arguments) for name, arguments in options.items()}


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file of a format of Pillow."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pictures() -> dict[str, bytes]:
    """Return the contents of intact images by file name."""
    first, *others = [Image.fromarray(frame) for frame in frames()]
    return {
        "picture.png": saved(first, "PNG"),
        "picture.jpg": saved(first, "JPEG"),
        "picture.webp": saved(first, "WEBP"),
        "picture.tiff": saved(first, "TIFF", compression="tiff_lzw"),
        "picture.bmp": saved(first, "BMP"),
        "picture.ppm": saved(first, "PPM"),
        "animation.webp": saved(first, "WEBP", save_all=True, append_images=others, duration=40),
    }


def cut(content: bytes, share: float) -> bytes:
    """Return the first share of a file."""
    return content[: int(len(content) * share)]
