"""The embedder E, which maps a frame and its landmark image to an identity vector without the pose."""

from torch import Tensor

from ..config import NetworkConfig
from .blocks import Encoder


class Embedder(Encoder):
    """The network E (paper, section 3.4 "Implementation details")."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(
            config.encoder,
            config.encoder_attention,
            extra=0,
            negative_slope=0.0,
            activate_before_pool=config.activate_before_pool,
            spectral=config.spectral_embedder,
            initialisation=config.initialisation,
        )
        self.gain = config.embedding_gain
        self.initialise()

    def forward(self, image: Tensor, landmark_image: Tensor) -> Tensor:
        """Embed frames.

        Args:
            image, landmark_image: [B, 3, size, size] in [-1, 1].

        Returns:
            [B, D]; the embedding of a person is the mean over their frames.
        """
        return self.gain * self.encode(image, landmark_image)[0]
