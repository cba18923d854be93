"""Inverted residual block (Sandler et al. 2018, "MobileNetV2") on the CPU, for inference.

    y = narrow(relu(filter(relu(widen(x))))) [+ x]

widen and narrow are 1x1 convolutions, filter a depthwise one of 3x3 or 5x5 with zero padding. The wide map in
between, two to four times x, stays in the caches. The kernel is C++; where it is missing, or "reference" is
chosen, the formula runs.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend, extension
from .registration import is_transformed, register

KERNELS = {9: 3, 25: 5}
"""The side of the filter by its number of weights."""


class InvertedResidualWeights(NamedTuple):
    """Weights of a block of C channels, with W in between and O in the output, in the kernel's layout.

    Attributes:
        widen: [C, W].
        widen_bias: [W].
        filter: [k * k, W], k is 3 or 5.
        filter_bias: [W].
        narrow: [W, O].
        narrow_bias: [O].
    """

    widen: Tensor
    widen_bias: Tensor
    filter: Tensor
    filter_bias: Tensor
    narrow: Tensor
    narrow_bias: Tensor


def pack_inverted_residual(
    widen: tuple[Tensor, Tensor], filter: tuple[Tensor, Tensor], narrow: tuple[Tensor, Tensor]
) -> InvertedResidualWeights:
    """Return the weights of three convolutions in the kernel's layout.

    Args:
        widen: weight [W, C, 1, 1] and bias [W], floating point.
        filter: weight [W, 1, k, k] and bias [W]; k is 3 or 5.
        narrow: weight [O, W, 1, 1] and bias [O].
    """

    def packed(convolution: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        weight, bias = (tensor.detach().float() for tensor in convolution)
        return weight.flatten(1).t().contiguous(), bias.contiguous()

    return InvertedResidualWeights(*packed(widen), *packed(filter), *packed(narrow))


def inverted_residual_reference(
    x: Tensor, weights: InvertedResidualWeights, stride: int = 1, adds_input: bool = False
) -> Tensor:
    """Return the block's output in plain torch."""
    widen, widen_bias, filter, filter_bias, narrow, narrow_bias = weights
    side = KERNELS[filter.shape[0]]
    wide = F.conv2d(x, widen.t()[..., None, None], widen_bias).relu()
    kernels = filter.t().unflatten(1, (1, side, side))
    wide = F.conv2d(wide, kernels, filter_bias, stride, side // 2, groups=filter.shape[1]).relu()
    y = F.conv2d(wide, narrow.t()[..., None, None], narrow_bias)
    return y + x if adds_input else y


def inverted_residual(
    x: Tensor, weights: InvertedResidualWeights, stride: int = 1, adds_input: bool = False
) -> Tensor:
    """Compute an inverted residual block; not differentiable.

    Args:
        x: [B, C, H, W], float32 on the CPU.
        weights: of `pack_inverted_residual`.
        stride: of the filter.
        adds_input: whether x is added to the result, which then has the same shape.

    Returns:
        float32 [B, O, ceil(H / stride), ceil(W / stride)], channels_last.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and is_transformed():
        return _INVERTED_RESIDUAL(x, *weights, stride, adds_input)
    run = _INVERTED_RESIDUAL if compiling else _run  # the dispatcher takes as long as a small block
    y: Tensor = run(x.detach(), *weights, stride, adds_input)
    return y


def _check(x: Tensor, weights: InvertedResidualWeights, stride: int, adds_input: bool) -> None:
    if x.dim() != 4 or x.dtype != torch.float32 or x.device.type != "cpu":
        raise ValueError(
            f"inverted_residual: x must be float32 [B, C, H, W] on cpu, got {x.dtype} {list(x.shape)} on "
            f"{x.device.type}"
        )
    channels, outputs = x.shape[1], weights.narrow.shape[-1]
    shapes = [tuple(tensor.shape) for tensor in weights]
    wide = shapes[1][0] if shapes[1] else 0
    filter_size = shapes[2][0] if shapes[2] else 0
    if (
        wide == 0
        or filter_size not in KERNELS
        or shapes != [(channels, wide), (wide,), (filter_size, wide), (wide,), (wide, outputs), (outputs,)]
        or any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in weights)
    ):
        raise ValueError(
            f"inverted_residual: weights must be float32 of pack_inverted_residual for {channels} channels, "
            f"got {shapes}"
        )
    if stride < 1:
        raise ValueError(f"inverted_residual: stride must be at least 1, got {stride}")
    if adds_input and (stride != 1 or outputs != channels):
        raise ValueError(
            f"inverted_residual: x of {channels} channels cannot be added to {outputs} channels of stride "
            f"{stride}"
        )


def _run(x: Tensor, *arguments: Any) -> Tensor:
    weights, stride, adds_input = _unpack(x, *arguments)
    if not uses_native_kernel():
        result = inverted_residual_reference(x, weights, stride, adds_input)
        return result.contiguous(memory_format=torch.channels_last)
    y = _empty(x, weights.narrow, stride)
    x = x.contiguous(memory_format=torch.channels_last)
    layer = [len(weights), KERNELS[weights.filter.shape[0]], stride, int(adds_input)]
    torch.ops.talkinghead_native.conv_sequence(x, [tensor.contiguous() for tensor in weights], layer, y)
    return y


def _fake(x: Tensor, *arguments: Any) -> Tensor:
    weights, stride, _ = _unpack(x, *arguments)
    return _empty(x, weights.narrow, stride)


def _run_formula(x: Tensor, *arguments: Any) -> Tensor:
    return inverted_residual_reference(x, *_unpack(x, *arguments))


def _unpack(x: Tensor, *arguments: Any) -> tuple[InvertedResidualWeights, int, bool]:
    """Return the arguments of the op after x: the weights, the stride, and whether x is added; check them."""
    weights, stride, adds_input = InvertedResidualWeights(*arguments[:-2]), *arguments[-2:]
    _check(x, weights, stride, adds_input)
    return weights, stride, adds_input


def _empty(x: Tensor, narrow: Tensor, stride: int) -> Tensor:
    batch, _, height, width = x.shape
    return torch.empty(
        (batch, narrow.shape[1], (height + stride - 1) // stride, (width + stride - 1) // stride),
        dtype=torch.float32,
        device=x.device,
        memory_format=torch.channels_last,
    )


_INVERTED_RESIDUAL = register(
    "inverted_residual(Tensor x, Tensor widen, Tensor widen_bias, Tensor filter, Tensor filter_bias, "
    "Tensor narrow, Tensor narrow_bias, int stride, bool adds_input) -> Tensor",
    _run,
    _fake,
    _run_formula,
    refusal="is for inference and has no gradient; use the three convolutions instead",
)


def uses_native_kernel() -> bool:
    """Return whether the kernel is built and no other backend is chosen."""
    # The other backends have no kernel, but networks must run on them: use the formula there.
    return backend.current() in (None, "cpp") and extension.unavailable_reason("cpu", "conv_sequence") is None
