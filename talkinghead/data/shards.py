"""The data set on disk: tar shards that `webdataset` opens without us.

Per clip, one after the other, with a key that has no dot:
    <key>.0000.jpg ...      the crops, size x size
    <key>.landmarks.npy     float32 [N, 68, 2] in pixels of the crops
    <key>.json              version, name, sha256, person, fps, frame_size [height, width], crop [x, y, side], frames (their
                            numbers in the source), size, detector
Bytes depend on nothing but the clips and their order.
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ..clip import POINTS
from ..errors import TalkingheadError
from .crop import Crop
from .pictures import decode_jpeg, encode_jpeg

VERSION = 1
_PATTERN = "shard-*.tar"
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class ClipInfo:
    """What a shard says of a clip, beside its frames and landmarks.

    Attributes:
        name: file name of the source.
        sha256: of the source, 64 hexadecimal digits.
        person: who it shows.
        fps: frames per second of the source.
        frame_size: (height, width) of the source in pixels.
        crop: the square of the source's frames that was kept.
        frames: numbers of the kept frames in the source.
        size: side of the stored crops in pixels.
        detector: what found the landmarks, "dlib" or "face-alignment".
    """

    name: str
    sha256: str
    person: str
    fps: float
    frame_size: tuple[int, int]
    crop: Crop
    frames: tuple[int, ...]
    size: int
    detector: str

    @property
    def key(self) -> str:
        """Unique by content, without dots, short enough for a tar header."""
        return re.sub(r"[^A-Za-z0-9_-]+", "_", Path(self.name).stem)[:48] + "-" + self.sha256[:12]

    def to_json(self) -> str:
        crop = [self.crop.x, self.crop.y, self.crop.side]
        return json.dumps({"version": VERSION, **asdict(self), "crop": crop}, indent=1)

    @classmethod
    def from_json(cls, text: bytes) -> "ClipInfo":
        fields = json.loads(text)
        version = fields.pop("version", None)
        if version != VERSION:
            raise TalkingheadError(f"format version {version}, expected {VERSION}")
        return cls(
            **{**fields, "crop": Crop(*fields["crop"]), "frame_size": tuple(fields["frame_size"]), "frames": tuple(fields["frames"])}
        )


class ShardWriter:
    """Writes clips to `shard-NNNNNN.tar` files in a folder, going on after the shards that are there.

    A shard has a hidden name until it is whole. Use as a context manager; when its block fails, the shard being written is removed.

    Args:
        folder: made when missing, with the first clip.
        shard_size: clips per shard.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str], shard_size: int = 16) -> None:
        self.folder, self.shard_size = Path(folder), shard_size
        self._number = 1 + max((int(shard.stem[len("shard-") :]) for shard in self.folder.glob(_PATTERN)), default=-1)
        self._file: IO[bytes] | None = None
        self._clips = 0

    def write(self, info: ClipInfo, landmarks: np.ndarray, frames: Iterable[np.ndarray]) -> None:
        """Add one clip: landmarks float [N, 68, 2] in pixels of the crops, frames N x uint8 [size, size, 3], taken one by one.

        When it fails, the shard is as it was before.
        """
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._beside, "wb")  # noqa: SIM115 - open from one clip to the next
        start = self._file.tell()
        try:
            count = 0
            for count, frame in enumerate(frames, 1):
                self._add(f"{info.key}.{count - 1:04d}.jpg", encode_jpeg(frame))
            if not count == len(landmarks) == len(info.frames):
                raise TalkingheadError(
                    f"{info.name}: {count} frames, {len(landmarks)} landmarks and {len(info.frames)} numbers, expected as many of each"
                )
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(landmarks, dtype=np.float32))
            self._add(f"{info.key}.landmarks.npy", buffer.getvalue())
            self._add(f"{info.key}.json", info.to_json().encode())
        except BaseException:
            self._file.seek(start)
            self._file.truncate()
            raise
        self._clips += 1
        if self._clips == self.shard_size:
            self._finish()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._clips:
            self._finish()
        elif self._file is not None:
            self._file.close()
            self._beside.unlink(missing_ok=True)

    @property
    def _beside(self) -> Path:
        return self.folder / f".shard-{self._number:06d}.tar.part"

    def _add(self, name: str, data: bytes) -> None:
        assert self._file is not None
        header = tarfile.TarInfo(name)  # its defaults: time 0, owner 0
        header.size = len(data)
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        self._file.write(data + b"\0" * (-len(data) % _BLOCK))

    def _finish(self) -> None:
        assert self._file is not None
        self._file.write(b"\0" * 2 * _BLOCK)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._beside, self.folder / f"shard-{self._number:06d}.tar")
        self._file, self._clips, self._number = None, 0, self._number + 1


@dataclass(frozen=True)
class ShardClip:
    """One clip of a data set; its frames stay on disk until they are asked for.

    Attributes:
        key: its name in the shard.
        info: what the shard says of it.
        landmarks: float32 [N, 68, 2] in pixels of the crops.
    """

    key: str
    info: ClipInfo
    landmarks: np.ndarray
    _shard: Path = field(repr=False)
    _pieces: tuple[tuple[int, int], ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.landmarks)

    @property
    def person(self) -> str:
        return self.info.person

    @property
    def fps(self) -> float:
        return self.info.fps

    @property
    def size(self) -> int:
        return self.info.size

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """The asked frames as uint8 [n, size, size, 3], RGB; only these are read and decoded.

        Raises:
            TalkingheadError: the shard is gone or damaged.
        """
        try:
            with open(self._shard, "rb") as file:
                return np.stack([self._decode(file, *self._pieces[int(index)]) for index in indices])
        except OSError as error:
            raise TalkingheadError(f"{self._shard}: a frame of {self.key} cannot be read ({error}); prepare the data again") from error

    @staticmethod
    def _decode(file: IO[bytes], offset: int, length: int) -> np.ndarray:
        file.seek(offset)
        return decode_jpeg(file.read(length))


def has_shards(folder: str | os.PathLike[str]) -> bool:
    """Whether the folder is there and holds a whole shard."""
    return any(Path(folder).glob(_PATTERN))


def read_index(folder: str | os.PathLike[str]) -> list[ShardClip]:
    """All clips of a data set, in order; landmarks in memory, frames on disk.

    Raises:
        TalkingheadError: the folder is missing or holds no shards, or a shard is damaged or of another version.
    """
    shards = sorted(Path(folder).glob(_PATTERN))
    if not shards:
        raise TalkingheadError(f"{folder}: holds no shards ({_PATTERN}); make them with: talkinghead prepare VIDEOS... --out {folder}")
    return [clip for shard in shards for clip in _read_shard(shard)]


def _read_shard(shard: Path) -> list[ShardClip]:
    clips: list[ShardClip] = []
    try:
        _check_end(shard)
        with tarfile.open(shard, "r:") as tar:
            pieces: list[tuple[int, int]] = []
            landmarks = np.zeros((0, POINTS, 2), np.float32)
            for member in tar:
                key, _, kind = member.name.partition(".")
                if kind.endswith(".jpg"):
                    pieces.append((member.offset_data, member.size))
                elif kind == "landmarks.npy":
                    landmarks = np.load(io.BytesIO(_content(tar, member)), allow_pickle=False)
                elif kind == "json":
                    info = ClipInfo.from_json(_content(tar, member))
                    if landmarks.shape != (len(pieces), POINTS, 2):
                        raise TalkingheadError(f"{key} has {len(pieces)} frames but landmarks {list(landmarks.shape)}")
                    clips.append(ShardClip(key, info, landmarks, shard, tuple(pieces)))
                    pieces, landmarks = [], landmarks[:0]
            if pieces:
                raise ValueError("its last clip is not whole")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, tarfile.TarError) as error:
        raise TalkingheadError(f"{shard}: cannot be read as a shard ({error}); prepare the data again") from error
    return clips


def _check_end(shard: Path) -> None:
    # tarfile takes an archive cut between two members for a whole one
    with open(shard, "rb") as file:
        file.seek(-min(2 * _BLOCK, os.fstat(file.fileno()).st_size), os.SEEK_END)
        if file.read() != b"\0" * 2 * _BLOCK:
            raise ValueError("it is cut short or no tar file")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()
