"""Measure clips in several processes; a folder keeps measurements, so that only new ones are taken."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..clip import Track
from ..constants import FINE_TUNED_METHODS
from ..data.few_shot import evenly_spaced_indices
from ..dataset.shard_reader import ShardClip
from ..errors import TalkingheadError
from ..media.video import VideoReader
from ..system.process_pool import WorkerFailure, cpu_count, map_ordered
from ..system.progress import Progress, ProgressCounter, no_progress
from .evaluate_clip import MAX_SHOWN, TRUTH, ClipEvaluator, RowTask, StageValues, Unusable
from .measurement_keys import MeasurementKeys
from .measurement_store import MeasurementKey, MeasurementStore
from .split import EvalClip, FrameSplit, split_frames

log = logging.getLogger(__name__)


@dataclass
class _ClipPlan:
    """A clip with its landmarks and the split of its frames.

    Attributes:
        number, clip, digest: the clip.
        track: its landmarks; None of a data set's clip.
        parts: its frame numbers, known after its landmarks.
        unusable: why the clip is left out; empty where it is not.
    """

    number: int
    clip: EvalClip
    digest: str
    track: Track | None = None
    parts: FrameSplit | None = None
    unusable: str = ""


_Label = tuple[_ClipPlan, Mapping[int, MeasurementKey]]
"""The clip of a task, and the key of its measurement for each number of steps."""


def measure_clips(
    evaluator: ClipEvaluator,
    clips: Sequence[EvalClip],
    folder: Path,
    workers: int | None,
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """Return the values of every clip; what is in `folder` is read from there.

    Each clip has person, name, frames, held_out; figures {T: {method: {metric: value}}}, curve {T: {method:
    {steps: {metric: value}}}}, seconds {T: {method: s}}; features and descriptors {T: {method: ...}},
    truth_features, truth_descriptor; shown {content: frames}. One that cannot be used has person, name and
    left_out, the reason.

    Raises:
        TalkingheadError: a file in `folder` is damaged, or a measurement cannot be written.
    """
    measuring = _Measuring(evaluator, folder, workers, progress)
    try:
        plans = measuring.find_landmarks(clips)
        measuring.measure_rows(plans)
    except KeyboardInterrupt:
        log.info("%s: keeps what was measured; the same command resumes", folder)
        raise
    num_shown = max(1, MAX_SHOWN // max(1, len({clip.person for clip in clips})))
    return [measuring.values(plan, num_shown) for plan in plans]


class _Measuring:
    """An evaluation that measures what its store does not hold.

    Args:
        evaluator, folder, workers, progress: as for `measure_clips`.
    """

    def __init__(
        self, evaluator: ClipEvaluator, folder: Path, workers: int | None, progress: Progress
    ) -> None:
        self._evaluator, self._workers, self._progress = evaluator, workers, progress
        self._store, self._keys = MeasurementStore(folder), MeasurementKeys(evaluator)

    def find_landmarks(self, clips: Sequence[EvalClip]) -> list[_ClipPlan]:
        """Find the landmarks of all clips, and split their frames."""
        plans = [_ClipPlan(number, clip, clip.digest) for number, clip in enumerate(clips)]
        videos = [plan for plan in plans if not isinstance(plan.clip.source, ShardClip)]
        missing = [plan for plan in videos if self._keys.landmarks(plan.digest) not in self._store]
        units = [_frame_count(plan.clip) for plan in missing]
        tasks: list[tuple[_Label, EvalClip]] = [((plan, {}), plan.clip) for plan in missing]
        for plan, result in self._run(tasks, units, "finding landmarks"):
            if isinstance(result, Track):
                self._store.write(self._keys.landmarks(plan.digest), _track_values(result))
            else:
                plan.unusable = result.reason
        protocol = self._evaluator.protocol
        for plan in plans:
            try:
                if plan in videos and not plan.unusable:
                    plan.track = _read_track(self._store.read(self._keys.landmarks(plan.digest)))
                if not plan.unusable:
                    plan.parts = split_frames(plan.clip, plan.track, protocol.shots, protocol.held_out)
            except TalkingheadError as error:
                plan.unusable = str(error)
        return plans

    def measure_rows(self, plans: Sequence[_ClipPlan]) -> None:
        """Measure all rows that are not in the store."""
        tasks: list[tuple[_Label, RowTask]] = []
        missing_keys: list[MeasurementKey] = []
        for plan in plans:
            for shots, method, stages in self._rows() if plan.parts is not None else ():
                keys = {steps: self._key(plan, shots, method, steps) for steps in stages}
                missing = tuple(steps for steps, key in keys.items() if key not in self._store)
                if missing and plan.parts is not None:
                    task = RowTask(
                        number=plan.number,
                        clip=plan.clip,
                        track=plan.track,
                        parts=plan.parts,
                        shots=shots,
                        method=method,
                        stages=missing,
                    )
                    tasks.append(((plan, keys), task))
                    missing_keys += [keys[steps] for steps in missing]
        self._report_changed_settings(missing_keys)
        units = [task.units for _, task in tasks]
        for plan, result in self._run(tasks, units, "measuring rows and steps"):
            if result is not None:
                plan.unusable = result.reason

    def _rows(self) -> Iterator[tuple[int, str, tuple[int, ...]]]:
        """Yield T, method and numbers of steps of every row."""
        evaluator, protocol = self._evaluator, self._evaluator.protocol
        yield 0, TRUTH, (0,)
        for shots in protocol.shots:
            for method in protocol.methods:
                stages: tuple[int, ...] = (0,)
                if method in FINE_TUNED_METHODS:
                    stages = tuple(sorted({evaluator.steps(shots), *protocol.curve}))
                yield shots, method, stages

    def _key(self, plan: _ClipPlan, shots: int, method: str, steps: int) -> MeasurementKey:
        assert plan.parts is not None
        return self._keys.row(plan.digest, plan.parts, shots, method, steps=steps)

    def _report_changed_settings(self, keys: Sequence[MeasurementKey]) -> None:
        counts = self._store.changed_settings(keys)
        if counts:
            log.info(
                "%s: holds measurements of other settings (%s); these are measured again",
                self._store.folder,
                ", ".join(f"{section}: {count}" for section, count in counts.items()),
            )

    def _run(
        self, tasks: Sequence[tuple[_Label, Any]], units: Sequence[int], desc: str
    ) -> Iterator[tuple[_ClipPlan, Any]]:
        """Yield (plan, result) of tasks, a crash as `Unusable`; store what they report as it arrives.

        Args:
            tasks: (label, task).
            units: of each task, for the progress.
            desc: of the progress.
        """
        if not tasks:
            return
        counter, finished = ProgressCounter(self._progress, desc, sum(units)), 0

        def on_report(label: _Label, report: int | StageValues | None) -> None:
            nonlocal finished
            if isinstance(report, int):
                finished += report
                counter.add(report)
            elif report is not None:
                self._store.write(label[1][report.steps], report.values)

        processes = min(self._workers or cpu_count(), len(tasks))
        results = (
            map_ordered(self._evaluator, tasks, processes, on_report=on_report, caller="evaluate")
            if processes > 1
            else _run_here(self._evaluator, tasks, on_report)
        )
        for number, ((plan, _), result) in enumerate(results, start=1):
            lagging = sum(units[:number]) - finished  # what was not reported in time
            if lagging > 0:
                finished += lagging
                counter.add(lagging)
            if isinstance(result, WorkerFailure):
                result = Unusable(f"{plan.clip.name}: {result.reason}")
            yield plan, result

    def values(self, plan: _ClipPlan, num_shown: int) -> dict[str, Any]:
        """Return the values of a clip, all read from the store."""
        values: dict[str, Any] = {"person": plan.clip.person, "name": plan.clip.name}
        if plan.unusable or plan.parts is None:
            return values | {"left_out": plan.unusable}
        protocol = self._evaluator.protocol
        truth = self._store.read(self._key(plan, 0, TRUTH, 0))
        columns = evenly_spaced_indices(len(truth["shown"]), num_shown)
        values |= {
            "frames": plan.parts.usable,
            "held_out": len(plan.parts.held_out),
            "truth_features": truth["features"],
            "truth_descriptor": truth["descriptor"],
            "shown": {"truth": truth["shown"][columns], "landmarks": truth["landmarks"][columns]},
        }
        for name in ("figures", "curve", "seconds", "features", "descriptors"):
            values[name] = {shots: {} for shots in protocol.shots}
        for shots, method, stages in list(self._rows())[1:]:
            for steps in stages:
                row = self._store.read(self._key(plan, shots, method, steps))
                if protocol.curve and method in FINE_TUNED_METHODS:
                    values["curve"][shots].setdefault(method, {})[steps] = row["figures"] | row["learned"]
                if method not in FINE_TUNED_METHODS or steps == self._evaluator.steps(shots):
                    values["figures"][shots][method] = row["figures"]
                    values["features"][shots][method] = row["features"]
                    values["descriptors"][shots][method] = row["descriptor"]
                    values["seconds"][shots][method] = row["seconds"]
                    values["shown"][f"{shots} {method}"] = row["shown"][columns]
                    values["shown"][f"{shots} pictures"] = row["picture"]
        return values


def _run_here(
    evaluator: ClipEvaluator, tasks: Sequence[tuple[_Label, Any]], on_report: Callable[..., None]
) -> Iterator[tuple[_Label, Any]]:
    """Yield the results of tasks run in this process, with one thread as in the others: sums of several
    round otherwise.
    """
    for label, task in tasks:
        with _one_thread():
            result = evaluator(task, lambda report=None, label=label: on_report(label, report))
        yield label, result


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _frame_count(clip: EvalClip) -> int:
    """Return the number of frames of a video, 1 where it is unknown."""
    assert isinstance(clip.source, Path)
    try:
        return VideoReader(clip.source).count or 1
    except TalkingheadError:
        return 1  # reading the clip reports the problem


def _track_values(track: Track) -> dict[str, Any]:
    values = {
        "landmarks": torch.from_numpy(track.landmarks),
        "confidence": torch.from_numpy(track.confidence),
        "size": list(track.size),
        "fps": float(track.fps),
    }
    if track.irises is not None:
        values["irises"] = torch.from_numpy(track.irises)
    return values


def _read_track(values: Mapping[str, Any]) -> Track:
    height, width = values["size"]
    irises = values.get("irises")
    return Track(
        landmarks=values["landmarks"].numpy(),
        size=(height, width),
        fps=values["fps"],
        confidence=values["confidence"].numpy(),
        irises=None if irises is None else irises.numpy(),
    )
