"""Writes a data set: its shards, and report.jsonl, which records the outcome for every video.

The first line of the report holds the settings: version, size, detector, filters. Every other line describes
one file:
    file, sha256, bytes     the name as the user gave it; null and 0 when it could not be read
    verdict                 "taken" or "rejected", and then the reason
    person, layout          the person's name, and the detected layout that it comes from
    shard                   the shard that has its clips
    frames, fps, size       of the video; size is [height, width]
    faces                   how many were tracked through it
    shots                   first and last frame, frames with the face (seen) and to learn from (kept), median
                            side of the face in pixels (face), confidence, sharpness, and the key of its clip
                            or the reason why it has none
    notes                   warnings from reading it
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..constants import SHARD_CLIPS
from ..errors import TalkingheadError, shorten
from ..system.atomic_file import atomic_write
from .report import REPORT, read_report
from .shard_reader import SHARDS
from .shard_writer import ShardWriter

SUMMARY = "dataset.json"


@dataclass(frozen=True)
class FileRecord:
    """The outcome for a file in the report: its name, verdict and person, and the reason of a rejection."""

    file: str
    accepted: bool
    person: str
    reason: str


class DatasetWriter:
    """Adds clips and report lines to a data set; use as a context manager.

    Lines are appended to the report when the shard with their clips is full, just before the shard gets its
    final name. If the run is killed in between, the next run removes these lines.

    Args:
        out: the folder, which exists.
        settings: the settings that all clips share.
        shard_clips: clips after which a shard is finished; None for `SHARD_CLIPS`. All clips of a video are
            in the same shard.

    Attributes:
        out, settings: as above.
        clips, frames: how many clips and frames the data set holds.
        people: the names of the people in it.

    Raises:
        TalkingheadError: the folder holds clips of other settings, its shards and its report contradict each
            other, or `shard_clips` is less than 1.
        OSError: the folder cannot be read or written.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], shard_clips: int | None = None) -> None:
        self._shard_clips = SHARD_CLIPS if shard_clips is None else shard_clips
        if self._shard_clips < 1:
            raise TalkingheadError(
                f"prepare: shards of {shard_clips} clips are none; choose 1 or more, such as {SHARD_CLIPS}"
            )
        self.out, self._path, self.settings = out, out / REPORT, settings
        self.clips, self.frames, self.people = 0, 0, set[str]()
        self._by_file: dict[tuple[str, str | None], FileRecord] = {}
        self._by_content: dict[str, FileRecord] = {}
        self._pending: list[Mapping[str, Any]] = []
        self._shards = ShardWriter(out)
        self._read()

    def find(self, file: str, digest: str | None) -> FileRecord | None:
        """Return the record of a file with this content, if there is one."""
        return self._by_file.get((file, digest))

    def find_content(self, digest: str) -> FileRecord | None:
        """Return the record of the first file with this content, if there is one."""
        return self._by_content.get(digest)

    def add(self, line: dict[str, Any], clips: Path, count: int) -> None:
        """Add the report line of a file, and its clips.

        Args:
            line: the values for the report.
            clips: a file that `write_clip` wrote; it is removed.
            count: how many clips it contains.

        Raises:
            OSError: the data set cannot be written; it is as it was after the last complete shard.
        """
        if count:
            line["shard"] = self._shards.shard
            self._shards.append_archive(clips, count)
            clips.unlink()
        self._pending.append(line)
        # without an incomplete shard, the lines need not wait for one
        if not self._shards.clips or self._shards.clips >= self._shard_clips:
            self.finish()

    def finish(self) -> None:
        """Write the pending report lines, and finish the current shard."""
        if not self._pending:
            return
        before = self._path.stat().st_size if self._path.exists() else 0
        first = [] if before else [self.settings]
        try:
            _append(self._path, [*first, *self._pending])
            self._shards.finish()
        except OSError:
            if before:
                os.truncate(self._path, before)
            else:
                self._path.unlink(missing_ok=True)
            raise
        for line in self._pending:
            self._count(line)
        self._pending.clear()

    def write_summary(self) -> None:
        """Write dataset.json: the settings, and the numbers of clips, frames and people."""
        counts = {"clips": self.clips, "frames": self.frames, "people": len(self.people)}
        with atomic_write(self.out / SUMMARY) as temp_path:
            temp_path.write_text(json.dumps({**self.settings, **counts}, indent=1) + "\n")

    def __enter__(self) -> "DatasetWriter":
        self._shards.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._shards.__exit__(*failure)

    def _count(self, line: Mapping[str, Any]) -> None:
        clips = [shot for shot in line.get("shots", []) if "clip" in shot]
        accepted = line["verdict"] == "taken"
        if accepted:
            self.clips += len(clips)
            self.frames += sum(shot["kept"] for shot in clips)
            self.people.add(line["person"])
        record = FileRecord(line["file"], accepted, line["person"], line.get("reason", ""))
        self._by_file[line["file"], line["sha256"]] = record
        if line["sha256"]:
            self._by_content.setdefault(line["sha256"], record)

    def _read(self) -> None:
        """Read the report, compare it with the shards, and remove lines of an unfinished shard."""
        shards = {shard.name for shard in self.out.glob(SHARDS)}
        last = max(shards, default="")
        reported: set[str] = set()
        valid_bytes = 0  # of the report, up to the last line whose shard exists
        for line, end in read_report(self._path):
            if not valid_bytes:
                self._check_settings(line)
            else:
                shard = line.get("shard", "")
                if shard > last and shard == self._shards.shard:
                    break  # the run was killed before the shard got its name
                reported.add(shard)
                self._count(line)
            valid_bytes = end
        unmatched = shards ^ (reported - {""})
        if unmatched:
            name = min(unmatched)
            if name in shards:
                contradiction = f"{name}, of which its {REPORT} does not know"
            else:
                contradiction = f"no {name}, of which its {REPORT} tells"
            raise TalkingheadError(
                f"{self.out}: holds {contradiction}, expected both as one run left them; prepare into "
                "another folder"
            )
        if self._path.exists() and valid_bytes < self._path.stat().st_size:
            os.truncate(self._path, valid_bytes)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        stored, requested = _flatten(settings), _flatten(self.settings)
        names = {**requested, **stored}
        differing = next((name for name in names if stored.get(name) != requested.get(name)), None)
        if differing is not None:
            raise TalkingheadError(
                f"{self.out}: was prepared with {shorten(differing)} {shorten(stored.get(differing))}, "
                f"expected {requested.get(differing)}; prepare into another folder"
            )


def dataset_write_error(out: Path, error: OSError) -> TalkingheadError:
    """Return the error of a data set that cannot be written."""
    return TalkingheadError(
        f"{out}: cannot be written to ({error.strerror or error}); free some space or name another place"
    )


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: value for name, value in settings.items() if name != "filters"},
        **settings.get("filters", {}),
    }


def _append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "ab") as file:
        # ASCII, so that a name that is not valid Unicode stays valid JSON
        file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
