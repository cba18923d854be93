"""The generator G and its projection P, which map a landmark image and a person's styles to a frame of that
person.
"""

import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NetworkConfig
from ..errors import TalkingheadError
from .blocks import Attention, DeferredSum, Layer, Network, ResidualBlock, materialize


class Generator(Network):
    """The network G with P (paper, section 3.4 "Implementation details"). Styles are arguments: rows of one
    batch may belong to different people.

    Args:
        config: shapes.
        projection: False leaves P out, as in a fine-tuned person, whose styles are a parameter.
    """

    inputs, outputs = 3, 3
    """Input and output channels of the layers."""

    def __init__(self, config: NetworkConfig, projection: bool = True) -> None:
        super().__init__(config.spectral_generator, config.initialisation)
        self.down_attention_at, self.up_attention_at = config.down_attention, config.up_attention
        self.embedding_gain = config.embedding_gain
        down, up = config.down, config.up
        self.down = nn.ModuleList(
            ResidualBlock(i, o, "down", first=index == 0, norm=None if index == 0 else "instance")
            for index, (i, o) in enumerate(zip((self.inputs, *down[:-1]), down, strict=True))
        )
        self.down_attention = Attention(down[config.down_attention - 1])
        self.residual = nn.ModuleList(
            ResidualBlock(down[-1], down[-1], None, norm="adaptive") for _ in range(config.residual)
        )
        self.up = nn.ModuleList(
            ResidualBlock(i, o, "up", norm="adaptive") for i, o in zip((down[-1], *up[:-1]), up, strict=True)
        )
        self.up_attention = Attention(up[config.up_attention - 1])
        self.out = Layer(up[-1], self.outputs, 3)
        self.norm_channels: list[int] = []
        for block in (*self.residual, *self.up):
            outputs, inputs = block.conv1.weight.shape[:2]
            self.norm_channels += [inputs, outputs]
        self.norm_channels.append(up[-1])
        self.projection = Layer(config.embedding, 2 * sum(self.norm_channels), None) if projection else None
        self.initialise()
        if self.projection is not None and self.projection.bias is not None:
            with torch.no_grad():
                for scale, _ in self._norms(self.projection.bias[None]):
                    scale.fill_(1)

    @property
    def style_length(self) -> int:
        """Length S of a style vector."""
        return 2 * sum(self.norm_channels)

    def project(self, embedding: Tensor) -> Tensor:
        """Map embeddings [B, D] to styles [B, S] by P. Layout of styles: per norm in forward order, its
        scales, then its shifts.

        Raises:
            TalkingheadError: this generator belongs to one person and has no projection.
        """
        if self.projection is None:
            raise TalkingheadError(
                "project: the generator is fine-tuned to one person and has no projection; use the person's "
                "styles"
            )
        weights = self.weights([self.projection])
        return F.linear(embedding / self.embedding_gain, *self.projection.affine(weights))

    def forward(self, landmark_image: Tensor, styles: Tensor) -> Tensor:
        """Generate frames.

        Args:
            landmark_image: [B, 3, size, size] in [-1, 1].
            styles: [B, S].

        Returns:
            [B, 3, size, size] in [-1, 1], float32 in mixed precision too.
        """
        return torch.tanh(self.run_layers(landmark_image, styles))

    def run_layers(self, inputs: Tensor, styles: Tensor) -> Tensor:
        """Run all layers: [B, inputs, size, size] and styles [B, S] to [B, outputs, size, size], float32 in
        mixed precision too.
        """
        weights = self.weights(layer for layer in self.layers() if layer is not self.projection)
        norms = iter(self._norms(styles))
        x: DeferredSum = (inputs, None)
        for index, block in enumerate(self.down):
            if index == self.down_attention_at:
                x = self.down_attention(materialize(x), weights)
            x = block(x, weights)
        for block in self.residual:
            x = block(x, weights, next(norms), next(norms))
        for index, block in enumerate(self.up):
            if index == self.up_attention_at:
                x = self.up_attention(materialize(x), weights)
            x = block(x, weights, next(norms), next(norms))
        branch, skip = x
        assert skip is not None  # a block returns two terms
        normed, _ = ops.adain(branch, *next(norms), activation="relu", residual=skip)
        result = ops.conv2d(normed, *self.out.affine(weights), padding=1)
        # 256 levels need more precision than bfloat16 has
        return result if result.dtype == torch.float64 else result.float()

    def _norms(self, styles: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (scale, shift) [B, C] of each norm, as views of styles [B, S]."""
        pairs = styles.split([2 * channels for channels in self.norm_channels], 1)
        return [(pair[:, : pair.shape[1] // 2], pair[:, pair.shape[1] // 2 :]) for pair in pairs]
