"""Training run of a landmark or detection network: resumes where it was interrupted."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import TalkingheadError
from ..landmarks.network_blocks import to_channels_last
from ..system.prefetch import prefetch
from ..system.progress import OnStep, start_steps
from ..system.signals import graceful_shutdown
from .run_folder import RunFolder

LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-4
_WARM_UP_STEPS = 300
_AVERAGE_STEPS = 500  # over about so many steps the weights are averaged,
_AVERAGE_SHARE = 8  # at the start over this part of the steps so far: the first ones are forgotten
_LOG_EVERY_STEPS = 50
_CLIP_NORM = 5.0

log = logging.getLogger(__name__)


class BatchSource(Protocol):
    """Batches by the number of their step."""

    def draw(self, step: int, batch: int) -> Any:
        """Draw the batch of a step; the same for the same step."""


class NetworkRun:
    """A run: network, optimiser, the running average of the weights, and the files.

    Args:
        network: to train.
        source: of the batches.
        loss: returns "loss" and its parts for the network and a batch.
        folder: of the run.
        write: writes the averaged network after so many steps.
        steps: in all; the learning rate falls to 0 by then.
        batch: size of a batch.
        learning_rate: after the first steps.
        settings: values that must be equal for a run to resume.
    """

    def __init__(
        self,
        network: nn.Module,
        source: BatchSource,
        loss: Callable[[Any, Any], dict[str, Tensor]],
        folder: RunFolder,
        *,
        write: Callable[[nn.Module, int], None],
        steps: int,
        batch: int,
        learning_rate: float = LEARNING_RATE,
        settings: Mapping[str, Any],
    ) -> None:
        self._network = to_channels_last(network.train())
        self.average = deepcopy(network).requires_grad_(False).eval()
        self._source, self._loss, self._write, self._folder = source, loss, write, folder
        self._steps, self._batch, self._settings = steps, batch, dict(settings)
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
        )
        for parameter in network.parameters():
            self._optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        self._learning_rate = learning_rate
        self._step, self._seconds = 0, 0.0
        self._modules: dict[str, nn.Module] = {"network": self._network, "average": self.average}

    def resume(self) -> None:
        """Load the state that the folder holds, if it holds one."""
        header = self._folder.load(self._modules, {"optimiser": self._optimiser})
        if header is None:
            return
        stored = {name: header.get(name) for name in self._settings}
        if stored != self._settings:
            name = next(name for name, value in self._settings.items() if stored[name] != value)
            raise TalkingheadError(
                f"{self._folder.out}: holds a run with {name} {stored[name]}, not {self._settings[name]}; "
                "choose another --out"
            )
        self._step, self._seconds = int(header["step"]), self._folder.seconds()
        log.info("%s: resuming after step %d", self._folder.out, self._step)

    def advance(self, save_seconds: float, on_step: OnStep | None) -> None:
        """Take the steps that are left, or those until a signal arrives, and save."""
        start = saved = time.monotonic()
        numbers, values = range(self._step, self._steps), dict[str, float]()
        start_steps(on_step, self._step, self._steps)
        with graceful_shutdown() as stopped:
            for batch in prefetch((self._source.draw(number, self._batch) for number in numbers), depth=2):
                metrics = self._take_step(batch)
                if self._step % _LOG_EVERY_STEPS == 0 or self._step == self._steps:
                    values = {name: float(value) for name, value in metrics.items()}
                    if not math.isfinite(values["loss"]):
                        raise TalkingheadError(
                            f"{self._folder.out}: the loss is not finite after step {self._step}; "
                            "resume from previous/"
                        )
                if on_step:
                    on_step(self._step, self._steps, values)
                if stopped():
                    break
                now = time.monotonic()
                if now - saved > save_seconds:
                    self._seconds, start, saved = self._seconds + now - start, now, now
                    self._save()
            self._seconds += time.monotonic() - start
            self._save()
            if stopped():
                raise KeyboardInterrupt

    def _take_step(self, batch: Any) -> dict[str, Tensor]:
        for group in self._optimiser.param_groups:
            group["lr"] = self._learning_rate * _rate(self._step, self._steps)
        losses = self._loss(self._network, batch)
        self._optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP_NORM)
        self._optimiser.step()
        self._step += 1
        share = max(_AVERAGE_SHARE / (self._step + _AVERAGE_SHARE - 1), 1 / _AVERAGE_STEPS)
        with torch.no_grad():
            values, averages = self._network.state_dict(), self.average.state_dict()
            for name, value in values.items():
                if value.is_floating_point():
                    averages[name].lerp_(value, share)
                else:
                    averages[name].copy_(value)
        return {name: value.detach() for name, value in losses.items()}

    def _save(self) -> None:
        header = {**self._settings, "step": self._step}
        self._folder.save(self._modules, {"optimiser": self._optimiser}, header, self._seconds)
        self._write(self.average, self._step)


def _rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: it rises, then falls as a cosine."""
    return (
        min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1)))
    )
