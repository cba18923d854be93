"""Building blocks of the networks. They hold the parameters; `talkinghead_kernels` computes.

A block's forward takes `weights`: the mapping from each of the network's layers to its current weight,
spectrally normalised once per forward of the network (`Network.weights`).
"""

from collections.abc import Iterable, Mapping
from typing import cast

import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layer(nn.Module):
    """Weight and bias of a convolution or linear layer, and the vectors u, v of its spectral norm.

    Attributes:
        weight: [out, in, k, k], or [out, in] for a linear layer.
        bias: [out], or None.
        u, v: [out] and [in * k * k], unit vectors; only where the network is spectrally normalised.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int | None, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(outputs, inputs, *(() if kernel is None else (kernel, kernel)))
        )
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def affine(self, weights: "Weights") -> tuple[Tensor, Tensor | None]:
        """Return the current weight, and the bias."""
        return weights[self], self.bias


Weights = Mapping[Layer, Tensor]
Affine = tuple[Tensor, Tensor]
DeferredSum = tuple[Tensor, Tensor | None]
"""Two tensors that stand for their sum, which the pass that reads it next computes; None is zero."""


def materialize(x: DeferredSum) -> Tensor:
    """Return the sum."""
    return x[0] if x[1] is None else x[0] + x[1]


class Norm(nn.Module):
    """Learned scale and shift of a plain instance norm, [C] each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))


class ResidualBlock(nn.Module):
    """Parameters of one residual block (paper, section 3.4 "Implementation details").

    Args:
        inputs, outputs: channels.
        resample: None, "up" or "down".
        first: no leading norm and activation.
        norm: None (no norm), "instance" (its own affine) or "adaptive" (affine given to forward).
        negative_slope: of its activations.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        resample: str | None,
        first: bool = False,
        norm: str | None = None,
        negative_slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.resample, self.first, self.negative_slope = resample, first, negative_slope
        self.conv1 = Layer(inputs, outputs, 3, bias=norm is None)
        self.conv2 = Layer(outputs, outputs, 3, bias=norm is None)
        self.shortcut = Layer(inputs, outputs, 1) if resample or inputs != outputs else None
        own = norm == "instance"
        self.norm1 = Norm(inputs) if own else None
        self.norm2 = Norm(outputs) if own else None

    def forward(
        self, x: DeferredSum, weights: Weights, norm1: Affine | None = None, norm2: Affine | None = None
    ) -> DeferredSum:
        """Run the block.

        Args:
            x: [B, inputs, H, W].
            weights: of the network's layers.
            norm1, norm2: AdaIN scale and shift [B, C] of an "adaptive" block.

        Returns:
            [B, outputs, H', W'].
        """
        terms = ops.residual_block(
            x[0],
            self.conv1.affine(weights),
            self.conv2.affine(weights),
            shortcut=self.shortcut.affine(weights) if self.shortcut else None,
            norm1=(self.norm1.scale, self.norm1.shift) if self.norm1 else norm1,
            norm2=(self.norm2.scale, self.norm2.shift) if self.norm2 else norm2,
            resample=self.resample,
            first=self.first,
            negative_slope=self.negative_slope,
            residual=x[1],
            return_sum=False,
        )
        return cast(DeferredSum, terms)


class Attention(nn.Module):
    """Self-attention of SAGAN in BigGAN's form: query and key C/8, value C/2, key and value max-pooled, gate
    gamma that starts at 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = Layer(channels, channels // 8, 1)
        self.key = Layer(channels, channels // 8, 1)
        self.value = Layer(channels, channels // 2, 1)
        self.out = Layer(channels // 2, channels, 1)
        self.gamma: nn.Parameter | None = nn.Parameter(torch.zeros(()))  # None where `out` includes it

    def forward(self, x: Tensor, weights: Weights) -> DeferredSum:
        """Add the attention to x [B, C, H, W], H and W even."""
        query = _to_sequence(ops.conv2d(x, *self.query.affine(weights)))
        key = _to_sequence(F.max_pool2d(ops.conv2d(x, *self.key.affine(weights)), 2))
        value = _to_sequence(F.max_pool2d(ops.conv2d(x, *self.value.affine(weights)), 2))
        mixed = ops.attention(query, key, value).transpose(1, 2).unflatten(2, x.shape[2:])
        weight, bias = self.out.affine(weights)
        if self.gamma is not None:  # the gate multiplies the small weight instead of the large result
            weight, bias = self.gamma * weight, None if bias is None else self.gamma * bias
        return x, ops.conv2d(mixed, weight, bias)


def _to_sequence(x: Tensor) -> Tensor:
    """Reshape [B, C, H, W] to [B, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


class Network(nn.Module):
    """A network whose layers share one power iteration.

    Args:
        spectral: whether its layers are spectrally normalised.
        initialisation: "orthogonal" or "uniform".
    """

    def __init__(self, spectral: bool, initialisation: str) -> None:
        super().__init__()
        self.spectral, self.initialisation = spectral, initialisation

    def layers(self) -> list[Layer]:
        """Return its convolution and linear layers, in a fixed order."""
        return [module for module in self.modules() if isinstance(module, Layer)]

    def initialise(self) -> None:
        """Initialise the weights from torch's global generator; biases stay 0. A subclass calls it at the end
        of its __init__.

        Weights are channels_last, and so is every map: convolutions in 16 bits are a quarter faster this way.
        """
        for layer in self.layers():
            weight = layer.weight
            if self.initialisation == "orthogonal":
                nn.init.orthogonal_(weight)
            else:
                nn.init.kaiming_uniform_(weight, a=5**0.5)
            if self.spectral:
                layer.register_buffer("u", F.normalize(torch.randn(weight.shape[0]), dim=0))
                layer.register_buffer("v", F.normalize(torch.randn(weight[0].numel()), dim=0))
        self.power_iteration_(15)
        if not self.spectral:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def power_iteration_(self, times: int = 1) -> None:
        """Advance every u and v, once per optimiser step of this network; do nothing where the network is not
        spectrally normalised.
        """
        if self.spectral:
            for _ in range(times):
                ops.power_iteration_(*self._spectral_state(self.layers()))

    def weights(self, layers: Iterable[Layer] | None = None) -> Weights:
        """Return the weight that the forward uses of each layer, by default of all layers."""
        chosen = self.layers() if layers is None else list(layers)
        if not self.spectral:
            return {layer: layer.weight for layer in chosen}
        return dict(
            zip(
                chosen,
                ops.normalise(*self._spectral_state(chosen), memory_format=torch.channels_last),
                strict=True,
            )
        )

    def _spectral_state(self, layers: list[Layer]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return weights, u and v of layers."""
        return (
            [layer.weight for layer in layers],
            [cast(Tensor, layer.u) for layer in layers],
            [cast(Tensor, layer.v) for layer in layers],
        )


class Encoder(Network):
    """The common part of E and V: down blocks with one attention among them, then activation and sum-pooling
    over space.

    Args:
        channels: after each down block.
        attention: number of blocks before the attention.
        extra: residual blocks without resampling at the end.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        attention: int,
        extra: int,
        negative_slope: float,
        activate_before_pool: bool,
        spectral: bool,
        initialisation: str,
    ) -> None:
        super().__init__(spectral, initialisation)
        inputs = (6, *channels[:-1])
        self.negative_slope, self.activate_before_pool, self.attention_at = (
            negative_slope,
            activate_before_pool,
            attention,
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(i, o, "down", first=index == 0, negative_slope=negative_slope)
            for index, (i, o) in enumerate(zip(inputs, channels, strict=True))
        )
        self.blocks.extend(
            ResidualBlock(channels[-1], channels[-1], None, negative_slope=negative_slope)
            for _ in range(extra)
        )
        self.attention = Attention(channels[attention - 1])

    def encode(self, image: Tensor, landmark_image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled vector [B, C] and the activations after each block.

        Args:
            image, landmark_image: [B, 3, H, W].
        """
        weights = self.weights()
        x = torch.cat([landmark_image, image], 1)
        maps = []
        for index, block in enumerate(self.blocks):
            if index == self.attention_at:
                x = materialize(self.attention(x, weights))
            x = materialize(block((x, None), weights))
            maps.append(x)
        # the sum is the embedding, so it is float32 in mixed precision too
        x = x.float() if x.dtype != torch.float64 else x
        if self.activate_before_pool:
            return F.leaky_relu(x, self.negative_slope).sum((2, 3)), maps
        return F.leaky_relu(x.sum((2, 3)), self.negative_slope), maps
