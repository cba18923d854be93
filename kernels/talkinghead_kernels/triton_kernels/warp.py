"""The motion field and the warp in Triton, forward; the gradient of the warp is the reference's.

A program takes a block of places of the field, or of pixels of a picture, which enlarge the field where they
stand: no field of the picture's size is ever in memory.
"""
# mypy: allow-untyped-defs, no-check-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

_PLACES = 64
_PIXELS = 256
_SIDE = 2**15  # the longest side: offsets in a plane, and twice a place, are then 32 bits wide


@triton.jit
def _point(source, target, index, count, x, y, SOFTENING: tl.constexpr, STRENGTH: tl.constexpr):
    """A point minus the places, where it is to be and where it is, and its weight at each of them."""
    if index < count:
        dx, dy = tl.load(target + 2 * index), tl.load(target + 2 * index + 1)
        sx, sy = tl.load(source + 2 * index), tl.load(source + 2 * index + 1)
        strength = 1.0
    else:
        edge = index - count  # five above, five below, three on each side
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
    PLACES: tl.constexpr,
):
    blocks = tl.cdiv(grid * grid, PLACES)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * PLACES + tl.arange(0, PLACES)
    x, y = (place % grid + 0.5) / grid, (place // grid + 0.5) / grid
    source += sample * count * 2
    target += sample * count * 2
    total = tl.zeros([PLACES], tl.float32)
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
    result = motion + sample * 2 * grid * grid + place
    exists = place < grid * grid
    tl.store(result, u * b11 + v * b21 + mean_sx, exists)
    tl.store(result + grid * grid, u * b12 + v * b22 + mean_sy, exists)


@triton.jit
def _between(index, picture, field):
    """Which two values of the field pixels lie between, and how far from the first."""
    # half a pixel in exact integers: (index + 1/2) * field / picture - 1/2
    twice = tl.maximum((2 * index + 1) * field - picture, 0)
    first = tl.minimum(twice // (2 * picture), field - 1)
    fraction = (twice - first * 2 * picture).to(tl.float32) / (2 * picture)
    fraction = tl.where(first < field - 1, fraction, 0.0)
    # where the fraction is 0, the other value has no part in it, even if it is not finite
    return first, tl.where(fraction > 0, first + 1, first), fraction


@triton.jit
def _displace(by, pixels, size):
    """The pixel before the place that is `by` pixels away, and a fraction, NaN where that is not finite."""
    most = size + 4.0
    near = tl.where(by > -most, by, -most)
    near = tl.where(near < most, near, most)
    below = tl.floor(near)
    # not by - by: fused with the multiplication that gave `by`, that is its rounding, far off more than the picture
    return pixels + below.to(tl.int32), near - below + by * 0.0


@triton.jit
def _cubic(t, TAP: tl.constexpr):
    """The weight of a tap, 0 to 3, of the bicubic convolution."""
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
    y0, y1, down = _between(row, height, rows)
    x0, x1, across = _between(column, width, columns)
    field = motion + sample * 2 * rows * columns
    by_x = _enlarge(field, columns, y0, y1, down, x0, x1, across, exists) * width
    by_y = _enlarge(field + rows * columns, columns, y0, y1, down, x0, x1, across, exists) * height
    left, right = _displace(by_x, column, width)
    top, below = _displace(by_y, row, height)
    step = channels if CHANNELS_LAST else 1
    plane = 1 if CHANNELS_LAST else area
    image += sample * channels * area
    result += sample * channels * area
    for _ in range(channels):
        total = tl.zeros([PIXELS], tl.float32)
        for i in tl.static_range(4):
            line = tl.zeros([PIXELS], tl.float32)
            at_y = tl.minimum(tl.maximum(top - 1 + i, 0), height - 1) * width
            for k in tl.static_range(4):
                at = (at_y + tl.minimum(tl.maximum(left - 1 + k, 0), width - 1)).to(tl.int64) * step
                line += _cubic(right, k) * tl.load(image + at, exists, other=0.0).to(tl.float32)
            total += _cubic(below, i) * line
        tl.store(result + pixel.to(tl.int64) * step, total.to(result.dtype.element_ty), exists)
        image += plane
        result += plane


def landmark_motion(source: Tensor, target: Tensor, motion: Tensor) -> None:
    """`talkinghead_native::landmark_motion`."""
    side = motion.shape[-1]
    if side > _SIDE:
        raise ValueError(f"landmark_motion: grid must be at most {_SIDE} for Triton, got {side}")
    with torch.cuda.device_of(motion):
        programs = (motion.shape[0] * triton.cdiv(side * side, _PLACES),)
        constants = {"SOFTENING": 1e-4, "RIDGE": 1e-4, "STRENGTH": 16.0, "PLACES": _PLACES}
        _motion[programs](source, target, motion, source.shape[1], side, **constants, num_warps=2)


def warp_forward(image: Tensor, motion: Tensor, result: Tensor) -> None:
    """`talkinghead_native::warp_forward`."""
    channels, height, width = image.shape[1:]
    rows, columns = motion.shape[2:]
    if max(height, width, rows, columns) > _SIDE:
        shapes = f"{list(image.shape)} and {list(motion.shape)}"
        raise ValueError(f"warp: sides must be at most {_SIDE} for Triton, got {shapes}")
    last = not image.is_contiguous()
    sizes = channels, height, width, rows, columns
    with torch.cuda.device_of(image):
        programs = (image.shape[0] * triton.cdiv(height * width, _PIXELS),)
        _warp[programs](image, motion, result, *sizes, CHANNELS_LAST=last, PIXELS=_PIXELS, num_warps=4)
