"""A generator in its final form, for inference alone: every weight divided by its spectral norm, folded, cast and packed once."""

import copy
from collections.abc import Mapping
from typing import Any, cast

import talkinghead_kernels as ops
import torch
import torch.nn.functional as F
from talkinghead_kernels.resample import choose_form, fold
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .blocks import Layer, ResidualBlock
from .generator import Generator


@torch.no_grad()
def final_generator(
    generator: Generator, size: int, dtype: torch.dtype = torch.float32, forms: Mapping[str, str] | None = None
) -> Generator:
    """A copy of G without P that gives the same pictures from the same styles, faster, and cannot learn.

    Args:
        generator: on the device where the copy is to run; the fastest form of a folded layer depends on it.
        size: height and width of what its layers see.
        dtype: of weights and maps: float32, bfloat16 or float16. Statistics, scales and shifts, styles and the picture stay float32.
        forms: what "upsample_conv" and "conv_downsample" are folded to, as `ops.fold` has it; by default the fastest on the device.
    """
    chosen = _forms(generator, size, dtype, forms)
    final = copy.deepcopy(generator).requires_grad_(False)
    final.projection, final.spectral = None, False
    weights = generator.weights(layer for layer in generator.layers() if layer is not generator.projection)
    gates = {attention.out: attention.gamma for attention in (generator.down_attention, generator.up_attention)}
    for layer, (of, weight) in zip(final.layers(), weights.items(), strict=True):
        gate = cast(Tensor, gates.get(of, 1))
        folded = gate * fold(weight, chosen.get(of, "plain"), torch.channels_last)
        layer.weight = nn.Parameter(folded.to(dtype, memory_format=torch.channels_last), requires_grad=False)
        layer.bias = None if of.bias is None else nn.Parameter((gate * of.bias).to(dtype), requires_grad=False)
        if generator.spectral:
            del layer.u, layer.v
    for attention in (final.down_attention, final.up_attention):
        attention.gamma = None
    return final


@torch.no_grad()
def pack_(final: Generator, size: int, batch: int = 1, exportable: bool = False) -> Generator:
    """Lay the weights of a final generator out as this CPU's convolutions read them, in place; nothing where there is no such form.

    After it the generator runs, and does nothing else: unless exportable, packed weights can be neither copied nor saved.

    Args:
        final: from `final_generator`.
        size: height and width of what its layers see.
        batch: pictures at a time for which it is to be fast.
        exportable: leave weights that compilers ahead of time lay out themselves; the rest can be exported, copied and saved.
    """
    weight = final.out.weight
    inputs = weight.new_zeros(batch, final.inputs, size, size).to(memory_format=torch.channels_last)
    with _Convolutions() as found:
        final.run_layers(inputs, inputs.new_zeros(batch, final.style_length, dtype=torch.float32))
    for layer in final.layers():
        if id(layer.weight) in found.calls:
            layer.weight = nn.Parameter(ops.pack(layer.weight, exportable=exportable, **found.calls[id(layer.weight)]), requires_grad=False)
    return final


class _Convolutions(TorchFunctionMode):
    """What `ops.pack` is to know of each weight, by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, dict[str, Any]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in (F.conv2d, F.conv_transpose2d):
            x, weight, _, stride, padding = args
            self.calls[id(weight)] = {"x": x.shape, "stride": stride, "padding": padding, "transposed": func is F.conv_transpose2d}
        return func(*args, **(kwargs or {}))


def _forms(generator: Generator, size: int, dtype: torch.dtype, given: Mapping[str, str] | None) -> dict[Layer, str]:
    """The form of each layer beside a resampling."""
    forms = {}
    for op, blocks in (("conv_downsample", generator.down), ("upsample_conv", generator.up)):
        for block in cast(list[ResidualBlock], blocks):
            layer = block.conv2 if op == "conv_downsample" else block.conv1
            outputs, inputs = layer.weight.shape[:2]
            forms[layer] = given[op] if given else choose_form(op, inputs, outputs, size, size, dtype, layer.weight.device)
            size = size // 2 if op == "conv_downsample" else size * 2
    return forms
