"""A generator in its final form, for inference alone: every weight divided by its spectral norm, folded, cast and laid out once."""

import copy
from typing import cast

import torch
from talkinghead_kernels.resample import choose_form, fold
from torch import nn

from .blocks import Layer, ResidualBlock
from .generator import Generator


@torch.no_grad()
def final_generator(generator: Generator, size: int, dtype: torch.dtype = torch.float32) -> Generator:
    """A copy of G without P that gives the same pictures from the same styles, faster, and cannot learn.

    Args:
        generator: on the device where the copy is to run; the fastest form of a folded layer depends on it.
        size: height and width of its pictures.
        dtype: of weights and maps: float32, bfloat16 or float16. Statistics, scales and shifts, styles and the picture stay float32.
    """
    forms = _forms(generator, size, dtype)
    final = copy.deepcopy(generator).requires_grad_(False)
    final.projection, final.spectral = None, False
    weights = generator.weights(layer for layer in generator.layers() if layer is not generator.projection)
    for layer, (of, weight) in zip(final.layers(), weights.items(), strict=True):
        folded = fold(weight, forms.get(of, "plain"), torch.channels_last)
        layer.weight = nn.Parameter(folded.to(dtype, memory_format=torch.channels_last, copy=True), requires_grad=False)
        layer.bias = None if of.bias is None else nn.Parameter(of.bias.to(dtype), requires_grad=False)
        if generator.spectral:
            del layer.u, layer.v
    return final


def _forms(generator: Generator, size: int, dtype: torch.dtype) -> dict[Layer, str]:
    """The form of each layer beside a resampling."""
    forms = {}
    for op, blocks in (("conv_downsample", generator.down), ("upsample_conv", generator.up)):
        for block in cast(list[ResidualBlock], blocks):
            layer = block.conv2 if op == "conv_downsample" else block.conv1
            outputs, inputs = layer.weight.shape[:2]
            forms[layer] = choose_form(op, inputs, outputs, size, size, dtype, layer.weight.device)
            size = size // 2 if op == "conv_downsample" else size * 2
    return forms
