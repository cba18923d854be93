"""Evaluate a model on every clip, in one process per core, and write the results.

Each measurement is kept in the folder `clips` at once: the same command resumes after an interruption, and
one with more methods, T, steps or people measures only what is new.
"""

import json
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.output_paths import check_outputs, files_in
from ..errors import TalkingheadError, quantity
from ..media.images import write_image
from ..system.atomic_file import atomic_write, check_writable
from ..system.progress import Progress, no_progress
from ..system.torch_state import with_default_torch_state
from ..version import __version__
from .aggregate import aggregate
from .evaluate_clip import ClipEvaluator
from .frame_grid import draw_frame_grid
from .markdown import format_markdown
from .measure_clips import measure_clips
from .plots import plot_shots, plot_steps
from .split import EvalClip

FILES = ("results.json", "table.md", "sheet.png", "shots.png", "steps.png")
"""The files that `evaluate_model` writes into its folder."""
_PAPER_VIDEOS = 50
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The outcome of an evaluation.

    Attributes:
        files: kind of file -> its path: results, table, sheet, and shots and steps where they were plotted.
        results: the values of results.json: settings; clips, of each its person, name and numbers of frames;
            left_out {clip: reason}; groups {group: people}; people {person: {T: {method: {metric: value}}}};
            summary {group: {T: {method: {metric: {mean, low, high, people}}}}}; frechet {T: {method: value}}
            over frechet_frames frames; fine_tuned_better and fine_tuned_equal {T: {method: {metric: share of
            people}}}; curve {T: {method: {steps: {metric: {mean, low, high, people}}}}}. T and steps are
            texts. The metrics are those of `talkinghead.evaluation.scorer.METRICS`.
    """

    files: dict[str, Path]
    results: dict[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        people, clips = len(self.results["people"]), len(self.results["clips"])
        return (
            f"Evaluation({quantity(people, 'person')}, {quantity(clips, 'clip')}, "
            f"table={str(self.files['table'])!r})"
        )


@with_default_torch_state
def evaluate_model(
    evaluator: ClipEvaluator,
    clips: Sequence[EvalClip],
    out: str | Path,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Evaluate a model, and write results.json, table.md, sheet.png and plots.

    The plots, shots.png and steps.png, need matplotlib.

    Args:
        evaluator: the model, the networks and the settings.
        clips: the clips to evaluate on.
        out: the folder, created when missing.
        workers: the number of processes; by default one for each core.
        progress: shows the progress.

    Raises:
        TalkingheadError: a network or package is missing, no clip can be used, or `out` cannot be written.
    """
    out = Path(out)
    _check_out(evaluator, clips, out)
    people = sorted({clip.person for clip in clips})
    evaluator.prepare()
    check_writable(out / "results.json")  # before hours of work
    _warn_about_people(evaluator, people)
    start = time.perf_counter()
    values = measure_clips(evaluator, clips, out / "clips", workers, progress=progress)
    evaluated = [clip for clip in values if "left_out" not in clip]
    left_out = {clip["name"]: clip["left_out"] for clip in values if "left_out" in clip}
    for reason in left_out.values():
        log.warning("left out: %s", reason)
    if not evaluated:
        raise TalkingheadError(f"no clip could be used: {next(iter(left_out.values()))}; name other videos")
    results = _results(evaluator, evaluated, left_out, seconds=round(time.perf_counter() - start))
    return Evaluation(_write_files(out, evaluator, evaluated, results), results)


def _check_out(evaluator: ClipEvaluator, clips: Sequence[EvalClip], out: Path) -> None:
    """Raise TalkingheadError if `out` is a file or an output would overwrite an input."""
    networks = (evaluator.model, evaluator.identity, evaluator.fid, *(evaluator.perceptual or {}).values())
    videos = [clip.source for clip in clips if isinstance(clip.source, Path)]
    check_outputs(files_in(out, FILES), [*networks, *videos])
    if out.exists() and not out.is_dir():
        raise TalkingheadError(f"{out}: is a file, expected a folder; name another place")


def _warn_about_people(evaluator: ClipEvaluator, people: Sequence[str]) -> None:
    known = sorted(set(people) & set(evaluator.loaded.provenance.get("people", ())))
    if known:
        log.warning(
            "the model has learned from %s: these figures are not of people left out (--only names some)",
            ", ".join(known),
        )
    if len(people) == 1:
        log.warning("1 person: there are no intervals, and no other may measure alike; name more people")
    elif len(people) < 10:
        log.warning(
            "%d people: the intervals say how little that is; the paper has %d videos",
            len(people),
            _PAPER_VIDEOS,
        )


def _results(
    evaluator: ClipEvaluator, clips: Sequence[Mapping[str, Any]], left_out: Mapping[str, str], seconds: int
) -> dict[str, Any]:
    """Return the values of results.json."""
    protocol = evaluator.protocol
    run = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "versions": {"talkinghead": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "seconds": seconds,
    }
    keys = ("person", "name", "frames", "held_out", "seconds")
    values: dict[str, Any] = to_json_values(
        {
            "settings": evaluator.settings() | run,
            "clips": [{key: clip[key] for key in keys} for clip in clips],
            "left_out": left_out,
            **aggregate(clips, protocol.shots, protocol.seed),
        }
    )
    return values


def _write_files(
    out: Path, evaluator: ClipEvaluator, clips: Sequence[Mapping[str, Any]], results: dict[str, Any]
) -> dict[str, Path]:
    """Write all files, results.json last, and return their paths."""
    protocol = evaluator.protocol
    files = {"results": out / "results.json", "table": out / "table.md", "sheet": out / "sheet.png"}
    with atomic_write(files["table"]) as temp_path:
        temp_path.write_text(format_markdown(results), encoding="utf-8")
    write_image(files["sheet"], draw_frame_grid(clips, protocol.shots, results))
    if find_spec("matplotlib") is None:
        log.warning("no plots: matplotlib is not installed; pip install 'talkinghead[evaluate]'")
    else:
        files["shots"] = out / "shots.png"
        plot_shots(results, files["shots"])
        if any(results["curve"].values()):
            files["steps"] = out / "steps.png"
            plot_steps(results, files["steps"])
    with atomic_write(files["results"]) as temp_path:
        temp_path.write_text(json.dumps(results, indent=1) + "\n")
    return files


def to_json_values(value: Any) -> Any:
    """Convert a value for JSON: keys to texts, numbers to six digits, or to null if they are not finite."""
    if isinstance(value, Mapping):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_values(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
