"""Videos -> the data set that `train` reads."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.crop import CONVENTIONS
from ..data.outputs import check_outputs, files_in, videos_in
from ..data.read import Progress, silent
from ..data.shards import MAX_SIDE, SHARDS, VERSION
from ..errors import TalkingheadError, one_line
from ..files import folder_lock, replacing, sha256
from ..landmarks.detect import open_detector
from ..landmarks.face import Detector
from ..torch_state import with_default_torch_state
from .book import Book, Known
from .examine import Examiner, Finding, Job, state_of, unwritable
from .filters import Filters
from .layouts import Source, find_videos
from .report import REPORT, read_report
from .workers import Lost, cores, in_order

FILES = (SHARDS, REPORT, "dataset.json", "sheet.png")
"""What a data set's folder holds, as patterns."""
_HIDDEN = ".prepare"  # holds what is not whole yet
_VOXCELEB2 = 145_000  # videos


@dataclass(frozen=True)
class Cost:
    """What examining the videos took.

    Attributes:
        videos: how many were examined.
        seconds: that one core worked on them.
        workers: how many processes did.
        frames, bytes: of the clips that they gave.
    """

    videos: int
    seconds: float
    workers: int
    frames: int
    bytes: int

    def lines(self) -> list[str]:
        """The cost, and what it says of VoxCeleb2, for people; nothing when nothing was examined."""
        if not self.videos or not self.seconds:
            return []
        lines = [f"{3600 * self.videos / self.seconds:,.0f} videos an hour per core, {self.seconds / self.videos:.2f} s each"]
        if self.frames:
            each, frame = self.frames / self.videos, self.bytes / self.frames
            hours = _VOXCELEB2 * self.seconds / self.videos / 3600 / self.workers
            lines[0] += f"; {frame:,.0f} bytes a frame"
            lines.append(
                f"VoxCeleb2's {_VOXCELEB2:,} videos, if they were like these, of {each:.0f} good frames: "
                f"{hours:,.0f} hours on {self.workers} core{'s' * (self.workers > 1)}, {_VOXCELEB2 * each * frame / 1e9:,.0f} GB"
            )
        return lines


@dataclass(frozen=True)
class Report:
    """What became of the videos.

    Attributes:
        out: the folder of the data set.
        taken: the videos added now.
        present: those that an earlier run had added.
        rejected: the others, with the reason.
        layouts: what told the person -> of how many videos.
        people: how many are in the data set.
        cost: what it took.
    """

    out: Path
    taken: tuple[Path, ...]
    present: tuple[Path, ...]
    rejected: tuple[tuple[Path, str], ...]
    layouts: Mapping[str, int]
    people: int
    cost: Cost

    def as_dict(self) -> dict[str, Any]:
        """The outcome, for JSON."""
        return {
            "out": str(self.out),
            "taken": [str(path) for path in self.taken],
            "present": [str(path) for path in self.present],
            "rejected": {str(path): reason for path, reason in self.rejected},
            "layouts": dict(self.layouts),
            "people": self.people,
            "cost": asdict(self.cost),
        }

    def lines(self) -> list[str]:
        """The outcome, for people."""
        layouts = ", ".join(f"{count} by {name}" for name, count in self.layouts.items())
        return [
            f"{self.out}: {len(self.taken)} videos added, {len(self.present)} were there, {len(self.rejected)} rejected",
            f"people: {self.people} ({layouts})",
            *self.cost.lines(),
            f"of each video: {self.out / REPORT}",
        ]


@with_default_torch_state
def prepare(
    videos: Iterable[str | Path],
    out: str | Path,
    size: int = 256,
    detector: Detector | str = "auto",
    people: Mapping[str, str] | None = None,
    workers: int | None = None,
    filters: Filters | None = None,
    progress: Progress = silent,
    convention: int = 2,
) -> Report:
    """Add the faces of videos to the data set in a folder.

    The folder then holds tar shards (see `talkinghead.data.shards`), `report.jsonl` (see `talkinghead.corpus.book`) and `dataset.json`
    (version, size, detector, filters, crop unless it is 1, clips, frames, people). The work is done by other processes; one that crashes or
    hangs costs the video it was at. Shards appear one by one, each when it is whole. Run again after an interruption, it goes on after the
    last, and ends with the same bytes, whatever the number of workers; files whose content the report knows, taken or rejected, are not
    examined again. Memory does not grow with the length of a video.

    Args:
        videos: files, and folders whose videos are taken, with those of their subfolders.
        out: made when missing; a data set that is there is added to.
        size: side of the stored crops in pixels, at most `MAX_SIDE`.
        detector: finds the landmarks: a name for `open_detector`, or a detector, which is pickled for the other processes.
        people: file name -> person, where the layout does not tell (see `talkinghead.corpus.layouts`).
        workers: processes that work at a time; by default one for each core that this process may use.
        filters: what a shot must have to be taken; ``Filters()`` by default.
        progress: shows the advance.
        convention: of the crops (see `talkinghead.data.crop`) in a new data set; one that is there goes on with its own.

    Raises:
        TalkingheadError: a video does not exist or none is given; none could be used; size or convention are unknown; the folder cannot be
            written to, is being written by another run, or was prepared with other settings.
    """
    videos = list(videos)
    check_outputs(files_in(out, FILES), [file for video in videos for file in videos_in(video)])
    sources, out = find_videos(videos, people), Path(out)
    opened = open_detector(detector) if isinstance(detector, str) else detector
    workers, filters = workers or cores(), filters or Filters()
    if convention not in CONVENTIONS:
        raise TalkingheadError(f"convention {convention!r}: unknown, 1 or 2 was expected; name one of them, or none")
    if not 0 < size <= MAX_SIDE:
        raise TalkingheadError(f"prepare: a size of {size} is none of crops; choose one from 1 to {MAX_SIDE}, such as 256")
    try:
        # what is there is looked at once no other run can begin it
        with workplace(out) as place, Book(out, settings := _settings(out, size, opened.name, filters, convention)) as book:
            run, examiner = _Run(book, place), Examiner(opened, size, filters, out, settings.get("crop", 1))
            with closing(in_order(examiner, run.jobs(sources), workers)) as results:
                for entry, result in progress(results, len(sources), "videos"):
                    run.enter(entry, result)
            book.finish()
            if not run.taken and not run.present:
                path, reason = run.rejected[0]
                raise TalkingheadError(f"none of {len(sources)} videos could be used; the first: {path}: {reason}")
            summary = {**settings, "clips": book.clips, "frames": book.frames, "people": len(book.people)}
            with replacing(out / "dataset.json") as beside:
                beside.write_text(json.dumps(summary, indent=1) + "\n")
    except OSError as error:
        raise unwritable(out, error) from error
    layouts = Counter(source.layout for source in sources)
    cost = Cost(run.examined, run.seconds, workers, run.frames, run.bytes)
    return Report(out, tuple(run.taken), tuple(run.present), tuple(run.rejected), layouts, len(book.people), cost)


def _settings(out: Path, size: int, detector: str, filters: Filters, convention: int) -> dict[str, Any]:
    """Return what all clips of the data set share, with the convention of the one that is there, or else the one asked for."""
    settings = {"version": VERSION, "size": size, "detector": detector, "filters": asdict(filters)}
    first = next(read_report(out / REPORT), None)  # none where there is no report, or one cut so soon that Book begins it anew
    if first is not None:
        there = first[0].get("crop", 1)
        convention = there if there in CONVENTIONS else convention  # which Book refuses
    # a data set of convention 1 says nothing of it, as those of earlier versions
    return settings | ({"crop": convention} if convention != 1 else {})


@dataclass(frozen=True)
class _Entry:
    """A file, as it is known before it is examined."""

    source: Source
    digest: str | None
    bytes: int
    known: Known | None
    reason: str
    clips: Path


class _Run:
    """One run over the files: decides which are to be examined, and enters in the book what they are worth."""

    def __init__(self, book: Book, place: Path) -> None:
        self._book, self._place = book, place
        self._firsts: dict[str, Path] = {}  # SHA-256 -> the first file of this run that has it
        self.taken: list[Path] = []
        self.present: list[Path] = []
        self.rejected: list[tuple[Path, str]] = []
        self.examined, self.seconds, self.frames, self.bytes = 0, 0.0, 0, 0

    def jobs(self, sources: Iterable[Source]) -> Iterator[tuple[_Entry, Job | None]]:
        """For the workers: each file and, if it is to be examined, what to do."""
        for number, source in enumerate(sources):
            path, clips = source.path, self._place / f"{number}.tar"
            state, digest, reason = state_of(path), None, source.problem
            if not reason:
                try:
                    digest = sha256(path) if os.path.isfile(path) else None
                    reason = "" if digest else "is no file that can be read, expected a video"
                except TalkingheadError as error:
                    reason = str(error).removeprefix(one_line(f"{path}: "))
            known = self._book.find(str(path), digest)
            if digest and not known:
                known, reason = self._elsewhere(source, digest)
            if digest:
                self._firsts.setdefault(digest, path)
            entry = _Entry(source, digest, state[1] if state and digest else 0, known, reason, clips)
            yield entry, None if known or reason or not digest else Job(path, digest, source.person, state, clips)

    def _elsewhere(self, source: Source, digest: str) -> tuple[Known | None, str]:
        """What is known of a content that another file has: of a file that was moved all, of a second one that it is a second one."""
        first, known = self._firsts.get(digest), self._book.find_content(digest)
        if first is not None:
            return None, one_line(f"is the same file as {first}")
        if known is None:
            return None, ""
        if (Path(known.file).name, known.person) == (source.path.name, source.person):
            return known, ""
        return None, one_line(f"is the same file as {known.file}, person {known.person}")

    def enter(self, entry: _Entry, result: Finding | Lost | None) -> None:
        """Note what became of a file; files have to come in their order."""
        path, person, reason = entry.source.path, entry.source.person, entry.reason
        if entry.known and entry.known.taken:
            if entry.known.person != person:
                raise TalkingheadError(
                    f"{path}: is in {self._book.out} as person {entry.known.person}, expected {person}; prepare into another folder"
                )
            self.present.append(path)
            return
        record: dict[str, Any] = {}
        digest, count = entry.digest, 0
        if isinstance(result, Lost):
            entry.clips.unlink(missing_ok=True)
            reason = result.reason
        elif result is not None:
            self.examined, self.seconds = self.examined + 1, self.seconds + result.seconds
            self.frames, self.bytes = self.frames + result.frames, self.bytes + result.bytes
            record, reason, count = result.record, result.reason, result.clips
            if result.changed:
                digest = None  # so that it is looked at again by the next run
            if not count:
                entry.clips.unlink(missing_ok=True)
        if reason or entry.known:
            self.rejected.append((path, reason or (entry.known.reason if entry.known else "")))
        else:
            self.taken.append(path)
        if entry.known or self._book.find(str(path), digest):
            return
        verdict = {"verdict": "rejected", "reason": reason} if reason else {"verdict": "taken"}
        line = {
            "file": str(path),
            "sha256": digest,
            "bytes": entry.bytes,
            **verdict,
            "person": person,
            "layout": entry.source.layout,
            **record,
        }
        self._book.add(line, entry.clips, count)


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """A hidden folder for files that are not whole yet, for one run at a time; what a killed run left behind is removed."""
    hidden, made = out / _HIDDEN, not out.exists()
    hidden.mkdir(parents=True, exist_ok=True)
    with folder_lock(hidden, out):
        for left in [*hidden.iterdir(), *out.glob(".shard-*.tar.part"), *out.glob(".dataset.*.json")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield Path(tempfile.mkdtemp(dir=hidden))
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
            if made:
                with suppress(OSError):  # unless something was written
                    out.rmdir()
