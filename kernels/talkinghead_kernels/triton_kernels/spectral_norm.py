"""Spectral normalisation in Triton: every launch serves all layers.

A table on the device tells a program its layer's tensors and sizes. Sums over a layer leave a partial sum of each program, which the next
launch adds up in one order.
"""
# mypy: allow-untyped-defs, no-check-untyped-defs

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .table import table

_ROWS = 16  # rows of a weight that a program of `_rows` takes; its sum of rows, as long as one row, is what it leaves in memory
_COLUMNS = 256  # columns that a program of `_sums` and `_unit` takes
_BLOCK = 2048  # elements that a program of the others takes
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _layer(table, count, LAYERS: tl.constexpr):
    """This program's layer and its number among the layer's programs. The table begins with the first program of every layer."""
    index = tl.arange(0, LAYERS)
    starts = tl.load(table + index, index < count, other=0x7FFFFFFF)
    layer = tl.sum((starts <= tl.program_id(0)).to(tl.int32), 0) - 1
    return layer, tl.program_id(0) - tl.load(table + layer).to(tl.int32)


@triton.jit
def _number(table, field, count, layer):
    return tl.load(table + field * count + layer).to(tl.int32)


@triton.jit
def _pointer(table, field, count, layer, DTYPE: tl.constexpr):
    return tl.load(table + field * count + layer).to(tl.pointer_type(DTYPE))


@triton.jit
def _whole_rows(weight, u, v, sums, block, rows, columns, ROWS: tl.constexpr, TOGETHER: tl.constexpr, WIDTH: tl.constexpr):
    """s = W v, and the sum of s_r w_r over this program's rows: rows stay in registers, so that W is read once."""
    column = tl.arange(0, WIDTH)[None, :]
    vector = tl.load(v + column, column < columns, other=0.0)
    total = tl.zeros([WIDTH], tl.float32)
    for step in range(ROWS // TOGETHER):
        row = block * ROWS + step * TOGETHER + tl.arange(0, TOGETHER)[:, None]
        exists = (row < rows) & (column < columns)
        matrix = tl.load(weight + row.to(tl.int64) * columns + column, exists, other=0.0)
        s = tl.sum(matrix * vector, 1, keep_dims=True)
        tl.store(u + row, s, row < rows)
        total += tl.sum(matrix * s, 0)
    flat = tl.arange(0, WIDTH)
    tl.store(sums + flat, total, flat < columns)


@triton.jit
def _long_rows(weight, u, v, sums, block, rows, columns, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The same for rows too long for registers; the second reading of W comes from the cache."""
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
    """u = W v, not yet of unit length, and the partial sums of W^T u."""
    layer, block = _layer(table, count, LAYERS)
    rows, columns = _number(table, 5, count, layer), _number(table, 6, count, layer)
    weight = _pointer(table, 2, count, layer, tl.float32)
    u, v = _pointer(table, 3, count, layer, tl.float32), _pointer(table, 4, count, layer, tl.float32)
    sums = scratch + tl.load(table + 7 * count + layer) + block.to(tl.int64) * columns
    if columns <= 1024:
        _whole_rows(weight, u, v, sums, block, rows, columns, ROWS, 16, 1024)
    elif columns <= 8192:
        _whole_rows(weight, u, v, sums, block, rows, columns, ROWS, 2, 8192)
    else:
        _long_rows(weight, u, v, sums, block, rows, columns, ROWS, 1024)


@triton.jit
def _length(values, count, WIDTH: tl.constexpr):
    """The length of a vector in memory."""
    squares = tl.zeros([WIDTH], tl.float32)
    for first in range(0, count, WIDTH):
        index = first + tl.arange(0, WIDTH)
        value = tl.load(values + index, index < count, other=0.0)
        squares += value * value
    return tl.sqrt_rn(tl.sum(squares, 0))


@triton.jit
def _at_least(value, eps):
    return tl.maximum(value, eps, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _sums(table, count, scratch, squares, eps, LAYERS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """v = W^T u of the u of unit length, not yet of unit length itself, and the partial sums of its squares."""
    layer, block = _layer(table + count, count, LAYERS)
    rows, columns = _number(table, 5, count, layer), _number(table, 6, count, layer)
    u, v = _pointer(table, 3, count, layer, tl.float32), _pointer(table, 4, count, layer, tl.float32)
    parts = scratch + tl.load(table + 7 * count + layer)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([16, COLUMNS], tl.float32)
    for first in range(0, tl.cdiv(rows, ROWS), 16):
        part = first + tl.arange(0, 16)[:, None]
        exists = (part < tl.cdiv(rows, ROWS)) & (column < columns)[None, :]
        total += tl.load(parts + part.to(tl.int64) * columns + column[None, :], exists, other=0.0)
    vector = tl.sum(total, 0) / _at_least(_length(u, rows, 1024), eps)
    tl.store(v + column, vector, column < columns)
    tl.store(squares + tl.program_id(0), tl.sum(vector * vector, 0))


@triton.jit
def _total(values, count):
    """The sum of `count` numbers in memory."""
    total = tl.zeros([1024], tl.float32)
    for first in range(0, count, 1024):
        index = first + tl.arange(0, 1024)
        total += tl.load(values + index, index < count, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _unit(table, count, squares, eps, LAYERS: tl.constexpr, COLUMNS: tl.constexpr):
    """Divide u and v by their lengths."""
    layer, block = _layer(table + count, count, LAYERS)
    rows, columns = _number(table, 5, count, layer), _number(table, 6, count, layer)
    u, v = _pointer(table, 3, count, layer, tl.float32), _pointer(table, 4, count, layer, tl.float32)
    own = _total(squares + tl.program_id(0) - block, tl.cdiv(columns, COLUMNS))
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    vector = tl.load(v + column, column < columns, other=0.0)
    tl.store(v + column, vector / _at_least(tl.sqrt_rn(own), eps), column < columns)
    if block == 0:
        length = _at_least(_length(u, rows, 1024), eps)
        tl.debug_barrier()  # the whole of u is read before any of it is written
        for first in range(0, rows, 1024):
            row = first + tl.arange(0, 1024)
            tl.store(u + row, tl.load(u + row, row < rows, other=0.0) / length, row < rows)


@triton.jit
def _sigma(table, count, constants, partials, LAYERS: tl.constexpr, BLOCK: tl.constexpr):
    """Partial sums of u . (W v), and copies of u and v."""
    layer, block = _layer(table, count, LAYERS)
    weight = _pointer(table, 1, count, layer, tl.float32)
    u, v = _pointer(table, 2, count, layer, tl.float32), _pointer(table, 3, count, layer, tl.float32)
    rows, columns = _number(table, 5, count, layer), _number(table, 6, count, layer)
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < rows * columns
    left = tl.load(u + index // columns, exists, other=0.0)
    right = tl.load(v + index % columns, exists, other=0.0)
    tl.store(partials + tl.program_id(0), tl.sum(left * (tl.load(weight + index, exists, other=0.0) * right), 0))
    copies = constants + tl.load(table + 9 * count + layer)
    tl.store(copies + index, tl.load(u + index, index < rows), index < rows)
    tl.store(copies + rows + index, tl.load(v + index, index < columns), index < columns)


@triton.jit
def _strides(form, last, rows, inputs, taps):
    """Of a weight in its form: elements a first index, and the strides of the second and of the tap."""
    taps = tl.where(form == 0, taps, tl.where(form == 2, 4, 16))
    second = tl.where(form == 1, rows, inputs)
    return second * taps, tl.where(last == 1, 1, taps), tl.where(last == 1, second, 1)


@triton.jit
def _taps(form, parity, tap):
    """First and last of the one or two taps of a 3-tap kernel that are summed in tap `tap` of its fold."""
    shuffled = form == 2
    tap = tl.where(form == 1, 3 - tap, tap)
    first = tl.where(shuffled, tap * (2 - parity), tl.maximum(tap - 1, 0))
    last = tl.where(shuffled, tl.where(tap == 0, 1 - parity, 2), tl.minimum(tap, 2))
    return first, last


@triton.jit
def _write(table, count, constants, partials, eps, DTYPE: tl.constexpr, LAYERS: tl.constexpr, BLOCK: tl.constexpr):
    """W / sigma in its form: a program writes neighbouring elements, and gathers what each is the sum of."""
    layer, block = _layer(table, count, LAYERS)
    weight, output = _pointer(table, 1, count, layer, tl.float32), _pointer(table, 4, count, layer, DTYPE)
    rows, columns, taps = _number(table, 5, count, layer), _number(table, 6, count, layer), _number(table, 7, count, layer)
    code = _number(table, 8, count, layer)
    form, last = code // 2, code % 2
    inputs = columns // taps
    row_size, second_stride, tap_stride = _strides(form, last, rows, inputs, taps)
    size = rows * inputs * tl.where(form == 0, taps, 16)
    sigma = _total(partials + tl.program_id(0) - block, tl.cdiv(size, BLOCK))
    if block == 0:
        tl.store(constants + layer, sigma)
    sigma = _at_least(sigma, eps)
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < size
    first, rest = index // row_size, index % row_size
    # one of the two strides is 1
    slow, fast = rest // tl.maximum(second_stride, tap_stride), rest % tl.maximum(second_stride, tap_stride)
    tap = tl.where(last == 1, slow, fast)
    second = tl.where(last == 1, fast, slow)
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
    """The gradient of the weight before its fold, and partial sums of its product with the weight."""
    layer, block = _layer(table, count, LAYERS)
    grad, weight = _pointer(table, 1, count, layer, DTYPE), _pointer(table, 2, count, layer, tl.float32)
    result = _pointer(table, 3, count, layer, tl.float32)
    rows, columns, taps = _number(table, 4, count, layer), _number(table, 5, count, layer), _number(table, 6, count, layer)
    code = _number(table, 7, count, layer)
    form = code // 2
    inputs = columns // taps
    row_size, second_stride, tap_stride = _strides(form, code % 2, rows, inputs, taps)
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < rows * columns
    out, rest = index // columns, index % columns
    channel, tap = rest // taps, rest % taps
    if form == 0:
        value = tl.load(grad + out * row_size + channel * second_stride + tap * tap_stride, exists, other=0.0).to(tl.float32)
    else:
        value = tl.zeros([BLOCK], tl.float32)
        first = tl.where(form == 1, channel, out)
        second = tl.where(form == 1, out, channel)
        for corner in tl.static_range(4):
            y, x = tap // 3 + corner // 2, tap % 3 + corner % 2
            y, x = tl.where(form == 2, y // 2, y), tl.where(form == 2, x // 2, x)
            y, x = tl.where(form == 1, 3 - y, y), tl.where(form == 1, 3 - x, x)
            kernel = tl.where(form == 2, first * 4 + corner, first) * row_size + second * second_stride
            place = (y * tl.where(form == 2, 2, 4) + x) * tap_stride
            value += tl.load(grad + kernel + place, exists, other=0.0).to(tl.float32)
        value *= tl.where(form == 3, 0.25, 1.0)
    tl.store(result + index, value, exists)
    product = tl.where(exists, value * tl.load(weight + index, exists, other=0.0), 0.0)
    tl.store(partials + tl.program_id(0), tl.sum(product, 0))


@triton.jit
def _closed_form(table, count, constants, partials, eps, LAYERS: tl.constexpr, BLOCK: tl.constexpr):
    """(G - <G, W_hat> u v^T) / sigma, in place of G."""
    layer, block = _layer(table, count, LAYERS)
    result = _pointer(table, 3, count, layer, tl.float32)
    rows, columns = _number(table, 4, count, layer), _number(table, 5, count, layer)
    u = constants + tl.load(table + 8 * count + layer)
    sigma = tl.load(constants + layer)
    clamped = _at_least(sigma, eps)
    inner = _total(partials + tl.program_id(0) - block, tl.cdiv(rows * columns, BLOCK)) / clamped
    inner = tl.where(sigma < eps, 0.0, inner)  # a clamped norm is a constant
    index = block * BLOCK + tl.arange(0, BLOCK)
    exists = index < rows * columns
    outer = tl.load(u + index // columns, exists, other=0.0) * tl.load(u + rows + index % columns, exists, other=0.0)
    value = tl.load(result + index, exists, other=0.0)
    tl.store(result + index, (value - inner * outer) / clamped, exists)


def _starts(sizes: Sequence[int], block: int) -> tuple[list[int], int]:
    """The first program of every layer, and the number of programs, at `block` elements a program."""
    ends = list(itertools.accumulate(triton.cdiv(size, block) for size in sizes))
    return [0, *ends[:-1]], ends[-1]


def _pointers(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _shapes(weights: Sequence[Tensor]) -> tuple[list[int], list[int], list[int]]:
    """Rows, columns and taps."""
    for weight in weights:
        if weight.numel() >= 2**30:
            raise ValueError(f"spectral norm: a weight must have fewer than 2^30 elements for Triton, got {list(weight.shape)}")
    rows = [weight.shape[0] for weight in weights]
    columns = [weight.numel() // weight.shape[0] for weight in weights]
    return rows, columns, [weight.shape[2:].numel() for weight in weights]


def _codes(forms: Sequence[int], tensors: Sequence[Tensor]) -> list[int]:
    """Twice the form, plus one where channels are last."""
    return [2 * form + (not tensor.is_contiguous()) for form, tensor in zip(forms, tensors, strict=True)]


def _vectors(rows: Sequence[int], columns: Sequence[int]) -> list[int]:
    """Where each layer's u begins in `constants`; v follows it."""
    lengths = [r + c for r, c in zip(rows, columns, strict=True)]
    return [len(rows) + end - length for end, length in zip(itertools.accumulate(lengths), lengths, strict=True)]


def _one_dtype(tensors: Sequence[Tensor]) -> tl.dtype:
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        raise ValueError(f"normalise: all layers must have one dtype for Triton, got {', '.join(sorted(map(str, dtypes)))}")
    return _DTYPES[dtypes.pop()]


def power_iteration_(weights: list[Tensor], us: list[Tensor], vs: list[Tensor], eps: float) -> None:
    """`talkinghead_native::power_iteration_`."""
    device, count, layers = weights[0].device, len(weights), triton.next_power_of_2(len(weights))
    rows, columns, _ = _shapes(weights)
    row_starts, row_programs = _starts(rows, _ROWS)
    column_starts, column_programs = _starts(columns, _COLUMNS)
    sizes = [triton.cdiv(r, _ROWS) * c for r, c in zip(rows, columns, strict=True)]
    places = [end - size for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
    pointers = map(_pointers, (weights, us, vs))
    with torch.cuda.device_of(weights[0]):
        layout = table([row_starts, column_starts, *pointers, rows, columns, places], device)
        sums = torch.empty(sum(sizes), dtype=torch.float32, device=device)
        squares = torch.empty(column_programs, dtype=torch.float32, device=device)
        _rows[(row_programs,)](layout, count, sums, LAYERS=layers, ROWS=_ROWS, num_warps=16)
        _sums[(column_programs,)](layout, count, sums, squares, eps, LAYERS=layers, ROWS=_ROWS, COLUMNS=_COLUMNS)
        _unit[(column_programs,)](layout, count, squares, eps, LAYERS=layers, COLUMNS=_COLUMNS)


def normalise_forward(
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor],
    eps: float,
    forms: list[int],
    outputs: list[Tensor],
    constants: Tensor,
) -> None:
    """`talkinghead_native::normalise_forward`."""
    device, count, layers = weights[0].device, len(weights), triton.next_power_of_2(len(weights))
    rows, columns, taps = _shapes(weights)
    starts, programs = _starts([output.numel() for output in outputs], _BLOCK)
    pointers = map(_pointers, (weights, us, vs, outputs))
    dtype = _one_dtype(outputs)
    with torch.cuda.device_of(weights[0]):
        layout = table([starts, *pointers, rows, columns, taps, _codes(forms, outputs), _vectors(rows, columns)], device)
        partials = torch.empty(programs, dtype=torch.float32, device=device)
        _sigma[(programs,)](layout, count, constants, partials, LAYERS=layers, BLOCK=_BLOCK, num_warps=8)
        _write[(programs,)](layout, count, constants, partials, eps, DTYPE=dtype, LAYERS=layers, BLOCK=_BLOCK, num_warps=8)


def normalise_backward(
    grads: list[Tensor], weights: list[Tensor], constants: Tensor, eps: float, forms: list[int], grad_weights: list[Tensor]
) -> None:
    """`talkinghead_native::normalise_backward`."""
    device, count, layers = weights[0].device, len(weights), triton.next_power_of_2(len(weights))
    rows, columns, taps = _shapes(weights)
    starts, programs = _starts([weight.numel() for weight in weights], _BLOCK)
    pointers = map(_pointers, (grads, weights, grad_weights))
    dtype = _one_dtype(grads)
    with torch.cuda.device_of(weights[0]):
        layout = table([starts, *pointers, rows, columns, taps, _codes(forms, grads), _vectors(rows, columns)], device)
        partials = torch.empty(programs, dtype=torch.float32, device=device)
        _adjoint[(programs,)](layout, count, partials, DTYPE=dtype, LAYERS=layers, BLOCK=_BLOCK, num_warps=8)
        _closed_form[(programs,)](layout, count, constants, partials, eps, LAYERS=layers, BLOCK=_BLOCK, num_warps=8)
