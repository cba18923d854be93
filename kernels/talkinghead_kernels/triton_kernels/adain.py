"""Adaptive instance normalisation in Triton.

A program works on a tile of PLANES channels by PIXELS of one sample. A plane that fits in registers is read once and written once. A larger
one is split into chunks: one launch leaves mean and squared deviations of every chunk, the next merges them (Chan et al. 1979) and applies.
"""
# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _program(channels, chunks, PLANES: tl.constexpr):
    """Sample, chunk and first channel. Neighbouring programs take neighbouring channels: they share the cache lines of channels_last."""
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, PLANES)
    return (program // (blocks * chunks)).to(tl.int64), program // blocks % chunks, program % blocks * PLANES


@triton.jit
def _tile(sample, channel, pixel, channels, area, CHANNELS_LAST: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr):
    """Where a tile starts (64 bits), offsets inside it (32 bits), and which of them exist."""
    planes = tl.arange(0, PLANES)[:, None]
    pixels = tl.arange(0, PIXELS)[None, :]
    exists = (planes < channels - channel) & (pixels < area - pixel)
    if CHANNELS_LAST:
        return (sample * area + pixel) * channels + channel, pixels * channels + planes, exists
    return (sample * channels + channel) * area + pixel, planes * area + pixels, exists


@triton.jit
def _sum(x, residual, offsets, exists):
    """x, or x + residual rounded to x's dtype."""
    value = tl.load(x + offsets, exists, other=0.0)
    if residual is not None:
        added = tl.load(residual + offsets, exists, other=0.0)
        value = (value.to(tl.float32) + added.to(tl.float32)).to(value.dtype)
    return value


@triton.jit
def _moments(value, exists, count):
    """Mean and sum of squared deviations of each row, both corrected by what the deviations sum to, exact at a mean of 1000 spreads."""
    rough = tl.sum(value, 1, keep_dims=True) / count
    deviation = tl.where(exists, value - rough, 0.0)
    error = tl.sum(deviation, 1, keep_dims=True) / count
    squares = tl.sum(deviation * deviation, 1, keep_dims=True) - error * error * count
    return rough + error, tl.maximum(squares, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _style(values, sample, stride, channel, channels, PLANES: tl.constexpr):
    index = channel + tl.arange(0, PLANES)[:, None]
    return tl.load(values + sample * stride + index, index < channels, other=0.0).to(tl.float32)


@triton.jit
def _affine(value, mean, rstd, scale, bias, RELU: tl.constexpr):
    y = (value - mean) * (scale * rstd) + bias
    if RELU:
        y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return y


@triton.jit
def _gradient(grad_y, value, mean, rstd, scale, bias, RELU: tl.constexpr):
    """The gradient before the activation, and the normalised value."""
    if RELU:
        # the forward's own expression, so that both cut at the same values; NaN is not cut
        grad_y = tl.where(_affine(value, mean, rstd, scale, bias, False) <= 0, 0.0, grad_y)
    return grad_y, (value - mean) * rstd


@triton.jit
def _forward(
    x,
    residual,
    scale,
    bias,
    y,
    h,
    mean,
    rstd,
    channels,
    area,
    scale_stride,
    bias_stride,
    eps,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Whole planes in registers."""
    sample, _, channel = _program(channels, 1, PLANES)
    start, inside, exists = _tile(sample, channel, 0, channels, area, CHANNELS_LAST, PLANES, PIXELS)
    rows = channel + tl.arange(0, PLANES)[:, None]
    stored = _sum(x, residual, start + inside, exists)
    if residual is not None:
        tl.store(h + start + inside, stored, exists)
    value = stored.to(tl.float32)
    center, squares = _moments(value, exists, area)
    inverse = 1.0 / tl.sqrt_rn(squares / area + eps)
    factor = _style(scale, sample, scale_stride, channel, channels, PLANES)
    offset = _style(bias, sample, bias_stride, channel, channels, PLANES)
    tl.store(y + start + inside, _affine(value, center, inverse, factor, offset, RELU).to(stored.dtype), exists)
    tl.store(mean + sample * channels + rows, center, rows < channels)
    tl.store(rstd + sample * channels + rows, inverse, rows < channels)


@triton.jit
def _chunk_moments(
    x,
    residual,
    h,
    means,
    squares,
    channels,
    area,
    chunks,
    tiles,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Mean and sum of squared deviations of each chunk of `tiles` tiles, and h."""
    sample, chunk, channel = _program(channels, chunks, PLANES)
    rows = channel + tl.arange(0, PLANES)[:, None]
    total = 0.0
    center = tl.zeros([PLANES, 1], tl.float32)
    square = tl.zeros([PLANES, 1], tl.float32)
    for tile in range(tiles):
        pixel = (chunk * tiles + tile) * PIXELS
        start, inside, exists = _tile(sample, channel, pixel, channels, area, CHANNELS_LAST, PLANES, PIXELS)
        stored = _sum(x, residual, start + inside, exists)
        if residual is not None:
            tl.store(h + start + inside, stored, exists)
        count = tl.minimum(tl.maximum(area - pixel, 0), PIXELS)  # 0 past the plane's end: merges nothing
        tile_center, tile_square = _moments(stored.to(tl.float32), exists, tl.maximum(count, 1))
        delta = tile_center - center
        weight = count / (total + count)  # a chunk's first tile is never empty
        center += delta * weight
        square += tile_square + delta * (total * weight) * delta
        total += count
    where = ((sample * channels + rows) * chunks) + chunk
    tl.store(means + where, center, rows < channels)
    tl.store(squares + where, square, rows < channels)


@triton.jit
def _apply(
    h,
    means,
    squares,
    scale,
    bias,
    y,
    mean,
    rstd,
    channels,
    area,
    chunks,
    tiles,
    scale_stride,
    bias_stride,
    eps,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Merge the chunks' moments, then normalise one chunk."""
    sample, chunk, channel = _program(channels, chunks, PLANES)
    rows = channel + tl.arange(0, PLANES)[:, None]
    index = tl.arange(0, CHUNKS)[None, :]
    merged = (rows < channels) & (index < chunks)
    where = (sample * channels + rows) * chunks
    counts = tl.minimum(tl.maximum(area - index.to(tl.int64) * tiles * PIXELS, 0), tiles * PIXELS).to(tl.float32)
    centers = tl.load(means + where + index, merged, other=0.0)
    first = tl.load(means + where, rows < channels, other=0.0)
    center = first + tl.sum(counts * (centers - first), 1, keep_dims=True) / area
    deviation = centers - center
    square = tl.sum(tl.load(squares + where + index, merged, other=0.0) + counts * deviation * deviation, 1, keep_dims=True)
    inverse = 1.0 / tl.sqrt_rn(square / area + eps)
    if chunk == 0:
        tl.store(mean + sample * channels + rows, center, rows < channels)
        tl.store(rstd + sample * channels + rows, inverse, rows < channels)
    factor = _style(scale, sample, scale_stride, channel, channels, PLANES)
    offset = _style(bias, sample, bias_stride, channel, channels, PLANES)
    for tile in range(tiles):
        pixel = (chunk * tiles + tile) * PIXELS
        start, inside, exists = _tile(sample, channel, pixel, channels, area, CHANNELS_LAST, PLANES, PIXELS)
        stored = tl.load(h + start + inside, exists, other=0.0)
        value = _affine(stored.to(tl.float32), center, inverse, factor, offset, RELU)
        tl.store(y + start + inside, value.to(stored.dtype), exists)


@triton.jit
def _backward(
    grad_y,
    grad_h,
    h,
    scale,
    bias,
    mean,
    rstd,
    grad_x,
    grad_scale,
    grad_bias,
    channels,
    area,
    scale_stride,
    bias_stride,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Whole planes in registers."""
    sample, _, channel = _program(channels, 1, PLANES)
    start, inside, exists = _tile(sample, channel, 0, channels, area, CHANNELS_LAST, PLANES, PIXELS)
    rows = channel + tl.arange(0, PLANES)[:, None]
    center = _style(mean, sample, channels, channel, channels, PLANES)
    inverse = _style(rstd, sample, channels, channel, channels, PLANES)
    factor = _style(scale, sample, scale_stride, channel, channels, PLANES)
    offset = _style(bias, sample, bias_stride, channel, channels, PLANES)
    stored = tl.load(h + start + inside, exists, other=0.0)
    grad = tl.load(grad_y + start + inside, exists, other=0.0).to(tl.float32)
    grad, normal = _gradient(grad, stored.to(tl.float32), center, inverse, factor, offset, RELU)
    sum_grad = tl.sum(grad, 1, keep_dims=True)
    sum_product = tl.sum(tl.where(exists, grad * normal, 0.0), 1, keep_dims=True)
    result = inverse * factor * (grad - sum_grad / area - normal * (sum_product / area))
    if grad_h is not None:
        result += tl.load(grad_h + start + inside, exists, other=0.0).to(tl.float32)
    tl.store(grad_x + start + inside, result.to(stored.dtype), exists)
    tl.store(grad_scale + sample * channels + rows, sum_product, rows < channels)
    tl.store(grad_bias + sample * channels + rows, sum_grad, rows < channels)


@triton.jit
def _chunk_sums(
    grad_y,
    h,
    scale,
    bias,
    mean,
    rstd,
    grads,
    products,
    channels,
    area,
    chunks,
    tiles,
    scale_stride,
    bias_stride,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Sums of the gradient and of its product with the normalised values, over each chunk."""
    sample, chunk, channel = _program(channels, chunks, PLANES)
    rows = channel + tl.arange(0, PLANES)[:, None]
    center = _style(mean, sample, channels, channel, channels, PLANES)
    inverse = _style(rstd, sample, channels, channel, channels, PLANES)
    factor = _style(scale, sample, scale_stride, channel, channels, PLANES)
    offset = _style(bias, sample, bias_stride, channel, channels, PLANES)
    sum_grad = tl.zeros([PLANES, PIXELS], tl.float32)
    sum_product = tl.zeros([PLANES, PIXELS], tl.float32)
    for tile in range(tiles):
        pixel = (chunk * tiles + tile) * PIXELS
        start, inside, exists = _tile(sample, channel, pixel, channels, area, CHANNELS_LAST, PLANES, PIXELS)
        value = tl.load(h + start + inside, exists, other=0.0).to(tl.float32)
        grad = tl.load(grad_y + start + inside, exists, other=0.0).to(tl.float32)
        grad, normal = _gradient(grad, value, center, inverse, factor, offset, RELU)
        sum_grad += grad
        sum_product += tl.where(exists, grad * normal, 0.0)
    where = ((sample * channels + rows) * chunks) + chunk
    tl.store(grads + where, tl.sum(sum_grad, 1, keep_dims=True), rows < channels)
    tl.store(products + where, tl.sum(sum_product, 1, keep_dims=True), rows < channels)


@triton.jit
def _apply_backward(
    grad_y,
    grad_h,
    h,
    scale,
    bias,
    mean,
    rstd,
    grads,
    products,
    grad_x,
    grad_scale,
    grad_bias,
    channels,
    area,
    chunks,
    tiles,
    scale_stride,
    bias_stride,
    RELU: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Merge the chunks' sums, then the gradient of one chunk."""
    sample, chunk, channel = _program(channels, chunks, PLANES)
    rows = channel + tl.arange(0, PLANES)[:, None]
    index = tl.arange(0, CHUNKS)[None, :]
    merged = (rows < channels) & (index < chunks)
    where = (sample * channels + rows) * chunks + index
    sum_grad = tl.sum(tl.load(grads + where, merged, other=0.0), 1, keep_dims=True)
    sum_product = tl.sum(tl.load(products + where, merged, other=0.0), 1, keep_dims=True)
    if chunk == 0:
        tl.store(grad_scale + sample * channels + rows, sum_product, rows < channels)
        tl.store(grad_bias + sample * channels + rows, sum_grad, rows < channels)
    center = _style(mean, sample, channels, channel, channels, PLANES)
    inverse = _style(rstd, sample, channels, channel, channels, PLANES)
    factor = _style(scale, sample, scale_stride, channel, channels, PLANES)
    offset = _style(bias, sample, bias_stride, channel, channels, PLANES)
    for tile in range(tiles):
        pixel = (chunk * tiles + tile) * PIXELS
        start, inside, exists = _tile(sample, channel, pixel, channels, area, CHANNELS_LAST, PLANES, PIXELS)
        stored = tl.load(h + start + inside, exists, other=0.0)
        grad = tl.load(grad_y + start + inside, exists, other=0.0).to(tl.float32)
        grad, normal = _gradient(grad, stored.to(tl.float32), center, inverse, factor, offset, RELU)
        result = inverse * factor * (grad - sum_grad / area - normal * (sum_product / area))
        if grad_h is not None:
            result += tl.load(grad_h + start + inside, exists, other=0.0).to(tl.float32)
        tl.store(grad_x + start + inside, result.to(stored.dtype), exists)


class Tiling(NamedTuple):
    """How planes are shared out: tiles of `planes` x `pixels`, `tiles` of them a chunk, `chunks` a plane (0: the plane is one tile)."""

    channels_last: bool
    planes: int
    pixels: int
    chunks: int
    tiles: int
    warps: int

    def programs(self, x: Tensor) -> int:
        return x.shape[0] * triton.cdiv(x.shape[1], self.planes) * max(1, self.chunks)


def tiling(x: Tensor, registers: int) -> Tiling:
    """The tiling of x, by its size alone.

    Args:
        x: [B, C, H, W], NCHW-contiguous or channels_last.
        registers: elements of x that a program may hold at once.
    """
    batch, channels, height, width = x.shape
    area = height * width
    channels_last = not x.is_contiguous()
    # 32 bytes of neighbouring channels are the least that memory moves; a small plane shares its program with others, for 1024 elements
    planes = 32 // x.element_size() if channels_last else 1
    pixels = triton.next_power_of_2(area)
    whole = min(max(planes, 1024 // pixels), triton.next_power_of_2(channels))
    # fewer than 64 programs of this size leave half of a large GPU idle: then split, though the plane is read twice
    idle = whole * pixels > 4096 and batch * triton.cdiv(channels, whole) < 64
    if whole * pixels <= registers and not idle:
        return Tiling(channels_last, whole, pixels, 0, 1, _warps(whole * pixels))
    planes = min(planes, triton.next_power_of_2(channels))
    pixels = 4096 // planes
    count = triton.cdiv(area, pixels)
    # about 1024 programs, eight for each multiprocessor of a large GPU; at most 64 chunks, which every program merges
    chunks = min(count, 64, max(1, 1024 // (batch * triton.cdiv(channels, planes))))
    tiles = triton.cdiv(count, chunks)
    return Tiling(channels_last, planes, pixels, triton.cdiv(count, tiles), tiles, _warps(4096))


def _warps(elements: int) -> int:
    """16 elements a thread, 32 in the largest tiles: enough loads in flight, and no spilling."""
    return min(max(elements // 512, 1), 16)


def adain_forward(
    x: Tensor,
    residual: Tensor | None,
    scale: Tensor,
    bias: Tensor,
    eps: float,
    relu: bool,
    y: Tensor,
    h: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
) -> None:
    """`talkinghead_native::adain_forward`."""
    channels, area = x.shape[1], x.shape[2] * x.shape[3]
    how = tiling(y, 16384)
    tile = {"CHANNELS_LAST": how.channels_last, "PLANES": how.planes, "PIXELS": how.pixels, "num_warps": how.warps}
    grid = (how.programs(x),)
    strides = scale.stride(0), bias.stride(0)
    with torch.cuda.device_of(x):
        if not how.chunks:
            _forward[grid](x, residual, scale, bias, y, h, mean, rstd, channels, area, *strides, eps, RELU=relu, **tile)
            return
        means, squares = torch.empty((2, x.shape[0], channels, how.chunks), dtype=torch.float32, device=x.device)
        _chunk_moments[grid](x, residual, h, means, squares, channels, area, how.chunks, how.tiles, **tile)
        _apply[grid](
            x if h is None else h,
            means,
            squares,
            scale,
            bias,
            y,
            mean,
            rstd,
            channels,
            area,
            how.chunks,
            how.tiles,
            *strides,
            eps,
            RELU=relu,
            CHUNKS=triton.next_power_of_2(how.chunks),
            **tile,
        )


def adain_backward(
    grad_y: Tensor,
    grad_h: Tensor | None,
    h: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    relu: bool,
    grad_x: Tensor,
    grad_scale: Tensor,
    grad_bias: Tensor,
) -> None:
    """`talkinghead_native::adain_backward`."""
    channels, area = h.shape[1], h.shape[2] * h.shape[3]
    how = tiling(grad_x, 8192)  # two values of each pixel are held
    tile = {"RELU": relu, "CHANNELS_LAST": how.channels_last, "PLANES": how.planes, "PIXELS": how.pixels, "num_warps": how.warps}
    grid = (how.programs(h),)
    strides = scale.stride(0), bias.stride(0)
    given = scale, bias, mean, rstd
    results = grad_x, grad_scale, grad_bias
    with torch.cuda.device_of(h):
        if not how.chunks:
            _backward[grid](grad_y, grad_h, h, *given, *results, channels, area, *strides, **tile)
            return
        grads, products = torch.empty((2, h.shape[0], channels, how.chunks), dtype=torch.float32, device=h.device)
        split = channels, area, how.chunks, how.tiles, *strides
        _chunk_sums[grid](grad_y, h, *given, grads, products, *split, **tile)
        chunks = triton.next_power_of_2(how.chunks)
        _apply_backward[grid](grad_y, grad_h, h, *given, grads, products, *results, *split, CHUNKS=chunks, **tile)
