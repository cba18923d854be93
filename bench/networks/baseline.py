"""The networks of the paper written plainly in torch's own modules, with the weights of this project's: the
baseline of the bench.

Nothing here comes from `talkinghead_kernels`. Convolutions are nn.Conv2d, spectral norm is torch's
parametrization in training and divided out for inference, resampling is F.interpolate and F.avg_pool2d,
AdaIN is F.instance_norm, addcmul and relu.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from talkinghead.networks import Discriminator, Embedder, Generator
from talkinghead.networks.blocks import Attention, Layer, ResidualBlock

EPS = 1e-4


def module_of(layer: Layer, learning: bool) -> nn.Module:
    """Return an nn.Conv2d or nn.Linear with a layer's weights."""
    outputs, inputs, *kernel = layer.weight.shape
    bias = layer.bias is not None
    module = (
        nn.Conv2d(inputs, outputs, kernel[0], padding=kernel[0] // 2, bias=bias)
        if kernel
        else nn.Linear(inputs, outputs, bias)
    )
    spectral = hasattr(layer, "u")
    with torch.no_grad():
        module.weight.copy_(layer.weight)
        if bias:
            module.bias.copy_(layer.bias)
        if spectral and not learning:
            module.weight.div_(torch.dot(layer.u, layer.weight.flatten(1) @ layer.v).clamp_min(EPS))
        elif spectral:
            spectral_norm(module, eps=EPS)
            module.parametrizations.weight[0]._u.copy_(layer.u)
            module.parametrizations.weight[0]._v.copy_(layer.v)
    return module


def adain_relu(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    if scale.dim() == 1:
        return torch.relu(F.instance_norm(x, weight=scale.to(x.dtype), bias=bias.to(x.dtype), eps=EPS))
    scale, bias = (tensor.to(x.dtype)[:, :, None, None] for tensor in (scale, bias))
    return torch.relu(torch.addcmul(bias, F.instance_norm(x, eps=EPS), scale))


class BaselineBlock(nn.Module):
    def __init__(self, block: ResidualBlock, learning: bool) -> None:
        super().__init__()
        self.resample, self.first, self.slope = block.resample, block.first, block.negative_slope
        self.conv1, self.conv2 = module_of(block.conv1, learning), module_of(block.conv2, learning)
        self.shortcut = module_of(block.shortcut, learning) if block.shortcut is not None else None
        self.norms = nn.ParameterList(
            nn.Parameter(tensor.detach().clone())
            for norm in (block.norm1, block.norm2)
            if norm is not None
            for tensor in (norm.scale, norm.shift)
        )

    def activate(self, x: Tensor, affine: tuple[Tensor, Tensor] | None) -> Tensor:
        if affine is not None:
            return adain_relu(x, *affine)
        return F.leaky_relu(x, self.slope) if self.slope else F.relu(x)

    def forward(
        self,
        x: Tensor,
        first: tuple[Tensor, Tensor] | None = None,
        second: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if len(self.norms):
            first, second = (self.norms[0], self.norms[1]), (self.norms[2], self.norms[3])
        h = x if self.first else self.activate(x, first)
        if self.resample == "up":
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        h = self.conv2(self.activate(self.conv1(h), second))
        if self.shortcut is not None:
            x = self.shortcut(x)
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + x


class BaselineAttention(nn.Module):
    def __init__(self, attention: Attention, learning: bool) -> None:
        super().__init__()
        layers = attention.query, attention.key, attention.value, attention.out
        self.query, self.key, self.value, self.out = (module_of(layer, learning) for layer in layers)
        self.gamma = nn.Parameter(attention.gamma.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2).transpose(1, 2)
        key = F.max_pool2d(self.key(x), 2).flatten(2).transpose(1, 2)
        value = F.max_pool2d(self.value(x), 2).flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]
        return x + self.gamma * self.out(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class BaselineGenerator(nn.Module):
    """G with the weights of this project's, without P.

    Args:
        generator: this project's.
        learning: keep spectral norm as a parametrization.
    """

    def __init__(self, generator: Generator, learning: bool = False) -> None:
        super().__init__()
        self.down, self.residual, self.up = (
            nn.ModuleList(BaselineBlock(block, learning) for block in blocks)
            for blocks in (generator.down, generator.residual, generator.up)
        )
        self.down_at, self.up_at = generator.down_attention_at, generator.up_attention_at
        self.down_attention = BaselineAttention(generator.down_attention, learning)
        self.up_attention = BaselineAttention(generator.up_attention, learning)
        self.out = module_of(generator.out, learning)
        self.norm_channels = generator.norm_channels

    def forward(self, landmark_image: Tensor, styles: Tensor) -> Tensor:
        affine = [
            tuple(pair.chunk(2, 1))
            for pair in styles.split([2 * channels for channels in self.norm_channels], 1)
        ]
        norms = iter(affine)
        x = landmark_image
        for index, block in enumerate(self.down):
            if index == self.down_at:
                x = self.down_attention(x)
            x = block(x)
        for block in self.residual:
            x = block(x, next(norms), next(norms))
        for index, block in enumerate(self.up):
            if index == self.up_at:
                x = self.up_attention(x)
            x = block(x, next(norms), next(norms))
        return torch.tanh(self.out(adain_relu(x, *next(norms))).float())


class BaselineEncoder(nn.Module):
    """E or V with the weights of this project's."""

    def __init__(self, encoder: Embedder | Discriminator, learning: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(BaselineBlock(block, learning) for block in encoder.blocks)
        self.attention, self.attention_at = (
            BaselineAttention(encoder.attention, learning),
            encoder.attention_at,
        )
        self.slope, self.activate_before_pool = encoder.negative_slope, encoder.activate_before_pool

    def forward(self, image: Tensor, landmark_image: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, maps = torch.cat([landmark_image, image], 1), []
        for index, block in enumerate(self.blocks):
            if index == self.attention_at:
                x = self.attention(x)
            x = block(x)
            maps.append(x)
        if self.activate_before_pool:
            return F.leaky_relu(x.float(), self.slope).sum((2, 3)), maps
        return F.leaky_relu(x.float().sum((2, 3)), self.slope), maps


class BaselineDiscriminator(nn.Module):
    """D with the weights of this project's; returns scores and feature maps."""

    def __init__(self, discriminator: Discriminator, learning: bool = False) -> None:
        super().__init__()
        self.encoder, self.gain = BaselineEncoder(discriminator, learning), discriminator.gain
        self.b = nn.Parameter(discriminator.b.detach().clone())

    def forward(self, image: Tensor, landmark_image: Tensor, column: Tensor) -> tuple[Tensor, list[Tensor]]:
        pooled, maps = self.encoder(image, landmark_image)
        return (self.gain * pooled * column).sum(1) + self.b, maps
