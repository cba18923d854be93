"""Convolutions and inverted residual blocks in sequence, for inference of small networks on CPUs.

Every layer's output is the next one's input. In the C++ kernel a thread takes an image through all layers,
so that maps stay in its caches and a layer costs no call. Where it is missing, or "reference" is chosen, the
formula runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend, extension
from .inverted_residual import (
    KERNELS,
    InvertedResidualWeights,
    inverted_residual_reference,
    pack_inverted_residual,
)
from .registration import is_transformed, register

_NUMBERS = 4
"""Numbers of a layer: of its weights, the side of its kernel, the stride, and a flag."""
_BLOCK_WEIGHTS, _CONV_WEIGHTS = 6, 2


class ConvSequence(NamedTuple):
    """Layers in sequence, in the kernel's layout; `a + b` of the fields is the one after the other.

    Attributes:
        weights: of each layer in turn; a convolution has [k * k * C, O] and a bias [O], a block those of
            `InvertedResidualWeights`.
        numbers: four of each layer: the number of its weights, the side of its kernel, its stride, and
            whether a convolution has a ReLU, or a block adds its input.
    """

    weights: list[Tensor]
    numbers: list[int]


def pack_conv(weight: Tensor, bias: Tensor, stride: int = 1, relu: bool = False) -> ConvSequence:
    """Return a convolution with zero padding as a sequence of one layer.

    Args:
        weight: [O, C, k, k], k is odd.
        bias: [O].
        stride: of the convolution.
        relu: whether a ReLU follows.
    """
    rows = weight.detach().float().permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    side = int(weight.shape[2])
    return ConvSequence([rows, bias.detach().float().contiguous()], [_CONV_WEIGHTS, side, stride, int(relu)])


def pack_block(
    widen: tuple[Tensor, Tensor],
    filter: tuple[Tensor, Tensor],
    narrow: tuple[Tensor, Tensor],
    stride: int = 1,
    adds_input: bool = False,
) -> ConvSequence:
    """Return an inverted residual block as a sequence of one layer; arguments as for `inverted_residual`."""
    weights = pack_inverted_residual(widen, filter, narrow)
    side = KERNELS[weights.filter.shape[0]]
    return ConvSequence(list(weights), [_BLOCK_WEIGHTS, side, stride, int(adds_input)])


def conv_sequence_reference(x: Tensor, weights: Sequence[Tensor], numbers: Sequence[int]) -> Tensor:
    """Return the output of the last layer in plain torch."""
    for own, side, stride, flag in _layers(weights, numbers):
        if len(own) == _BLOCK_WEIGHTS:
            x = inverted_residual_reference(x, InvertedResidualWeights(*own), stride, bool(flag))
            continue
        weight = own[0].unflatten(0, (side, side, -1)).permute(3, 2, 0, 1)
        x = F.conv2d(x, weight, own[1], stride, side // 2)
        x = x.relu() if flag else x
    return x


def conv_sequence(x: Tensor, sequence: ConvSequence) -> Tensor:
    """Compute layers in sequence; not differentiable.

    Args:
        x: [B, C, H, W], float32 on the CPU.
        sequence: of `pack_conv` and `pack_block`.

    Returns:
        float32 [B, O, H', W'] in channels_last, the last layer's output.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and is_transformed():
        return _CONV_SEQUENCE(x, *sequence)
    run = _CONV_SEQUENCE if compiling else _run  # the dispatcher takes as long as a small layer
    y: Tensor = run(x.detach(), *sequence)
    return y


def _layers(
    weights: Sequence[Tensor], numbers: Sequence[int]
) -> list[tuple[Sequence[Tensor], int, int, int]]:
    """Return weights, side, stride and flag of each layer."""
    layers, start = [], 0
    for index in range(0, len(numbers), _NUMBERS):
        count, side, stride, flag = numbers[index : index + _NUMBERS]
        layers.append((weights[start : start + count], side, stride, flag))
        start += count
    return layers


def _output_shape(x: Tensor, weights: Sequence[Tensor], numbers: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the shape of the last layer's output; check the arguments."""
    if x.dim() != 4 or x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(
            f"conv_sequence: x must be float32 [B, C, H, W] on cpu, got {x.dtype} {list(x.shape)} on "
            f"{x.device.type}"
        )
    counts = numbers[::_NUMBERS]
    if not counts or len(numbers) % _NUMBERS or sum(counts) != len(weights):
        raise ValueError(
            f"conv_sequence: sequence must have a layer and its weights, got {len(weights)} weights and "
            f"numbers {list(numbers)}"
        )
    batch, channels, height, width = x.shape
    for own, side, stride, flag in _layers(weights, numbers):
        outputs = own[-1].shape[0] if own and own[-1].dim() == 1 else 0
        shapes = [tuple(tensor.shape) for tensor in own]
        taps, wide = side * side, shapes[1][0] if len(shapes) > 1 else 0
        expected = [(taps * channels, outputs), (outputs,)]
        if len(own) == _BLOCK_WEIGHTS:
            expected = [(channels, wide), (wide,), (taps, wide), (wide,), (wide, outputs), (outputs,)]
        is_float32 = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in own)
        if not outputs or shapes != expected or not is_float32:
            raise ValueError(
                f"conv_sequence: weights must be float32 of pack_conv or pack_block for {channels} channels, "
                f"got {shapes}"
            )
        if side % 2 == 0 or stride < 1:
            raise ValueError(
                f"conv_sequence: the side must be odd and the stride at least 1, got {side}, {stride}"
            )
        if len(own) == _BLOCK_WEIGHTS and flag and (stride != 1 or outputs != channels):
            raise ValueError(
                f"conv_sequence: an input of {channels} channels cannot be added to {outputs} channels of "
                f"stride {stride}"
            )
        channels, height, width = outputs, -(-height // stride), -(-width // stride)
    return batch, channels, height, width


def _run(x: Tensor, weights: list[Tensor], numbers: list[int]) -> Tensor:
    # the kernel would pass over weights after those of its layers
    has_extra_weights = sum(numbers[::_NUMBERS]) != len(weights)
    if not uses_native_kernel() or x.dim() != 4 or has_extra_weights:
        _output_shape(x, weights, numbers)
        y = conv_sequence_reference(x, weights, numbers)
        return y.contiguous(memory_format=torch.channels_last)
    try:
        return _run_kernel(x, weights, numbers)
    except (RuntimeError, IndexError, ZeroDivisionError):
        _output_shape(x, weights, numbers)  # checks take as long as a small layer: only here, for their words
        rows = [weight.contiguous() for weight in weights]
        if all(row is weight for row, weight in zip(rows, weights, strict=True)):
            raise
    return _run_kernel(x, rows, numbers)  # weights of other strides than those of the `pack_` functions


def _run_kernel(x: Tensor, weights: list[Tensor], numbers: list[int]) -> Tensor:
    batch, _, height, width = x.shape
    for stride in numbers[2::_NUMBERS]:
        height, width = -(-height // stride), -(-width // stride)
    y = torch.empty(
        (batch, weights[-1].shape[0], height, width),
        dtype=torch.float32,
        device="cpu",
        memory_format=torch.channels_last,
    )
    x = x.contiguous(memory_format=torch.channels_last)
    torch.ops.talkinghead_native.conv_sequence.default(x, weights, numbers, y)
    return y


def _fake(x: Tensor, weights: list[Tensor], numbers: list[int]) -> Tensor:
    shape = _output_shape(x, weights, numbers)
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)


def _run_formula(x: Tensor, weights: list[Tensor], numbers: list[int]) -> Tensor:
    _output_shape(x, weights, numbers)
    return conv_sequence_reference(x, weights, numbers)


_CONV_SEQUENCE = register(
    "conv_sequence(Tensor x, Tensor[] weights, int[] numbers) -> Tensor",
    _run,
    _fake,
    _run_formula,
    refusal="is for inference and has no gradient; use the convolutions instead",
)


def uses_native_kernel() -> bool:
    """Return whether the kernel is built and no other backend is chosen."""
    # The other backends have no kernel, but networks must run on them: use the formula there.
    return backend.current() in (None, "cpp") and extension.unavailable_reason("cpu", "conv_sequence") is None
