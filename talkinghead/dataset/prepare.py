"""Prepare videos: write the data set that `train` reads."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.crop import CONVENTIONS
from ..data.output_paths import check_outputs, files_in, videos_in
from ..errors import TalkingheadError, one_line
from ..landmarks.detector import Detector
from ..landmarks.open_detector import resolve_detector
from ..system.atomic_file import atomic_write
from ..system.file_hash import sha256
from ..system.process_pool import WorkerFailure, cpu_count, map_ordered
from ..system.progress import Progress, check_callbacks, no_progress
from ..system.torch_state import with_default_torch_state
from .discover import SourceVideo, find_videos, list_paths
from .people_table import resolve_people
from .prepare_result import Cost, PrepareResult
from .process_video import VideoProcessor, VideoResult, VideoTask, file_stamp
from .quality_filters import Filters
from .report import REPORT, read_report
from .shard_reader import MAX_SIDE, SHARDS, VERSION
from .staging import staging_folder
from .writer import DatasetWriter, FileRecord, dataset_write_error

FILES = (SHARDS, REPORT, "dataset.json", "sheet.png")
"""Patterns of the files in a data set's folder."""


@with_default_torch_state
def prepare(
    videos: str | Path | Iterable[str | Path],
    out: str | Path,
    size: int = 256,
    detector: Detector | str = "auto",
    people: Mapping[str, str] | str | Path | None = None,
    workers: int | None = None,
    filters: Filters | None = None,
    progress: Progress = no_progress,
    convention: int = 2,
) -> PrepareResult:
    """Add the faces of videos to the data set in a folder.

    The folder then holds tar shards (see `talkinghead.dataset.shard_reader`), `report.jsonl` (see
    `talkinghead.dataset.writer`) and `dataset.json` (version, size, detector, filters, crop unless it is 1,
    clips, frames, people). A worker process that crashes or hangs costs its current video. Shards appear one
    by one, each when it is complete. After an interruption the same call resumes after the last shard, and
    gives the same bytes, whatever the number of workers; files whose content is in the report are not
    processed again. Memory does not grow with the length of a video.

    Args:
        videos: files, and folders whose videos are used, including those in subfolders.
        out: created when missing; an existing data set is extended.
        size: side of the stored crops in pixels, at most `talkinghead.dataset.shard_reader.MAX_SIDE`.
        detector: its name, such as "network" or "dlib", or a detector, which is pickled for the workers.
        people: who is in which video, where the layout does not tell (see `talkinghead.dataset.discover`): a
            mapping of file name to person, or the path of a table of tab-separated columns file and person.
        workers: the number of processes; by default one for each core that this process may use.
        filters: thresholds for the shots; ``Filters()`` by default.
        progress: shows the progress.
        convention: of the crops (see `talkinghead.data.crop`) in a new data set; an existing one keeps its
            own.

    Raises:
        TalkingheadError: a video does not exist, or there are none; none could be used; size or convention
            are unknown; the folder cannot be written to, is being written by another run, or was prepared
            with other settings.
    """
    videos = list_paths(videos)
    check_outputs(files_in(out, FILES), [file for video in videos for file in videos_in(video)])
    sources, out = find_videos(videos, resolve_people(people)), Path(out)
    workers, filters, opened = workers or cpu_count(), filters or Filters(), resolve_detector(detector)
    _check_arguments(size, convention, progress)
    try:
        # read the existing data set only while no other run can write to it
        with staging_folder(out) as staging:
            settings = _settings(out, opened, size=size, filters=filters, convention=convention)
            with DatasetWriter(out, settings) as writer:
                run = _Run(writer, staging)
                processor = VideoProcessor(opened, size, filters, out=out, convention=settings.get("crop", 1))
                tasks = run.tasks(sources)
                with closing(map_ordered(processor, tasks, workers, caller="prepare")) as results:
                    for entry, result in progress(results, desc="videos", total=len(sources)):
                        run.record_result(entry, result)
                writer.finish()
                run.check_not_empty(len(sources))
                _write_summary(out, settings, writer)
    except OSError as error:
        raise dataset_write_error(out, error) from error
    return run.summarize(out, sources, workers)


def _check_arguments(size: int, convention: int, progress: object) -> None:
    check_callbacks(progress)
    if convention not in CONVENTIONS:
        raise TalkingheadError(
            f"convention {convention!r}: unknown, expected 1 or 2; name one of them, or none"
        )
    if not 0 < size <= MAX_SIDE:
        raise TalkingheadError(
            f"prepare: a size of {size} is none of crops; choose one from 1 to {MAX_SIDE}, such as 256"
        )


def _settings(
    out: Path, detector: Detector, *, size: int, filters: Filters, convention: int
) -> dict[str, Any]:
    """Return the settings that all clips share, with the convention of an existing data set."""
    settings = {"version": VERSION, "size": size, "detector": detector.name, "filters": asdict(filters)}
    # there is no first line without a report, or when a run was interrupted while it wrote that line
    first = next(read_report(out / REPORT), None)
    if first is not None:
        stored = first[0].get("crop", 1)
        # DatasetWriter refuses an unknown one
        convention = stored if stored in CONVENTIONS else convention
    # a data set of convention 1 does not store it, as in earlier versions
    return settings | ({"crop": convention} if convention != 1 else {})


def _write_summary(out: Path, settings: Mapping[str, Any], writer: DatasetWriter) -> None:
    counts = {"clips": writer.clips, "frames": writer.frames, "people": len(writer.people)}
    with atomic_write(out / "dataset.json") as temp_path:
        temp_path.write_text(json.dumps({**settings, **counts}, indent=1) + "\n")


@dataclass(frozen=True)
class _Entry:
    """A file before it is processed.

    Attributes:
        source: the video.
        digest: SHA-256 of its content; None when it cannot be read.
        num_bytes: its size.
        known: its record in the data set, if there is one.
        reason: why it is rejected without processing; empty otherwise.
        clips: the file for its clips.
    """

    source: SourceVideo
    digest: str | None
    num_bytes: int
    known: FileRecord | None
    reason: str
    clips: Path


class _Run:
    """One run over the files: decides which are processed, and records the results in the data set."""

    def __init__(self, writer: DatasetWriter, staging: Path) -> None:
        self._writer, self._staging = writer, staging
        self._first_by_digest: dict[str, Path] = {}  # SHA-256 -> the first file of this run that has it
        self.added: list[Path] = []
        self.present: list[Path] = []
        self.rejected: list[tuple[Path, str]] = []
        self.processed, self.seconds, self.frames, self.num_bytes = 0, 0.0, 0, 0

    def tasks(self, sources: Iterable[SourceVideo]) -> Iterator[tuple[_Entry, VideoTask | None]]:
        """Yield every file, with a task for the workers if it has to be processed."""
        for number, source in enumerate(sources):
            path, clips = source.path, self._staging / f"{number}.tar"
            stamp, digest, reason = file_stamp(path), None, source.problem
            if not reason:
                try:
                    digest = sha256(path) if os.path.isfile(path) else None
                    reason = "" if digest else "is no file that can be read, expected a video"
                except TalkingheadError as error:
                    reason = str(error).removeprefix(one_line(f"{path}: "))
            known = self._writer.find(str(path), digest)
            if digest and not known:
                known, reason = self._find_duplicate(source, digest)
            if digest:
                self._first_by_digest.setdefault(digest, path)
            entry = _Entry(
                source=source,
                digest=digest,
                num_bytes=stamp[1] if stamp and digest else 0,
                known=known,
                reason=reason,
                clips=clips,
            )
            if known or reason or not digest:
                yield entry, None
            else:
                yield entry, VideoTask(path, digest, person=source.person, stamp=stamp, clips=clips)

    def _find_duplicate(self, source: SourceVideo, digest: str) -> tuple[FileRecord | None, str]:
        """Return the record of a file that was moved here, or the reason why a second copy is rejected."""
        first, known = self._first_by_digest.get(digest), self._writer.find_content(digest)
        if first is not None:
            return None, one_line(f"is the same file as {first}")
        if known is None:
            return None, ""
        if (Path(known.file).name, known.person) == (source.path.name, source.person):
            return known, ""
        return None, one_line(f"is the same file as {known.file}, person {known.person}")

    def record_result(self, entry: _Entry, result: VideoResult | WorkerFailure | None) -> None:
        """Record the result for a file; files have to come in their order."""
        path, person, reason = entry.source.path, entry.source.person, entry.reason
        if entry.known and entry.known.accepted:
            if entry.known.person != person:
                raise TalkingheadError(
                    f"{path}: is in {self._writer.out} as person {entry.known.person}, expected {person}; "
                    "prepare into another folder"
                )
            self.present.append(path)
            return
        record: dict[str, Any] = {}
        digest, count = entry.digest, 0
        if isinstance(result, WorkerFailure):
            entry.clips.unlink(missing_ok=True)
            reason = result.reason
        elif result is not None:
            self._add_cost(result)
            record, reason, count = result.record, result.reason, result.clips
            if result.source_changed:
                digest = None  # so that the next run processes it again
            if not count:
                entry.clips.unlink(missing_ok=True)
        if reason or entry.known:
            self.rejected.append((path, reason or (entry.known.reason if entry.known else "")))
        else:
            self.added.append(path)
        if entry.known or self._writer.find(str(path), digest):
            return
        verdict = {"verdict": "rejected", "reason": reason} if reason else {"verdict": "taken"}
        line = {
            "file": str(path),
            "sha256": digest,
            "bytes": entry.num_bytes,
            **verdict,
            "person": person,
            "layout": entry.source.layout,
            **record,
        }
        self._writer.add(line, entry.clips, count)

    def _add_cost(self, result: VideoResult) -> None:
        self.processed += 1
        self.seconds += result.seconds
        self.frames += result.frames
        self.num_bytes += result.num_bytes

    def check_not_empty(self, total: int) -> None:
        """Raise TalkingheadError when none of the files is in the data set."""
        if not self.added and not self.present:
            path, reason = self.rejected[0]
            raise TalkingheadError(f"none of {total} videos could be used; the first: {path}: {reason}")

    def summarize(self, out: Path, sources: Iterable[SourceVideo], workers: int) -> PrepareResult:
        """Return the outcome of the run."""
        return PrepareResult(
            out=out,
            added=tuple(self.added),
            present=tuple(self.present),
            rejected=tuple(self.rejected),
            layouts=Counter(source.layout for source in sources),
            people=len(self._writer.people),
            cost=Cost(
                videos=self.processed,
                seconds=self.seconds,
                workers=workers,
                frames=self.frames,
                bytes=self.num_bytes,
            ),
        )
