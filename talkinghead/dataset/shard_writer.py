"""Write shards clip by clip; a clip is written completely or not at all."""

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

from ..errors import TalkingheadError
from ..media.images import encode_jpeg
from .shard_reader import SHARDS, ClipInfo

_BLOCK = tarfile.BLOCKSIZE


def write_clip(
    file: IO[bytes],
    info: ClipInfo,
    landmarks: np.ndarray,
    frames: Iterable[np.ndarray],
    irises: np.ndarray | None = None,
) -> None:
    """Append a clip to an open tar file; after a failure the file is as it was before.

    Args:
        file: open for writing, at its end, without the end of the archive.
        info: description of the clip.
        landmarks: float [N, 68, 2] in pixels of the crops.
        frames: N x uint8 [size, size, 3], read one by one.
        irises: float [N, 2, 5, 2] in pixels of the crops, as in `talkinghead.Track`; None if unknown.

    Raises:
        TalkingheadError: the numbers of frames, landmarks, irises and frame numbers differ.
        OSError: the file cannot be written to.
    """
    start = file.tell()
    try:
        count = 0
        for count, frame in enumerate(frames, 1):
            _add(file, f"{info.key}.{count - 1:04d}.jpg", encode_jpeg(frame))
        if not count == len(landmarks) == len(info.frames):
            raise TalkingheadError(
                f"{info.name}: {count} frames, {len(landmarks)} landmarks and {len(info.frames)} numbers, "
                "which differ; give as many of each"
            )
        if irises is not None and len(irises) != count:
            raise TalkingheadError(
                f"{info.name}: {count} frames and irises of {len(irises)}; give those of all frames or none"
            )
        _add(file, f"{info.key}.landmarks.npy", _npy_bytes(landmarks))
        if irises is not None:
            _add(file, f"{info.key}.irises.npy", _npy_bytes(irises))
        _add(file, f"{info.key}.json", info.to_json().encode())
    except BaseException:
        file.seek(start)
        file.truncate()
        raise


def _npy_bytes(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype=np.float32))
    return buffer.getvalue()


def _add(file: IO[bytes], name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # its defaults: time 0, owner 0
    header.size = len(data)
    file.write(header.tobuf(tarfile.USTAR_FORMAT))
    file.write(data + b"\0" * (-len(data) % _BLOCK))


class ShardWriter:
    """Writes clips to `shard-NNNNNN.tar` files in a folder, numbered after the existing shards.

    A shard has a hidden name until it is complete. Use as a context manager; when its block fails, the
    current shard is removed.

    Args:
        folder: created with the first clip when missing.
        shard_size: clips per shard.

    Attributes:
        clips: the number of clips in the current shard.

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
        """The future name of the current shard."""
        return f"shard-{self._number:06d}.tar"

    def write(
        self,
        info: ClipInfo,
        landmarks: np.ndarray,
        frames: Iterable[np.ndarray],
        irises: np.ndarray | None = None,
    ) -> None:
        """Append a clip as `write_clip` does, and finish the shard when it is full."""
        write_clip(self._file(), info, landmarks, frames, irises=irises)
        self.clips += 1
        if self.clips >= self.shard_size:
            self.finish()

    def append_archive(self, clips: Path, count: int) -> None:
        """Append a file of `count` clips that `write_clip` wrote, without finishing the shard."""
        with open(clips, "rb") as file:
            shutil.copyfileobj(file, self._file(), 1 << 20)
        self.clips += count

    def finish(self) -> None:
        """End the current shard, if there is one, and give it its name."""
        if not self.clips or self._open_file is None:
            return
        file, self._open_file = self._open_file, None
        with file:
            file.write(b"\0" * 2 * _BLOCK)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._temp_path, self.folder / self.shard)
        self.clips, self._number = 0, self._number + 1

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            if self._open_file is not None:
                with suppress(OSError):
                    self._open_file.close()
            if self.folder.is_dir():
                self._temp_path.unlink(missing_ok=True)

    @property
    def _temp_path(self) -> Path:
        return self.folder / f".{self.shard}.part"

    def _file(self) -> IO[bytes]:
        if self._open_file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open_file = open(self._temp_path, "wb")  # noqa: SIM115 - open from one clip to the next
        return self._open_file
