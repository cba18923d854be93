"""The projection discriminator D, which scores how real a frame is, given landmarks and its video."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import NetworkConfig
from .blocks import Encoder


class DiscriminatorOutput(NamedTuple):
    """Output of D for a batch of frames.

    Attributes:
        scores: [B], without a sigmoid; higher is more real.
        feature_maps: one [B, C_m, H_m, W_m] after each residual block.
        pooled: [B, D], the vector of which the score is a projection.
    """

    scores: Tensor
    feature_maps: list[Tensor]
    pooled: Tensor


class Discriminator(Encoder):
    """V, w0 and b (paper, section 3.1 "Architecture and notation"): D(x, y, i) = V(x, y) . (W_i + w0) + b.

    The video embeddings W_i belong to a training run, not to the network; the caller adds w0 and passes the
    sum to forward. For a fine-tuned person the caller passes w' instead. None of them is spectrally
    normalised.

    Attributes:
        w0: [D]; starts at 0.
        b: scalar; starts at 0.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(
            config.encoder,
            config.encoder_attention,
            extra=1,
            negative_slope=config.discriminator_slope,
            activate_before_pool=config.activate_before_pool,
            spectral=config.spectral_discriminator,
            initialisation=config.initialisation,
        )
        self.gain = config.discriminator_gain
        self.w0 = nn.Parameter(torch.zeros(config.embedding))
        self.b = nn.Parameter(torch.zeros(()))
        self.initialise()

    def forward(self, image: Tensor, landmark_image: Tensor, video_embedding: Tensor) -> DiscriminatorOutput:
        """Score frames.

        Args:
            image, landmark_image: [B, 3, size, size] in [-1, 1].
            video_embedding: [B, D] or [D]: W_i + w0, or a person's w'.
        """
        pooled, maps = self.encode(image, landmark_image)
        pooled = self.gain * pooled
        return DiscriminatorOutput((pooled * video_embedding).sum(1) + self.b, maps, pooled)
