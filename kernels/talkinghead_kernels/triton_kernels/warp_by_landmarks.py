"""The motion field and the forward warp in Triton; the reference computes the gradient of the warp.

A program computes a block of positions of the field, or of pixels of an image. Each pixel interpolates the
field itself, so no field of the image's size is ever in memory.
"""
# mypy: allow-untyped-defs, no-check-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

_POSITIONS = 64  # positions of the field per program
_PIXELS = 256  # pixels per program
_MAX_SIDE = 2**15  # offsets in a plane, and twice a position, are then 32 bits wide


@triton.jit
def _point(source, target, index, count, x, y, SOFTENING: tl.constexpr, STRENGTH: tl.constexpr):
    """Return target and source of a point, minus the positions, and its weight at each position."""
    if index < count:
        dx, dy = tl.load(target + 2 * index), tl.load(target + 2 * index + 1)
        sx, sy = tl.load(source + 2 * index), tl.load(source + 2 * index + 1)
        strength = 1.0
    else:
        edge = index - count  # five at the top, five at the bottom, three on each side
        along = tl.where(edge < 10, edge % 5, (edge - 10) % 3 + 1) * 0.25
        across = tl.where(edge < 10, edge // 5, (edge - 10) // 3) * 1.0
        dx, dy = tl.where(edge < 10, along, across), tl.where(edge < 10, across, along)
        sx, sy = dx, dy
        strength = STRENGTH
    dx, dy = dx - x, dy - y
    squared = dx * dx + dy * dy + SOFTENING
    return dx, dy, sx - x, sy - y, strength / (squared * tl.sqrt_rn(squared))


@triton.jit
def _motion(
    source,
    target,
    motion,
    count,
    grid,
    SOFTENING: tl.constexpr,
    RIDGE: tl.constexpr,
    STRENGTH: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    blocks = tl.cdiv(grid * grid, POSITIONS)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    position = tl.program_id(0) % blocks * POSITIONS + tl.arange(0, POSITIONS)
    x, y = (position % grid + 0.5) / grid, (position // grid + 0.5) / grid
    source += sample * count * 2
    target += sample * count * 2
    total = tl.zeros([POSITIONS], tl.float32)
    mean_dx, mean_dy, mean_sx, mean_sy = total, total, total, total
    for index in range(count + 16):
        dx, dy, sx, sy, weight = _point(source, target, index, count, x, y, SOFTENING, STRENGTH)
        total += weight
        mean_dx += weight * dx
        mean_dy += weight * dy
        mean_sx += weight * sx
        mean_sy += weight * sy
    share = 1.0 / total
    mean_dx, mean_dy, mean_sx, mean_sy = mean_dx * share, mean_dy * share, mean_sx * share, mean_sy * share
    a12, b12, b21 = total * 0.0, total * 0.0, total * 0.0
    a11, a22, b11, b22 = a12 + RIDGE, a12 + RIDGE, a12 + RIDGE, a12 + RIDGE
    for index in range(count + 16):
        dx, dy, sx, sy, weight = _point(source, target, index, count, x, y, SOFTENING, STRENGTH)
        dx, dy, sx, sy = dx - mean_dx, dy - mean_dy, sx - mean_sx, sy - mean_sy
        weight_x, weight_y = weight * share * dx, weight * share * dy
        a11 += weight_x * dx
        a12 += weight_x * dy
        a22 += weight_y * dy
        b11 += weight_x * sx
        b12 += weight_x * sy
        b21 += weight_y * sx
        b22 += weight_y * sy
    scale = 1.0 / (a11 * a22 - a12 * a12)
    u, v = scale * (a12 * mean_dy - a22 * mean_dx), scale * (a12 * mean_dx - a11 * mean_dy)
    result = motion + sample * 2 * grid * grid + position
    exists = position < grid * grid
    tl.store(result, u * b11 + v * b21 + mean_sx, exists)
    tl.store(result + grid * grid, u * b12 + v * b22 + mean_sy, exists)


@triton.jit
def _interpolation_indices(index, size, field):
    """Return the two indices of the field that pixels lie between, and the fraction from the first."""
    # (index + 1/2) * field / size - 1/2 in exact integers
    twice = tl.maximum((2 * index + 1) * field - size, 0)
    first = tl.minimum(twice // (2 * size), field - 1)
    fraction = (twice - first * 2 * size).to(tl.float32) / (2 * size)
    fraction = tl.where(first < field - 1, fraction, 0.0)
    # Where the fraction is 0, the other value must not contribute, even if it is not finite.
    return first, tl.where(fraction > 0, first + 1, first), fraction


@triton.jit
def _displace(offset, pixels, size):
    """Return the pixel before the position at `offset`, and the fraction, NaN if that is not finite."""
    limit = size + 4.0
    near = tl.where(offset > -limit, offset, -limit)
    near = tl.where(near < limit, near, limit)
    below = tl.floor(near)
    # Not offset - offset: fused with the multiplication that computed `offset`, that is its rounding error,
    # which is larger than the image for positions far away.
    return pixels + below.to(tl.int32), near - below + offset * 0.0


@triton.jit
def _cubic(t, TAP: tl.constexpr):
    """Return the weight of a tap, 0 to 3, of the bicubic convolution."""
    if TAP == 0:
        return ((-0.75 * t + 1.5) * t - 0.75) * t
    if TAP == 1:
        return (1.25 * t - 2.25) * t * t + 1.0
    if TAP == 2:
        return ((-1.25 * t + 1.5) * t + 0.75) * t
    return (0.75 * t - 0.75) * t * t


@triton.jit
def _enlarge(field, columns, y0, y1, down, x0, x1, across, exists):
    a = tl.load(field + y0 * columns + x0, exists, other=0.0)
    b = tl.load(field + y0 * columns + x1, exists, other=0.0)
    c = tl.load(field + y1 * columns + x0, exists, other=0.0)
    d = tl.load(field + y1 * columns + x1, exists, other=0.0)
    left, right = a + down * (c - a), b + down * (d - b)
    return left + across * (right - left)


@triton.jit
def _warp(
    image,
    motion,
    result,
    channels,
    height,
    width,
    rows,
    columns,
    CHANNELS_LAST: tl.constexpr,
    PIXELS: tl.constexpr,
):
    area = height * width
    blocks = tl.cdiv(area, PIXELS)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    pixel = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)
    exists = pixel < area
    row, column = pixel // width, pixel % width
    y0, y1, down = _interpolation_indices(row, height, rows)
    x0, x1, across = _interpolation_indices(column, width, columns)
    field = motion + sample * 2 * rows * columns
    offset_x = _enlarge(field, columns, y0, y1, down, x0, x1, across, exists) * width
    offset_y = _enlarge(field + rows * columns, columns, y0, y1, down, x0, x1, across, exists) * height
    left, right = _displace(offset_x, column, width)
    top, below = _displace(offset_y, row, height)
    step = channels if CHANNELS_LAST else 1
    plane = 1 if CHANNELS_LAST else area
    image += sample * channels * area
    result += sample * channels * area
    for _ in range(channels):
        total = tl.zeros([PIXELS], tl.float32)
        for i in tl.static_range(4):
            line = tl.zeros([PIXELS], tl.float32)
            row_start = tl.minimum(tl.maximum(top - 1 + i, 0), height - 1) * width
            for k in tl.static_range(4):
                tap = (row_start + tl.minimum(tl.maximum(left - 1 + k, 0), width - 1)).to(tl.int64) * step
                line += _cubic(right, k) * tl.load(image + tap, exists, other=0.0).to(tl.float32)
            total += _cubic(below, i) * line
        tl.store(result + pixel.to(tl.int64) * step, total.to(result.dtype.element_ty), exists)
        image += plane
        result += plane


def landmark_motion(source: Tensor, target: Tensor, motion: Tensor) -> None:
    """Run `talkinghead_native::landmark_motion`."""
    side = motion.shape[-1]
    if side > _MAX_SIDE:
        raise ValueError(f"landmark_motion: grid must be at most {_MAX_SIDE} for Triton, got {side}")
    with torch.cuda.device_of(motion):
        programs = (motion.shape[0] * triton.cdiv(side * side, _POSITIONS),)
        constants = {"SOFTENING": 1e-4, "RIDGE": 1e-4, "STRENGTH": 16.0, "POSITIONS": _POSITIONS}
        _motion[programs](source, target, motion, source.shape[1], side, **constants, num_warps=2)


def warp_forward(image: Tensor, motion: Tensor, result: Tensor) -> None:
    """Run `talkinghead_native::warp_forward`."""
    channels, height, width = image.shape[1:]
    rows, columns = motion.shape[2:]
    if max(height, width, rows, columns) > _MAX_SIDE:
        shapes = f"{list(image.shape)} and {list(motion.shape)}"
        raise ValueError(f"warp: sides must be at most {_MAX_SIDE} for Triton, got {shapes}")
    channels_last = not image.is_contiguous()
    sizes = channels, height, width, rows, columns
    with torch.cuda.device_of(image):
        programs = (image.shape[0] * triton.cdiv(height * width, _PIXELS),)
        _warp[programs](
            image, motion, result, *sizes, CHANNELS_LAST=channels_last, PIXELS=_PIXELS, num_warps=4
        )
