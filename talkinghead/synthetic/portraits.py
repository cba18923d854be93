"""A data set of still portraits made to move, in the shards that `talkinghead prepare` makes of videos."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..corpus.book import Book
from ..corpus.examine import unwritable
from ..corpus.prepare import FILES, workplace
from ..corpus.shard_writer import write_clip
from ..corpus.workers import Lost, cores, in_order
from ..data.crop import crop_around
from ..data.outputs import check_outputs, files_in
from ..data.read import Progress, silent
from ..data.shards import VERSION, ClipInfo
from ..errors import TalkingheadError, one_line
from ..files import replacing
from ..landmarks.detect import open_detector
from ..landmarks.face import DOUBTFUL, Detector, Face, find_faces
from ..media.pictures import read_picture
from .portrait_motion import PortraitHead, draw_motions, draw_moved, move_landmarks
from .portrait_sources import Portrait, find_portraits
from .sheet import write_sheet

GENERATOR = "portraits-1"
"""Changed when the same seed gives other pictures."""
CROP_CONVENTION = 2
"""Of the crops, see `talkinghead.data.crop`."""
FRAMES_EACH = 10
"""Frames of each portrait by default."""
FPS = 25.0
"""Frames per second that the clips claim; their frames are poses, in no order of time."""
MIN_FACE_PIXELS = 48
"""A portrait whose face's box has a smaller longer side is rejected."""
MAX_SECOND_FACE = 0.5
"""A portrait whose second face is larger, in shares of the first, shows several."""
BORDER_REASON = "its face lies at the border of the picture, expected room around it; give a wider picture"
"""Why a portrait is rejected whose head cannot move."""
MIN_FOLLOW = 0.5
"""A portrait is rejected when a landmark is so near its border that it would follow the head less."""


@dataclass(frozen=True)
class PortraitReport:
    """What became of the portraits.

    Attributes:
        out: the folder of the data set.
        made, present: portraits drawn now, and those that an earlier run had drawn.
        rejected: file names of the others, with the reason.
        clips, frames: in the data set.
        frames_per_second: drawn, by all processes together; 0 when nothing was to be drawn.
        sheet: a picture of some of the people.
    """

    out: Path
    made: int
    present: int
    rejected: tuple[tuple[str, str], ...]
    clips: int
    frames: int
    frames_per_second: float
    sheet: Path

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome for JSON."""
        return {
            **asdict(self),
            "out": str(self.out),
            "rejected": dict(self.rejected),
            "sheet": str(self.sheet),
        }

    def lines(self) -> list[str]:
        """Return the outcome for people."""
        speed = f", {self.frames_per_second:.0f} frames a second" if self.made else ""
        counts = f"{self.made} portraits drawn, {self.present} were there, {len(self.rejected)} rejected"
        lines = [f"{self.out}: {counts}{speed}"]
        if self.rejected:
            lines.append("the first rejected: {}: {}".format(*self.rejected[0]))
        return [*lines, f"{self.clips} clips, {self.frames} frames", f"some of them: {self.sheet}"]


def prepare_portraits(
    pictures: str | Path,
    out: str | Path,
    size: int = 256,
    seed: int = 0,
    frames_each: int = FRAMES_EACH,
    workers: int | None = None,
    detector: Detector | str | None = None,
    progress: Progress = silent,
) -> PortraitReport:
    """Make still portraits of many people move, and write them with exact landmarks into a data set.

    The folder then holds what `talkinghead.corpus.prepare.prepare` makes of videos, and `sheet.png`. Run
    again after an interruption, it resumes after the last whole shard, and ends with the same bytes, whatever
    the number of workers; new pictures are added.

    Args:
        pictures: a folder of pictures or a .tar of them, one person each.
        out: made when missing.
        size: side of the stored crops in pixels.
        seed: of the motions.
        frames_each: frames of each portrait; the first is the portrait as it is.
        workers: processes that work at a time; by default one for each core that this process may use.
        detector: finds the landmarks: a name for `open_detector`, "auto" by default, or a detector.
        progress: shows the advance.

    Raises:
        TalkingheadError: a number is out of range, there are no pictures or none can be used, or the folder
            cannot be written to, is being written by another run, or holds clips of other settings.
    """
    workers = cores() if workers is None else workers
    _check_numbers({"pixels a side": size, "frames for each": frames_each, "workers": workers}, seed)
    out = Path(out)
    check_outputs(files_in(out, FILES), [pictures])
    sources = find_portraits(Path(pictures))
    detector = detector or "auto"
    face_detector = open_detector(detector) if isinstance(detector, str) else detector
    settings = {
        "version": VERSION,
        "size": size,
        "detector": face_detector.name,
        "generator": GENERATOR,
        "seed": seed,
        "frames_each": frames_each,
        "crop": CROP_CONVENTION,
    }
    started = perf_counter()
    try:
        with workplace(out) as place, Book(out, settings) as book:
            run = _Run(book, place)
            studio = PortraitStudio(face_detector, seed, size, frames_each)
            with closing(in_order(studio, run.tasks(sources), workers)) as results:
                for entry, result in progress(results, len(sources), "portraits"):
                    run.enter(entry, result)
            book.finish()
            if not run.made and not run.present:
                first = ": ".join(run.rejected[0])
                raise TalkingheadError(f"{pictures}: none of {len(sources)} can be used; the first: {first}")
            clips, frames = book.clips, book.frames
            summary = {**settings, "clips": clips, "frames": frames, "people": len(book.people)}
            with replacing(out / "dataset.json") as temp_path:
                temp_path.write_text(json.dumps(summary, indent=1) + "\n")
    except OSError as error:
        raise unwritable(out, error) from error
    speed, sheet = run.made * frames_each / (perf_counter() - started), out / "sheet.png"
    write_sheet(out, sheet)
    return PortraitReport(out, run.made, run.present, tuple(run.rejected), clips, frames, speed, sheet)


def _check_numbers(positive: dict[str, int], seed: int) -> None:
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
    """What is known of a portrait before it is drawn: its number, SHA-256, and why it is not drawn."""

    portrait: Portrait
    number: int
    digest: str | None
    bytes: int
    reason: str
    is_known: bool


class _Run:
    """One run: decides which portraits are to be drawn, and enters in the book what became of them."""

    def __init__(self, book: Book, place: Path) -> None:
        self._book, self._place = book, place
        self._names: dict[str, str] = {}  # SHA-256 -> the first file of this run that has it
        self._people: dict[str, str] = {}  # person -> file of this run
        self.made = self.present = 0
        self.rejected: list[tuple[str, str]] = []

    def tasks(self, portraits: list[Portrait]) -> Iterator[tuple[_Entry, _Task | None]]:
        """Yield each portrait and, if it is to be drawn, what to do."""
        for number, portrait in enumerate(portraits):
            data, digest, reason = b"", None, portrait.reason
            if not reason:
                try:
                    data = portrait.read()
                    digest = hashlib.sha256(data).hexdigest()
                except (OSError, tarfile.TarError) as error:
                    said = getattr(error, "strerror", None) or error
                    reason = one_line(f"cannot be read ({said}); copy it again")
            is_known = self._book.find(portrait.name, digest) is not None
            if digest and not is_known:
                reason = self._clash(portrait, digest)
            entry = _Entry(portrait, number, digest, len(data), reason, is_known)
            if digest is None or reason or is_known:
                yield entry, None
                continue
            # the worker reads a copy, so that what it draws is what the SHA-256 was taken of
            copy = self._place / f"{number}{Path(portrait.name).suffix.lower()}"
            copy.write_bytes(data)
            yield entry, _Task(copy, digest, portrait.name, portrait.person, self._clip(entry))

    def _clash(self, portrait: Portrait, digest: str) -> str:
        """Return why a portrait that is not in the book cannot be added; empty when it can."""
        known = self._book.find_content(digest)
        first = self._names.setdefault(digest, portrait.name)
        if known or first != portrait.name:
            return f"is the same picture as {known.file if known else first}"
        other = self._people.setdefault(portrait.person, portrait.name)
        if other != portrait.name or portrait.person in self._book.people:
            return f"would be person {portrait.person}, as another picture is; rename it"
        return ""

    def _clip(self, entry: _Entry) -> Path:
        return self._place / f"{entry.number}.tar"

    def enter(self, entry: _Entry, result: dict[str, Any] | Lost | None) -> None:
        """Note what became of a portrait; portraits have to come in their order."""
        portrait, reason = entry.portrait, entry.reason
        for copy in self._place.glob(f"{entry.number}.*"):
            if copy != self._clip(entry):
                copy.unlink()
        if entry.is_known:
            known = self._book.find(portrait.name, entry.digest)
            if known and not known.taken:
                self.rejected.append((portrait.name, known.reason))
            else:
                self.present += 1
            return
        record: dict[str, Any] = {}
        if isinstance(result, Lost):
            reason = result.reason
        elif result is not None:
            record, reason = result, result.pop("reason", "")
        if reason:
            self.rejected.append((portrait.name, reason))
            self._clip(entry).unlink(missing_ok=True)
        else:
            self.made += 1
        verdict = {"verdict": "rejected", "reason": reason} if reason else {"verdict": "taken"}
        line = {
            "file": portrait.name,
            "sha256": entry.digest,
            "bytes": entry.bytes,
            **verdict,
            "person": portrait.person,
        }
        self._book.add({**line, "layout": "portraits", **record}, self._clip(entry), 0 if reason else 1)


@dataclass(frozen=True)
class PortraitStudio:
    """Draws the clip of a portrait, in a worker process.

    Attributes:
        detector: finds the landmarks.
        seed: of the motions.
        size: side of the crops in pixels.
        frames_each: frames of each clip.
    """

    detector: Detector
    seed: int
    size: int
    frames_each: int

    def __call__(self, task: _Task, alive: Callable[[], None]) -> dict[str, Any]:
        """Write the clip, and return what the report says: with a `reason` when there is no clip."""
        record: dict[str, Any] = {"frames": 1}
        try:
            picture = read_picture(task.picture)
            faces = find_faces(self.detector, [picture])[0]
            record |= {"size": list(picture.shape[:2]), "faces": len(faces)}
            reason = _rejection(faces)
            if not reason:
                head = PortraitHead.fit(picture, faces[0].landmarks)
                near_border = head.grid.sample(head.follow[:, None], head.landmarks).min() < MIN_FOLLOW
                reason = BORDER_REASON if near_border else ""
        except Exception as error:
            # whatever a damaged picture makes a library raise is its own fault, and ends no one else's work
            known = isinstance(error, TalkingheadError)
            reason = str(error).removeprefix(one_line(f"{task.picture}: "))
            reason = reason if known else f"reading it failed ({type(error).__name__}: {error})"
        if reason:
            return {**record, "reason": reason}
        return {**record, **self._draw(task, head, alive)}

    def _draw(self, task: _Task, head: PortraitHead, alive: Callable[[], None]) -> dict[str, Any]:
        random = np.random.default_rng((self.seed, int(task.digest[:16], 16)))
        motions = draw_motions(self.frames_each, float(np.degrees(head.yaw)), random)
        landmarks = np.stack([head.landmarks, *(move_landmarks(head, motion) for motion in motions[1:])])
        height, width = head.picture.shape[:2]
        crop = crop_around(landmarks, (height, width), convention=CROP_CONVENTION)
        numbers = tuple(range(self.frames_each))
        info = ClipInfo(
            task.name,
            task.digest,
            task.person,
            FPS,
            (height, width),
            crop,
            numbers,
            self.size,
            self.detector.name,
        )

        def frames() -> Iterator[np.ndarray]:
            yield crop.pixels(head.picture, self.size)
            for motion in motions[1:]:
                alive()
                yield draw_moved(head, motion, crop, self.size)

        with open(task.clip, "wb") as file:
            write_clip(file, info, crop.points(landmarks, self.size), frames())
        shot = {
            "first": 0,
            "last": self.frames_each - 1,
            "seen": self.frames_each,
            "kept": self.frames_each,
            "clip": info.key,
        }
        return {"frames": self.frames_each, "fps": FPS, "shots": [shot]}


def _rejection(faces: list[Face]) -> str:
    """Return why a portrait with these faces, the largest first, is not taken; empty when it is."""
    if not faces:
        return "shows no face, expected one; give a picture of a person"
    side = faces[0].box[2]
    if side < MIN_FACE_PIXELS:
        return f"its face is {side:.0f} pixels wide, expected {MIN_FACE_PIXELS} at least; give a larger one"
    large = [face for face in faces if face.box[2] > MAX_SECOND_FACE * side]
    if len(large) > 1:
        return f"shows {len(large)} large faces, expected one; cut out the person"
    if faces[0].confidence < DOUBTFUL:
        confidence = f"confidence {faces[0].confidence:.2f}, expected at least {DOUBTFUL}"
        return f"its face is in profile or covered ({confidence}); give another picture"
    return ""
