"""Tiles of `adain` in Triton: the device functions of its kernels, and the choice of the tiling."""
# mypy: allow-untyped-defs, no-check-untyped-defs

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Tiling(NamedTuple):
    """The division of planes into tiles of `planes` x `pixels`, with `tiles` per chunk.

    There are `chunks` per plane; 0 means that the plane is one tile.
    """

    channels_last: bool
    planes: int
    pixels: int
    chunks: int
    tiles: int
    warps: int

    def programs(self, x: Tensor) -> int:
        """Return the number of programs for x."""
        return x.shape[0] * triton.cdiv(x.shape[1], self.planes) * max(1, self.chunks)

    def options(self) -> dict[str, int]:
        """Return the constants of a launch."""
        return {
            "CHANNELS_LAST": self.channels_last,
            "PLANES": self.planes,
            "PIXELS": self.pixels,
            "num_warps": self.warps,
        }


def choose_tiling(x: Tensor, registers: int) -> Tiling:
    """Return the tiling of x, which depends on its size and memory format only.

    Args:
        x: [B, C, H, W], NCHW-contiguous or channels_last.
        registers: the number of elements of x that a program may hold at once.
    """
    batch, channels, height, width = x.shape
    area = height * width
    channels_last = not x.is_contiguous()
    # Memory transfers at least 32 bytes of neighbouring channels; small planes share a program of 1024
    # elements.
    planes = 32 // x.element_size() if channels_last else 1
    pixels = triton.next_power_of_2(area)
    planes_per_program = min(max(planes, 1024 // pixels), triton.next_power_of_2(channels))
    # Fewer than 64 programs of this size leave half of a large GPU idle: then split the plane, although it is
    # read twice.
    is_idle = planes_per_program * pixels > 4096 and batch * triton.cdiv(channels, planes_per_program) < 64
    if planes_per_program * pixels <= registers and not is_idle:
        return Tiling(channels_last, planes_per_program, pixels, 0, 1, _warps(planes_per_program * pixels))
    planes = min(planes, triton.next_power_of_2(channels))
    pixels = 4096 // planes
    count = triton.cdiv(area, pixels)
    # About 1024 programs, eight per multiprocessor of a large GPU; at most 64 chunks, because every program
    # merges them all.
    chunks = min(count, 64, max(1, 1024 // (batch * triton.cdiv(channels, planes))))
    tiles = triton.cdiv(count, chunks)
    return Tiling(channels_last, planes, pixels, triton.cdiv(count, tiles), tiles, _warps(4096))


def _warps(elements: int) -> int:
    """Return the number of warps for 16 elements per thread, 32 in the largest tiles.

    This keeps enough loads in flight without register spilling.
    """
    return min(max(elements // 512, 1), 16)


@triton.jit
def locate_program(channels, chunks, PLANES: tl.constexpr):
    """Return sample, chunk and first channel of this program.

    Neighbouring programs process neighbouring channels: they share the cache lines of channels_last.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, PLANES)
    return (program // (blocks * chunks)).to(tl.int64), program // blocks % chunks, program % blocks * PLANES


@triton.jit
def locate_tile(
    sample,
    channel,
    pixel,
    channels,
    area,
    CHANNELS_LAST: tl.constexpr,
    PLANES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Return the start of a tile (64 bits), offsets inside it (32 bits), and the mask of those that exist."""
    planes = tl.arange(0, PLANES)[:, None]
    pixels = tl.arange(0, PIXELS)[None, :]
    exists = (planes < channels - channel) & (pixels < area - pixel)
    if CHANNELS_LAST:
        return (sample * area + pixel) * channels + channel, pixels * channels + planes, exists
    return (sample * channels + channel) * area + pixel, planes * area + pixels, exists


@triton.jit
def load_sum(x, residual, offsets, exists):
    """Return x, or x + residual rounded to x's dtype."""
    value = tl.load(x + offsets, exists, other=0.0)
    if residual is not None:
        added = tl.load(residual + offsets, exists, other=0.0)
        value = (value.to(tl.float32) + added.to(tl.float32)).to(value.dtype)
    return value


@triton.jit
def moments(value, exists, count):
    """Return mean and sum of squared deviations of each row.

    Both are corrected by the sum of the deviations, and so are accurate at a mean of 1000 times the spread.
    """
    rough = tl.sum(value, 1, keep_dims=True) / count
    deviation = tl.where(exists, value - rough, 0.0)
    error = tl.sum(deviation, 1, keep_dims=True) / count
    squares = tl.sum(deviation * deviation, 1, keep_dims=True) - error * error * count
    return rough + error, tl.maximum(squares, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def load_rows(values, sample, stride, channel, channels, PLANES: tl.constexpr):
    """Return a value per channel of the tile, from values [B, C] of a first stride, as float32."""
    index = channel + tl.arange(0, PLANES)[:, None]
    return tl.load(values + sample * stride + index, index < channels, other=0.0).to(tl.float32)


@triton.jit
def affine(value, mean, rstd, scale, bias, RELU: tl.constexpr):
    """Return the normalised value, scaled and shifted, after an optional ReLU."""
    y = (value - mean) * (scale * rstd) + bias
    if RELU:
        y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return y


@triton.jit
def gradient_before_activation(grad_y, value, mean, rstd, scale, bias, RELU: tl.constexpr):
    """Return the gradient before the activation, and the normalised value."""
    if RELU:
        # The same expression as in forward, so that both cut off the same values; NaN is kept.
        grad_y = tl.where(affine(value, mean, rstd, scale, bias, False) <= 0, 0.0, grad_y)
    return grad_y, (value - mean) * rstd
