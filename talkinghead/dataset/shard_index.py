"""Index of a data set: where each clip and frame is in the shards, so that nothing else is in memory.

For a data set of many shards the index is kept beside them, in `index.safetensors`, of which the places of
frames are read when they are needed. It is made again when the shards have changed. Of shards behind a URL
the one beside them is used, or else one is made; either is kept in a folder of the caller.
"""

import hashlib
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
from ..system.atomic_file import atomic_write
from ..system.tensor_file import tensor_offset, write_tensors
from .remote import FileState, RemoteFile, display, is_url, local_path, request_states
from .shard_file import ShardFile, list_shards
from .shard_reader import ClipPlaces, ShardClip, read_clip, read_shard

log = logging.getLogger(__name__)

FILE = "index.safetensors"
VERSION = 1
MIN_SHARDS = 64
"""Number of shards from which on the index is kept: fewer are read within seconds."""
CACHED_CLIPS = 256
"""Clips whose descriptions and landmarks stay in memory."""
_POINTS = ("landmarks.npy", "irises.npy")
_Stamp = tuple[str, int, int]
"""Name, size, and time or version of a shard; 0 what is not known of one behind a URL."""


class ShardIndex:
    """Places of the clips of a data set.

    Args:
        shards: files.
        header: "keys" of the clips, and "people", the names of the people.
        arrays: from `build_index`; "frames" may be `_StoredFrames`.

    Attributes:
        shards: files.
        shard: int32 [C], the shard of each clip, as an index of `shards`.
        keys: names of the clips in their shards.
        people: names of the people.
        person: int32 [C], the person of each clip, as an index of `people`.
        num_frames: int64 [C].
        has_irises: bool [C].
    """

    def __init__(self, shards: Sequence[ShardFile], header: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.shards, self._arrays = shards, arrays
        self.keys: list[str] = header["keys"]
        self.people: list[str] = header["people"]
        self.shard, self.person = arrays["shard"], arrays["person"]
        self.num_frames = np.diff(arrays["first_frame"])
        self.has_irises = arrays["irises.npy"][:, 1] > 0

    def places(self, number: int) -> ClipPlaces:
        """Return where the members of a clip are in its shard."""
        arrays = self._arrays
        first, end = (int(value) for value in arrays["first_frame"][number : number + 2])
        frames = arrays["frames"][first:end]
        return ClipPlaces(
            key=self.keys[number],
            frames=tuple((int(offset), int(size)) for offset, size in frames),
            points={kind: _place(arrays[kind][number]) for kind in _POINTS if arrays[kind][number, 1]},
            json=_place(arrays["json"][number]),
        )

    def read(self, number: int) -> ShardClip:
        """Read the description and landmarks of a clip.

        Raises:
            TalkingheadError: its shard is missing or damaged.
        """
        return read_clip(self.shards[self.shard[number]], self.places(number))


def open_index(folder: str | os.PathLike[str], keep_in: Path | None = None) -> ShardIndex:
    """Open the index of a data set, or make it.

    Args:
        folder: of the shards, or its URL.
        keep_in: folder in which the index of shards behind a URL is kept; by default it is made each time.

    Raises:
        TalkingheadError: the folder is missing or holds no shards, or a shard is damaged or of another
            version.
    """
    listed = list_shards(folder)
    shards = [shard for shard, _ in listed]
    if not is_url(folder):
        path, is_kept = local_path(folder) / FILE, len(shards) >= MIN_SHARDS
    else:
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        path, is_kept = (keep_in or Path()) / f"index-{name}.safetensors", keep_in is not None
    stamps, index = list[_Stamp](), None
    if is_kept or not is_url(folder):
        stamps = _stamps(listed)
        index = _load(path, shards, stamps)
    if index is None and is_kept and is_url(folder):
        _download(f"{str(folder).rstrip('/')}/{FILE}", path)
        index = _keep_downloaded(path, shards, stamps)
    if index is not None:
        return index
    if is_kept:
        log.info("%s: making the index of %s, once", display(folder), quantity(len(shards), "shard"))
    header, arrays = build_index(shards)
    if is_kept:
        header |= {"kind": "index", "version": VERSION, "shards": stamps}
        _write(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, header)
        index = _load(path, shards, stamps)
    return index or ShardIndex(shards, header, arrays)


def _stamps(listed: Sequence[tuple[ShardFile, FileState]]) -> list[_Stamp]:
    """Return the stamps of shards; a server whose list tells nothing of a file is asked for each one."""
    states = {shard: state for shard, state in listed if isinstance(shard, RemoteFile)}
    unknown = [shard for shard, state in states.items() if state == FileState()]
    states |= zip(unknown, request_states(unknown), strict=True) if unknown else ()
    stamps = []
    for shard, _ in listed:
        if isinstance(shard, RemoteFile):
            stamps.append((shard.name, states[shard].size, states[shard].version))
        elif isinstance(shard, Path):
            stamps.append((shard.name, shard.stat().st_size, shard.stat().st_mtime_ns))
    return stamps


def _write(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, header, rescue=False)
    except (TalkingheadError, OSError) as error:
        log.warning("%s; the index stays in memory", error)


def _keep_downloaded(path: Path, shards: Sequence[ShardFile], stamps: Sequence[_Stamp]) -> ShardIndex | None:
    """Return the index that was downloaded, after its stamps were replaced by those of the server.

    Its own have the times of the machine where it was made. None if it is of other shards.
    """
    if _load(path, shards, [(name, size, 0) for name, size, _ in stamps]) is None:
        return None
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["talkinghead"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    _write(path, tensors, header | {"shards": stamps})
    return _load(path, shards, stamps)


def _download(url: str, path: Path) -> None:
    """Write the index that lies beside shards to a path, where there is one."""
    try:
        content = RemoteFile(url).read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temp_path:
            temp_path.write_bytes(content)
    except Exception as error:  # each protocol raises types of its own; without one, the index is made
        log.debug("%s: not read (%s)", display(url), error)


def _load(path: Path, shards: Sequence[ShardFile], stamps: Sequence[_Stamp]) -> ShardIndex | None:
    """Return the index in a file; None where there is none of these shards."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["talkinghead"])
            if header["version"] != VERSION or not _are_equal(header["shards"], stamps):
                return None
            names = set(file.keys()) - {"frames"}
            arrays: dict[str, Any] = {name: file.get_tensor(name).numpy().copy() for name in names}
            frames = file.get_slice("frames")
            num_frames, width = frames.get_shape()
            if width != 2 or frames.get_dtype() != "I64":
                return None
        arrays["frames"] = _StoredFrames(path, tensor_offset(path, "frames"))
        index = ShardIndex(shards, header, arrays)
        return index if _is_whole(index, arrays, num_frames) else None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError, RecursionError):
        return None  # it is made again


def _are_equal(stored: Sequence[Sequence[Any]], stamps: Sequence[_Stamp]) -> bool:
    """Return whether stamps of an index are those of shards; 0 stands for a value that is not known."""
    return len(stored) == len(stamps) and all(
        len(one) == len(other) and all(a == b or (0 in (a, b)) for a, b in zip(one, other, strict=True))
        for one, other in zip(stored, stamps, strict=True)
    )


def _is_whole(index: ShardIndex, arrays: dict[str, Any], num_frames: int) -> bool:
    """Return whether the arrays of an index, which may come from a server, fit together."""
    count = len(index.keys)
    shapes = {"person": (count,), "shard": (count,), "first_frame": (count + 1,), "json": (count, 2)}
    shapes |= dict.fromkeys(_POINTS, (count, 2))
    return (
        all(arrays[name].shape == shape and arrays[name].dtype.kind == "i" for name, shape in shapes.items())
        and all(type(text) is str for text in [*index.keys, *index.people])
        and arrays["first_frame"][0] == 0
        and arrays["first_frame"][-1] == num_frames
        and bool((index.num_frames >= 0).all())
        and bool(((index.shard >= 0) & (index.shard < len(index.shards))).all())
        and bool(((index.person >= 0) & (index.person < len(index.people))).all())
    )


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


def build_index(shards: Sequence[ShardFile]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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
        index, place = self._find(number)
        return index.read(place)

    def _find(self, number: int) -> tuple[ShardIndex, int]:
        """Return the index that has a clip, and its number there."""
        for index, numbers in self._parts:
            if number < len(numbers):
                return index, int(numbers[number])
            number -= len(numbers)
        raise IndexError(number)

    def places(self, number: int) -> ClipPlaces:
        """Return where the members of a clip are in its shard."""
        index, place = self._find(number)
        return index.places(place)

    @property
    def shards(self) -> list[ShardFile]:
        """The shards of all data sets."""
        return [shard for index, _ in self._parts for shard in index.shards]

    @property
    def shard_numbers(self) -> np.ndarray:
        """The shard of each clip, as an index of `shards`, int64 [C]."""
        first = np.cumsum([0, *(len(index.shards) for index, _ in self._parts)])
        numbers = [start + index.shard[own] for start, (index, own) in zip(first, self._parts, strict=False)]
        return np.concatenate(numbers).astype(np.int64)

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
