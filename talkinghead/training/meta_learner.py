"""Training step of meta-learning: E, G with P, W and D on a batch of episodes (paper, section 3.2)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dataset.episodes import Episodes
from ..landmarks.landmark_image import landmark_image
from ..model import Model
from ..networks.reference_guided import ReferenceGuidedGenerator, ReferenceViews, resize_area
from ..networks.references import view_episodes
from ..pretrained.perceptual import PerceptualNetwork
from ..system.device import training_precision
from .adversarial import (
    DiscriminatorOutputs,
    RunningAverage,
    backward,
    discriminator_backward,
    generator_gradient,
    gradient_norms,
    mixed_precision,
    score_real_and_fake,
    take_step,
    uses_discriminator,
)
from .detail_crops import detail_boxes
from .losses import matching_loss
from .ranks import ONE_RANK, GradientReducer, Ranks
from .resume import adam
from .row_adam import RowAdam


class VideoEmbeddings(nn.Module):
    """W: one embedding W_i of length D per training video, at first random within +-0.01, so that scores are
    small and D can learn; `init_video_embeddings` sets other values.

    Args:
        videos: of the run.
        length: D.
        ranks: of the run; this one holds its rows of W, with the values that one process would draw.
    """

    def __init__(self, videos: int, length: int, ranks: Ranks = ONE_RANK) -> None:
        super().__init__()
        block = 1024 * ranks.count  # rows drawn at a time, since all of W may be large
        rows = [
            torch.empty(min(block, videos - start), length).uniform_(-0.01, 0.01)[ranks.share]
            for start in range(0, videos, block)
        ]
        self.weight = nn.Parameter(torch.cat(rows))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the embeddings [B, D] of videos [B]; their gradient is sparse and holds only these rows."""
        return F.embedding(numbers, self.weight, sparse=True)


@dataclass(frozen=True)
class MicroBatch:
    """One part of a step's episodes, and what a further step of D needs of it.

    Attributes:
        episodes: of this part.
        landmark_images: [B, 3, size, size], of the target frames.
        styles: [B, S], detached.
        reference_inputs: further arguments of a reference-guided G; empty for a plain one.
        share: of the step's episodes.
        metrics: of this part.
        image_rows: source, landmark, generated and real images for the log.
    """

    episodes: Episodes
    landmark_images: Tensor
    styles: Tensor
    reference_inputs: "tuple[ReferenceViews, Tensor] | tuple[()]"
    share: float
    metrics: dict[str, Tensor]
    image_rows: list[Tensor]


class MetaLearner:
    """The networks, running averages and optimisers of a run, and its training step.

    Args:
        model: freshly initialised networks.
        videos: number of video embeddings in W.
        networks: of the content loss.
        grad_accum_steps: micro-batches that a step's episodes are split into, so that only one of them is in
            memory at a time.
        ranks: of the run; each takes its share of a step's episodes.

    Attributes:
        precision: of the computation, "bf16" or "fp32".
    """

    def __init__(
        self,
        model: Model,
        videos: int,
        networks: Sequence[PerceptualNetwork],
        grad_accum_steps: int = 1,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.config, self.networks, self.grad_accum_steps = model.config, networks, grad_accum_steps
        self._ranks = ranks
        self.embedder, self.generator = model.embedder, model.generator
        self.discriminator = model.discriminator
        length = self.config.networks.embedding
        self.video_embeddings = VideoEmbeddings(videos, length, ranks).to(model.device)
        self.average_embedder = copy.deepcopy(self.embedder).requires_grad_(False)
        self.average_generator = copy.deepcopy(self.generator).requires_grad_(False)
        meta = self.config.meta
        self.set_steps(0)
        self.precision = training_precision(model.device, meta.precision)
        groups = [{"params": list(network.parameters())} for network in (self.embedder, self.generator)]
        self.generator_optimiser = adam(groups, meta.generator)
        self.discriminator_optimiser = adam(
            [{"params": list(self.discriminator.parameters())}], meta.discriminator
        )
        self.video_embeddings_optimiser = RowAdam(self.video_embeddings.weight, meta.discriminator)
        self._generator_reducer = GradientReducer(
            ranks, [*self.embedder.parameters(), *self.generator.parameters()]
        )
        self._discriminator_reducer = GradientReducer(
            ranks, list(self.discriminator.parameters()), sharded=[self.video_embeddings.weight]
        )

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Modules with parameters or buffers, by the names that a state file has."""
        return {
            "embedder": self.embedder,
            "generator": self.generator,
            "discriminator": self.discriminator,
            "columns": self.video_embeddings,
            "average_embedder": self.average_embedder,
            "average_generator": self.average_generator,
        }

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers of E and G, of D and of W, by the names that a state file has."""
        return {
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
            "columns_optimiser": self.video_embeddings_optimiser,
        }

    sharded = ("columns", "columns_optimiser")
    """Names of the modules and optimisers of which every rank holds other rows."""

    @property
    def replicated_tensors(self) -> list[Tensor]:
        """Parameters and buffers that all ranks have alike."""
        modules = [module for name, module in self.modules.items() if name not in self.sharded]
        return [tensor for module in modules for tensor in module.state_dict().values()]

    @property
    def earlier_names(self) -> dict[str, str | None]:
        """Names of RowAdam's tensors in a state file of a version that had W in D's Adam; None where such a
        file lacks the tensor.
        """
        last = f"discriminator_optimiser.{len(list(self.discriminator.parameters()))}"
        names = {f"columns_optimiser.0.{key}": f"{last}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
        return names | {
            f"columns_optimiser.0.{key}": None for key in ("last_step", "weight_sum", "weight_sum_sq")
        }

    def set_steps(self, steps: int) -> None:
        """Set how many steps the run has taken."""
        self._steps = steps
        averages = [*self.average_embedder.parameters(), *self.average_generator.parameters()]
        self._averages = RunningAverage(averages, self.config.meta.average, steps)

    def scale_learning_rates(self, factor: float) -> None:
        """Set all learning rates to a multiple of the configuration's."""
        meta = self.config.meta
        for optimiser, config in (
            (self.generator_optimiser, meta.generator),
            (self.discriminator_optimiser, meta.discriminator),
            (self.video_embeddings_optimiser, meta.discriminator),
        ):
            for group in optimiser.param_groups:
                group["lr"] = factor * config.learning_rate

    def step(self, episodes: Episodes) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Take one step of E and G, then the steps of D.

        Returns:
            metrics (scalars on the device), and the source, landmark, generated and real images [B, 3, size,
            size].
        """
        with mixed_precision(episodes.frames.device, self.precision):
            return self._step(episodes)

    def _step(self, episodes: Episodes) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Take the step in the precision of the autocast context."""
        meta = self.config.meta
        self._random = torch.Generator().manual_seed(self._steps)
        self._steps += 1
        for network in (self.embedder, self.generator, self.discriminator):
            network.power_iteration_()
        parts = episodes.split(self.grad_accum_steps)
        self._generator_reducer.begin(len(parts))
        self._discriminator_reducer.begin(len(parts))
        batches = [
            self._accumulate_gradients(part, len(part.columns) / len(episodes.columns)) for part in parts
        ]
        self._generator_reducer.finish()
        names = "grad_norm_embedder", "grad_norm_generator"
        norms = dict(zip(names, gradient_norms(self.generator_optimiser), strict=True))
        take_step(self.generator_optimiser, meta.clip)
        self._update_averages()
        metrics = [batch.metrics for batch in batches]
        for number in range(meta.discriminator_steps if uses_discriminator(meta.losses) else 0):
            if number:
                self.discriminator.power_iteration_()
                self._discriminator_reducer.begin(len(parts))
                pairs = zip(metrics, batches, strict=True)
                metrics = [earlier | self._rescore_discriminator(batch) for earlier, batch in pairs]
            self._discriminator_reducer.finish()
            (norms["grad_norm_discriminator"],) = gradient_norms(self.discriminator_optimiser)
            take_step(self.discriminator_optimiser, meta.clip)
            take_step(self.video_embeddings_optimiser, clip=0)  # RowAdam itself bounds how far a row moves
        mean = {name: torch.stack([values[name] for values in metrics]).mean() for name in metrics[0]}
        rows = zip(*(batch.image_rows for batch in batches), strict=True)
        return mean | norms, [torch.cat(parts) for parts in rows]

    def _accumulate_gradients(self, episodes: Episodes, share: float) -> MicroBatch:
        """Add the gradients of some episodes to those of E, G, D and W."""
        meta, size = self.config.meta, self.config.networks.layer_size
        shape = episodes.frames.shape[:2]
        small = resize_area(episodes.frames.flatten(0, 1), size).unflatten(0, shape)
        landmark_images = landmark_image(episodes.points.flatten(0, 1), size).unflatten(0, shape)
        target_landmarks = landmark_images[:, 0]
        embeddings = self.embedder(small[:, 1:].flatten(0, 1), landmark_images[:, 1:].flatten(0, 1))
        embeddings = embeddings.unflatten(0, (shape[0], shape[1] - 1))
        styles = self.generator.project(embeddings.mean(1))
        reference_inputs = self._reference_inputs(episodes)
        fake = self.generator(target_landmarks, styles, *reference_inputs)
        metrics, gradient, outputs = self._generator_gradient(episodes, fake, target_landmarks)
        if outputs:
            metrics |= self._discriminator_backward(outputs, share)
            del outputs  # frees the feature maps of D
        roots, gradients = [fake], [share * gradient]
        if meta.losses.matching:
            matching = meta.losses.matching * matching_loss(
                embeddings, self.video_embeddings(episodes.columns)
            )
            metrics["matching"] = matching.detach()
            roots, gradients = [fake, matching], [*gradients, torch.full_like(matching, share)]
        backward(self.generator_optimiser, roots, gradients)
        image_rows = [small[:, 1], target_landmarks, resize_area(fake.detach().float(), size), small[:, 0]]
        return MicroBatch(
            episodes=episodes,
            landmark_images=target_landmarks,
            styles=styles.detach(),
            reference_inputs=reference_inputs,
            share=share,
            metrics=metrics,
            image_rows=image_rows,
        )

    def _generator_gradient(
        self, episodes: Episodes, fake: Tensor, target_landmarks: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, DiscriminatorOutputs | None]:
        """Return the terms of G's loss for generated frames, the gradient at the frames and D's outputs."""
        meta, details = self.config.meta, None
        if meta.details:
            details = detail_boxes(episodes.points[:, 0], self._uniform_rows(len(fake), 3)), meta.details
        return generator_gradient(
            weights=meta.losses,
            networks=self.networks,
            discriminator=self.discriminator,
            video_embedding=self._video_embedding(episodes),
            fake=fake,
            real=episodes.frames[:, 0],
            landmark_images=target_landmarks,
            valid=episodes.valid,
            details=details,
            average=self._ranks.mean,
        )

    def _reference_inputs(self, episodes: Episodes) -> "tuple[ReferenceViews, Tensor] | tuple[()]":
        """Return the further arguments of a reference-guided G: views of the other frames (in half of the
        steps of the first alone), and which rows use G's own image only.
        """
        if not isinstance(self.generator, ReferenceGuidedGenerator):
            return ()
        frames, points = episodes.frames, episodes.points
        count = 2 if self._uniform(1) < 0.5 else frames.shape[1]
        with torch.no_grad():
            views = view_episodes(frames[:, 1:count], points[:, 1:count], points[:, 0])
        return views, self._uniform_rows(len(frames)) < self.config.meta.own_picture

    def _uniform(self, *shape: int) -> Tensor:
        """Return random numbers of 0..1 that depend on the step alone, so that a resumed run has the same."""
        return torch.rand(shape, generator=self._random).to(self.video_embeddings.weight.device)

    def _uniform_rows(self, *shape: int) -> Tensor:
        """Return `_uniform` for the episodes of this rank: the rows of a tensor for those of all ranks."""
        rows, *others = shape
        return self._uniform(rows * self._ranks.count, *others)[self._ranks.share]

    def _rescore_discriminator(self, batch: MicroBatch) -> dict[str, Tensor]:
        """Add D's gradient for images that the updated G generates from the same styles."""
        real = batch.episodes.frames[:, 0]
        size = batch.landmark_images.shape[-1]
        with torch.no_grad():
            fake = self.generator(batch.landmark_images, batch.styles, *batch.reference_inputs)
        outputs = score_real_and_fake(
            self.discriminator,
            self._video_embedding(batch.episodes),
            fake=resize_area(fake, size),
            real=resize_area(real, size),
            landmark_images=batch.landmark_images,
        )
        return self._discriminator_backward(outputs, batch.share)

    def _discriminator_backward(self, outputs: DiscriminatorOutputs, share: float) -> dict[str, Tensor]:
        """Add the gradient of D's loss to D and W, and return its metrics."""
        optimisers = [self.discriminator_optimiser, self.video_embeddings_optimiser]
        return discriminator_backward(optimisers, outputs, share)

    def _video_embedding(self, episodes: Episodes) -> Tensor:
        """Return W_i + w0 of each episode, [B, D]."""
        return self.video_embeddings(episodes.columns) + self.discriminator.w0

    def model(self, provenance: dict[str, Any]) -> Model:
        """Return the model so far: running averages of E and G, and D."""
        return Model(
            config=self.config,
            embedder=self.average_embedder,
            generator=self.average_generator,
            discriminator=self.discriminator,
            provenance=provenance,
        )

    def _update_averages(self) -> None:
        """Add the current weights of E and G to their running averages."""
        self._averages.update([*self.embedder.parameters(), *self.generator.parameters()])
        self.average_embedder.power_iteration_()
        self.average_generator.power_iteration_()
