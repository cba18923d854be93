"""Device and host functions that the kernels of spectral normalisation share.

Every launch processes all layers. A table on the device gives a program its layer's tensors and sizes. Sums
over a layer store a partial sum of each program, which the next launch adds up in a fixed order.
"""
# mypy: allow-untyped-defs, no-check-untyped-defs

import itertools
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def locate_layer(table, count, LAYERS: tl.constexpr):
    """Return this program's layer and its index among the layer's programs.

    The table begins with the first program of every layer.
    """
    index = tl.arange(0, LAYERS)
    starts = tl.load(table + index, index < count, other=0x7FFFFFFF)
    layer = tl.sum((starts <= tl.program_id(0)).to(tl.int32), 0) - 1
    return layer, tl.program_id(0) - tl.load(table + layer).to(tl.int32)


@triton.jit
def load_number(table, field, count, layer):
    """Return a number of a layer from the table."""
    return tl.load(table + field * count + layer).to(tl.int32)


@triton.jit
def load_pointer(table, field, count, layer, DTYPE: tl.constexpr):
    """Return a pointer of a layer from the table."""
    return tl.load(table + field * count + layer).to(tl.pointer_type(DTYPE))


@triton.jit
def norm_in_memory(values, count, WIDTH: tl.constexpr):
    """Return the norm of a vector in memory."""
    squares = tl.zeros([WIDTH], tl.float32)
    for first in range(0, count, WIDTH):
        index = first + tl.arange(0, WIDTH)
        value = tl.load(values + index, index < count, other=0.0)
        squares += value * value
    return tl.sqrt_rn(tl.sum(squares, 0))


@triton.jit
def at_least(value, eps):
    """Return the larger of value and eps; NaN stays NaN."""
    return tl.maximum(value, eps, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def sum_in_memory(values, count):
    """Return the sum of `count` numbers in memory."""
    total = tl.zeros([1024], tl.float32)
    for first in range(0, count, 1024):
        index = first + tl.arange(0, 1024)
        total += tl.load(values + index, index < count, other=0.0)
    return tl.sum(total, 0)


def first_programs(sizes: Sequence[int], block: int) -> tuple[list[int], int]:
    """Return the first program of every layer and the number of programs, for `block` elements each."""
    ends = list(itertools.accumulate(triton.cdiv(size, block) for size in sizes))
    return [0, *ends[:-1]], ends[-1]


def addresses_of(tensors: Sequence[Tensor]) -> list[int]:
    """Return the address of the first element of every tensor."""
    return [tensor.data_ptr() for tensor in tensors]


def weight_sizes(weights: Sequence[Tensor]) -> tuple[list[int], list[int], list[int]]:
    """Return rows, columns and taps of every weight."""
    for weight in weights:
        if weight.numel() >= 2**30:
            raise ValueError(
                "spectral_norm: a weight must have fewer than 2^30 elements for Triton, got "
                f"{list(weight.shape)}"
            )
    rows = [weight.shape[0] for weight in weights]
    columns = [weight.numel() // weight.shape[0] for weight in weights]
    return rows, columns, [weight.shape[2:].numel() for weight in weights]
