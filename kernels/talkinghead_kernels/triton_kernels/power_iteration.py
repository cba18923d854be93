"""Power iteration in Triton: three launches for all layers."""
# mypy: allow-untyped-defs, no-check-untyped-defs

import itertools

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
    norm_in_memory,
    sum_in_memory,
    weight_sizes,
)
from .table import table

# Rows of a weight per program of `_rows`, which stores its sum of rows, as long as one row.
_ROWS = 16
_COLUMNS = 256  # columns per program of `_sums` and `_unit`


@triton.jit
def _whole_rows(
    weight, u, v, sums, block, rows, columns, ROWS: tl.constexpr, TOGETHER: tl.constexpr, WIDTH: tl.constexpr
):
    """Store s = W v, and the sum of s_r w_r over this program's rows.

    Rows stay in registers, so that W is read once.
    """
    column = tl.arange(0, WIDTH)[None, :]
    vector = tl.load(v + column, column < columns, other=0.0)
    row_sum = tl.zeros([WIDTH], tl.float32)
    for step in range(ROWS // TOGETHER):
        row = block * ROWS + step * TOGETHER + tl.arange(0, TOGETHER)[:, None]
        exists = (row < rows) & (column < columns)
        matrix = tl.load(weight + row.to(tl.int64) * columns + column, exists, other=0.0)
        s = tl.sum(matrix * vector, 1, keep_dims=True)
        tl.store(u + row, s, row < rows)
        row_sum += tl.sum(matrix * s, 0)
    flat = tl.arange(0, WIDTH)
    tl.store(sums + flat, row_sum, flat < columns)


@triton.jit
def _long_rows(weight, u, v, sums, block, rows, columns, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Store the same for rows too long for registers; W is read again from the cache."""
    row = block * ROWS + tl.arange(0, ROWS)[:, None]
    start = row.to(tl.int64) * columns
    products = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, columns, WIDTH):
        column = first + tl.arange(0, WIDTH)[None, :]
        matrix = tl.load(weight + start + column, (row < rows) & (column < columns), other=0.0)
        products += matrix * tl.load(v + column, column < columns, other=0.0)
    s = tl.sum(products, 1, keep_dims=True)
    tl.store(u + row, s, row < rows)
    for first in range(0, columns, WIDTH):
        column = first + tl.arange(0, WIDTH)[None, :]
        matrix = tl.load(weight + start + column, (row < rows) & (column < columns), other=0.0)
        flat = first + tl.arange(0, WIDTH)
        tl.store(sums + flat, tl.sum(matrix * s, 0), flat < columns)


@triton.jit
def _rows(table, count, scratch, LAYERS: tl.constexpr, ROWS: tl.constexpr):
    """Store u = W v, not yet normalised, and the partial sums of W^T u."""
    layer, block = locate_layer(table, count, LAYERS)
    rows, columns = load_number(table, 5, count, layer), load_number(table, 6, count, layer)
    weight = load_pointer(table, 2, count, layer, tl.float32)
    u, v = load_pointer(table, 3, count, layer, tl.float32), load_pointer(table, 4, count, layer, tl.float32)
    sums = scratch + tl.load(table + 7 * count + layer) + block.to(tl.int64) * columns
    if columns <= 1024:
        _whole_rows(weight, u, v, sums, block, rows, columns, ROWS, 16, 1024)
    elif columns <= 8192:
        _whole_rows(weight, u, v, sums, block, rows, columns, ROWS, 2, 8192)
    else:
        _long_rows(weight, u, v, sums, block, rows, columns, ROWS, 1024)


@triton.jit
def _sums(
    table, count, scratch, squares, eps, LAYERS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store v = W^T u of the normalised u, and the partial sums of the squares of v."""
    layer, block = locate_layer(table + count, count, LAYERS)
    rows, columns = load_number(table, 5, count, layer), load_number(table, 6, count, layer)
    u, v = load_pointer(table, 3, count, layer, tl.float32), load_pointer(table, 4, count, layer, tl.float32)
    partial_sums = scratch + tl.load(table + 7 * count + layer)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([16, COLUMNS], tl.float32)
    for first in range(0, tl.cdiv(rows, ROWS), 16):
        part = first + tl.arange(0, 16)[:, None]
        exists = (part < tl.cdiv(rows, ROWS)) & (column < columns)[None, :]
        total += tl.load(partial_sums + part.to(tl.int64) * columns + column[None, :], exists, other=0.0)
    vector = tl.sum(total, 0) / at_least(norm_in_memory(u, rows, 1024), eps)
    tl.store(v + column, vector, column < columns)
    tl.store(squares + tl.program_id(0), tl.sum(vector * vector, 0))


@triton.jit
def _unit(table, count, squares, eps, LAYERS: tl.constexpr, COLUMNS: tl.constexpr):
    """Divide u and v by their norms."""
    layer, block = locate_layer(table + count, count, LAYERS)
    rows, columns = load_number(table, 5, count, layer), load_number(table, 6, count, layer)
    u, v = load_pointer(table, 3, count, layer, tl.float32), load_pointer(table, 4, count, layer, tl.float32)
    square = sum_in_memory(squares + tl.program_id(0) - block, tl.cdiv(columns, COLUMNS))
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    vector = tl.load(v + column, column < columns, other=0.0)
    tl.store(v + column, vector / at_least(tl.sqrt_rn(square), eps), column < columns)
    if block == 0:
        length = at_least(norm_in_memory(u, rows, 1024), eps)
        tl.debug_barrier()  # read all of u before writing any of it
        for first in range(0, rows, 1024):
            row = first + tl.arange(0, 1024)
            tl.store(u + row, tl.load(u + row, row < rows, other=0.0) / length, row < rows)


def power_iteration_(weights: list[Tensor], us: list[Tensor], vs: list[Tensor], eps: float) -> None:
    """Run `talkinghead_native::power_iteration_`."""
    device, count, layers = weights[0].device, len(weights), triton.next_power_of_2(len(weights))
    rows, columns, _ = weight_sizes(weights)
    row_starts, row_programs = first_programs(rows, _ROWS)
    column_starts, column_programs = first_programs(columns, _COLUMNS)
    sizes = [triton.cdiv(r, _ROWS) * c for r, c in zip(rows, columns, strict=True)]
    offsets = [end - size for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    pointers = map(addresses_of, (weights, us, vs))
    with torch.cuda.device_of(weights[0]):
        layout = table([row_starts, column_starts, *pointers, rows, columns, offsets], device)
        sums = torch.empty(sum(sizes), dtype=torch.float32, device=device)
        squares = torch.empty(column_programs, dtype=torch.float32, device=device)
        _rows[(row_programs,)](layout, count, sums, LAYERS=layers, ROWS=_ROWS, num_warps=16)
        _sums[(column_programs,)](
            layout, count, sums, squares, eps, LAYERS=layers, ROWS=_ROWS, COLUMNS=_COLUMNS
        )
        _unit[(column_programs,)](layout, count, squares, eps, LAYERS=layers, COLUMNS=_COLUMNS)
