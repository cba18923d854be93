"""Monitoring of a run: metrics and their trackers, alarms, and evaluations on held-out clips."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..constants import EVALUATE_EVERY
from .health import Health, MetricReader
from .held_out import HeldOutClips, HeldOutEvaluation, held_out_clips
from .ranks import Ranks
from .run_log import RunLog, check_trackers
from .step_meter import StepMeter
from .throughput import count_flops

log = logging.getLogger(__name__)

StepResult = tuple[dict[str, Tensor], list[Tensor]]
"""Metrics of a step and rows of images, as `MetaLearner.step` returns them."""


@dataclass(frozen=True)
class Monitoring:
    """Options of watching a run; none of them changes what the run learns.

    Attributes:
        track: experiment trackers, of "tensorboard", "wandb" and "mlflow"; ("none",) for none.
        evaluate: videos or data that `talkinghead evaluate` measures on while training goes on: of the people
            left out of training, where there are any, else of all.
        evaluate_every: steps between two evaluations.
        evaluate_config: TOML file of options of `evaluate`, in place of a quick evaluation; the people
            left out of training, and no fine-tuning with variant "ff", take precedence over it.
    """

    track: Sequence[str] = ("tensorboard",)
    evaluate: str | Path | Sequence[str | Path] = ()
    evaluate_every: int = EVALUATE_EVERY
    evaluate_config: str | Path | None = None

    def resolve(self, exclude_identities: Sequence[str], variant: str) -> "ResolvedMonitoring":
        """Check the values, for a run without some people.

        Raises:
            TalkingheadError: a tracker is unknown, or there is nothing to evaluate on.
        """
        clips = held_out_clips(
            self.evaluate,
            self.evaluate_every,
            self.evaluate_config,
            only=tuple(exclude_identities),
            feed_forward=variant == "ff",
        )
        return ResolvedMonitoring(check_trackers(self.track), clips)


@dataclass(frozen=True)
class ResolvedMonitoring:
    """Checked values of `Monitoring`.

    Attributes:
        trackers: their names.
        held_out: what to evaluate on.
    """

    trackers: tuple[str, ...]
    held_out: HeldOutClips | None


class RunMonitor:
    """Watches the steps of a run, until the run ends or goes back to an earlier state.

    Args:
        out: folder of the run.
        step: steps of the run so far.
        ranks: of the run.
        device: of the metrics.
        trackers: their names.
        evaluation: of this run, on its first rank.
        health: of the run, whose alarms are logged.
        settings: of the run, for trackers that show them.
        restarts: whether the run went back; a tracker that cannot start is then left out, with a warning.

    Raises:
        TalkingheadError: a tracker is not installed or cannot start.
    """

    def __init__(
        self,
        out: Path,
        step: int,
        ranks: Ranks,
        device: torch.device,
        *,
        trackers: Sequence[str],
        evaluation: HeldOutEvaluation | None,
        health: Health,
        settings: Mapping[str, Any],
        restarts: bool,
    ) -> None:
        self._out, self._evaluation, self._health = out, evaluation, health
        self._reader = MetricReader(ranks, device)
        self._meter = StepMeter(batch=1, peak=1.0)
        public_settings = {name: value for name, value in settings.items() if name != "clips"}
        with ranks.agreement():
            self._log = RunLog(
                out,
                step,
                trackers,
                settings=public_settings,
                active=ranks.is_first,
                restarts=restarts,
            )

    def __enter__(self) -> "RunMonitor":
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """Close the trackers, which show whether the run failed."""
        self._log.close(failed=kind is not None and issubclass(kind, Exception))

    def start(self, batch: int, peak: float) -> None:
        """Start to count time: before steps of so many episodes, on a device with such a peak of operations a
        second.
        """
        self._meter = StepMeter(batch, peak)

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        with self._meter.waiting():
            yield

    def run_step(self, take_step: Callable[[], StepResult]) -> StepResult:
        """Take a step, record whether its metrics are finite, and return them.

        The operations of the first step are counted, since every step has as many.
        """
        if self._meter.flops:
            result = take_step()
        else:
            result, self._meter.flops = count_flops(take_step)
        self._meter.count_step()
        self._reader.add(result[0])
        return result

    def measure(self, step: int, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the means of a step's metrics over the ranks as numbers.

        Raises:
            NotFiniteError: one of this step, or of a step since the last measurement, is not finite.
        """
        return self._reader.read(metrics, str(self._out), step)

    def report(self, step: int, metrics: Mapping[str, Tensor], *, with_alarms: bool) -> dict[str, float]:
        """Measure, and write to the trackers, with the results of an evaluation that has ended.

        Args:
            step, metrics: as for `measure`.
            with_alarms: whether the discriminator's alarms are checked, in steps at equal distances.

        Raises:
            NotFiniteError: as `measure`.
        """
        values = self.measure(step, metrics) | self._meter.read()
        self._log.write_scalars(step, values)
        self._write_evaluation()
        if with_alarms:
            for line in self._health.check(step, values, self._out / "model.safetensors"):
                log.warning("%s: %s", self._out, line)
        return values

    def write_samples(self, step: int, rows: Sequence[Tensor]) -> None:
        """Write rows of images, each [B, 3, H, W] in [-1, 1], as a sheet."""
        with self._meter.pause():
            self._log.write_samples(step, rows)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Leave the time of the block out of the throughput."""
        with self._meter.pause():
            yield

    def must_evaluate(self, step: int, steps: int) -> bool:
        """Return whether this rank evaluates the model of a step, which has to be saved before."""
        return self._evaluation is not None and self._evaluation.is_due(step, steps)

    def must_evaluate_loaded(self, step: int, steps: int) -> bool:
        """Return whether this rank evaluates the model that was loaded, which has to be saved before."""
        return self._evaluation is not None and self._evaluation.is_missing(step, steps)

    def begin_evaluation(self, step: int) -> None:
        """Begin to evaluate the model that was just saved."""
        if self._evaluation is not None:
            self._write_evaluation()
            self._evaluation.begin(step)

    def finish_evaluation(self, is_stopped: Callable[[], bool]) -> None:
        """Wait for the last evaluation, until `is_stopped` returns True."""
        if self._evaluation is not None:
            for result in self._evaluation.finish(is_stopped):
                self._log.write_scalars(*result)

    def _write_evaluation(self) -> None:
        if self._evaluation is not None and (result := self._evaluation.poll()) is not None:
            self._log.write_scalars(*result)
