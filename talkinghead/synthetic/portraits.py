"""Data sets of animated still portraits, in the shards that `talkinghead prepare` writes."""

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..data.crop import crop_around
from ..data.output_paths import check_outputs, files_in
from ..dataset.prepare import FILES
from ..dataset.shard_reader import VERSION, ClipInfo
from ..dataset.shard_writer import write_clip
from ..dataset.staging import staging_folder
from ..dataset.writer import DatasetWriter, dataset_write_error
from ..errors import TalkingheadError, one_line
from ..landmarks.detector import Detector, find_faces
from ..landmarks.open_detector import resolve_detector
from ..media.images import read_image
from ..system.process_pool import WorkerFailure, cpu_count, map_ordered
from ..system.progress import Progress, no_progress
from .contact_sheet import write_contact_sheet
from .portrait_checks import border_reason, rejection_reason
from .portrait_motion import PortraitHead, move_landmarks, move_points, render_motion, sample_motions
from .portrait_sources import Portrait, find_portraits

GENERATOR = "portraits-2"
"""Version of the generator, changed when the same seed gives other frames."""
CROP_CONVENTION = 2
"""Convention of the crops, see `talkinghead.data.crop`."""
FRAMES_EACH = 10
"""Frames of each portrait by default."""
FPS = 25.0
"""Frames per second that the clips claim; their frames are poses, in no order of time."""


@dataclass(frozen=True)
class PortraitReport:
    """Result of preparing a data set of portraits.

    Attributes:
        out: the folder of the data set.
        added: number of portraits added by this run.
        present: number of portraits added by earlier runs.
        rejected: file names of the others, with the reason.
        clips, frames: in the data set.
        frames_per_second: rendering speed of all processes together; 0 if nothing was rendered.
        sheet: contact sheet of some of the people.
    """

    out: Path
    added: int
    present: int
    rejected: tuple[tuple[str, str], ...]
    clips: int
    frames: int
    frames_per_second: float
    sheet: Path

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON, with the key "made" for `added`."""
        return {
            "out": str(self.out),
            "made": self.added,
            "present": self.present,
            "rejected": dict(self.rejected),
            "clips": self.clips,
            "frames": self.frames,
            "frames_per_second": self.frames_per_second,
            "sheet": str(self.sheet),
        }

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        speed = f", {self.frames_per_second:.0f} frames a second" if self.added else ""
        counts = f"{self.added} portraits added, {self.present} were present, {len(self.rejected)} rejected"
        lines = [f"{self.out}: {counts}{speed}"]
        if self.rejected:
            lines.append("the first rejected: {}: {}".format(*self.rejected[0]))
        return [*lines, f"{self.clips} clips, {self.frames} frames", f"contact sheet: {self.sheet}"]


def prepare_portraits(
    pictures: str | Path,
    out: str | Path,
    size: int = 256,
    seed: int = 0,
    frames_each: int = FRAMES_EACH,
    workers: int | None = None,
    detector: Detector | str | None = None,
    progress: Progress = no_progress,
    shard_clips: int | None = None,
) -> PortraitReport:
    """Make still portraits of many people move, and write them with exact landmarks into a data set.

    The folder then holds what `prepare` writes for videos, and `sheet.png`. The next run resumes an
    interrupted one, with the same bytes for any number of workers, and adds new pictures.

    Args:
        pictures: a folder of pictures or a .tar of them, one person each.
        out: the folder, created if missing.
        size, seed: side of the stored crops in pixels; seed of the motions.
        frames_each: frames of each portrait; the first is the portrait as it is.
        workers: number of worker processes; by default one for each core that this process may use.
        detector: finds the landmarks: a name for `open_detector`, "auto" by default, or a detector.
        progress: reports progress.
        shard_clips: clips after which a shard is finished, by default 16.

    Raises:
        TalkingheadError: a number is out of range, there are no pictures or none can be used, or the folder
            cannot be written to, is being written by another run, or holds clips of other settings.
    """
    workers = cpu_count() if workers is None else workers
    _check_numbers({"pixels a side": size, "frames for each": frames_each, "workers": workers}, seed)
    check_outputs(files_in(Path(out), FILES), [pictures])
    portraits = find_portraits(Path(pictures))
    renderer = PortraitRenderer(resolve_detector(detector), seed, size, frames_each)
    out, started = Path(out), perf_counter()
    try:
        with staging_folder(out) as staging, DatasetWriter(out, renderer.settings(), shard_clips) as writer:
            run = _Run(writer, staging)
            tasks = run.tasks(portraits)
            with closing(map_ordered(renderer, tasks, workers, caller="prepare_portraits")) as results:
                for entry, result in progress(results, desc="portraits", total=len(portraits)):
                    run.record(entry, result)
            writer.finish()
            run.check_usable(pictures)
            writer.write_summary()
    except OSError as error:
        raise dataset_write_error(out, error) from error
    seconds = perf_counter() - started
    write_contact_sheet(out, out / "sheet.png")
    return PortraitReport(
        out=out,
        added=run.added,
        present=run.present,
        rejected=tuple(run.rejected),
        clips=writer.clips,
        frames=writer.frames,
        frames_per_second=run.added * frames_each / seconds,
        sheet=out / "sheet.png",
    )


def _check_numbers(positive: dict[str, int], seed: int) -> None:
    """Raise TalkingheadError if a number is below 1 or the seed negative."""
    for what, number in positive.items():
        if number < 1:
            raise TalkingheadError(f"portraits: {number} {what}, expected at least 1; give a larger number")
    if seed < 0:
        raise TalkingheadError(f"portraits: seed {seed}, expected 0 or more; give a larger number")


@dataclass(frozen=True)
class _Task:
    """A portrait for a worker: the file to read, its SHA-256, name, person, and where to write its clip."""

    picture: Path
    digest: str
    name: str
    person: str
    clip: Path


@dataclass(frozen=True)
class _Entry:
    """Portrait before it is rendered: its number, SHA-256, and the reason if it is not rendered."""

    portrait: Portrait
    number: int
    digest: str | None
    bytes: int
    reason: str
    is_known: bool


class _Run:
    """One run: decides which portraits to render, and records the results in the data set."""

    def __init__(self, writer: DatasetWriter, staging: Path) -> None:
        self._writer, self._staging = writer, staging
        self._names: dict[str, str] = {}  # SHA-256 -> the first file of this run that has it
        self._people: dict[str, str] = {}  # person -> file of this run
        self.added = self.present = 0
        self.rejected: list[tuple[str, str]] = []

    def tasks(self, portraits: list[Portrait]) -> Iterator[tuple[_Entry, _Task | None]]:
        """Yield each portrait and its task; the task is None if the portrait is not to be rendered."""
        for number, portrait in enumerate(portraits):
            data, digest, reason = b"", None, portrait.reason
            if not reason:
                try:
                    data = portrait.read()
                    digest = hashlib.sha256(data).hexdigest()
                except (OSError, tarfile.TarError) as error:
                    problem = getattr(error, "strerror", None) or error
                    reason = one_line(f"cannot be read ({problem}); copy it again")
            is_known = self._writer.find(portrait.name, digest) is not None
            if digest and not is_known:
                reason = self._conflict(portrait, digest)
            entry = _Entry(
                portrait=portrait,
                number=number,
                digest=digest,
                bytes=len(data),
                reason=reason,
                is_known=is_known,
            )
            if digest is None or reason or is_known:
                yield entry, None
                continue
            # The worker reads a copy, so that it renders the bytes that the SHA-256 belongs to.
            copy = self._staging / f"{number}{Path(portrait.name).suffix.lower()}"
            copy.write_bytes(data)
            yield (
                entry,
                _Task(
                    picture=copy,
                    digest=digest,
                    name=portrait.name,
                    person=portrait.person,
                    clip=self._clip_path(entry),
                ),
            )

    def check_usable(self, pictures: str | Path) -> None:
        """Raise TalkingheadError if no portrait could be used."""
        if not self.added and not self.present:
            count, first = len(self.rejected), ": ".join(self.rejected[0])
            raise TalkingheadError(f"{pictures}: none of {count} can be used; the first: {first}")

    def _conflict(self, portrait: Portrait, digest: str) -> str:
        """Return why a portrait that is not in the data set cannot be added; empty when it can."""
        known = self._writer.find_content(digest)
        first = self._names.setdefault(digest, portrait.name)
        if known or first != portrait.name:
            return f"is the same picture as {known.file if known else first}"
        other = self._people.setdefault(portrait.person, portrait.name)
        if other != portrait.name or portrait.person in self._writer.people:
            return f"would be person {portrait.person}, as another picture is; rename it"
        return ""

    def _clip_path(self, entry: _Entry) -> Path:
        """Return the archive of the clip of a portrait."""
        return self._staging / f"{entry.number}.tar"

    def record(self, entry: _Entry, result: dict[str, Any] | WorkerFailure | None) -> None:
        """Record the result of a portrait in the data set; results have to come in order."""
        portrait, reason = entry.portrait, entry.reason
        for copy in self._staging.glob(f"{entry.number}.*"):
            if copy != self._clip_path(entry):
                copy.unlink()
        if entry.is_known:
            known = self._writer.find(portrait.name, entry.digest)
            if known and not known.accepted:
                self.rejected.append((portrait.name, known.reason))
            else:
                self.present += 1
            return
        details: dict[str, Any] = {}
        if isinstance(result, WorkerFailure):
            reason = result.reason
        elif result is not None:
            details, reason = result, result.pop("reason", "")
        if reason:
            self.rejected.append((portrait.name, reason))
            self._clip_path(entry).unlink(missing_ok=True)
        else:
            self.added += 1
        verdict = {"verdict": "rejected", "reason": reason} if reason else {"verdict": "taken"}
        line = {
            "file": portrait.name,
            "sha256": entry.digest,
            "bytes": entry.bytes,
            **verdict,
            "person": portrait.person,
        }
        self._writer.add(
            {**line, "layout": "portraits", **details}, self._clip_path(entry), 0 if reason else 1
        )


@dataclass(frozen=True)
class PortraitRenderer:
    """Renders the clip of a portrait, in a worker process.

    Attributes:
        detector: finds the landmarks.
        seed: seed of the motions.
        size: side of the crops in pixels.
        frames_each: frames of each clip.
    """

    detector: Detector
    seed: int
    size: int
    frames_each: int

    def settings(self) -> dict[str, Any]:
        """Return the settings as the data set stores them."""
        return {
            "version": VERSION,
            "size": self.size,
            "detector": self.detector.name,
            "generator": GENERATOR,
            "seed": self.seed,
            "frames_each": self.frames_each,
            "crop": CROP_CONVENTION,
        }

    def __call__(self, task: _Task, heartbeat: Callable[[], None]) -> dict[str, Any]:
        """Write the clip, and return what the report says: with a `reason` when there is no clip."""
        record: dict[str, Any] = {"frames": 1}
        try:
            picture = read_image(task.picture)
            faces = find_faces(self.detector, [picture])[0]
            record |= {"size": list(picture.shape[:2]), "faces": len(faces)}
            reason = rejection_reason(faces)
            if not reason:
                head = PortraitHead.fit(picture, faces[0].landmarks)
                reason = border_reason(head)
        except Exception as error:
            # A damaged picture can make a library raise any error; reject it and go on with the others.
            known = isinstance(error, TalkingheadError)
            reason = str(error).removeprefix(one_line(f"{task.picture}: "))
            reason = reason if known else f"reading it failed ({type(error).__name__}: {error})"
        if reason:
            return {**record, "reason": reason}
        return {**record, **self._render(task, head, faces[0].irises, heartbeat)}

    def _render(
        self, task: _Task, head: PortraitHead, irises: np.ndarray | None, heartbeat: Callable[[], None]
    ) -> dict[str, Any]:
        """Write the clip, and return its entry in the report."""
        random = np.random.default_rng((self.seed, int(task.digest[:16], 16)))
        motions = sample_motions(self.frames_each, float(np.degrees(head.yaw)), random)
        landmarks = np.stack([head.landmarks, *(move_landmarks(head, motion) for motion in motions[1:])])
        height, width = head.picture.shape[:2]
        crop = crop_around(landmarks, (height, width), convention=CROP_CONVENTION)
        numbers = tuple(range(self.frames_each))
        info = ClipInfo(
            name=task.name,
            sha256=task.digest,
            person=task.person,
            fps=FPS,
            frame_size=(height, width),
            crop=crop,
            frames=numbers,
            size=self.size,
            detector=self.detector.name,
        )

        def frames() -> Iterator[np.ndarray]:
            yield crop.pixels(head.picture, self.size)
            for motion in motions[1:]:
                heartbeat()
                yield render_motion(head, motion, crop, self.size)

        with open(task.clip, "wb") as file:
            moved_irises = None
            if irises is not None:
                points = [move_points(head, motion, irises.reshape(-1, 2)) for motion in motions]
                moved_irises = crop.points(np.stack(points).reshape(-1, *irises.shape), self.size)
            write_clip(file, info, crop.points(landmarks, self.size), frames(), irises=moved_irises)
        shot = {
            "first": 0,
            "last": self.frames_each - 1,
            "seen": self.frames_each,
            "kept": self.frames_each,
            "clip": info.key,
        }
        return {"frames": self.frames_each, "fps": FPS, "shots": [shot]}
