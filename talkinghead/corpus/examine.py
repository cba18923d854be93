"""What a video is worth for learning: its shots, each judged by itself, and the clips they give."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import numpy as np

from ..data.read import Faces, Progress, read_faces, select
from ..data.shards import ClipInfo
from ..errors import TalkingheadError, one_line
from ..files import sha256
from ..landmarks.face import Detector
from ..media.video import VideoReader
from .filters import Filters, Shot
from .shard_writer import write_clip


@dataclass(frozen=True)
class Job:
    """A video to examine.

    Attributes:
        path: the file.
        sha256: of its content.
        person: whom it shows.
        seen: its state when the SHA-256 was taken, from `state_of`.
        clips: where to write its clips, if it gives any.
    """

    path: Path
    sha256: str
    person: str
    seen: tuple[int, int, int] | None
    clips: Path


@dataclass(frozen=True)
class Finding:
    """What a video is worth.

    Attributes:
        record: for the report.
        reason: why none of it can be taken; empty when some was.
        changed: the file is another than the one whose SHA-256 was taken, or none.
        seconds: that it took.
        clips: how many were written.
        frames: of these clips together.
        bytes: of these clips together.
    """

    record: dict[str, Any]
    reason: str
    changed: bool = False
    seconds: float = 0.0
    clips: int = 0
    frames: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Examiner:
    """Examines videos, in a worker process.

    Attributes:
        detector: finds the landmarks.
        size: side of the clips in pixels.
        filters: what shots must have.
        out: the data set's folder, for messages.
        convention: of the clips' crops, one of `talkinghead.data.crop.CONVENTIONS`.
    """

    detector: Detector
    size: int
    filters: Filters
    out: Path
    convention: int = 1

    def __call__(self, job: Job, alive: Callable[[], None]) -> Finding:
        """What one video is worth; its clips are written to `job.clips` when it has any.

        Raises:
            TalkingheadError: the clips cannot be written.
        """
        started = perf_counter()
        record: dict[str, Any] = {}
        with _noting(job.path) as notes:
            try:
                reason = self._examine(job, alive, record)
            except OSError as error:
                raise unwritable(self.out, error) from error
            except Exception as error:
                # whatever a damaged file makes a library raise is that file's fault, and ends no one else's work
                known = isinstance(error, TalkingheadError)
                reason = (
                    str(error).removeprefix(one_line(f"{job.path}: "))
                    if known
                    else f"examining it failed ({type(error).__name__}: {error})"
                )
                record.pop("shots", None)
        if state_of(job.path) != job.seen and not _has(job.path, job.sha256):
            return Finding({}, "the file changed or vanished while it was read; prepare again to have it looked at", changed=True)
        taken = [shot for shot in record.get("shots", []) if "clip" in shot]
        if notes:
            record["notes"] = notes
        return Finding(
            record=record,
            reason="" if taken else reason,
            seconds=perf_counter() - started,
            clips=len(taken),
            frames=sum(shot["kept"] for shot in taken),
            bytes=job.clips.stat().st_size if taken else 0,
        )

    def _examine(self, job: Job, alive: Callable[[], None], record: dict[str, Any]) -> str:
        """Fill in the record and write the clips; returns why there is none."""
        faces = _read(job.path, self.detector, alive)
        record.update(frames=faces.total, fps=round(faces.fps, 3), size=list(faces.size), faces=len(faces.chains))
        shots = [Shot(faces, start, end, self.convention) for start, end in pairwise([0, *faces.cuts, faces.total])]
        reasons = [shot.reason(self.filters) for shot in shots]
        record["shots"] = [shot.figures() for shot in shots]
        good = [index for index, reason in enumerate(reasons) if not reason]
        if good:
            frames = _frames(job.path, np.concatenate([shots[index].kept.numbers for index in good]), alive)
            with open(job.clips, "wb") as file:
                for index in good:
                    part = index + 1 if len(shots) > 1 else 0
                    figures, reasons[index] = self._write(file, job, faces, shots[index], part, frames)
                    record["shots"][index].update(figures)
        for shown, reason in zip(record["shots"], reasons, strict=True):
            if reason:
                shown["reason"] = reason
        return reasons[0] if len(shots) == 1 else f"none of its {len(shots)} shots can be used; the first: {reasons[0]}"

    def _write(
        self, file: IO[bytes], job: Job, faces: Faces, shot: Shot, part: int, frames: Iterator[np.ndarray]
    ) -> tuple[dict[str, Any], str]:
        """Write one clip, unless its face turns out to be blurred; returns what there is to add to its figures, and the reason."""
        numbers = tuple(shot.kept.numbers.tolist())
        name, found_by = job.path.name, self.detector.name
        info = ClipInfo(name, job.sha256, job.person, faces.fps, faces.size, shot.crop, numbers, self.size, found_by, part)
        looks: list[float] = []
        start = file.tell()
        write_clip(file, info, shot.crop.points(shot.kept.landmarks, self.size), shot.pictures(frames, self.size, looks))
        sharp, least = round(float(np.median(looks)), 4), self.filters.min_sharpness
        if sharp >= least:
            return {"sharpness": sharp, "clip": info.key}, ""
        file.seek(start)
        file.truncate()
        return {"sharpness": sharp}, f"its face is blurred (sharpness {sharp:g}), expected at least {least:g}"


def state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does: its number, size and time; None when it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def unwritable(out: Path, error: OSError) -> TalkingheadError:
    """What the user is told when a data set cannot be written."""
    return TalkingheadError(f"{out}: cannot be written to ({error.strerror or error}); free some space or name another place")


@contextmanager
def _noting(path: Path) -> Iterator[list[str]]:
    """What is warned of meanwhile, each once, without the name of the file."""
    notes: list[str] = []

    class Noter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note = record.getMessage().removeprefix(f"{path}: ").removeprefix(f"{path.name}: ")
            if note not in notes:
                notes.append(note)

    noter, logger = Noter(logging.WARNING), logging.getLogger("talkinghead")
    logger.addHandler(noter)
    try:
        yield notes
    finally:
        logger.removeHandler(noter)


@contextmanager
def _reading() -> Iterator[None]:
    """An OSError raised here is the video's, not one of writing."""
    try:
        yield
    except OSError as error:
        raise TalkingheadError(f"reading it failed ({type(error).__name__}: {error})") from error


def _read(path: Path, detector: Detector, alive: Callable[[], None]) -> Faces:
    with _reading():
        return read_faces(path, detector, find_cuts=True, progress=_showing(alive))


def _frames(path: Path, numbers: np.ndarray, alive: Callable[[], None]) -> Iterator[np.ndarray]:
    with _reading():
        yield from select(_showing(alive)(VideoReader(path)), numbers)


def _showing(alive: Callable[[], None]) -> Progress:
    def progress(frames: Iterable[Any], total: int | None = None, what: str = "") -> Iterable[Any]:
        for frame in frames:
            alive()
            yield frame

    return progress


def _has(path: Path, digest: str) -> bool:
    try:
        return sha256(path) == digest
    except TalkingheadError:
        return False
