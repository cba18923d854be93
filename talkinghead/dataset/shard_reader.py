"""Read a data set from disk: tar shards that `webdataset` can open too.

The members of a clip follow each other; its key has no dot:
    <key>.0000.jpg ...      the crops, size x size
    <key>.landmarks.npy     float32 [N, 68, 2] in pixels of the crops
    <key>.irises.npy        float32 [N, 2, 5, 2] in pixels of the crops, where they are known; 0.2.0 and
                            earlier versions skip it
    <key>.json              version, name, sha256, person, fps, frame_size [height, width], crop [x, y, side]
                            of convention 1 or [x, y, side, 2] of convention 2 (data/crop.py), frames (their
                            numbers in the source), size, detector, part (the shot of the source, if it has
                            several)
The bytes of a shard depend only on its clips and their order.
"""

import io
import json
import math
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip import IRIS_POINTS, POINTS
from ..data.crop import Crop
from ..errors import TalkingheadError
from ..media.images import decode_jpeg
from .remote import describe
from .shard_file import SHARDS as SHARDS
from .shard_file import (
    BoundedFile,
    MemoryFile,
    ShardFile,
    list_shards,
    parse_shard,
    read_parts,
    read_whole,
    remedy,
)

VERSION = 1
MESH = "mesh"
"""Detector of synthetic people, whose landmarks are exact."""
MAX_SIDE = 8192
"""The largest side of a stored crop in pixels."""
_BLOCK = tarfile.BLOCKSIZE
_JPEG_BYTES = 32 << 20
_NPY_BYTES = 4096  # of a .npy file without its numbers
_POINT_SHAPES = {"landmarks.npy": (POINTS, 2), "irises.npy": (2, IRIS_POINTS, 2)}
"""Shapes of the points of a frame in the .npy files of a clip."""
_JSON_BYTES = 64 << 10  # of a clip's JSON without the frame numbers
_NUMBER_BYTES = 32  # of a frame number in the JSON, with white space


@dataclass(frozen=True)
class ClipInfo:
    """The description of a clip in a shard.

    Attributes:
        name: file name of the source.
        sha256: of the source, 64 hexadecimal digits.
        person: name of the person in it.
        fps: frames per second of the source.
        frame_size: (height, width) of the source in pixels.
        crop: the square of the source's frames that is stored.
        frames: numbers of the kept frames in the source.
        size: side of the stored crops in pixels.
        detector: the landmark detector, such as "dlib", or `MESH`.
        part: number of the shot in the source, from 1 on; 0 when the source is one shot.
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
        """A key that is unique by content, has no dots, and is short enough for a tar header."""
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(self.name).stem)[:48]
        return f"{stem}-{self.sha256[:12]}" + (f"-{self.part}" if self.part else "")

    def valid(self, size: int) -> np.ndarray | None:
        """Return bool [size, size], True where the crops at that size show pixels of the source.

        None means all of them; crops may reach beyond the source's border.
        """
        inside = self.crop.valid(self.frame_size, size)
        return None if inside.all() else inside

    def to_json(self) -> str:
        """Return the JSON text that a shard stores."""
        crop = [self.crop.x, self.crop.y, self.crop.side]
        if self.crop.convention != 1:  # versions that only support convention 1 read three numbers
            crop.append(self.crop.convention)
        return json.dumps({"version": VERSION, **asdict(self), "crop": crop}, indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> "ClipInfo":
        """Parse the text that `to_json` returned.

        Raises:
            ValueError, TypeError, KeyError: the text is something else.
        """
        fields = json.loads(data)
        version = fields.pop("version", None)
        if version != VERSION:
            raise ValueError(f"format version {version}, expected {VERSION}")
        info = cls(
            **{
                **fields,
                "crop": Crop(*fields["crop"]),
                "frame_size": tuple(fields["frame_size"]),
                "frames": tuple(fields["frames"]),
            }
        )
        texts = (info.name, info.sha256, info.person, info.detector)
        numbers = (*info.frame_size, *info.frames, info.size, info.part, info.crop.convention)
        if not all(type(text) is str for text in texts) or not all(
            type(number) is int and number >= 0 for number in numbers
        ):
            raise ValueError("its JSON has a text where a number belongs, or a number where a text does")
        if not 0 < info.fps < math.inf or not 0 < info.size <= MAX_SIDE:
            raise ValueError(f"its JSON says {info.fps} frames a second, of side {info.size}")
        return info


@dataclass(frozen=True)
class ShardClip:
    """A clip of a data set; its frames stay on disk until they are requested.

    Attributes:
        key: its name in the shard.
        info: its description in the shard.
        landmarks: float32 [N, 68, 2] in pixels of the crops.
        irises: float32 [N, 2, 5, 2] in pixels of the crops, as in `talkinghead.Track`; None if unknown.
    """

    key: str
    info: ClipInfo
    landmarks: np.ndarray
    _shard: ShardFile = field(repr=False)
    _pieces: tuple[tuple[int, int], ...] = field(repr=False)
    irises: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.landmarks)

    @property
    def person(self) -> str:
        """The name of the person in it."""
        return self.info.person

    @property
    def fps(self) -> float:
        """Frames per second of the source."""
        return self.info.fps

    @property
    def size(self) -> int:
        """The side of the stored crops in pixels."""
        return self.info.size

    def frames(self, indices: Iterable[int], min_side: int | None = None) -> np.ndarray:
        """Read frames by their indices: uint8 [n, S, S, 3], RGB.

        Args:
            indices: of the frames.
            min_side: decode at the smallest scale of 1, 1/2, 1/4 and 1/8 that gives so many pixels; by
                default at the stored size.

        Raises:
            TalkingheadError: the shard is missing or damaged.
        """
        try:
            places = [self._pieces[int(index)] for index in indices]
            jpegs = read_parts(
                self._shard, lambda file: [file.content(*place, _JPEG_BYTES) for place in places]
            )
            return np.stack([decode_jpeg(jpeg, self.size, min_side=min_side) for jpeg in jpegs])
        except Exception as error:  # Pillow raises many types
            raise TalkingheadError(
                f"{self._shard}: a frame of {self.key} cannot be read ({describe(error)}); "
                f"{remedy(self._shard)}"
            ) from error

    def resized_frames(self, indices: Iterable[int], size: int, *, scaled: bool = False) -> Tensor:
        """Read frames by their indices, resized: uint8 [n, 3, size, size].

        Args:
            indices: of the frames.
            size: of the result.
            scaled: decode no more pixels than are needed; values differ a little.

        Raises:
            TalkingheadError: the shard is missing or damaged.
        """
        decoded = self.frames(indices, size if scaled else None)
        frames = torch.from_numpy(decoded).permute(0, 3, 1, 2)
        if frames.shape[2] == size:
            return frames
        resized = F.interpolate(frames.float(), size=(size, size), mode="bilinear", antialias=True)
        return resized.round().clamp(0, 255).to(torch.uint8)


def find_shards(folder: str | os.PathLike[str]) -> list[ShardFile]:
    """Return the shards of a data set, in order.

    Raises:
        TalkingheadError: the folder is missing or holds none.
    """
    return [shard for shard, _ in list_shards(folder)]


def read_index(folder: str | os.PathLike[str]) -> list[ShardClip]:
    """List all clips of a data set, in order; landmarks in memory, frames on disk.

    Raises:
        TalkingheadError: the folder is missing or holds no shards, or a shard is damaged or of another
            version.
    """
    return [clip for shard in find_shards(folder) for _, clip in read_shard(shard)]


@dataclass(frozen=True)
class ClipPlaces:
    """Places of the members of a clip in its shard, as (offset, size) in bytes.

    Attributes:
        key: name of the clip in the shard.
        frames: of the crops.
        points: of the .npy files, by their endings.
        json: of the description.
    """

    key: str
    frames: tuple[tuple[int, int], ...]
    points: dict[str, tuple[int, int]]
    json: tuple[int, int]

    def extent(self) -> tuple[int, int]:
        """Return the first offset, and the size of all from there on."""
        members = [*self.frames, *self.points.values(), self.json]
        first = min(offset for offset, _ in members)
        return first, max(offset + size for offset, size in members) - first

    def shifted(self, offset: int) -> "ClipPlaces":
        """Return the places in a file that begins at this offset."""
        return replace(
            self,
            frames=tuple((place - offset, size) for place, size in self.frames),
            points={kind: (place - offset, size) for kind, (place, size) in self.points.items()},
            json=(self.json[0] - offset, self.json[1]),
        )


def read_shard(shard: ShardFile) -> Iterator[tuple[ClipPlaces, ShardClip]]:
    """Yield the clips of a shard, after the shard as a whole was checked.

    Raises:
        TalkingheadError: it is missing, damaged or of another version.
    """

    def parse(file: BoundedFile) -> list[tuple[ClipPlaces, ShardClip]]:
        _check_end(file)
        return [(places, _load_clip(file, shard, places)) for places in _iterate_clips(file, file.size)]

    yield from parse_shard(read_whole(shard), parse)


def read_clip(shard: ShardFile, places: ClipPlaces) -> ShardClip:
    """Read the description and the landmarks of a clip.

    Raises:
        TalkingheadError: the shard is missing, damaged, or has something else at these places.
    """
    return parse_shard(shard, lambda file: _load_clip(file, shard, places))


def read_into_memory(shard: ShardFile, places: ClipPlaces) -> ShardClip:
    """Read a clip with its frames, encoded as they are, in one piece.

    Raises:
        TalkingheadError: as for `read_clip`.
    """
    offset, size = places.extent()
    content = parse_shard(shard, lambda file: file.content(offset, size, file.size))
    # a clip shall not keep the whole shard in memory
    origin = shard.shard if isinstance(shard, MemoryFile) else shard
    return read_clip(MemoryFile(origin, content), places.shifted(offset))


def _iterate_clips(file: BoundedFile, size: int) -> Iterator[ClipPlaces]:
    """Yield the places of the clips of an open shard."""
    frames: list[tuple[int, int]] = []
    points: dict[str, tuple[int, int]] = {}
    for member in _iterate_members(file, size):
        key, _, kind = member.name.partition(".")
        place = (member.offset_data, member.size)
        if kind.endswith(".jpg"):
            if member.size > _JPEG_BYTES:
                raise ValueError(f"{member.name} claims {member.size} bytes")
            frames.append(place)
        elif kind in _POINT_SHAPES:
            points[kind] = place
        elif kind == "json":
            yield ClipPlaces(key, tuple(frames), points, place)
            frames, points = [], {}
    if frames:
        raise ValueError("its last clip is not whole")


def _load_clip(file: BoundedFile, shard: ShardFile, places: ClipPlaces) -> ShardClip:
    """Read the description and the landmarks of a clip from its open shard.

    Raises:
        ValueError, TypeError, KeyError: they do not fit.
    """
    count = len(places.frames)
    points = {kind: _read_points(file, place, kind, count) for kind, place in places.points.items()}
    info = ClipInfo.from_json(file.content(*places.json, _JSON_BYTES + _NUMBER_BYTES * count))
    landmarks, irises = (points.get(name) for name in _POINT_SHAPES)
    if landmarks is None or len(info.frames) != count:
        raise ValueError(f"{places.key} has {count} frames, and not as many landmarks and numbers")
    return ShardClip(places.key, info, landmarks, _shard=shard, _pieces=places.frames, irises=irises)


def _iterate_members(file: BoundedFile, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive; all have to be complete plain files with valid names."""
    file.seek(0)
    with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as tar:
        while (member := tar.next()) is not None:
            if (
                not member.isreg()
                or member.issparse()
                or not re.fullmatch(r"[A-Za-z0-9_-]+\.[a-z0-9.]+", member.name)
            ):
                raise ValueError(f"{member.name!r} does not belong in it")
            if member.offset_data + member.size > size:
                raise ValueError(f"{member.name} claims {member.size} bytes")
            yield member
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them


def _check_end(file: BoundedFile) -> None:
    # tarfile accepts an archive that was cut between two members
    file.seek(-min(2 * _BLOCK, file.size), os.SEEK_END)
    if file.read(2 * _BLOCK) != b"\0" * 2 * _BLOCK:
        raise ValueError("it is cut short or no tar file")


def _read_points(file: BoundedFile, place: tuple[int, int], kind: str, frames: int) -> np.ndarray:
    """Read landmarks or irises: float32 [frames, *shape]; memory is allocated for actual data only.

    Args:
        file: the shard.
        place: offset and size of the .npy file in it.
        kind: a key of _POINT_SHAPES.
        frames: number of frames of the clip so far.

    Raises:
        ValueError: the bytes are something else.
    """
    expected, name = (frames, *_POINT_SHAPES[kind]), kind.removesuffix(".npy")
    npy = io.BytesIO(file.content(*place, _NPY_BYTES + 4 * math.prod(expected)))
    if np.lib.format.read_magic(npy) != (1, 0):
        raise ValueError(f"its {name} are no .npy of version 1.0")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(npy)
    if shape != expected or dtype != np.float32 or by_column:
        raise ValueError(
            f"{frames} frames but {name} {dtype} {list(shape)}, expected float32 {list(expected)}"
        )
    points = np.frombuffer(npy.read(), np.float32).reshape(shape)
    if not np.isfinite(points).all():
        raise ValueError(f"its {name} are not all finite")
    return points
