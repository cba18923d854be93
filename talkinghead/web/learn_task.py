"""Learning of a person in a worker, with pictures of the person on the way."""

from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from ..checkpoint import save_person
from ..clip import Clip, Track
from ..engines.base import Engine
from ..engines.torch_engine import TorchEngine
from ..errors import TalkingheadError, quantity
from ..landmarks.gaze import points_looking_ahead
from ..landmarks.mean_face import MEAN_FACE
from ..landmarks.sample_motion import SAMPLE_FPS, sample_motion
from ..media.video import write_video
from ..model import Model, Person
from ..pipelines.animate import BATCH, SYNTHESISED, render
from ..pipelines.finetune import read_pictures
from ..system.device import choose_device
from ..system.signals import graceful_shutdown
from ..training.finetune import Diverged, Interrupted, finetune_at_steps
from .report import JobReport
from .task_files import named_error, write_jpeg
from .task_resources import TaskResources

STEP_FACTORS = {"at-once": 0.0, "quick": 0.5, "standard": 1.0, "thorough": 2.0}
"""Choices of how long to learn, as factors of the model's own number of steps."""
_PREVIEWS = 8  # pictures of the person on the way


def learn(resources: TaskResources, request: Mapping[str, Any], report: JobReport) -> dict[str, Any]:
    """Learn a person and write it, a still picture and a short moving sample of it.

    Args:
        resources: of the worker.
        request: `pictures` are [path, the user's name] each, `model` is a name, `quality` one of
            `STEP_FACTORS`, `out` the file to write without its suffix.
        report: of the advance, and of a picture every few steps.

    Raises:
        TalkingheadError: the pictures cannot be learned from.
        KeyboardInterrupt: stopped before there was anything to keep.
    """
    names = {Path(path): name for path, name in request["pictures"]}
    out = Path(request["out"])
    with graceful_shutdown() as stopped:
        try:
            report.advance("reading the pictures", 0, len(names), at_once=True)
            model = resources.model(request["model"])
            model = model.on(choose_device(request["device"]))
            clip = read_pictures(
                model, list(names), detector=resources.detector(request), progress=report.progress
            )
            if stopped():
                raise KeyboardInterrupt
            steps = _steps(model, clip, request["quality"])
            person, ended_early = _learn_in_stages(model, clip, steps, out=out, report=report)
        except TalkingheadError as error:
            raise named_error(error, names) from error
        save_person(person, out.with_suffix(".safetensors"))
        _write_sample(person, out, report)
    return {
        "steps": person.provenance["steps"],
        "pictures": len(clip),
        "size": model.config.networks.image_size,
        "bytes": out.with_suffix(".safetensors").stat().st_size,
        "ended_early": ended_early,
    }


def _steps(model: Model, clip: Clip, quality: str) -> int:
    """Return the number of steps of a choice."""
    if quality not in STEP_FACTORS:
        raise TalkingheadError(f"quality: no such choice is here; choose one of {', '.join(STEP_FACTORS)}")
    return round(model.config.finetune.steps(len(clip)) * STEP_FACTORS[quality])


def _learn_in_stages(
    model: Model, clip: Clip, steps: int, *, out: Path, report: JobReport
) -> tuple[Person, bool]:
    """Return the person, and whether learning ended before the last step."""
    preview = out.with_suffix(".preview")
    marks = np.linspace(0, steps, min(_PREVIEWS, steps) + 1).round().astype(int)
    stages = [int(mark) for mark in np.unique(marks)]
    start = monotonic()

    def on_step(step: int, total: int, metrics: Mapping[str, float]) -> None:
        remaining = (monotonic() - start) / step * (total - step)
        report.advance(f"learning, {_about(remaining)} left", step, total)

    report.advance("learning", 0, steps, at_once=True)
    person: Person | None = None
    try:
        for person in finetune_at_steps(model, clip, stages, on_step=on_step):
            if steps:
                write_jpeg(preview, render_still(TorchEngine(person, model.device, "auto"), person))
                report.preview(preview)
    except (Interrupted, Diverged) as ended:
        if ended.person is None:
            raise
        return ended.person, True
    if person is None:
        raise KeyboardInterrupt
    return person, False


def _about(seconds: float) -> str:
    return quantity(max(1, round(seconds)), "second") if seconds < 90 else f"{seconds / 60:.0f} minutes"


def render_still(engine: Engine, person: Person) -> np.ndarray:
    """Return the person at rest, uint8 [size, size, 3]."""
    return engine.run(points_looking_ahead(person.neutral_landmarks, engine.spec.num_points)[None])[0]


def _write_sample(person: Person, out: Path, report: JobReport) -> None:
    """Write a person at rest, and the person in a short motion."""
    networks = person.config.networks
    points, side = sample_motion(person.neutral_landmarks, networks.num_points), networks.image_size
    engine = TorchEngine(person, choose_device("auto", placed=person.placed), "auto", BATCH)
    write_jpeg(out.with_suffix(".still"), render_still(engine, person))
    frames = render(person, points, engine=engine)
    with write_video(
        out.with_suffix(".mp4"), SAMPLE_FPS, (side, side), metadata={"comment": SYNTHESISED}
    ) as video:
        for frame in report.progress(frames, desc="drawing a sample", total=len(points)):
            video.write(frame)


def warm_up_model(model: Model) -> None:
    """Make a person of a grey picture and render some frames, so that the first person is fast."""
    size = model.config.networks.image_size
    points = (MEAN_FACE[None, :, :2] * 0.17 + 0.5) * size
    clip = Clip(Track(points, (size, size)), np.full((1, size, size, 3), 128, np.uint8), "grey")
    (person,) = finetune_at_steps(model, clip, [0])
    motion = sample_motion(person.neutral_landmarks, model.config.networks.num_points, BATCH)
    for _ in render(person, motion):
        pass
