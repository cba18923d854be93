"""Evaluation of a model on videos of people: what `talkinghead evaluate` and the Python API run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..constants import DEFAULT_METHODS, EVALUATION_SHOTS, METHODS, NUM_HELD_OUT
from ..dataset.discover import list_paths
from ..dataset.people_table import resolve_people
from ..errors import TalkingheadError
from ..evaluation.evaluate import Evaluation, evaluate_model
from ..evaluation.evaluate_clip import ClipEvaluator, Protocol
from ..evaluation.split import find_eval_clips
from ..system.progress import Progress, check_callbacks, no_progress
from ..system.torch_state import with_default_torch_state


@with_default_torch_state
def evaluate(
    model: str | os.PathLike[str],
    videos: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    people: Mapping[str, str] | str | Path | None = None,
    only: Sequence[str] = (),
    clips_each: int | None = None,
    shots: Sequence[int] = EVALUATION_SHOTS,
    num_held_out: int = NUM_HELD_OUT,
    methods: Sequence[str] = DEFAULT_METHODS,
    steps: int | None = None,
    steps_curve: Sequence[int] = (),
    seed: int = 0,
    detector: str = "auto",
    detector_device: str = "cpu",
    identity_network: str | Path | None = None,
    fid_network: str | Path | None = None,
    perceptual_files: Mapping[str, str] | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure a model on people, and write results.json, table.md, sheet.png and plots.

    Args:
        model: name or file; worker processes open it and run it on the CPU.
        videos: videos, folders of videos by person, or prepared data.
        out: the folder, created when missing; what it holds of the same settings is not measured again.
        people: who is in which video, where folders do not tell: as for `talkinghead.prepare`.
        only, clips_each: people, and number of clips of each, to measure on; by default all.
        shots: numbers of pictures to learn from.
        num_held_out: frames of each clip that nothing learns from.
        methods: of `talkinghead.constants.METHODS`.
        steps, steps_curve: of fine-tuning, the model's own by default, and further numbers to measure at.
        seed: of everything random.
        detector, detector_device: name of the landmark detector, and where it runs.
        identity_network, fid_network, perceptual_files: weights to use in place of those that ship.
        workers: processes, by default one for each core; they import the calling script, which has to call
            this function under ``if __name__ == "__main__":``.
        progress: shows the advance.

    Raises:
        TalkingheadError: an argument is unknown, a network is missing, no clip can be used, or `out` cannot
            be written.
    """
    check_callbacks(progress)
    chosen = _in_order(methods)
    clips = find_eval_clips(list_paths(videos), resolve_people(people), only, clips_each)
    protocol = Protocol(tuple(shots), num_held_out, chosen, steps, curve=tuple(steps_curve), seed=seed)
    evaluator = ClipEvaluator(
        os.fspath(model),
        protocol,
        detector,
        detector_device,
        identity=None if identity_network is None else os.fspath(identity_network),
        fid=None if fid_network is None else os.fspath(fid_network),
        perceptual=dict(perceptual_files or {}),
    )
    return evaluate_model(evaluator, clips, out, workers, progress=progress)


def _in_order(methods: Sequence[str]) -> tuple[str, ...]:
    """Return the methods in the order of the tables.

    Raises:
        TalkingheadError: one is unknown.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise TalkingheadError(f"methods: {unknown[0]!r} is unknown; choose of {', '.join(METHODS)}")
    return tuple(method for method in METHODS if method in methods)
