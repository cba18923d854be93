"""Adaptive instance normalisation in Triton.

A program processes a tile of PLANES channels by PIXELS of one sample. A plane that fits in registers is read
once and written once. A larger one is split into chunks: one launch stores mean and squared deviations of
every chunk, the next merges them (Chan et al. 1979) and normalises.
"""
# mypy: allow-untyped-defs, no-check-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from .adain_tiles import (
    affine,
    choose_tiling,
    gradient_before_activation,
    load_rows,
    load_sum,
    locate_program,
    locate_tile,
    moments,
)


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
    """Compute planes that fit in registers."""
    sample, _, channel = locate_program(channels, 1, PLANES)
    start, offsets, exists = locate_tile(sample, channel, 0, channels, area, CHANNELS_LAST, PLANES, PIXELS)
    rows = channel + tl.arange(0, PLANES)[:, None]
    stored = load_sum(x, residual, start + offsets, exists)
    if residual is not None:
        tl.store(h + start + offsets, stored, exists)
    value = stored.to(tl.float32)
    center, squares = moments(value, exists, area)
    inverse = 1.0 / tl.sqrt_rn(squares / area + eps)
    factor = load_rows(scale, sample, scale_stride, channel, channels, PLANES)
    offset = load_rows(bias, sample, bias_stride, channel, channels, PLANES)
    tl.store(
        y + start + offsets, affine(value, center, inverse, factor, offset, RELU).to(stored.dtype), exists
    )
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
    """Store mean and sum of squared deviations of each chunk of `tiles` tiles, and h."""
    sample, chunk, channel = locate_program(channels, chunks, PLANES)
    rows = channel + tl.arange(0, PLANES)[:, None]
    total = 0.0
    center = tl.zeros([PLANES, 1], tl.float32)
    square = tl.zeros([PLANES, 1], tl.float32)
    for tile in range(tiles):
        pixel = (chunk * tiles + tile) * PIXELS
        start, offsets, exists = locate_tile(
            sample, channel, pixel, channels, area, CHANNELS_LAST, PLANES, PIXELS
        )
        stored = load_sum(x, residual, start + offsets, exists)
        if residual is not None:
            tl.store(h + start + offsets, stored, exists)
        count = tl.minimum(tl.maximum(area - pixel, 0), PIXELS)  # 0 after the plane's end
        tile_center, tile_square = moments(stored.to(tl.float32), exists, tl.maximum(count, 1))
        delta = tile_center - center
        weight = count / (total + count)  # a chunk's first tile is never empty
        center += delta * weight
        square += tile_square + delta * (total * weight) * delta
        total += count
    chunk_offsets = ((sample * channels + rows) * chunks) + chunk
    tl.store(means + chunk_offsets, center, rows < channels)
    tl.store(squares + chunk_offsets, square, rows < channels)


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
    sample, chunk, channel = locate_program(channels, chunks, PLANES)
    rows = channel + tl.arange(0, PLANES)[:, None]
    index = tl.arange(0, CHUNKS)[None, :]
    merged = (rows < channels) & (index < chunks)
    chunk_offsets = (sample * channels + rows) * chunks
    counts = tl.minimum(tl.maximum(area - index.to(tl.int64) * tiles * PIXELS, 0), tiles * PIXELS).to(
        tl.float32
    )
    centers = tl.load(means + chunk_offsets + index, merged, other=0.0)
    first = tl.load(means + chunk_offsets, rows < channels, other=0.0)
    center = first + tl.sum(counts * (centers - first), 1, keep_dims=True) / area
    deviation = centers - center
    square = tl.sum(
        tl.load(squares + chunk_offsets + index, merged, other=0.0) + counts * deviation * deviation,
        1,
        keep_dims=True,
    )
    inverse = 1.0 / tl.sqrt_rn(square / area + eps)
    if chunk == 0:
        tl.store(mean + sample * channels + rows, center, rows < channels)
        tl.store(rstd + sample * channels + rows, inverse, rows < channels)
    factor = load_rows(scale, sample, scale_stride, channel, channels, PLANES)
    offset = load_rows(bias, sample, bias_stride, channel, channels, PLANES)
    for tile in range(tiles):
        pixel = (chunk * tiles + tile) * PIXELS
        start, offsets, exists = locate_tile(
            sample, channel, pixel, channels, area, CHANNELS_LAST, PLANES, PIXELS
        )
        stored = tl.load(h + start + offsets, exists, other=0.0)
        value = affine(stored.to(tl.float32), center, inverse, factor, offset, RELU)
        tl.store(y + start + offsets, value.to(stored.dtype), exists)


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
    """Compute the gradients of planes that fit in registers."""
    sample, _, channel = locate_program(channels, 1, PLANES)
    start, offsets, exists = locate_tile(sample, channel, 0, channels, area, CHANNELS_LAST, PLANES, PIXELS)
    rows = channel + tl.arange(0, PLANES)[:, None]
    center = load_rows(mean, sample, channels, channel, channels, PLANES)
    inverse = load_rows(rstd, sample, channels, channel, channels, PLANES)
    factor = load_rows(scale, sample, scale_stride, channel, channels, PLANES)
    offset = load_rows(bias, sample, bias_stride, channel, channels, PLANES)
    stored = tl.load(h + start + offsets, exists, other=0.0)
    grad = tl.load(grad_y + start + offsets, exists, other=0.0).to(tl.float32)
    grad, normal = gradient_before_activation(
        grad, stored.to(tl.float32), center, inverse, factor, offset, RELU
    )
    sum_grad = tl.sum(grad, 1, keep_dims=True)
    sum_product = tl.sum(tl.where(exists, grad * normal, 0.0), 1, keep_dims=True)
    result = inverse * factor * (grad - sum_grad / area - normal * (sum_product / area))
    if grad_h is not None:
        result += tl.load(grad_h + start + offsets, exists, other=0.0).to(tl.float32)
    tl.store(grad_x + start + offsets, result.to(stored.dtype), exists)
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
    """Store the sums of the gradient, and of its product with the normalised values, of each chunk."""
    sample, chunk, channel = locate_program(channels, chunks, PLANES)
    rows = channel + tl.arange(0, PLANES)[:, None]
    center = load_rows(mean, sample, channels, channel, channels, PLANES)
    inverse = load_rows(rstd, sample, channels, channel, channels, PLANES)
    factor = load_rows(scale, sample, scale_stride, channel, channels, PLANES)
    offset = load_rows(bias, sample, bias_stride, channel, channels, PLANES)
    sum_grad = tl.zeros([PLANES, PIXELS], tl.float32)
    sum_product = tl.zeros([PLANES, PIXELS], tl.float32)
    for tile in range(tiles):
        pixel = (chunk * tiles + tile) * PIXELS
        start, offsets, exists = locate_tile(
            sample, channel, pixel, channels, area, CHANNELS_LAST, PLANES, PIXELS
        )
        value = tl.load(h + start + offsets, exists, other=0.0).to(tl.float32)
        grad = tl.load(grad_y + start + offsets, exists, other=0.0).to(tl.float32)
        grad, normal = gradient_before_activation(grad, value, center, inverse, factor, offset, RELU)
        sum_grad += grad
        sum_product += tl.where(exists, grad * normal, 0.0)
    chunk_offsets = ((sample * channels + rows) * chunks) + chunk
    tl.store(grads + chunk_offsets, tl.sum(sum_grad, 1, keep_dims=True), rows < channels)
    tl.store(products + chunk_offsets, tl.sum(sum_product, 1, keep_dims=True), rows < channels)


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
    """Merge the chunks' sums, then compute the gradient of one chunk."""
    sample, chunk, channel = locate_program(channels, chunks, PLANES)
    rows = channel + tl.arange(0, PLANES)[:, None]
    index = tl.arange(0, CHUNKS)[None, :]
    merged = (rows < channels) & (index < chunks)
    chunk_offsets = (sample * channels + rows) * chunks + index
    sum_grad = tl.sum(tl.load(grads + chunk_offsets, merged, other=0.0), 1, keep_dims=True)
    sum_product = tl.sum(tl.load(products + chunk_offsets, merged, other=0.0), 1, keep_dims=True)
    if chunk == 0:
        tl.store(grad_scale + sample * channels + rows, sum_product, rows < channels)
        tl.store(grad_bias + sample * channels + rows, sum_grad, rows < channels)
    center = load_rows(mean, sample, channels, channel, channels, PLANES)
    inverse = load_rows(rstd, sample, channels, channel, channels, PLANES)
    factor = load_rows(scale, sample, scale_stride, channel, channels, PLANES)
    offset = load_rows(bias, sample, bias_stride, channel, channels, PLANES)
    for tile in range(tiles):
        pixel = (chunk * tiles + tile) * PIXELS
        start, offsets, exists = locate_tile(
            sample, channel, pixel, channels, area, CHANNELS_LAST, PLANES, PIXELS
        )
        stored = tl.load(h + start + offsets, exists, other=0.0)
        grad = tl.load(grad_y + start + offsets, exists, other=0.0).to(tl.float32)
        grad, normal = gradient_before_activation(
            grad, stored.to(tl.float32), center, inverse, factor, offset, RELU
        )
        result = inverse * factor * (grad - sum_grad / area - normal * (sum_product / area))
        if grad_h is not None:
            result += tl.load(grad_h + start + offsets, exists, other=0.0).to(tl.float32)
        tl.store(grad_x + start + offsets, result.to(stored.dtype), exists)


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
    """Run `talkinghead_native::adain_forward`."""
    channels, area = x.shape[1], x.shape[2] * x.shape[3]
    tiling = choose_tiling(y, 16384)
    tile = tiling.options()
    grid = (tiling.programs(x),)
    strides = scale.stride(0), bias.stride(0)
    with torch.cuda.device_of(x):
        if not tiling.chunks:
            _forward[grid](
                x, residual, scale, bias, y, h, mean, rstd, channels, area, *strides, eps, RELU=relu, **tile
            )
            return
        means, squares = torch.empty(
            (2, x.shape[0], channels, tiling.chunks), dtype=torch.float32, device=x.device
        )
        _chunk_moments[grid](
            x, residual, h, means, squares, channels, area, tiling.chunks, tiling.tiles, **tile
        )
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
            tiling.chunks,
            tiling.tiles,
            *strides,
            eps,
            RELU=relu,
            CHUNKS=triton.next_power_of_2(tiling.chunks),
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
    """Run `talkinghead_native::adain_backward`."""
    channels, area = h.shape[1], h.shape[2] * h.shape[3]
    tiling = choose_tiling(grad_x, 8192)  # a program holds two values of each pixel
    tile = {"RELU": relu, **tiling.options()}
    grid = (tiling.programs(h),)
    strides = scale.stride(0), bias.stride(0)
    inputs = scale, bias, mean, rstd
    results = grad_x, grad_scale, grad_bias
    with torch.cuda.device_of(h):
        if not tiling.chunks:
            _backward[grid](grad_y, grad_h, h, *inputs, *results, channels, area, *strides, **tile)
            return
        grads, products = torch.empty(
            (2, h.shape[0], channels, tiling.chunks), dtype=torch.float32, device=h.device
        )
        split = channels, area, tiling.chunks, tiling.tiles, *strides
        _chunk_sums[grid](grad_y, h, *inputs, grads, products, *split, **tile)
        chunks = triton.next_power_of_2(tiling.chunks)
        _apply_backward[grid](
            grad_y, grad_h, h, *inputs, grads, products, *results, *split, CHUNKS=chunks, **tile
        )
