"""Meta-learning as a textbook writes it: the stock networks, one backward pass for each half step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.stock import StockDiscriminator, StockEncoder, StockGenerator, module_of
from bench.networks.stock_learner import make_adam, step
from talkinghead.data.episodes import Episodes
from talkinghead.landmarks.draw import landmark_image
from talkinghead.losses import adversarial_loss, content_loss, discriminator_loss, feature_matching_loss, matching_loss
from talkinghead.perceptual import PerceptualNetwork
from talkinghead.training.adversarial import mixed_precision
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.row_adam import RowAdam


class StockMetaLearner:
    """What a `talkinghead.training.meta_learner.MetaLearner` learns, in the same arithmetic; without running averages of power iterations.

    Args:
        learner: of ours, before its first step.
        networks: of the content loss.
        memory_format: of every network.
    """

    def __init__(self, learner: MetaLearner, networks: list[PerceptualNetwork], memory_format: torch.memory_format) -> None:
        self.meta, self.gain, self.precision = learner.config.meta, learner.embedder.gain, learner.precision
        assert learner.generator.projection is not None
        self.projection = module_of(learner.generator.projection, True)
        self.embedder, self.generator = StockEncoder(learner.embedder, True), StockGenerator(learner.generator, True)
        self.discriminator, self.networks = StockDiscriminator(learner.discriminator, True), networks
        device = learner.columns.weight.device
        for network in (self.embedder, self.generator, self.projection, self.discriminator, *networks):
            network.to(device, memory_format=memory_format)
        self.w0, self.columns = (nn.Parameter(each.detach().clone()) for each in (learner.discriminator.w0, learner.columns.weight))
        self.generator_group = [*self.embedder.parameters(), *self.generator.parameters(), *self.projection.parameters()]
        self.generator_optimiser = make_adam([{"params": self.generator_group}], self.meta.generator)
        parameters = [*self.discriminator.parameters(), self.w0]
        self.discriminator_optimiser = make_adam([{"params": parameters}], self.meta.discriminator)
        self.columns_optimiser = RowAdam(self.columns, self.meta.discriminator)
        self.steps = 0
        self.average = [parameter.detach().clone() for parameter in self.generator_group]

    def step(self, episodes: Episodes) -> Tensor:
        """One step of E and G, then those of D and W; the losses [6] as they were before each."""
        meta, weights = self.meta, self.meta.losses
        batch, count = episodes.frames.shape[:2]
        drawn = landmark_image(episodes.points.flatten(0, 1), episodes.frames.shape[-1]).unflatten(0, (batch, count))
        real, target = episodes.frames[:, 0], drawn[:, 0]
        with mixed_precision(real.device, self.precision):
            pooled, _ = self.embedder(episodes.frames[:, 1:].flatten(0, 1), drawn[:, 1:].flatten(0, 1))
            embeddings = (self.gain * pooled).unflatten(0, (batch, count - 1))
            styles = self.projection(embeddings.mean(1) / self.gain)
            fake = self.generator(target, styles)
            self.discriminator.requires_grad_(False)
            column = (self._columns(episodes) + self.w0).detach()
            with torch.no_grad():
                real_maps = self.discriminator(real, target, column)[1]
                wanted = [network(real) for network in self.networks]
            score, fake_maps = self.discriminator(fake, target, column)
            terms = [
                weights.content * content_loss(self.networks, fake, real, wanted),
                weights.pixel * F.l1_loss(fake, real),
                weights.adversarial * adversarial_loss(score),
                weights.feature_matching * feature_matching_loss(fake_maps, real_maps, weights.relative_feature_matching),
                weights.matching * matching_loss(embeddings, self._columns(episodes)),
            ]
            step(self.generator_optimiser, torch.stack(terms).sum(), meta.clip)
            self.discriminator.requires_grad_(True)
            self.steps += 1
            weight = (1 - meta.average) / (1 - meta.average**self.steps)  # without the start
            torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.generator_group], weight)
            for number in range(meta.discriminator_steps):
                if number:
                    with torch.no_grad():
                        fake = self.generator(target, styles.detach())
                column = self._columns(episodes) + self.w0
                scores = self.discriminator(torch.cat([real, fake.detach()]), torch.cat([target] * 2), torch.cat([column] * 2))[0]
                score_real, score_fake = scores.chunk(2)
                loss = discriminator_loss(score_fake, score_real)
                self.columns_optimiser.zero_grad()
                step(self.discriminator_optimiser, loss, meta.clip)
                self.columns_optimiser.step()
        return torch.stack([*terms, loss]).detach()

    def _columns(self, episodes: Episodes) -> Tensor:
        return F.embedding(episodes.columns, self.columns, sparse=True)
