"""One run of `prepare` over videos: which are processed, and what the data set records of each."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TalkingheadError, one_line
from ..system.executor import Executor
from ..system.file_hash import sha256
from ..system.process_pool import Work, WorkerFailure
from ..system.progress import Progress
from .discover import SourceVideo
from .prepare_result import Cost, PrepareResult
from .process_video import VideoResult, VideoTask, file_stamp
from .writer import DatasetWriter, FileRecord


@dataclass(frozen=True)
class InspectedVideo:
    """A video whose content is known, but not what it shows.

    Attributes:
        source: the video.
        digest: SHA-256 of its content; None when it cannot be read.
        num_bytes: its size; 0 when it cannot be read.
        stamp: its `file_stamp` when the SHA-256 was computed.
        reason: why it is rejected without processing; empty otherwise.
    """

    source: SourceVideo
    digest: str | None
    num_bytes: int
    stamp: tuple[int, int, int] | None
    reason: str


def inspect_video(source: SourceVideo) -> InspectedVideo:
    """Compute the SHA-256 of a video, or say why it cannot be read."""
    path, digest, reason = source.path, None, source.problem
    stamp = file_stamp(path)
    if not reason:
        try:
            digest = sha256(path) if os.path.isfile(path) else None
            reason = "" if digest else "is no file that can be read, expected a video"
        except TalkingheadError as error:
            reason = str(error).removeprefix(one_line(f"{path}: "))
    return InspectedVideo(source, digest, stamp[1] if stamp and digest else 0, stamp=stamp, reason=reason)


@dataclass(frozen=True)
class Entry:
    """A video before it is processed.

    Attributes:
        video: its file.
        known: its record in the data set, if there is one.
        reason: why it is rejected without processing; empty otherwise.
        clips: the file for its clips.
    """

    video: InspectedVideo
    known: FileRecord | None
    reason: str
    clips: Path


def _check_shared(video: InspectedVideo) -> None:
    """Check that a video which vanished for a worker has vanished here too.

    Raises:
        TalkingheadError: it is there, so that the worker runs on a machine that does not see it.
    """
    path = video.source.path
    if video.stamp is not None and file_stamp(path) == video.stamp:
        raise TalkingheadError(
            f"{path}: a worker cannot see this file, which is there; put videos into a folder that all nodes "
            "share, at the same path"
        )


class PrepareRun:
    """One run over videos: decides which are processed, and records the results in the data set.

    Args:
        writer: of the data set.
        staging: the folder for clips that are not in the data set yet.
        executor: runs the work.

    Attributes:
        writer: as above.
        added, present, rejected: the videos, as in `PrepareResult`.
        added_people: names of the people in the added ones.
    """

    def __init__(self, writer: DatasetWriter, staging: Path, executor: Executor) -> None:
        self.writer, self._staging, self._executor = writer, staging, executor
        self._workers = executor.workers
        self._first_by_digest: dict[str, Path] = {}  # SHA-256 -> the first file of this run that has it
        self.added: list[Path] = []
        self.added_people = set[str]()
        self.present: list[Path] = []
        self.rejected: list[tuple[Path, str]] = []
        self._processed, self._seconds, self._frames, self._num_bytes = 0, 0.0, 0, 0

    def process(
        self,
        videos: Iterable[InspectedVideo],
        total: int,
        *,
        work: Work,
        progress: Progress,
    ) -> None:
        """Process videos, and record the results in the data set.

        Args:
            videos: in their order.
            total: their number.
            work: for tasks that are `VideoTask`, with results that are `VideoResult`.
            progress: shows the progress.
        """
        with closing(self._executor.map_ordered(work, self._tasks(videos), caller="prepare")) as results:
            for entry, result in progress(results, desc="videos", total=total):
                self._record_result(entry, result)
        self.writer.finish()

    def _tasks(self, videos: Iterable[InspectedVideo]) -> Iterator[tuple[Entry, VideoTask | None]]:
        """Yield every video, with a task for the workers if it has to be processed."""
        for number, video in enumerate(videos):
            source, digest, reason = video.source, video.digest, video.reason
            path, clips = source.path, self._staging / f"{number}.tar"
            known = self.writer.find(str(path), digest)
            if digest and not known:
                known, reason = self._find_duplicate(source, digest)
            if digest:
                self._first_by_digest.setdefault(digest, path)
            entry = Entry(video=video, known=known, reason=reason, clips=clips)
            if known or reason or not digest:
                yield entry, None
            else:
                yield entry, VideoTask(path, digest, person=source.person, stamp=video.stamp, clips=clips)

    def _find_duplicate(self, source: SourceVideo, digest: str) -> tuple[FileRecord | None, str]:
        """Return the record of a file that was moved here, or the reason why a second copy is rejected."""
        first, known = self._first_by_digest.get(digest), self.writer.find_content(digest)
        if first is not None:
            return None, one_line(f"is the same file as {first}")
        if known is None:
            return None, ""
        if (Path(known.file).name, known.person) == (source.path.name, source.person):
            return known, ""
        return None, one_line(f"is the same file as {known.file}, person {known.person}")

    def _record_result(self, entry: Entry, result: VideoResult | WorkerFailure | None) -> None:
        """Record the result for a file; files have to come in their order."""
        source, reason = entry.video.source, entry.reason
        path, person = source.path, source.person
        if entry.known and entry.known.accepted:
            if entry.known.person != person:
                raise TalkingheadError(
                    f"{path}: is in {self.writer.out} as person {entry.known.person}, expected {person}; "
                    "prepare into another folder"
                )
            self.present.append(path)
            return
        record: dict[str, Any] = {}
        digest, count = entry.video.digest, 0
        if isinstance(result, WorkerFailure):
            entry.clips.unlink(missing_ok=True)
            reason = result.reason
        elif result is not None:
            self._add_cost(result)
            record, reason, count = result.record, result.reason, result.clips
            if result.source_changed:
                _check_shared(entry.video)
                digest = None  # so that the next run processes it again
            if not count:
                entry.clips.unlink(missing_ok=True)
        if reason or entry.known:
            self.rejected.append((path, reason or (entry.known.reason if entry.known else "")))
        else:
            self.added.append(path)
            self.added_people.add(person)
        if entry.known or self.writer.find(str(path), digest):
            return
        verdict = {"verdict": "rejected", "reason": reason} if reason else {"verdict": "taken"}
        line = {
            "file": str(path),
            "sha256": digest,
            "bytes": entry.video.num_bytes,
            **verdict,
            "person": person,
            "layout": source.layout,
            **record,
        }
        self.writer.add(line, entry.clips, count)

    def _add_cost(self, result: VideoResult) -> None:
        self._processed += 1
        self._seconds += result.seconds
        self._frames += result.frames
        self._num_bytes += result.num_bytes

    def check_not_empty(self, total: int) -> None:
        """Raise TalkingheadError when none of the files is in the data set."""
        if not self.added and not self.present:
            path, reason = self.rejected[0]
            raise TalkingheadError(f"none of {total} videos could be used; the first: {path}: {reason}")

    def summarize(self, out: Path, sources: Iterable[SourceVideo]) -> PrepareResult:
        """Return the outcome of the run."""
        return PrepareResult(
            out=out,
            added=tuple(self.added),
            present=tuple(self.present),
            rejected=tuple(self.rejected),
            layouts=Counter(source.layout for source in sources),
            people=len(self.writer.people),
            cost=Cost(
                videos=self._processed,
                seconds=self._seconds,
                workers=self._workers,
                frames=self._frames,
                bytes=self._num_bytes,
            ),
        )
