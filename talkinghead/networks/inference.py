"""Preparation of a generator for inference: every weight is divided by its spectral norm, folded, cast and
packed once.
"""

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
def prepare_for_inference(
    generator: Generator,
    size: int,
    dtype: torch.dtype = torch.float32,
    forms: Mapping[str, str] | None = None,
) -> Generator:
    """Return a faster copy of G without P that generates the same frames from the same styles and cannot be
    trained.

    Args:
        generator: on the device where the copy is to run; the fastest form of a folded layer depends on it.
        size: height and width of the layers' input.
        dtype: of weights and maps: float32, bfloat16 or float16. Statistics, scales and shifts, styles and
            the frame stay float32.
        forms: the form of `ops.fold` for "upsample_conv" and "conv_downsample"; by default the fastest on the
            device.
    """
    chosen = _forms(generator, size, dtype, forms)
    prepared = copy.deepcopy(generator).requires_grad_(False)
    prepared.projection, prepared.spectral = None, False
    weights = generator.weights(layer for layer in generator.layers() if layer is not generator.projection)
    gates = {
        attention.out: attention.gamma for attention in (generator.down_attention, generator.up_attention)
    }
    for layer, (source, weight) in zip(prepared.layers(), weights.items(), strict=True):
        gate = cast(Tensor, gates.get(source, 1))
        folded = gate * fold(weight, chosen.get(source, "plain"), torch.channels_last)
        layer.weight = nn.Parameter(folded.to(dtype, memory_format=torch.channels_last), requires_grad=False)
        if source.bias is not None:
            layer.bias = nn.Parameter((gate * source.bias).to(dtype), requires_grad=False)
        if generator.spectral:
            del layer.u, layer.v
    for attention in (prepared.down_attention, prepared.up_attention):
        attention.gamma = None
    return prepared


@torch.no_grad()
def pack_weights_(generator: Generator, size: int, batch: int = 1, exportable: bool = False) -> Generator:
    """Lay out the weights of a prepared generator in place as this CPU's convolutions read them; leave them
    where the CPU has no such form.

    Unless exportable, packed weights can be neither copied nor saved.

    Args:
        generator: from `prepare_for_inference`.
        size: height and width of the layers' input.
        batch: frames per call for which it is optimised.
        exportable: leave weights that ahead-of-time compilers lay out themselves; the generator can be
            exported, copied and saved.
    """
    weight = generator.out.weight
    inputs = weight.new_zeros(batch, generator.inputs, size, size).to(memory_format=torch.channels_last)
    with _ConvolutionRecorder() as recorder:
        generator.run_layers(inputs, inputs.new_zeros(batch, generator.style_length, dtype=torch.float32))
    for layer in generator.layers():
        if id(layer.weight) in recorder.calls:
            packed = ops.pack(layer.weight, exportable=exportable, **recorder.calls[id(layer.weight)])
            layer.weight = nn.Parameter(packed, requires_grad=False)
    return generator


class _ConvolutionRecorder(TorchFunctionMode):
    """Records the arguments of `ops.pack` for the weight of each convolution, by the weight's id."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, dict[str, Any]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (F.conv2d, F.conv_transpose2d):
            x, weight, _, stride, padding = args
            self.calls[id(weight)] = {
                "x": x.shape,
                "stride": stride,
                "padding": padding,
                "transposed": func is F.conv_transpose2d,
            }
        return func(*args, **(kwargs or {}))


def _forms(
    generator: Generator, size: int, dtype: torch.dtype, forms: Mapping[str, str] | None
) -> dict[Layer, str]:
    """Return the form of each layer next to a resampling."""
    chosen = {}
    for op, blocks in (("conv_downsample", generator.down), ("upsample_conv", generator.up)):
        for block in cast(list[ResidualBlock], blocks):
            layer = block.conv2 if op == "conv_downsample" else block.conv1
            outputs, inputs = layer.weight.shape[:2]
            chosen[layer] = (
                forms[op]
                if forms
                else choose_form(
                    op,
                    inputs,
                    outputs,
                    height=size,
                    width=size,
                    dtype=dtype,
                    device=layer.weight.device,
                )
            )
            size = size // 2 if op == "conv_downsample" else size * 2
    return chosen
