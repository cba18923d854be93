"""Index of a data set: where each clip and frame is in the shards, so that nothing else is in memory.

For a data set of many shards the index is kept beside them, in `index.safetensors`, of which the places of
frames are read when they are needed. It is made again when the shards have changed.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..errors import TalkingheadError, quantity
from ..system.tensor_file import tensor_offset, write_tensors
from .shard_reader import ClipPlaces, ShardClip, find_shards, read_clip, read_shard

log = logging.getLogger(__name__)

FILE = "index.safetensors"
VERSION = 1
MIN_SHARDS = 64
"""Number of shards from which on the index is kept: fewer are read within seconds."""
CACHED_CLIPS = 256
"""Clips whose descriptions and landmarks stay in memory."""
_POINTS = ("landmarks.npy", "irises.npy")


class ShardIndex:
    """Places of the clips of a data set.

    Args:
        shards: paths.
        header: "keys" of the clips, and "people", the names of the people.
        arrays: from `build_index`; "frames" may be `_StoredFrames`.

    Attributes:
        keys: names of the clips in their shards.
        people: names of the people.
        person: int32 [C], the person of each clip, as an index of `people`.
        num_frames: int64 [C].
        has_irises: bool [C].
    """

    def __init__(self, shards: Sequence[Path], header: dict[str, Any], arrays: dict[str, Any]) -> None:
        self._shards, self._arrays = shards, arrays
        self.keys: list[str] = header["keys"]
        self.people: list[str] = header["people"]
        self.person = arrays["person"]
        self.num_frames = np.diff(arrays["first_frame"])
        self.has_irises = arrays["irises.npy"][:, 1] > 0

    def read(self, number: int) -> ShardClip:
        """Read the description and landmarks of a clip.

        Raises:
            TalkingheadError: its shard is missing or damaged.
        """
        arrays = self._arrays
        first, end = (int(value) for value in arrays["first_frame"][number : number + 2])
        frames = arrays["frames"][first:end]
        places = ClipPlaces(
            key=self.keys[number],
            frames=tuple((int(offset), int(size)) for offset, size in frames),
            points={kind: _place(arrays[kind][number]) for kind in _POINTS if arrays[kind][number, 1]},
            json=_place(arrays["json"][number]),
        )
        return read_clip(self._shards[arrays["shard"][number]], places)


def open_index(folder: str | os.PathLike[str]) -> ShardIndex:
    """Open the index of a data set, or make it.

    Raises:
        TalkingheadError: the folder is missing or holds no shards, or a shard is damaged or of another
            version.
    """
    shards, path = find_shards(folder), Path(folder, FILE)
    stamps = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    index = _load(path, shards, stamps)
    if index is not None:
        return index
    if len(shards) >= MIN_SHARDS:
        log.info("%s: making the index of %s, once", folder, quantity(len(shards), "shard"))
    header, arrays = build_index(shards)
    if len(shards) >= MIN_SHARDS:
        header |= {"kind": "index", "version": VERSION, "shards": stamps}
        try:
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            write_tensors(path, tensors, header, rescue=False)
        except TalkingheadError as error:
            log.warning("%s; the index stays in memory", error)
        index = _load(path, shards, stamps)
    return index or ShardIndex(shards, header, arrays)


def _load(path: Path, shards: Sequence[Path], stamps: list[tuple[str, int, int]]) -> ShardIndex | None:
    """Return the index in a file; None where there is none of these shards."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["talkinghead"])
            if header["version"] != VERSION or header["shards"] != [list(stamp) for stamp in stamps]:
                return None
            names = set(file.keys()) - {"frames"}
            arrays: dict[str, Any] = {name: file.get_tensor(name).numpy().copy() for name in names}
            num_frames = file.get_slice("frames").get_shape()[0]
        arrays["frames"] = _StoredFrames(path, tensor_offset(path, "frames"))
        index = ShardIndex(shards, header, arrays)
        is_whole = arrays["first_frame"][-1] == num_frames and len(index.keys) == len(index.person)
        return index if is_whole else None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError, RecursionError):
        return None  # it is made again


class _StoredFrames:
    """Places of frames in the file of an index, int64 [F, 2], of which a slice is read.

    A map into memory would count as memory of this process, page by page.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self._path, self._offset = path, offset

    def __getitem__(self, rows: slice) -> np.ndarray:
        count, offset = 2 * (rows.stop - rows.start), self._offset + 16 * rows.start
        try:
            return np.fromfile(self._path, np.int64, count, offset=offset).reshape(-1, 2)
        except OSError as error:
            raise TalkingheadError(
                f"{self._path}: cannot be read ({error.strerror}); start again, which makes it again"
            ) from error


def build_index(shards: Sequence[Path]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read all shards, and return header and arrays of their index.

    Raises:
        TalkingheadError: one is damaged.
    """
    people: dict[str, int] = {}
    keys: list[str] = []
    frames: list[np.ndarray] = []
    rows: dict[str, list[Any]] = {name: [] for name in ("shard", "person", "count", "json", *_POINTS)}
    for number, shard in enumerate(shards):
        for places, clip in read_shard(shard):
            keys.append(places.key)
            frames.append(np.array(places.frames, np.int64).reshape(-1, 2))
            rows["shard"].append(number)
            rows["person"].append(people.setdefault(clip.person, len(people)))
            rows["count"].append(len(places.frames))
            rows["json"].append(places.json)
            for kind in _POINTS:
                rows[kind].append(places.points.get(kind, (0, 0)))
    arrays = {
        "frames": np.concatenate([np.zeros((0, 2), np.int64), *frames]),
        "first_frame": np.cumsum([0, *rows["count"]], dtype=np.int64),
        **{name: np.array(rows[name], np.int32) for name in ("shard", "person")},
        **{name: np.array(rows[name], np.int64).reshape(-1, 2) for name in ("json", *_POINTS)},
    }
    return {"keys": keys, "people": list(people)}, arrays


def _place(row: np.ndarray) -> tuple[int, int]:
    return int(row[0]), int(row[1])


class Clips(Sequence[ShardClip]):
    """Clips of one or several data sets, each read when it is needed."""

    def __init__(self) -> None:
        self._parts: list[tuple[ShardIndex, np.ndarray]] = []
        self._read = lru_cache(CACHED_CLIPS)(self._read_uncached)

    def add(self, index: ShardIndex, numbers: np.ndarray) -> None:
        """Append clips of a data set by their numbers."""
        self._parts.append((index, numbers))

    def __len__(self) -> int:
        return sum(len(numbers) for _, numbers in self._parts)

    def __getitem__(self, number: int) -> ShardClip:  # type: ignore[override]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        return self._read(number % len(self))

    def _read_uncached(self, number: int) -> ShardClip:
        for index, numbers in self._parts:
            if number < len(numbers):
                return index.read(int(numbers[number]))
            number -= len(numbers)
        raise IndexError(number)

    @property
    def keys(self) -> list[str]:
        """The names of the clips."""
        return [index.keys[number] for index, numbers in self._parts for number in numbers]

    @property
    def people(self) -> list[str]:
        """The name of the person of each clip."""
        return list(chain.from_iterable(self._people_of_parts()))

    def _people_of_parts(self) -> Iterator[list[str]]:
        for index, numbers in self._parts:
            yield [index.people[person] for person in index.person[numbers]]

    @property
    def num_frames(self) -> np.ndarray:
        """Number of frames of each clip, int64 [C]."""
        return np.concatenate([index.num_frames[numbers] for index, numbers in self._parts])

    @property
    def has_irises(self) -> np.ndarray:
        """True of the clips that have irises, bool [C]."""
        return np.concatenate([index.has_irises[numbers] for index, numbers in self._parts])
