"""Writes shards: clip by clip, whole or not at all."""

import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from ..data.shards import SHARDS, ClipInfo
from ..errors import TalkingheadError
from ..media.pictures import encode_jpeg

_BLOCK = tarfile.BLOCKSIZE


def write_clip(file: IO[bytes], info: ClipInfo, landmarks: np.ndarray, frames: Iterable[np.ndarray]) -> None:
    """Add one clip to a tar file that has no end yet; when it fails, the file is as it was before.

    Args:
        file: open for writing, at its end.
        info: what is said of the clip.
        landmarks: float [N, 68, 2] in pixels of the crops.
        frames: N x uint8 [size, size, 3], taken one by one.

    Raises:
        TalkingheadError: frames, landmarks and frame numbers are not as many.
        OSError: the file cannot be written to.
    """
    start = file.tell()
    try:
        count = 0
        for count, frame in enumerate(frames, 1):
            _add(file, f"{info.key}.{count - 1:04d}.jpg", encode_jpeg(frame))
        if not count == len(landmarks) == len(info.frames):
            raise TalkingheadError(
                f"{info.name}: {count} frames, {len(landmarks)} landmarks and {len(info.frames)} numbers, expected as many of each"
            )
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(landmarks, dtype=np.float32))
        _add(file, f"{info.key}.landmarks.npy", buffer.getvalue())
        _add(file, f"{info.key}.json", info.to_json().encode())
    except BaseException:
        file.seek(start)
        file.truncate()
        raise


def _add(file: IO[bytes], name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # its defaults: time 0, owner 0
    header.size = len(data)
    file.write(header.tobuf(tarfile.USTAR_FORMAT))
    file.write(data + b"\0" * (-len(data) % _BLOCK))


class ShardWriter:
    """Writes clips to `shard-NNNNNN.tar` files in a folder, going on after the shards that are there.

    A shard has a hidden name until it is whole. Use as a context manager; when its block fails, the shard being written is removed.

    Args:
        folder: made when missing, with the first clip.
        shard_size: clips per shard.

    Attributes:
        clips: how many the shard being written holds.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], shard_size: int = 16) -> None:
        self.folder, self.shard_size = Path(folder), shard_size
        numbers = [re.fullmatch(r"shard-([0-9]+)", shard.stem) for shard in self.folder.glob(SHARDS)]
        self._number = 1 + max((int(number[1]) for number in numbers if number), default=-1)
        self._open_file: IO[bytes] | None = None
        self.clips = 0

    @property
    def shard(self) -> str:
        """The name that the shard being written will have."""
        return f"shard-{self._number:06d}.tar"

    def write(self, info: ClipInfo, landmarks: np.ndarray, frames: Iterable[np.ndarray]) -> None:
        """Add one clip as `write_clip` does; a shard that is full is finished."""
        write_clip(self._file(), info, landmarks, frames)
        self.clips += 1
        if self.clips >= self.shard_size:
            self.finish()

    def take(self, clips: Path, count: int) -> None:
        """Add a file of so many clips, written by `write_clip`, whole; the shard is not finished, however full."""
        with open(clips, "rb") as file:
            shutil.copyfileobj(file, self._file(), 1 << 20)
        self.clips += count

    def finish(self) -> None:
        """Give the shard being written, if there is one, its end and its name."""
        if not self.clips or self._open_file is None:
            return
        file, self._open_file = self._open_file, None
        with file:
            file.write(b"\0" * 2 * _BLOCK)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._beside, self.folder / self.shard)
        self.clips, self._number = 0, self._number + 1

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            if self._open_file is not None:
                with suppress(OSError):
                    self._open_file.close()
            if self.folder.is_dir():
                self._beside.unlink(missing_ok=True)

    @property
    def _beside(self) -> Path:
        return self.folder / f".{self.shard}.part"

    def _file(self) -> IO[bytes]:
        if self._open_file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open_file = open(self._beside, "wb")  # noqa: SIM115 - open from one clip to the next
        return self._open_file
