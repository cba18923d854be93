"""Pictures and videos of a real face for the page, and files that are none."""

import io
import struct
import zlib
from pathlib import Path

import av
import numpy as np
from PIL import Image

from support.sample_media import encoded, saved


def carphone_frames(carphone: Path, count: int) -> list[np.ndarray]:
    """Return the first frames of the carphone clip, with square pixels."""
    frames = []
    with av.open(str(carphone)) as container:
        for frame in container.decode(video=0):
            image = frame.to_image().resize((352, 264))
            frames.append(np.asarray(image))
            if len(frames) == count:
                break
    return frames


def picture(frame: np.ndarray) -> bytes:
    """Return a frame as PNG."""
    return saved(Image.fromarray(frame), "PNG")


def video(frames: list[np.ndarray], folder: Path) -> bytes:
    """Return frames as an mp4."""
    return encoded(folder / "driver.mp4", frames)


def camera_file(frames: list[np.ndarray], path: Path) -> Path:
    """Write frames as the Motion JPEG that a fake camera of Chromium plays."""
    path.write_bytes(b"".join(saved(Image.fromarray(frame).resize((640, 480)), "JPEG") for frame in frames))
    return path


def camera_jpeg(frame: np.ndarray) -> bytes:
    """Return a frame as the page sends it."""
    return saved(Image.fromarray(frame).resize((320, 240)), "JPEG")


def png_bomb(side: int = 60_000) -> bytes:
    """Return a small PNG that states a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def comment_of(jpeg: bytes) -> str:
    """Return the comment inside a JPEG."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return image.info.get("comment", b"").decode()
