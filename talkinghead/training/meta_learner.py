"""One step of meta-learning: E, G with P, W and D on a batch of episodes (paper, section 3.2)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import Model
from ..data.episodes import Episodes
from ..device import training_precision
from ..landmarks.draw import landmark_image
from ..losses import matching_loss
from ..networks.reference_guided import ReferenceGuidedGenerator, ReferenceViews, resize_area
from ..networks.references import view_episodes
from ..perceptual import PerceptualNetwork
from .adversarial import (
    RunningAverage,
    Verdicts,
    backward,
    discriminator_backward,
    generator_gradient,
    judge,
    mixed_precision,
    take_step,
    uses_discriminator,
)
from .details import detail_boxes
from .row_adam import RowAdam
from .state import adam


class Columns(nn.Module):
    """W: one column of length D per training video, uniform in +-0.01 (small scores at the start let D learn) unless it is filled."""

    def __init__(self, videos: int, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(videos, length).uniform_(-0.01, 0.01))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the columns [B, D] of videos [B]; their gradient holds the rows that were drawn and no other."""
        return F.embedding(numbers, self.weight, sparse=True)


@dataclass(frozen=True)
class _Played:
    """What is needed again of a part of a step: its episodes, landmark images, styles, what guides G besides, share of the step, figures
    and pictures to show."""

    episodes: Episodes
    target: Tensor
    styles: Tensor
    guide: "tuple[ReferenceViews, Tensor] | tuple[()]"
    share: float
    figures: dict[str, Tensor]
    rows: list[Tensor]


class MetaLearner:
    """The networks, running averages and optimisers of a run, and its one step.

    Args:
        model: freshly initialised networks.
        videos: columns of W.
        networks: of the content loss.
        accumulate: parts that a step's episodes are taken in, one after the other, so that only one is in memory.

    Attributes:
        precision: what it computes in, "bf16" or "fp32".
    """

    def __init__(self, model: Model, videos: int, networks: Sequence[PerceptualNetwork], accumulate: int = 1) -> None:
        self.config, self.networks, self.accumulate = model.config, networks, accumulate
        self.embedder, self.generator, self.discriminator = model.embedder, model.generator, model.discriminator
        self.columns = Columns(videos, self.config.networks.embedding).to(model.device)
        self.average_embedder = copy.deepcopy(self.embedder).requires_grad_(False)
        self.average_generator = copy.deepcopy(self.generator).requires_grad_(False)
        meta = self.config.meta
        self.set_steps(0)
        self.precision = training_precision(model.device, meta.precision)
        groups = [{"params": list(network.parameters())} for network in (self.embedder, self.generator)]
        self.generator_optimiser = adam(groups, meta.generator)
        self.discriminator_optimiser = adam([{"params": list(self.discriminator.parameters())}], meta.discriminator)
        self.columns_optimiser = RowAdam(self.columns.weight, meta.discriminator)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything with parameters or buffers, by name."""
        return {
            "embedder": self.embedder,
            "generator": self.generator,
            "discriminator": self.discriminator,
            "columns": self.columns,
            "average_embedder": self.average_embedder,
            "average_generator": self.average_generator,
        }

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers of E and G, of D and of W, by name."""
        return {
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
            "columns_optimiser": self.columns_optimiser,
        }

    @property
    def earlier_names(self) -> dict[str, str | None]:
        """Where a state of a version that had W in D's Adam holds what RowAdam needs; None where it does not."""
        last = f"discriminator_optimiser.{len(list(self.discriminator.parameters()))}"
        names = {f"columns_optimiser.0.{key}": f"{last}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
        return names | {f"columns_optimiser.0.{key}": None for key in ("last_step", "weight_sum", "weight_sum_sq")}

    def set_steps(self, steps: int) -> None:
        """Say how many steps the run has taken."""
        self._steps = steps
        averages = [*self.average_embedder.parameters(), *self.average_generator.parameters()]
        self._averages = RunningAverage(averages, self.config.meta.average, steps)

    def step(self, episodes: Episodes) -> tuple[dict[str, Tensor], list[Tensor]]:
        """One step of E and G, then the steps of D.

        Returns:
            figures (scalars on the device), and the source, landmark, generated and true images [B, 3, size, size].
        """
        with mixed_precision(episodes.frames.device, self.precision):
            return self._step(episodes)

    def _step(self, episodes: Episodes) -> tuple[dict[str, Tensor], list[Tensor]]:
        meta = self.config.meta
        self._random = torch.Generator().manual_seed(self._steps)
        self._steps += 1
        for network in (self.embedder, self.generator, self.discriminator):
            network.power_iteration_()
        parts = [self._play(part, len(part.columns) / len(episodes.columns)) for part in episodes.split(self.accumulate)]
        take_step(self.generator_optimiser, meta.clip)
        self._update_averages()
        figures = [part.figures for part in parts]
        for number in range(meta.discriminator_steps if uses_discriminator(meta.losses) else 0):
            if number:
                self.discriminator.power_iteration_()
                figures = [old | self._play_again(part) for old, part in zip(figures, parts, strict=True)]
            take_step(self.discriminator_optimiser, meta.clip)
            take_step(self.columns_optimiser, clip=0)  # RowAdam bounds what a row moves by
        sheet = [torch.cat(rows) for rows in zip(*(part.rows for part in parts), strict=True)]
        return {name: torch.stack([each[name] for each in figures]).mean() for name in figures[0]}, sheet

    def _play(self, episodes: Episodes, share: float) -> "_Played":
        """Add the gradients of some episodes to E, G and D."""
        meta, networks = self.config.meta, self.config.networks
        batch, count = episodes.frames.shape[:2]
        small = resize_area(episodes.frames.flatten(0, 1), networks.layer_size).unflatten(0, (batch, count))
        drawn = landmark_image(episodes.points.flatten(0, 1), networks.layer_size).unflatten(0, (batch, count))
        real, target = episodes.frames[:, 0], drawn[:, 0]
        embeddings = self.embedder(small[:, 1:].flatten(0, 1), drawn[:, 1:].flatten(0, 1)).unflatten(0, (batch, count - 1))
        styles = self.generator.project(embeddings.mean(1))
        guide = self._guide(episodes)
        fake = self.generator(target, styles, *guide)
        details = (detail_boxes(episodes.points[:, 0], self._chance(batch, 3)), meta.details) if meta.details else None
        figures, gradient, verdicts = generator_gradient(
            meta.losses,
            self.networks,
            self.discriminator,
            self._column(episodes),
            fake,
            real,
            target,
            valid=episodes.valid,
            details=details,
        )
        if verdicts:
            figures |= self._discriminator_backward(verdicts, share)
            del verdicts  # and with them the maps of D
        outputs, gradients = [fake], [share * gradient]
        if meta.losses.matching:
            matching = meta.losses.matching * matching_loss(embeddings, self.columns(episodes.columns))
            figures["matching"] = matching.detach()
            outputs, gradients = [fake, matching], [*gradients, torch.full_like(matching, share)]
        backward(self.generator_optimiser, outputs, gradients)
        rows = [small[:, 1], target, resize_area(fake.detach().float(), networks.layer_size), small[:, 0]]
        return _Played(episodes, target, styles.detach(), guide, share, figures, rows)

    def _guide(self, episodes: Episodes) -> "tuple[ReferenceViews, Tensor] | tuple[()]":
        """Return what a reference-guided G is shown besides: the other frames, in half of the steps only the first, and who sees none."""
        if not isinstance(self.generator, ReferenceGuidedGenerator):
            return ()
        frames, points = episodes.frames, episodes.points
        count = 2 if self._chance(1) < 0.5 else frames.shape[1]
        with torch.no_grad():
            views = view_episodes(frames[:, 1:count], points[:, 1:count], points[:, 0])
        return views, self._chance(len(frames)) < self.config.meta.own_picture

    def _chance(self, *shape: int) -> Tensor:
        """Return numbers of 0..1 that depend on the step alone, so that a resumed run draws the same."""
        return torch.rand(shape, generator=self._random).to(self.columns.weight.device)

    def _play_again(self, played: "_Played") -> dict[str, Tensor]:
        """D's gradient once more, on what G makes of the same styles now."""
        real = played.episodes.frames[:, 0]
        size = played.target.shape[-1]
        with torch.no_grad():
            shown = self.generator(played.target, played.styles, *played.guide)
        verdicts = judge(
            self.discriminator, self._column(played.episodes), resize_area(shown, size), resize_area(real, size), played.target
        )
        return self._discriminator_backward(verdicts, played.share)

    def _discriminator_backward(self, verdicts: Verdicts, share: float) -> dict[str, Tensor]:
        return discriminator_backward([self.discriminator_optimiser, self.columns_optimiser], verdicts, share)

    def _column(self, episodes: Episodes) -> Tensor:
        return self.columns(episodes.columns) + self.discriminator.w0

    def model(self, provenance: dict[str, Any]) -> Model:
        """What the run has learned so far: running averages of E and G, and D."""
        return Model(self.config, self.average_embedder, self.average_generator, self.discriminator, provenance)

    def _update_averages(self) -> None:
        self._averages.update([*self.embedder.parameters(), *self.generator.parameters()])
        self.average_embedder.power_iteration_()
        self.average_generator.power_iteration_()
