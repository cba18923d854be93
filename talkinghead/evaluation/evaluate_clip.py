"""Measure a method on one clip: fine-tune or copy for a T, render held-out landmarks, and score."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import load_model
from ..clip import Clip, Track
from ..constants import DEFAULT_METHODS, EVALUATION_SHOTS, FINE_TUNED_METHODS, NUM_HELD_OUT
from ..data.few_shot import evenly_spaced_indices
from ..engines.torch_engine import TorchEngine
from ..errors import TalkingheadError
from ..landmarks.detector import Detector
from ..landmarks.face_points import track_points
from ..landmarks.open_detector import open_detector
from ..model import Model, Person, random_model
from ..pretrained.perceptual import PerceptualNetwork, open_perceptual
from ..training.finetune import finetune_at_steps
from .baselines import nearest_frames, warp_to_landmarks
from .scorer import Scorer, Truth, mean_descriptor
from .split import EvalClip, EvalFrames, FrameSplit, find_landmarks, read_split_frames

MAX_SHOWN = 8
"""Held-out frames of a measurement that are kept for the image of results."""
TRUTH = "truth"
"""Name, among the methods, of the measurement of the held-out frames themselves."""
_BATCH = 16
_REPORT_SECONDS = 0.2
"""Seconds between two reports of progress."""


@dataclass(frozen=True)
class Protocol:
    """The settings of an evaluation.

    Attributes:
        shots: every T, rising.
        held_out: the number of held-out frames of each clip.
        methods: names from `METHODS`.
        steps: of fine-tuning; by default the model's own number for each T.
        curve: further numbers of steps after which the fine-tuned methods are scored.
        seed: of the random weights, the order of images, and the bootstrap.
    """

    shots: tuple[int, ...] = EVALUATION_SHOTS
    held_out: int = NUM_HELD_OUT
    methods: tuple[str, ...] = DEFAULT_METHODS
    steps: int | None = None
    curve: tuple[int, ...] = ()
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as results.json stores them, where the methods are called rows."""
        return {("rows" if key == "methods" else key): value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class RowTask:
    """A row to be measured: a method on a clip with T frames.

    Attributes:
        number: of the clip in this evaluation.
        clip: the clip.
        track: the landmarks of a video, as `find_landmarks` returns them.
        parts: its frame numbers.
        shots: T; 0 of the truth.
        method: from `METHODS`, or `TRUTH`.
        stages: rising numbers of fine-tuning steps after which it is measured; (0,) of other methods.
    """

    number: int
    clip: EvalClip
    track: Track | None
    parts: FrameSplit
    shots: int
    method: str
    stages: tuple[int, ...]

    @property
    def units(self) -> int:
        """Units of work: one for each step of fine-tuning, and one for the rest."""
        return 1 + self.stages[-1]


class Unusable(NamedTuple):
    """The result of a clip that cannot be used: the reason."""

    reason: str


class StageValues(NamedTuple):
    """A report of `ClipEvaluator`: the values of a row after a number of steps."""

    steps: int
    values: dict[str, Any]


class _Rendering(NamedTuple):
    """The frames of a method after a number of fine-tuning steps.

    Attributes:
        steps: of fine-tuning.
        seconds: of fine-tuning.
        held_out: the rendered held-out frames.
        training: the rendered training frames; None of a method that copies them.
    """

    steps: int
    seconds: float
    held_out: np.ndarray
    training: np.ndarray | None


@dataclass
class ClipEvaluator:
    """Evaluates clips; can be pickled for another process, where it opens its networks again.

    Attributes:
        model: as `load_model` takes it.
        protocol: the settings.
        detector: of landmarks: its name, or one that can be pickled.
        device: of a detector by name.
        identity, fid: the user's networks, or None; see `Scorer`.
        perceptual: name -> file of the networks that fine-tuning needs.
    """

    model: str
    protocol: Protocol
    detector: str | Detector = "auto"
    device: str = "cpu"
    identity: str | None = None
    fid: str | None = None
    perceptual: dict[str, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}

    @cached_property
    def scorer(self) -> Scorer:
        """The networks of the metrics."""
        detector = self.detector
        opened = open_detector(detector, self.device) if isinstance(detector, str) else detector
        return Scorer(opened, self.identity, self.fid)

    @cached_property
    def loaded(self) -> Model:
        """The model."""
        return load_model(self.model, self.protocol.seed)

    @cached_property
    def untrained(self) -> Model:
        """A model of the same configuration with random weights."""
        return random_model(self.loaded.config, self.protocol.seed)

    @cached_property
    def networks(self) -> list[PerceptualNetwork]:
        """The perceptual networks of fine-tuning."""
        return open_perceptual(self.loaded.config.perceptual, self.perceptual)

    def steps(self, shots: int) -> int:
        """Return the number of fine-tuning steps for T = `shots`."""
        if self.protocol.steps is None:
            return self.loaded.config.finetune.steps(shots)
        return self.protocol.steps

    def settings(self) -> dict[str, Any]:
        """Return all that the scores of a clip depend on, as plain values for results.json."""
        model, scorer = self.loaded, self.scorer
        return {
            "model": {
                "name": Path(self.model).name,
                "digest": model.digest,
                "preset": model.config.preset,
                "provenance": model.provenance,
            },
            "image_size": model.config.networks.image_size,
            "protocol": self.protocol.as_dict(),
            "steps": {shots: self.steps(shots) for shots in self.protocol.shots},
            "landmarks": scorer.detector.name,
            "identity": scorer.describe_identity(),
            "frechet": {
                "name": scorer.frechet,
                "weights": None if self.fid is None else Path(self.fid).name,
            },
        }

    def prepare(self) -> "ClipEvaluator":
        """Open everything now, so that a missing file or package is reported before the long work.

        Raises:
            TalkingheadError: the model, a network or a package is missing, or the model cannot be fine-tuned.
        """
        fine_tuned = [method for method in self.protocol.methods if method in FINE_TUNED_METHODS]
        if fine_tuned and self.loaded.provenance.get("variant") == "ff":
            raise TalkingheadError(
                f"{self.model}: is of variant FF, which cannot be fine-tuned; leave {', '.join(fine_tuned)} "
                "out with --methods, or name a model of variant ft"
            )
        self.scorer  # noqa: B018 - opens the networks
        if fine_tuned:
            self.networks  # noqa: B018 - opens the networks
        return self

    def __call__(self, task: EvalClip | RowTask, report: Callable[..., None]) -> Track | Unusable | None:
        """Find the landmarks of a clip, or measure a row.

        Args:
            task: a clip or a row.
            report: called with numbers of finished units of work (frames of a clip, `RowTask.units`), and
                with the `StageValues` of a row.

        Returns:
            the landmarks of a clip, None of a row, and why where a clip cannot be used.
        """
        counter = _UnitReporter(report)
        try:
            if isinstance(task, EvalClip):
                return find_landmarks(task, self.scorer.detector, counter.progress)
            self._measure(task, report, counter)
        except TalkingheadError as error:
            return Unusable(str(error))
        return None

    def _measure(self, task: RowTask, report: Callable[..., None], counter: "_UnitReporter") -> None:
        """Report the values of a row after each of its stages."""
        frames, truth = self._read(task, counter)
        if task.method == TRUTH:
            report(StageValues(0, self._truth_values(truth)))
            return
        training = frames.training[task.shots]
        for rendering in self._render(task, training, truth, counter):
            report(StageValues(rendering.steps, self._row_values(rendering, training, truth)))

    def _read(self, task: RowTask, counter: "_UnitReporter") -> tuple[EvalFrames, Truth]:
        """Return the frames of a task's clip, which are kept for the next task."""
        if self.__dict__.get("_last_number") != task.number:
            config = self.loaded.config
            frames = read_split_frames(
                task.clip,
                task.track,
                task.parts,
                config.networks.image_size,
                convention=config.crop,
            )
            counter.add(0)
            self._last_frames, self._last_number = (frames, self.scorer.truth(frames.held_out)), task.number
        return self._last_frames

    def _truth_values(self, truth: Truth) -> dict[str, Any]:
        held_out, size = truth.clip, self.loaded.config.networks.image_size
        columns = _shown_indices(held_out)
        return {
            "features": truth.features,
            "descriptor": mean_descriptor(truth.descriptors),
            "shown": _copy(held_out.frames[columns]),
            "landmarks": _copy(held_out.track.landmarks[columns] / size),
        }

    def _row_values(self, rendering: _Rendering, training: Clip, truth: Truth) -> dict[str, Any]:
        """Return the values of a row: figures, learned (of the training frames), features, descriptor,
        seconds, shown (held-out frames as rendered) and picture (one of the training frames).
        """
        scores = self.scorer.score(rendering.held_out, truth)
        learned = {}
        if rendering.training is not None:
            learned = self.scorer.similarity(rendering.training, training.frames)
        return {
            "figures": scores.figures,
            "learned": {f"learned_{metric}": value for metric, value in learned.items()},
            "features": scores.features,
            "descriptor": scores.descriptor,
            "seconds": round(rendering.seconds, 2),
            "shown": _copy(rendering.held_out[_shown_indices(truth.clip)]),
            "picture": _copy(training.frames[evenly_spaced_indices(len(training), 1)]),
        }

    def _render(
        self, task: RowTask, training: Clip, truth: Truth, counter: "_UnitReporter"
    ) -> Iterator[_Rendering]:
        """Yield the rendered frames of a method for each number of fine-tuning steps."""
        method = task.method
        if method in ("nearest", "warped"):
            frames = _copy_nearest(training, truth.clip, warp=method == "warped")
            yield _Rendering(steps=0, seconds=0.0, held_out=frames, training=None)
            return
        is_fine_tuned = method in FINE_TUNED_METHODS
        people = finetune_at_steps(
            self.untrained if method == "random-weights" else self.loaded,
            training,
            task.stages,
            adversarial=method != "no-adversarial",
            seed=self.protocol.seed,
            perceptual=self.networks if is_fine_tuned else (),
            on_step=lambda *_: counter.add(1),
        )
        seconds, start = 0.0, perf_counter()
        for steps, person in zip(task.stages, people, strict=True):
            seconds += perf_counter() - start
            learned = render(person, training) if is_fine_tuned else None
            yield _Rendering(steps, seconds, render(person, truth.clip), learned)
            start = perf_counter()


class _UnitReporter:
    """Reports units of work, several at a time.

    Args:
        report: called with a number of units, or without arguments as a heartbeat.
    """

    def __init__(self, report: Callable[..., None]) -> None:
        self._report, self._pending, self._last = report, 0, perf_counter()

    def add(self, count: int) -> None:
        """Add finished units."""
        self._pending += count
        now = perf_counter()
        if self._pending and now - self._last >= _REPORT_SECONDS:
            self._report(self._pending)
            self._pending, self._last = 0, now
        else:
            self._report()

    def progress(self, iterable: Iterable[Any], /, *, desc: str = "", total: int | None = None) -> Any:
        """Yield the items of a loop, a unit each."""
        for item in iterable:
            self.add(1)
            yield item


def _shown_indices(held_out: Clip) -> np.ndarray:
    return evenly_spaced_indices(len(held_out), MAX_SHOWN)


def _copy_nearest(training: Clip, held_out: Clip, warp: bool) -> np.ndarray:
    """Return the nearest training frame of each held-out one, warped to its landmarks if `warp`."""
    nearest = nearest_frames(training, held_out.track)
    if not warp:
        return training.frames[nearest]
    landmarks = zip(nearest, held_out.track.landmarks, strict=True)
    return np.stack(
        [
            warp_to_landmarks(training.frames[index], training.track.landmarks[index], target)
            for index, target in landmarks
        ]
    )


def render(person: Person, clip: Clip) -> np.ndarray:
    """Return the person at a clip's own landmarks: uint8 [N, size, size, 3]."""
    points = track_points(clip.track) / clip.track.size[0]
    engine = TorchEngine(person)
    return np.concatenate(
        [engine.run(points[start : start + _BATCH]) for start in range(0, len(points), _BATCH)]
    )


def _copy(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))
