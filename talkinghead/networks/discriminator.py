"""The projection discriminator D: how real a frame is, given its landmark image and whom it should show."""

import torch
from torch import Tensor, nn

from ..config import NetworkConfig
from .blocks import Encoder


class Discriminator(Encoder):
    """V, w0 and b (paper, section 3.1 "Architecture and notation"): D(x, y, i) = V(x, y) . (W_i + w0) + b.

    The columns W_i belong to the videos of a training run, not to the network; they are given to forward with w0 added. A fine-tuned
    person's w' takes their place. None of them is spectrally normalised.

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

    def forward(self, image: Tensor, landmark_image: Tensor, column: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Score frames.

        Args:
            image, landmark_image: [B, 3, size, size] in [-1, 1].
            column: [B, D] or [D]: W_i + w0, or a person's w'.

        Returns:
            scores [B] (no sigmoid), the activations after each block, and the pooled vector [B, D].
        """
        pooled, maps = self.encode(image, landmark_image)
        pooled = self.gain * pooled
        return (pooled * column).sum(1) + self.b, maps, pooled
