"""Spectral normalisation in Triton, forward and backward: two launches each for all layers."""
# mypy: allow-untyped-defs, no-check-untyped-defs

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .spectral_norm_layers import (
    addresses_of,
    at_least,
    first_programs,
    load_number,
    load_pointer,
    locate_layer,
    sum_in_memory,
    weight_sizes,
)
from .table import table

_BLOCK = 2048  # elements per program
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _sigma(table, count, constants, partials, LAYERS: tl.constexpr, BLOCK: tl.constexpr):
    """Store partial sums of u . (W v), and copies of u and v."""
    layer, block = locate_layer(table, count, LAYERS)
    weight = load_pointer(table, 1, count, layer, tl.float32)
    u, v = load_pointer(table, 2, count, layer, tl.float32), load_pointer(table, 3, count, layer, tl.float32)
    rows, columns = load_number(table, 5, count, layer), load_number(table, 6, count, layer)
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < rows * columns
    left = tl.load(u + index // columns, exists, other=0.0)
    right = tl.load(v + index % columns, exists, other=0.0)
    tl.store(
        partials + tl.program_id(0), tl.sum(left * (tl.load(weight + index, exists, other=0.0) * right), 0)
    )
    copies = constants + tl.load(table + 9 * count + layer)
    tl.store(copies + index, tl.load(u + index, index < rows), index < rows)
    tl.store(copies + rows + index, tl.load(v + index, index < columns), index < columns)


@triton.jit
def _strides(form, channels_last, rows, inputs, taps):
    """Return elements per first index, and the strides of the second index and the tap of a folded weight."""
    taps = tl.where(form == 0, taps, tl.where(form == 2, 4, 16))
    second = tl.where(form == 1, rows, inputs)
    return second * taps, tl.where(channels_last == 1, 1, taps), tl.where(channels_last == 1, second, 1)


@triton.jit
def _taps(form, parity, tap):
    """Return the first and last of the taps of a 3-tap kernel that are summed in tap `tap` of its fold."""
    shuffled = form == 2
    tap = tl.where(form == 1, 3 - tap, tap)
    first = tl.where(shuffled, tap * (2 - parity), tl.maximum(tap - 1, 0))
    last = tl.where(shuffled, tl.where(tap == 0, 1 - parity, 2), tl.minimum(tap, 2))
    return first, last


@triton.jit
def _write(
    table, count, constants, partials, eps, DTYPE: tl.constexpr, LAYERS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store W / sigma in its form: a program writes neighbouring elements, each the sum of gathered taps."""
    layer, block = locate_layer(table, count, LAYERS)
    weight, output = (
        load_pointer(table, 1, count, layer, tl.float32),
        load_pointer(table, 4, count, layer, DTYPE),
    )
    rows, columns, taps = (
        load_number(table, 5, count, layer),
        load_number(table, 6, count, layer),
        load_number(table, 7, count, layer),
    )
    code = load_number(table, 8, count, layer)
    form, channels_last = code // 2, code % 2
    inputs = columns // taps
    row_size, second_stride, tap_stride = _strides(form, channels_last, rows, inputs, taps)
    size = rows * inputs * tl.where(form == 0, taps, 16)
    sigma = sum_in_memory(partials + tl.program_id(0) - block, tl.cdiv(size, BLOCK))
    if block == 0:
        tl.store(constants + layer, sigma)
    sigma = at_least(sigma, eps)
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < size
    first, remainder = index // row_size, index % row_size
    # One of the two strides is 1.
    slow, fast = (
        remainder // tl.maximum(second_stride, tap_stride),
        remainder % tl.maximum(second_stride, tap_stride),
    )
    tap = tl.where(channels_last == 1, slow, fast)
    second = tl.where(channels_last == 1, fast, slow)
    if form == 0:
        value = tl.load(weight + (first * inputs + second) * taps + tap, exists, other=0.0)
    else:
        shuffled = form == 2
        out = tl.where(form == 1, second, tl.where(shuffled, first // 4, first))
        kernel = weight + (out * inputs + tl.where(form == 1, first, second)) * 9
        width = tl.where(shuffled, 2, 4)
        top, bottom = _taps(form, first // 2 % 2, tap // width)
        left, right = _taps(form, first % 2, tap % width)
        value = tl.load(kernel + top * 3 + left, exists, other=0.0)
        value += tl.load(kernel + bottom * 3 + left, exists & (bottom > top), other=0.0)
        value += tl.load(kernel + top * 3 + right, exists & (right > left), other=0.0)
        value += tl.load(kernel + bottom * 3 + right, exists & (bottom > top) & (right > left), other=0.0)
        value *= tl.where(form == 3, 0.25, 1.0)
    tl.store(output + index, (value / sigma).to(DTYPE), exists)


@triton.jit
def _adjoint(table, count, partials, DTYPE: tl.constexpr, LAYERS: tl.constexpr, BLOCK: tl.constexpr):
    """Store the gradient of the unfolded weight, and partial sums of its product with the weight."""
    layer, block = locate_layer(table, count, LAYERS)
    grad, weight = (
        load_pointer(table, 1, count, layer, DTYPE),
        load_pointer(table, 2, count, layer, tl.float32),
    )
    result = load_pointer(table, 3, count, layer, tl.float32)
    rows, columns, taps = (
        load_number(table, 4, count, layer),
        load_number(table, 5, count, layer),
        load_number(table, 6, count, layer),
    )
    code = load_number(table, 7, count, layer)
    form = code // 2
    inputs = columns // taps
    row_size, second_stride, tap_stride = _strides(form, code % 2, rows, inputs, taps)
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < rows * columns
    out, remainder = index // columns, index % columns
    channel, tap = remainder // taps, remainder % taps
    if form == 0:
        value = tl.load(
            grad + out * row_size + channel * second_stride + tap * tap_stride, exists, other=0.0
        ).to(tl.float32)
    else:
        value = tl.zeros([BLOCK], tl.float32)
        first = tl.where(form == 1, channel, out)
        second = tl.where(form == 1, out, channel)
        for corner in tl.static_range(4):
            y, x = tap // 3 + corner // 2, tap % 3 + corner % 2
            y, x = tl.where(form == 2, y // 2, y), tl.where(form == 2, x // 2, x)
            y, x = tl.where(form == 1, 3 - y, y), tl.where(form == 1, 3 - x, x)
            kernel = tl.where(form == 2, first * 4 + corner, first) * row_size + second * second_stride
            offset = (y * tl.where(form == 2, 2, 4) + x) * tap_stride
            value += tl.load(grad + kernel + offset, exists, other=0.0).to(tl.float32)
        value *= tl.where(form == 3, 0.25, 1.0)
    tl.store(result + index, value, exists)
    product = tl.where(exists, value * tl.load(weight + index, exists, other=0.0), 0.0)
    tl.store(partials + tl.program_id(0), tl.sum(product, 0))


@triton.jit
def _closed_form(table, count, constants, partials, eps, LAYERS: tl.constexpr, BLOCK: tl.constexpr):
    """Replace G by (G - <G, W_hat> u v^T) / sigma."""
    layer, block = locate_layer(table, count, LAYERS)
    result = load_pointer(table, 3, count, layer, tl.float32)
    rows, columns = load_number(table, 4, count, layer), load_number(table, 5, count, layer)
    u = constants + tl.load(table + 8 * count + layer)
    sigma = tl.load(constants + layer)
    clamped = at_least(sigma, eps)
    inner = sum_in_memory(partials + tl.program_id(0) - block, tl.cdiv(rows * columns, BLOCK)) / clamped
    inner = tl.where(sigma < eps, 0.0, inner)  # a clamped norm is a constant
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < rows * columns
    outer = tl.load(u + index // columns, exists, other=0.0) * tl.load(
        u + rows + index % columns, exists, other=0.0
    )
    value = tl.load(result + index, exists, other=0.0)
    tl.store(result + index, (value - inner * outer) / clamped, exists)


def _codes(forms: Sequence[int], tensors: Sequence[Tensor]) -> list[int]:
    """Return twice the form, plus one for channels_last, of every tensor."""
    return [2 * form + (not tensor.is_contiguous()) for form, tensor in zip(forms, tensors, strict=True)]


def _vectors(rows: Sequence[int], columns: Sequence[int]) -> list[int]:
    """Return the start of each layer's u in `constants`; v follows it."""
    lengths = [r + c for r, c in zip(rows, columns, strict=True)]
    return [
        len(rows) + end - length for end, length in zip(itertools.accumulate(lengths), lengths, strict=True)
    ]


def _one_dtype(tensors: Sequence[Tensor]) -> tl.dtype:
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        raise ValueError(
            f"normalise: all layers must have one dtype for Triton, got {', '.join(sorted(map(str, dtypes)))}"
        )
    return _DTYPES[dtypes.pop()]


def normalise_forward(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    eps: float,
    forms: list[int],
    outputs: list[Tensor],
    constants: Tensor,
) -> None:
    """Run `talkinghead_native::normalise_forward`."""
    device, count, layers = weights[0].device, len(weights), triton.next_power_of_2(len(weights))
    rows, columns, taps = weight_sizes(weights)
    starts, programs = first_programs([output.numel() for output in outputs], _BLOCK)
    pointers = map(addresses_of, (weights, us, vs, outputs))
    dtype = _one_dtype(outputs)
    with torch.cuda.device_of(weights[0]):
        layout = table(
            [starts, *pointers, rows, columns, taps, _codes(forms, outputs), _vectors(rows, columns)], device
        )
        partials = torch.empty(programs, dtype=torch.float32, device=device)
        _sigma[(programs,)](layout, count, constants, partials, LAYERS=layers, BLOCK=_BLOCK, num_warps=8)
        _write[(programs,)](
            layout, count, constants, partials, eps, DTYPE=dtype, LAYERS=layers, BLOCK=_BLOCK, num_warps=8
        )


def normalise_backward(
    grads: list[Tensor],
    weights: list[Tensor],
    constants: Tensor,
    eps: float,
    forms: list[int],
    grad_weights: list[Tensor],
) -> None:
    """Run `talkinghead_native::normalise_backward`."""
    device, count, layers = weights[0].device, len(weights), triton.next_power_of_2(len(weights))
    rows, columns, taps = weight_sizes(weights)
    starts, programs = first_programs([weight.numel() for weight in weights], _BLOCK)
    pointers = map(addresses_of, (grads, weights, grad_weights))
    dtype = _one_dtype(grads)
    with torch.cuda.device_of(weights[0]):
        layout = table(
            [starts, *pointers, rows, columns, taps, _codes(forms, grads), _vectors(rows, columns)], device
        )
        partials = torch.empty(programs, dtype=torch.float32, device=device)
        _adjoint[(programs,)](layout, count, partials, DTYPE=dtype, LAYERS=layers, BLOCK=_BLOCK, num_warps=8)
        _closed_form[(programs,)](
            layout, count, constants, partials, eps, LAYERS=layers, BLOCK=_BLOCK, num_warps=8
        )
