"""Training step of few-shot fine-tuning: G without P, styles psi', D and w' of one person (paper, section
3.3).
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..config import FinetuneConfig, LossWeights
from ..dataset.augment import sample_jitter
from ..landmarks.landmark_image import landmark_image
from ..model import Model, Person
from ..networks import Discriminator, Generator, References, resize_area
from ..pretrained.perceptual import PerceptualNetwork
from ..system.device import training_precision
from .adversarial import (
    DiscriminatorOutputs,
    RunningAverage,
    backward,
    discriminator_backward,
    generator_gradient,
    mixed_precision,
    score_real_and_fake,
    take_step,
    uses_discriminator,
)
from .finetune_inputs import Guidance
from .losses import Features, extract_features
from .resume import adam


class FinetuneTrainer(nn.Module):
    """The networks, parameters and optimisers of a person who is fine-tuned, and the training step.

    Args:
        model: whose weights the person starts from.
        embedding: [1, D], the person's.
        config: of the fine-tuning.
        adversarial: whether D takes part.
        person: whose weights are taken instead of the model's, as far as they are there.

    Attributes:
        precision: of the computation, "bf16" or "fp32".
    """

    def __init__(
        self,
        model: Model,
        embedding: Tensor,
        config: FinetuneConfig,
        adversarial: bool,
        person: Person | None = None,
    ) -> None:
        super().__init__()
        self.config, self.precision = config, training_precision(model.device, config.precision)
        weights = config.losses
        self.weights = weights if adversarial else _without_discriminator(weights)
        start = _initial_weights(model, embedding, person)
        self.generator = _without_projection(start.generator)
        self.discriminator = copy.deepcopy(start.discriminator).requires_grad_(True)
        self.discriminator.w0.requires_grad_(False)
        self.styles = nn.Parameter(start.styles.detach().clone())
        self.column = nn.Parameter(start.video_embedding.detach().clone())
        self.average_generator = copy.deepcopy(self.generator).requires_grad_(False)
        self.average_styles = self.styles.detach().clone()
        self._running = RunningAverage(self._averages(), config.average)
        self._last_finite = [average.clone() for average in self._averages()]
        self._last_finite_step = 0
        learning_rate = config.generator.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": list(self.generator.parameters())},
            {"params": [self.styles], "lr": learning_rate * config.styles_rate},
        ]
        self.generator_optimiser = adam(groups, config.generator)
        parameters = [*(p for p in self.discriminator.parameters() if p.requires_grad), self.column]
        self.discriminator_optimiser = adam([{"params": parameters}], config.discriminator)

    def target_features(self, networks: Sequence[PerceptualNetwork], real: Tensor) -> Features:
        """Return the networks' features of images [N, 3, size, size], in batches of the training step."""
        with mixed_precision(real.device, self.precision):
            batches = [extract_features(networks, batch) for batch in real.split(self.config.batch)]
        return [
            [torch.cat(parts) for parts in zip(*layers, strict=True)] for layers in zip(*batches, strict=True)
        ]

    def step(
        self,
        networks: Sequence[PerceptualNetwork],
        real: Tensor,
        landmark_images: Tensor,
        target_features: Features | None = None,
        guidance: Guidance | None = None,
    ) -> dict[str, Tensor]:
        """Take one step of G and psi', then those of D and w', and return the metrics.

        Args:
            networks: of the content loss.
            real, landmark_images: frames [B, 3, S, S] and landmark images [B, 3, size, size].
            target_features: rows of `target_features`, where the frames are not augmented.
            guidance: further inputs of a reference-guided G.
        """
        with mixed_precision(real.device, self.precision):
            return self._step(networks, real, landmark_images, target_features, guidance=guidance)

    def _step(
        self,
        networks: Sequence[PerceptualNetwork],
        real: Tensor,
        landmark_images: Tensor,
        target_features: Features | None,
        guidance: Guidance | None,
    ) -> dict[str, Tensor]:
        """Take the step in the precision of the autocast context."""
        config, styles = self.config, self.styles.expand(len(real), -1)
        self.generator.power_iteration_()
        self.discriminator.power_iteration_()
        reference_inputs = () if guidance is None else (guidance.views, guidance.own_image_only)
        fake = self.generator(landmark_images, styles, *reference_inputs)
        metrics, gradient, outputs = generator_gradient(
            weights=self.weights,
            networks=networks,
            discriminator=self.discriminator,
            video_embedding=self.column,
            fake=fake,
            real=real,
            landmark_images=landmark_images,
            target_features=target_features,
            valid=guidance.valid if guidance else None,
            details=(guidance.boxes, config.details) if guidance and config.details else None,
        )
        if outputs:
            metrics |= discriminator_backward(self.discriminator_optimiser, outputs)
            del outputs  # frees the feature maps of D
        backward(self.generator_optimiser, [fake], [gradient])
        take_step(self.generator_optimiser, config.clip)
        self._update_averages()
        for number in range(config.discriminator_steps if uses_discriminator(self.weights) else 0):
            if number:
                self.discriminator.power_iteration_()
                with torch.no_grad():
                    fake = self.generator(landmark_images, styles, *reference_inputs)
                outputs = self._score_real_and_fake(fake, real, landmark_images)
                metrics |= discriminator_backward(self.discriminator_optimiser, outputs)
            take_step(self.discriminator_optimiser, config.clip)
        return metrics

    def _score_real_and_fake(
        self, fake: Tensor, real: Tensor, landmark_images: Tensor
    ) -> DiscriminatorOutputs:
        """Run D on frames at the landmark images' size."""
        size = landmark_images.shape[-1]
        return score_real_and_fake(
            self.discriminator,
            self.column,
            fake=resize_area(fake, size),
            real=resize_area(real, size),
            landmark_images=landmark_images,
        )

    def snapshot(self, step: int) -> None:
        """Save the running averages of this step in memory for `rollback`."""
        torch._foreach_copy_(self._last_finite, self._averages())
        self._last_finite_step = step

    def rollback(self) -> int:
        """Restore the running averages of the last snapshot and return its step, 0 where there is none."""
        with torch.no_grad():
            torch._foreach_copy_(self._averages(), self._last_finite)
        return self._last_finite_step

    def _averages(self) -> list[Tensor]:
        """Return the tensors that hold the running averages."""
        return [*self.average_generator.parameters(), self.average_styles]

    def _update_averages(self) -> None:
        """Add the current weights of G and psi' to their running averages."""
        self._running.update([*self.generator.parameters(), self.styles])
        self.average_generator.power_iteration_()

    def person(
        self,
        model: Model,
        neutral_landmarks: np.ndarray,
        references: References | None,
        feed_forward: bool,
        provenance: dict[str, object],
    ) -> Person:
        """Return the person so far; a feed-forward person has the model's own generator."""
        return Person(
            config=model.config,
            generator=model.generator if feed_forward else self.average_generator,
            styles=self.average_styles,
            neutral_landmarks=neutral_landmarks,
            model_digest=model.digest,
            feed_forward=feed_forward,
            discriminator=self.discriminator,
            video_embedding=self.column.detach(),
            provenance=provenance,
            references=references,
        )


def jitter_images(
    images: Tensor, points: Tensor, amount: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return images [B, 3, size, size], each with its own small warp, and their landmark images."""
    pairs = [
        sample_jitter(random, amount).apply(images[i, None], points[i, None]) for i in range(len(images))
    ]
    warped, warped_points = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return warped, landmark_image(warped_points, images.shape[-1])


class _InitialWeights(NamedTuple):
    """Weights that fine-tuning starts from: G, D, psi' and w'."""

    generator: Generator
    discriminator: Discriminator
    styles: Tensor
    video_embedding: Tensor


@torch.no_grad()
def _initial_weights(model: Model, embedding: Tensor, person: Person | None) -> _InitialWeights:
    """Return the weights of a new person, or those of a person who learns further."""
    device = embedding.device
    if person is None:
        styles = model.generator.project(embedding)
        column = model.discriminator.w0 + embedding[0]
        return _InitialWeights(model.generator, model.discriminator, styles, column)
    known = person.video_embedding
    column = model.discriminator.w0 + embedding[0] if known is None else known
    return _InitialWeights(
        copy.deepcopy(person.generator).to(device),
        copy.deepcopy(person.discriminator or model.discriminator).to(device),
        person.styles.to(device),
        column.to(device),
    )


def _without_projection(generator: Generator) -> Generator:
    """Return a trainable copy of a generator without P."""
    generator = copy.deepcopy(generator)
    generator.requires_grad_(True)  # running averages, which a model may hold, are frozen
    generator.projection = None
    return generator


def _without_discriminator(weights: LossWeights) -> LossWeights:
    """Return weights with which no loss needs D."""
    return replace(weights, adversarial=0.0, feature_matching=0.0)
