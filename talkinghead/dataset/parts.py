"""Parts of a data set that several jobs prepare: which videos belong to a part, and the record of a part.

`part.json` in a part's folder says which part of how many it is, of which videos, with which settings, and
whether it is complete.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..data.output_paths import files_in
from ..errors import TalkingheadError, shorten
from ..system.atomic_file import atomic_write
from ..version import __version__
from .discover import SourceVideo
from .report import problem_of_settings

PART_FILE = "part.json"
_MAX_PART_BYTES = 64 << 10
_MAX_NUMBER = 999_999_999  # of parts and of videos; a part's number has at most nine digits
Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`; numbers start at 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def folder_name(self) -> str:
        """Return the name of the part's folder in the folder of all parts."""
        return f"part-{self.number}-of-{self.count}"

    def select(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of this part: one of every `count`, so that parts differ by one item at most."""
        return list(items[self.number - 1 :: self.count])

    def num_selected(self, total: int) -> int:
        """Return how many of so many items `select` returns."""
        return len(range(self.number - 1, total, self.count))


def parse_part(text: object) -> Part:
    """Parse "I/N".

    Raises:
        TalkingheadError: it is something else, or I is not between 1 and N.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text) if isinstance(text, str) else None
    part = Part(int(match[1]), int(match[2])) if match else Part(0, 0)
    if not 1 <= part.number <= part.count:
        raise TalkingheadError(
            f"part {shorten(repr(text))}: is no part; write I/N, such as 1/8 for the first of eight"
        )
    return part


@dataclass(frozen=True)
class PartRecord:
    """The record of a part.

    Attributes:
        number, count: the part, and how many there are.
        videos: how many videos all parts have together.
        list_sha256: of the names and people of all these videos, in order.
        talkinghead: the version of this package.
        settings: that all clips share.
        complete: whether all videos of the part were looked at.
    """

    number: int
    count: int
    videos: int
    list_sha256: str
    talkinghead: str
    settings: Mapping[str, Any]
    complete: bool = False

    @property
    def part(self) -> Part:
        """Return the part that this is the record of."""
        return Part(self.number, self.count)

    def difference_from(self, other: "PartRecord") -> str:
        """Return what two records of one data set should have in common and have not; empty if all fits."""
        if self.count != other.count:
            return f"is one of {self.count} parts, not of {other.count}"
        if self.list_sha256 != other.list_sha256:
            return "is of another list of videos or people"
        if self.talkinghead != other.talkinghead:
            return f"was prepared by talkinghead {shorten(self.talkinghead)}, not {other.talkinghead}"
        if self.settings != other.settings:
            return "was prepared with other settings"
        return ""


def part_record(part: Part, sources: Sequence[SourceVideo], settings: Mapping[str, Any]) -> PartRecord:
    """Return the record of a part that has not begun.

    Args:
        part: number and count.
        sources: the videos of all parts.
        settings: that all clips share.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(json.dumps([str(source.path), source.person, source.layout]).encode() + b"\n")
    return PartRecord(
        number=part.number,
        count=part.count,
        videos=len(sources),
        list_sha256=digest.hexdigest(),
        talkinghead=__version__,
        settings=settings,
    )


@contextmanager
def recorded_part(folder: Path, record: PartRecord | None) -> Iterator[None]:
    """Write the record of a part that is worked on, and after the block that it is complete.

    Args:
        folder: of the part.
        record: of the part; without one, nothing is written.

    Raises:
        TalkingheadError: the folder holds a part of other videos or settings.
    """
    if record is None:
        yield
        return
    if os.path.lexists(folder / PART_FILE):
        difference = read_part(folder).difference_from(record)
        if difference:
            raise TalkingheadError(f"{folder}: {difference}; remove it, or name another --out")
    _write_part(folder, record)
    yield
    _write_part(folder, replace(record, complete=True))


def _write_part(folder: Path, record: PartRecord) -> None:
    with atomic_write(folder / PART_FILE) as temp_path:
        temp_path.write_text(json.dumps(asdict(record), indent=1) + "\n")


def parts_in(folder: Path) -> list[Path]:
    """Return the folder itself if it is of a part, else those of the parts in it."""
    if os.path.lexists(folder / PART_FILE):
        return [folder]
    return sorted(path.parent for path in files_in(folder, [f"*/{PART_FILE}"]))


def read_part(folder: Path) -> PartRecord:
    """Read the record of a part.

    Raises:
        TalkingheadError: it cannot be read, or is none.
    """
    path = folder / PART_FILE
    try:
        if not os.path.isfile(path):  # a pipe or a device might never end
            raise ValueError("it is no file")
        with open(path, "rb") as file:
            values = json.loads(file.read(_MAX_PART_BYTES))
        record = PartRecord(**values)
        types = {"number": int, "count": int, "videos": int, "list_sha256": str, "talkinghead": str}
        types |= {"settings": dict, "complete": bool}
        if any(type(values[name]) is not kind for name, kind in types.items()):
            raise ValueError("a value has another type")
        if not 1 <= record.number <= record.count <= _MAX_NUMBER or not 1 <= record.videos <= _MAX_NUMBER:
            raise ValueError("its numbers do not fit together")
        if problem := problem_of_settings(values["settings"]):
            raise ValueError(problem)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise TalkingheadError(
            f"{path}: cannot be read as the record of a part ({shorten(error)}); remove the folder, and "
            "prepare the part again"
        ) from error
    return record
