"""Health of a run: whether its losses and gradients are finite, and whether the discriminator learns.

What is not finite is recorded on the device at every step, and read with the other metrics every so many
steps. All ranks read the same values, so that they decide alike.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TalkingheadError
from .ranks import Ranks

LOWERED_RATE = 0.5
"""Factor of all learning rates after a loss or gradient was not finite."""
AVERAGE_DECAY = 0.9
"""Decay of the averages that alarms look at, from one measurement to the next."""


class NotFiniteError(TalkingheadError):
    """A loss or a gradient is not finite, on all ranks alike."""


class MetricReader:
    """Reads the metrics of steps, and whether those of any step since the last reading were not finite.

    Args:
        ranks: over which metrics are averaged.
        device: of the metrics.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self._ranks = ranks
        self._is_bad = torch.zeros((), dtype=torch.bool, device=device)

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Record whether the metrics of a step are finite, without waiting for the device."""
        if metrics:
            self._is_bad |= ~torch.isfinite(_stack(metrics)).all()

    def read(self, metrics: Mapping[str, Tensor], where: str, step: int) -> dict[str, float]:
        """Return the means of a step's metrics over the ranks as numbers; this waits for the device.

        Args:
            metrics: scalars.
            where: start of the error message, such as the folder of the run.
            step: for the error message.

        Raises:
            NotFiniteError: one of this step or of a step since the last reading is not finite, on any rank.
        """
        if not metrics:
            return {}
        values = self._ranks.mean(torch.cat([_stack(metrics), self._is_bad.float()[None]])).tolist()
        self._is_bad.zero_()
        means = dict(zip(metrics, values[:-1], strict=True))
        if values[-1] or not all(map(math.isfinite, means.values())):
            bad = {name: value for name, value in means.items() if not math.isfinite(value)}
            listing = ", ".join(f"{name} {value:.4g}" for name, value in (bad or means).items())
            raise NotFiniteError(f"{where}: a loss or gradient is not finite at step {step} ({listing})")
        return means


def _stack(metrics: Mapping[str, Tensor]) -> Tensor:
    """Return scalars as a vector in float32."""
    return torch.stack([value.float() for value in metrics.values()])


@dataclass(frozen=True)
class Alarm:
    """A warning about the discriminator, logged once where a condition has held for many steps.

    Attributes:
        name: in a state file.
        holds: called with the averages of metrics, and the last norm of the gradient.
        steps: for which it has to hold.
        message: with the names of metrics in braces.
    """

    name: str
    holds: Callable[[Mapping[str, float]], bool]
    steps: int
    message: str


_START_AGAIN = "in a preset of your own, and start another run with --init-from {model}"
ALARMS = (
    Alarm(
        "wins",
        lambda mean: mean["discriminator"] < 0.05,
        1000,
        "the discriminator wins: its loss has been about 0 for {steps} steps ({discriminator:.3g}, score gap "
        "{score_gap:.3g}), so that it no longer learns; lower meta.discriminator.learning_rate or set "
        f"meta.discriminator_steps to 1 {_START_AGAIN}",
    ),
    Alarm(
        "asleep",
        lambda mean: abs(mean["score_gap"]) < 0.05,
        2000,
        "the discriminator does not learn: its scores of real and generated frames have been equal for "
        "{steps} steps (score gap {score_gap:.3g}), so that only the other losses train; raise "
        f"meta.discriminator.learning_rate {_START_AGAIN}",
    ),
    Alarm(
        "no gradient",
        lambda mean: mean["grad_norm_discriminator"] < 1e-10 and mean["discriminator"] >= 0.05,
        200,
        "the discriminator has no gradient for {steps} steps ({live_units:.0%} of its units are active): it "
        "cannot learn; set networks.discriminator_slope to 0.2 or lower meta.discriminator.learning_rate "
        f"{_START_AGAIN}",
    ),
)
"""Their limits lie far outside of the runs in bench/results/paper_start.json, whose discriminators learn:
there the loss is 0.46 at least and the gap 1.2 at least, in means of 100 steps.
"""
_AVERAGED = ("discriminator", "score_gap", "live_units")
_LAST = "grad_norm_discriminator"
"""Metric that is looked at without averaging, in which a zero would take long to show."""


@dataclass
class Health:
    """The memory of a run's health, which its state stores.

    Attributes:
        rate: factor of all learning rates.
        lowered_at: step to which the run went back when the rates were lowered; None where they were not.
        means: averages of the watched metrics.
        since: name of an alarm -> first measured step since which its condition has held.
        raised: names of the alarms that were logged.
    """

    rate: float = 1.0
    lowered_at: int | None = None
    means: dict[str, float] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    raised: list[str] = field(default_factory=list)

    @classmethod
    def from_header(cls, header: Mapping[str, Any] | None) -> "Health":
        """Return that of a state's header; states of earlier versions have none."""
        stored = (header or {}).get("health", {})
        return cls(**{name: stored[name] for name in vars(cls()) if name in stored})

    def to_header(self) -> dict[str, Any]:
        """Return the fields that differ from those of a new run, for a state's header."""
        new = Health()
        fields = {name: value for name, value in vars(self).items() if value != getattr(new, name)}
        return {"health": fields} if fields else {}

    def lower_rate(self, step: int) -> None:
        """Lower the learning rates in a run that went back to `step`."""
        self.rate, self.lowered_at = self.rate * LOWERED_RATE, step
        self.means, self.since = {}, {}

    def check(self, step: int, values: Mapping[str, float], model: Path) -> list[str]:
        """Return the alarms that the metrics of a step raise for the first time, as lines for the log.

        Args:
            step: in a run, a multiple of the same number.
            values: its metrics; without those of a discriminator no alarm is raised.
            model: of the run, for the lines.
        """
        if not {*_AVERAGED, _LAST} <= set(values):
            return []
        for name in _AVERAGED:
            mean = self.means.get(name, values[name])
            self.means[name] = AVERAGE_DECAY * mean + (1 - AVERAGE_DECAY) * values[name]
        lines, watched = [], self.means | {_LAST: values[_LAST]}
        for alarm in ALARMS:
            if not alarm.holds(watched):
                self.since.pop(alarm.name, None)
                continue
            duration = step - self.since.setdefault(alarm.name, step)
            if duration >= alarm.steps and alarm.name not in self.raised:
                self.raised.append(alarm.name)
                lines.append(alarm.message.format(steps=duration, model=model, **watched))
        return lines
