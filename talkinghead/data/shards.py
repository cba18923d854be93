"""The data set on disk: tar shards that `webdataset` opens without us.

Per clip, one after the other, with a key that has no dot:
    <key>.0000.jpg ...      the crops, size x size
    <key>.landmarks.npy     float32 [N, 68, 2] in pixels of the crops
    <key>.json              version, name, sha256, person, fps, frame_size [height, width], crop [x, y, side] of convention 1 or
                            [x, y, side, 2] of convention 2 (data/crop.py), frames (their numbers in the source), size, detector,
                            part (the shot of the source, if it has several)
Bytes depend on nothing but the clips and their order.
"""

import io
import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ..clip import POINTS
from ..errors import TalkingheadError
from ..media.pictures import decode_jpeg
from .crop import Crop

VERSION = 1
SHARDS = "shard-*.tar"
"""What a shard is called, as a pattern."""
MAX_SIDE = 8192
"""Of a stored crop in pixels."""
_BLOCK = tarfile.BLOCKSIZE
_HEADER_BYTES = 1 << 20
"""Of a tar header with the extensions that other programs add when they repack a shard."""
_JPEG_BYTES = 32 << 20
_NPY_BYTES = 4096  # of a .npy file beside its numbers
_FRAME_BYTES = POINTS * 2 * 4  # of a frame's landmarks
_JSON_BYTES = 64 << 10  # of a clip's JSON beside the frame numbers
_NUMBER_BYTES = 32  # of a frame number in it, with spaces around


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
        part: which shot of the source it is, from 1 on; 0 when the source is one shot.
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
    part: int = 0

    @property
    def key(self) -> str:
        """Unique by content, without dots, short enough for a tar header."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(self.name).stem)[:48]
        return f"{stem}-{self.sha256[:12]}" + (f"-{self.part}" if self.part else "")

    def valid(self, size: int) -> np.ndarray | None:
        """Return bool [size, size]: the pixels of the crops at that size that the source has, whatever is shown elsewhere; None for all."""
        inside = self.crop.valid(self.frame_size, size)
        return None if inside.all() else inside

    def to_json(self) -> str:
        crop = [self.crop.x, self.crop.y, self.crop.side]
        if self.crop.convention != 1:  # versions that know convention 1 alone read three numbers
            crop.append(self.crop.convention)
        return json.dumps({"version": VERSION, **asdict(self), "crop": crop}, indent=1)

    @classmethod
    def from_json(cls, text: bytes) -> "ClipInfo":
        """What `to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: it did not write this.
        """
        fields = json.loads(text)
        version = fields.pop("version", None)
        if version != VERSION:
            raise ValueError(f"format version {version}, expected {VERSION}")
        info = cls(
            **{**fields, "crop": Crop(*fields["crop"]), "frame_size": tuple(fields["frame_size"]), "frames": tuple(fields["frames"])}
        )
        texts = (info.name, info.sha256, info.person, info.detector)
        numbers = (*info.frame_size, *info.frames, info.size, info.part, info.crop.convention)
        if not all(type(each) is str for each in texts) or not all(type(each) is int and each >= 0 for each in numbers):
            raise ValueError("its JSON has a text where a number belongs, or a number where a text does")
        if not 0 < info.fps < math.inf or not 0 < info.size <= MAX_SIDE:
            raise ValueError(f"its JSON says {info.fps} frames a second, of side {info.size}")
        return info


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
                frames = [self._decode(file, *self._pieces[int(index)]) for index in indices]
            return np.stack(frames)
        except Exception as error:  # Pillow raises many kinds
            raise TalkingheadError(f"{self._shard}: a frame of {self.key} cannot be read ({error}); prepare the data again") from error

    def _decode(self, file: IO[bytes], offset: int, length: int) -> np.ndarray:
        file.seek(offset)
        return decode_jpeg(file.read(length), self.size)


def read_index(folder: str | os.PathLike[str]) -> list[ShardClip]:
    """All clips of a data set, in order; landmarks in memory, frames on disk.

    Raises:
        TalkingheadError: the folder is missing or holds no shards, or a shard is damaged or of another version.
    """
    shards = sorted(Path(folder).glob(SHARDS)) if os.path.isdir(folder) else []
    if not shards:
        raise TalkingheadError(f"{folder}: holds no shards ({SHARDS}); make them with: talkinghead prepare VIDEOS... --out {folder}")
    return [clip for shard in shards for clip in _read_shard(shard)]


def _read_shard(shard: Path) -> list[ShardClip]:
    clips: list[ShardClip] = []
    try:
        if not os.path.isfile(shard):  # a pipe or a device might never end
            raise ValueError("it is no file")
        with _BoundedFile(shard) as file:
            _check_end(file)
            pieces: list[tuple[int, int]] = []
            landmarks = None
            for member in _members(file, os.path.getsize(shard)):
                key, _, kind = member.name.partition(".")
                place = (member.offset_data, member.size)
                if kind.endswith(".jpg"):
                    if member.size > _JPEG_BYTES:
                        raise ValueError(f"{member.name} claims {member.size} bytes")
                    pieces.append(place)
                elif kind == "landmarks.npy":
                    landmarks = _landmarks(file.content(*place, _NPY_BYTES + _FRAME_BYTES * len(pieces)), len(pieces))
                elif kind == "json":
                    info = ClipInfo.from_json(file.content(*place, _JSON_BYTES + _NUMBER_BYTES * len(pieces)))
                    if landmarks is None or len(info.frames) != len(pieces):
                        raise ValueError(f"{key} has {len(pieces)} frames, and not as many landmarks and numbers")
                    clips.append(ShardClip(key, info, landmarks, shard, tuple(pieces)))
                    pieces, landmarks = [], None
            if pieces:
                raise ValueError("its last clip is not whole")
    except Exception as error:  # tarfile, json and numpy raise many kinds on what they do not expect
        reason = str(error) or type(error).__name__
        raise TalkingheadError(f"{shard}: cannot be read as a shard ({reason}); prepare the data again") from error
    return clips


class _BoundedFile(io.FileIO):
    """A file of which no more is read at a time than its place calls for, whatever its headers claim."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise ValueError(f"a header claims {size} bytes")
        return super().read(size)

    def content(self, offset: int, size: int, limit: int) -> bytes:
        """Return `size` bytes from an offset on.

        Raises:
            ValueError: that is more than the limit, or more than the file has.
        """
        if size > limit:
            raise ValueError(f"a member claims {size} bytes, expected at most {limit}")
        back = self.tell()
        self.seek(offset)
        data = io.FileIO.read(self, size)
        self.seek(back)
        if len(data) != size:
            raise ValueError("it is cut short")
        return data


def _members(file: _BoundedFile, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive: only plain files, whole, and named as a shard's are."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            if not member.isreg() or member.issparse() or not re.fullmatch(r"[A-Za-z0-9_-]+\.[a-z0-9.]+", member.name):
                raise ValueError(f"{member.name!r} does not belong in it")
            if member.offset_data + member.size > size:
                raise ValueError(f"{member.name} claims {member.size} bytes")
            yield member
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them


def _check_end(file: _BoundedFile) -> None:
    # tarfile takes an archive cut between two members for a whole one
    file.seek(-min(2 * _BLOCK, os.fstat(file.fileno()).st_size), os.SEEK_END)
    if file.read(2 * _BLOCK) != b"\0" * 2 * _BLOCK:
        raise ValueError("it is cut short or no tar file")


def _landmarks(data: bytes, frames: int) -> np.ndarray:
    """float32 [frames, 68, 2] of the bytes of a .npy file; nothing is allocated that is not there."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its landmarks are no .npy of version 1.0")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    if shape != (frames, POINTS, 2) or dtype != np.float32 or by_column:
        raise ValueError(f"{frames} frames but landmarks {dtype} {list(shape)}, expected float32 {[frames, POINTS, 2]}")
    landmarks = np.frombuffer(file.read(), np.float32).reshape(shape)
    if not np.isfinite(landmarks).all():
        raise ValueError("its landmarks are not all finite")
    return landmarks
