"""Files of shards: on disk, behind a URL, or a part of one in memory; and the shards of a folder."""

import io
import os
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

from ..errors import TalkingheadError, quantity
from .parts import PART_FILE, parts_in
from .remote import FileState, RemoteFile, describe, is_url, list_folder, local_path, reported, retry
from .report import REPORT, read_report

SHARDS = "shard-*.tar"
"""The pattern of the names of shards."""
CHECK_ADDRESS = "check the address, the network and your credentials"
_Result = TypeVar("_Result")
_MAX_READ_BYTES = 1 << 20
"""The largest tar header, with the extensions that other programs add when they repack a shard."""


@dataclass(frozen=True)
class MemoryFile:
    """A part of a shard in memory.

    Attributes:
        shard: where it comes from, for messages.
        content: the bytes.
    """

    shard: "ShardFile"
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return str(self.shard)

    def open(self) -> IO[bytes]:
        """Open the content for reading."""
        return io.BytesIO(self.content)


ShardFile = Path | RemoteFile | MemoryFile


def open_binary(file: ShardFile) -> IO[bytes]:
    """Open a file for reading, without a buffer where it is on disk.

    Raises:
        Exception: of various types, it cannot be read.
    """
    if isinstance(file, Path):
        if not os.path.isfile(file):  # a pipe or a device might never end
            raise ValueError("it is no file")
        return io.FileIO(file)
    return file.open()


class BoundedFile:
    """An open file that refuses large reads, whatever sizes its headers claim.

    Attributes:
        size: in bytes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to a megabyte.

        Raises:
            ValueError: `size` is more than that.
        """
        if size is None or not 0 <= size <= _MAX_READ_BYTES:
            raise ValueError(f"a header claims {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position, as a file does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def content(self, offset: int, size: int, limit: int) -> bytes:
        """Return `size` bytes from an offset on.

        Raises:
            ValueError: `size` is more than the limit, or more than the file has.
        """
        if not 0 <= size <= limit:
            raise ValueError(f"a member claims {size} bytes, expected at most {limit}")
        if not 0 <= offset <= self.size - size:
            raise ValueError("it is cut short")
        position = self.tell()
        self.seek(offset)
        data = self._file.read(size)
        self.seek(position)
        if len(data) != size:
            raise ValueError("it is cut short")
        return data


def read_parts(shard: ShardFile, read: Callable[[BoundedFile], _Result]) -> _Result:
    """Return what a function reads from an open shard.

    The shard behind a URL is opened and read again after failures that may pass.

    Raises:
        Exception: of various types, it cannot be read.
    """

    def open_and_read() -> _Result:
        with open_binary(shard) as file:
            return read(BoundedFile(file))

    return retry(open_and_read) if isinstance(shard, RemoteFile) else open_and_read()


def parse_shard(shard: ShardFile, parse: Callable[[BoundedFile], _Result]) -> _Result:
    """Return what a function reads from an open shard; what fails in it is an error of the shard.

    Raises:
        TalkingheadError: something fails.
    """
    try:
        return read_parts(shard, parse)
    except Exception as error:  # tarfile, json, numpy and fsspec raise many types
        raise TalkingheadError(
            f"{shard}: cannot be read as a shard ({describe(error)}); {remedy(shard)}"
        ) from error


def remedy(shard: ShardFile) -> str:
    """Return what a user can do about one or several shards that cannot be read."""
    if isinstance(shard, RemoteFile):
        return "check the server, or put simplecache:: before the URL, which keeps whole shards here"
    if isinstance(shard, Path) and os.path.lexists(shard.parent / PART_FILE):
        return "remove the folder, and prepare the part again"
    # prepare skips the videos in the report of a folder, whatever became of their shards
    return "restore damaged shards from a copy, or prepare the data into another folder"


def read_whole(shard: ShardFile) -> ShardFile:
    """Return a shard whose parts can be read at once: one behind a URL is read into memory.

    Raises:
        TalkingheadError: it cannot be read.
    """
    if not isinstance(shard, RemoteFile):
        return shard
    with reported(shard, CHECK_ADDRESS):
        return MemoryFile(shard, shard.read_bytes())


def list_shards(folder: str | os.PathLike[str]) -> list[tuple[ShardFile, FileState]]:
    """Return the shards of a data set in order, with their states as far as a server's list tells them.

    Behind a URL they are listed by the server, or else by the report that `prepare` wrote beside them.

    Raises:
        TalkingheadError: the folder is missing, holds none, or cannot be read.
    """
    if is_url(folder):
        url = str(folder).rstrip("/")
        return [(RemoteFile(f"{url}/{name}"), state) for name, state in sorted(_remote_names(url).items())]
    path = local_path(folder)
    shards = sorted(path.glob(SHARDS)) if os.path.isdir(path) else []
    if not shards and (parts := parts_in(path)):
        raise _unmerged_parts(path, parts)
    if not shards:
        raise TalkingheadError(
            f"{folder}: holds no shards ({SHARDS}); make them with: talkinghead prepare VIDEOS... --out "
            f"{folder}"
        )
    return [(shard, FileState()) for shard in shards]


def _unmerged_parts(folder: Path, parts: list[Path]) -> TalkingheadError:
    """Return the error of a folder of parts, or of one of them, in place of a data set."""
    is_part = parts == [folder]
    problem = "is one of several parts" if is_part else f"holds {quantity(len(parts), 'part')}"
    merged = folder.parent if is_part else folder
    return TalkingheadError(
        f"{folder}: {problem} of a data set; merge them first: talkinghead prepare --merge "
        f"{shlex.quote(str(merged))} --out DATA"
    )


def _remote_names(url: str) -> dict[str, FileState]:
    """Return the names of the shards behind a URL, with their states as far as the server's list tells them.

    Raises:
        TalkingheadError: there are none, or neither a listing nor the report can be read.
    """
    failure: Exception = FileNotFoundError()
    try:
        names = list_folder(url, SHARDS)
    except TalkingheadError:
        raise
    except Exception as error:  # each protocol raises types of its own; http often has no listing
        names, failure = {}, error
    if names:
        return names
    report = RemoteFile(f"{url}/{REPORT}")
    try:
        content = report.read_bytes()
    except FileNotFoundError:
        with reported(url, f"name a folder of shards ({SHARDS}) with the {REPORT} that prepare wrote"):
            raise failure from None
    except Exception as error:
        with reported(url, CHECK_ADDRESS):
            raise (error if isinstance(failure, FileNotFoundError) else failure) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, REPORT)
        path.write_bytes(content)
        try:
            lines = islice(read_report(path), 1, None)  # the first one holds settings, which are not checked
            shards = {line["shard"]: FileState() for line, _ in lines if "shard" in line}
        except TalkingheadError as error:
            raise TalkingheadError(str(error).replace(str(path), str(report))) from error
    if not shards:
        raise TalkingheadError(f"{report}: names no shards; name a folder that `talkinghead prepare` wrote")
    return shards
