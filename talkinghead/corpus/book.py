"""A data set being written: its shards, and report.jsonl, which says of every video what became of it. The two agree.

The report's first line holds the settings: version, size, detector, filters. Every other tells of one file:
    file, sha256, bytes     as it was named; null and 0 when it could not be read
    verdict                 "taken" or "rejected", and then the reason
    person, layout          whom it shows, and what told so
    shard                   that has its clips
    frames, fps, size       of the video; size is [height, width]
    faces                   how many were followed through it
    shots                   first and last frame, frames with the face (seen) and to learn from (kept), median side of the face in pixels
                            (face), confidence, sharpness, and the key of its clip or the reason why it gave none
    notes                   what was odd in reading it
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.shards import SHARDS
from ..errors import TalkingheadError, shorten
from .report import REPORT, read_report
from .shard_writer import ShardWriter

SHARD_CLIPS = 16
"""A shard with as many clips is finished; all clips of one video are in one shard."""


@dataclass(frozen=True)
class Known:
    """What the report says of a file: its name, whether it was taken, whom it shows, and the reason if it was not."""

    file: str
    taken: bool
    person: str
    reason: str


class Book:
    """Adds to a data set; use as a context manager.

    Lines are added to the report when the shard that holds their clips is full, and before it has its name; lines of a shard that never
    got it, because the run was killed, are taken back when the next run begins.

    Args:
        out: the folder, which exists.
        settings: that all its clips share.

    Attributes:
        clips, frames: that it holds.
        people: whom they show.

    Raises:
        TalkingheadError: the folder holds clips of other settings, or its shards and its report do not fit together.
        OSError: it cannot be read or written.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self._path, self._settings = out, out / REPORT, settings
        self.clips, self.frames, self.people = 0, 0, set[str]()
        self._by_file: dict[tuple[str, str | None], Known] = {}
        self._by_content: dict[str, Known] = {}
        self._waiting: list[Mapping[str, Any]] = []
        self._shards = ShardWriter(out)
        self._read()

    def find(self, file: str, digest: str | None) -> Known | None:
        """What is known of this file with this content."""
        return self._by_file.get((file, digest))

    def find_content(self, digest: str) -> Known | None:
        """What is known of the first file with this content."""
        return self._by_content.get(digest)

    def add(self, line: dict[str, Any], clips: Path, count: int) -> None:
        """Add what is said of a file, and its clips, `count` of them, from a file that `write_clip` wrote and that is removed.

        Raises:
            OSError: it cannot be written; what is on the disk is as it was after the last whole shard.
        """
        if count:
            line["shard"] = self._shards.shard
            self._shards.take(clips, count)
            clips.unlink()
        self._waiting.append(line)
        # without a shard being written there is none to wait for
        if not self._shards.clips or self._shards.clips >= SHARD_CLIPS:
            self.finish()

    def finish(self) -> None:
        """Write what waits for the shard to be whole, and finish it."""
        if not self._waiting:
            return
        before = self._path.stat().st_size if self._path.exists() else 0
        first = [] if before else [self._settings]
        try:
            _append(self._path, [*first, *self._waiting])
            self._shards.finish()
        except OSError:
            if before:
                os.truncate(self._path, before)
            else:
                self._path.unlink(missing_ok=True)
            raise
        for line in self._waiting:
            self._note(line)
        self._waiting.clear()

    def __enter__(self) -> "Book":
        self._shards.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._shards.__exit__(*failure)

    def _note(self, line: Mapping[str, Any]) -> None:
        taken = [shot for shot in line.get("shots", []) if "clip" in shot]
        if line["verdict"] == "taken":
            self.clips += len(taken)
            self.frames += sum(shot["kept"] for shot in taken)
            self.people.add(line["person"])
        known = Known(line["file"], line["verdict"] == "taken", line["person"], line.get("reason", ""))
        self._by_file[line["file"], line["sha256"]] = known
        if line["sha256"]:
            self._by_content.setdefault(line["sha256"], known)

    def _read(self) -> None:
        there = {shard.name for shard in self.out.glob(SHARDS)}
        last = max(there, default="")
        named: set[str] = set()
        whole = 0  # bytes of the report that the shards bear out
        for line, end in read_report(self._path):
            if not whole:
                self._compare(line)
            else:
                shard = line.get("shard", "")
                if shard > last and shard == self._shards.shard:
                    break  # the run ended before the shard had its name
                named.add(shard)
                self._note(line)
            whole = end
        if there != named - {""}:
            odd = min(there ^ (named - {""}))
            what = f"{odd}, of which its {REPORT} does not know" if odd in there else f"no {odd}, of which its {REPORT} tells"
            raise TalkingheadError(f"{self.out}: holds {what}, expected both as one run left them; prepare into another folder")
        if self._path.exists() and whole < self._path.stat().st_size:
            os.truncate(self._path, whole)

    def _compare(self, settings: Mapping[str, Any]) -> None:
        have, want = _flat(settings), _flat(self._settings)
        other = [name for name in {**want, **have} if have.get(name) != want.get(name)]
        if other:
            name = other[0]
            raise TalkingheadError(
                f"{self.out}: was prepared with {shorten(name)} {shorten(have.get(name))}, expected {want.get(name)}; "
                "prepare into another folder"
            )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in settings.items() if name != "filters"}, **settings.get("filters", {})}


def _append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "ab") as file:
        # ASCII, so that a name that is no Unicode stays valid JSON
        file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
