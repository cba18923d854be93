"""Process one video: find its face, filter its shots, and write the clips of the good ones."""

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import numpy as np

from ..data.load import FaceTracks, frames_at, read_faces
from ..errors import TalkingheadError, one_line
from ..landmarks.detector import Detector
from ..media.video import VideoReader
from ..system.file_hash import sha256
from ..system.progress import Progress
from .quality_filters import Filters, VideoShot
from .shard_reader import ClipInfo
from .shard_writer import write_clip
from .writer import dataset_write_error


@dataclass(frozen=True)
class VideoTask:
    """A video to process.

    Attributes:
        path: the file.
        sha256: of its content.
        person: name of the person in it.
        stamp: its `file_stamp` when the SHA-256 was computed.
        clips: the file to write its clips to.
    """

    path: Path
    sha256: str
    person: str
    stamp: tuple[int, int, int] | None
    clips: Path


@dataclass(frozen=True)
class VideoResult:
    """The outcome for a video.

    Attributes:
        record: values for the report.
        reason: why the video was rejected; empty when it has clips.
        source_changed: whether the file has changed since the SHA-256 was computed, or no longer exists.
        seconds: how long the processing took.
        clips: the number of clips written.
        frames: the number of frames in these clips.
        num_bytes: the size of these clips.
    """

    record: dict[str, Any]
    reason: str
    source_changed: bool = False
    seconds: float = 0.0
    clips: int = 0
    frames: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class VideoProcessor:
    """Processes videos, in a worker process.

    Attributes:
        detector: finds the landmarks.
        size: side of the clips in pixels.
        filters: thresholds for the shots.
        out: the data set's folder, for messages.
        convention: of the clips' crops, one of `talkinghead.data.crop.CONVENTIONS`.
    """

    detector: Detector
    size: int
    filters: Filters
    out: Path
    convention: int = 1

    def __call__(self, task: VideoTask, heartbeat: Callable[[], None]) -> VideoResult:
        """Process a video, and write its clips, if it has any, to `task.clips`.

        Raises:
            TalkingheadError: the clips cannot be written.
        """
        start = perf_counter()
        record: dict[str, Any] = {}
        with _collect_warnings(task.path) as notes:
            try:
                reason = self._process(task, heartbeat, record)
            except OSError as error:
                raise dataset_write_error(self.out, error) from error
            except Exception as error:
                # a library may raise anything on a damaged file, which must not end the work on other files
                if isinstance(error, TalkingheadError):
                    reason = str(error).removeprefix(one_line(f"{task.path}: "))
                else:
                    reason = f"examining it failed ({type(error).__name__}: {error})"
                record.pop("shots", None)
        if file_stamp(task.path) != task.stamp and not _has_content(task.path, task.sha256):
            return VideoResult(
                record={},
                reason="the file changed or vanished while it was read; prepare again to have it looked at",
                source_changed=True,
            )
        clips = [shot for shot in record.get("shots", []) if "clip" in shot]
        if notes:
            record["notes"] = notes
        return VideoResult(
            record=record,
            reason="" if clips else reason,
            seconds=perf_counter() - start,
            clips=len(clips),
            frames=sum(shot["kept"] for shot in clips),
            num_bytes=task.clips.stat().st_size if clips else 0,
        )

    def _process(self, task: VideoTask, heartbeat: Callable[[], None], record: dict[str, Any]) -> str:
        """Fill in the record, write the clips, and return why there are none."""
        faces = _read_faces(task.path, self.detector, heartbeat)
        record.update(
            frames=faces.total, fps=round(faces.fps, 3), size=list(faces.size), faces=len(faces.tracks)
        )
        shots = [
            VideoShot(faces, start, end, self.convention)
            for start, end in pairwise([0, *faces.cuts, faces.total])
        ]
        reasons = [shot.rejection_reason(self.filters) for shot in shots]
        record["shots"] = [shot.figures() for shot in shots]
        good = [index for index, reason in enumerate(reasons) if not reason]
        if good:
            numbers = np.concatenate([shots[index].kept.numbers for index in good])
            frames = _read_frames(task.path, numbers, heartbeat)
            with _own_file(task.clips) as file:
                for index in good:
                    info = self._clip_info(task, faces, shots[index], part=index + 1 if len(shots) > 1 else 0)
                    values, reasons[index] = self._write(file, info, shots[index], frames)
                    record["shots"][index].update(values)
        for values, reason in zip(record["shots"], reasons, strict=True):
            if reason:
                values["reason"] = reason
        if len(shots) == 1:
            return reasons[0]
        return f"none of its {len(shots)} shots can be used; the first: {reasons[0]}"

    def _clip_info(self, task: VideoTask, faces: FaceTracks, shot: VideoShot, part: int) -> ClipInfo:
        return ClipInfo(
            name=task.path.name,
            sha256=task.sha256,
            person=task.person,
            fps=faces.fps,
            frame_size=faces.size,
            crop=shot.crop,
            frames=tuple(shot.kept.numbers.tolist()),
            size=self.size,
            detector=self.detector.name,
            part=part,
        )

    def _write(
        self, file: IO[bytes], info: ClipInfo, shot: VideoShot, frames: Iterator[np.ndarray]
    ) -> tuple[dict[str, Any], str]:
        """Write a clip unless its face is blurred; return further values of the shot and the reason."""
        sharpness_values: list[float] = []
        start = file.tell()
        landmarks = shot.crop.points(shot.kept.landmarks, self.size)
        irises = None if shot.kept.irises is None else shot.crop.points(shot.kept.irises, self.size)
        crops = shot.crops(frames, self.size, sharpness_values)
        write_clip(file, info, landmarks, crops, irises=irises)
        sharpness = round(float(np.median(sharpness_values)), 4)
        minimum = self.filters.min_sharpness
        if sharpness >= minimum:
            return {"sharpness": sharpness, "clip": info.key}, ""
        file.seek(start)
        file.truncate()
        reason = f"its face is blurred (sharpness {sharpness:g}), expected at least {minimum:g}"
        return {"sharpness": sharpness}, reason


@contextmanager
def _own_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write under a name of this process's own, and rename it to `path` at the end.

    On a cluster a node that was taken for lost may still write while another one does its work.
    """
    temp_path = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        with open(temp_path, "wb") as file:
            yield file
        os.replace(temp_path, path)
    except BaseException:
        with suppress(OSError):
            temp_path.unlink()
        raise


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Return inode, size and modification time of a file; None when it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def _collect_warnings(path: Path) -> Iterator[list[str]]:
    """Collect the distinct warnings logged in the block, without the file name."""
    notes: list[str] = []

    class WarningCollector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note = record.getMessage().removeprefix(f"{path}: ").removeprefix(f"{path.name}: ")
            if note not in notes:
                notes.append(note)

    handler, logger = WarningCollector(logging.WARNING), logging.getLogger("talkinghead")
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)


@contextmanager
def _convert_read_errors() -> Iterator[None]:
    """Turn an OSError of reading into a TalkingheadError, to tell it from one of writing."""
    try:
        yield
    except OSError as error:
        raise TalkingheadError(f"reading it failed ({type(error).__name__}: {error})") from error


def _read_faces(path: Path, detector: Detector, heartbeat: Callable[[], None]) -> FaceTracks:
    with _convert_read_errors():
        return read_faces(path, detector, find_cuts=True, progress=_heartbeat_progress(heartbeat))


def _read_frames(path: Path, numbers: np.ndarray, heartbeat: Callable[[], None]) -> Iterator[np.ndarray]:
    with _convert_read_errors():
        yield from frames_at(_heartbeat_progress(heartbeat)(VideoReader(path), desc="", total=None), numbers)


def _heartbeat_progress(heartbeat: Callable[[], None]) -> Progress:
    def progress(frames: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        for frame in frames:
            heartbeat()
            yield frame

    return progress


def _has_content(path: Path, digest: str) -> bool:
    try:
        return sha256(path) == digest
    except TalkingheadError:
        return False
