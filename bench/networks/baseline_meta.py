"""Meta-learning as a textbook writes it: the baseline networks, one backward pass for each half step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.baseline import BaselineDiscriminator, BaselineEncoder, BaselineGenerator, module_of
from bench.networks.baseline_learner import make_adam, step
from talkinghead.dataset.episodes import Episodes
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.pretrained.perceptual import PerceptualNetwork
from talkinghead.training.adversarial import mixed_precision
from talkinghead.training.losses import (
    adversarial_loss,
    content_loss,
    discriminator_loss,
    feature_matching_loss,
    matching_loss,
)
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.row_adam import RowAdam


class BaselineMetaLearner:
    """Baseline of `talkinghead.training.meta_learner.MetaLearner`, with the same arithmetic.

    Power iterations have no running averages.

    Args:
        learner: of ours, before its first step.
        networks: of the content loss.
        memory_format: of every network.
    """

    def __init__(
        self, learner: MetaLearner, networks: list[PerceptualNetwork], memory_format: torch.memory_format
    ) -> None:
        self.meta, self.gain, self.precision = learner.config.meta, learner.embedder.gain, learner.precision
        assert learner.generator.projection is not None
        self.projection = module_of(learner.generator.projection, True)
        self.embedder, self.generator = (
            BaselineEncoder(learner.embedder, True),
            BaselineGenerator(learner.generator, True),
        )
        self.discriminator, self.networks = BaselineDiscriminator(learner.discriminator, True), networks
        device = learner.video_embeddings.weight.device
        for network in (self.embedder, self.generator, self.projection, self.discriminator, *networks):
            network.to(device, memory_format=memory_format)
        self.w0, self.columns = (
            nn.Parameter(tensor.detach().clone())
            for tensor in (learner.discriminator.w0, learner.video_embeddings.weight)
        )
        self.generator_group = [
            *self.embedder.parameters(),
            *self.generator.parameters(),
            *self.projection.parameters(),
        ]
        self.generator_optimiser = make_adam([{"params": self.generator_group}], self.meta.generator)
        parameters = [*self.discriminator.parameters(), self.w0]
        self.discriminator_optimiser = make_adam([{"params": parameters}], self.meta.discriminator)
        self.columns_optimiser = RowAdam(self.columns, self.meta.discriminator)
        self.steps = 0
        self.average = [parameter.detach().clone() for parameter in self.generator_group]

    def step(self, episodes: Episodes) -> Tensor:
        """Take a step of E and G, then those of D and W; return the losses [6] before each."""
        meta, weights = self.meta, self.meta.losses
        batch, count = episodes.frames.shape[:2]
        landmark_images = landmark_image(episodes.points.flatten(0, 1), episodes.frames.shape[-1]).unflatten(
            0, (batch, count)
        )
        real, target = episodes.frames[:, 0], landmark_images[:, 0]
        with mixed_precision(real.device, self.precision):
            pooled, _ = self.embedder(
                episodes.frames[:, 1:].flatten(0, 1), landmark_images[:, 1:].flatten(0, 1)
            )
            embeddings = (self.gain * pooled).unflatten(0, (batch, count - 1))
            styles = self.projection(embeddings.mean(1) / self.gain)
            fake = self.generator(target, styles)
            self.discriminator.requires_grad_(False)
            column = (self._columns(episodes) + self.w0).detach()
            with torch.no_grad():
                real_maps = self.discriminator(real, target, column)[1]
                target_features = [network(real) for network in self.networks]
            score, fake_maps = self.discriminator(fake, target, column)
            terms = [
                weights.content * content_loss(self.networks, fake, real, target_features),
                weights.pixel * F.l1_loss(fake, real),
                weights.adversarial * adversarial_loss(score),
                weights.feature_matching
                * feature_matching_loss(fake_maps, real_maps, weights.relative_feature_matching),
                weights.matching * matching_loss(embeddings, self._columns(episodes)),
            ]
            step(self.generator_optimiser, torch.stack(terms).sum(), meta.clip)
            self.discriminator.requires_grad_(True)
            self.steps += 1
            weight = (1 - meta.average) / (1 - meta.average**self.steps)  # without the start
            torch._foreach_lerp_(
                self.average, [parameter.detach() for parameter in self.generator_group], weight
            )
            for number in range(meta.discriminator_steps):
                if number:
                    with torch.no_grad():
                        fake = self.generator(target, styles.detach())
                column = self._columns(episodes) + self.w0
                scores = self.discriminator(
                    torch.cat([real, fake.detach()]), torch.cat([target] * 2), torch.cat([column] * 2)
                )[0]
                score_real, score_fake = scores.chunk(2)
                loss = discriminator_loss(score_fake, score_real)
                self.columns_optimiser.zero_grad()
                step(self.discriminator_optimiser, loss, meta.clip)
                self.columns_optimiser.step()
        return torch.stack([*terms, loss]).detach()

    def _columns(self, episodes: Episodes) -> Tensor:
        return F.embedding(episodes.columns, self.columns, sparse=True)
