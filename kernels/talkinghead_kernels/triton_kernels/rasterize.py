"""Polylines in Triton: a program for each tile of an image draws all polylines in order."""
# mypy: allow-untyped-defs, no-check-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from .table import table

_TILE = 32  # pixels; few segments reach a tile of this size, and the others are skipped


@triton.jit
def _segment(nearest, ax, ay, bx, by, x, y):
    """Return the minimum of `nearest` and the squared distances of pixels (x, y) to the segment a-b."""
    dx, dy = bx - ax, by - ay
    # A segment of no length is a point.
    length = tl.maximum(dx * dx + dy * dy, 1e-12, propagate_nan=tl.PropagateNan.ALL)
    along = (x - ax) * (dx / length) + (y - ay) * (dy / length)
    along = tl.clamp(along, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    across_x, across_y = x - ax - along * dx, y - ay - along * dy
    return tl.minimum(nearest, across_x * across_x + across_y * across_y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _draw(
    points,
    layout,
    image,
    count,
    segments,
    size,
    radius,
    TILE: tl.constexpr,
    FAR: tl.constexpr,
):
    tiles = tl.cdiv(size, TILE)
    program = tl.program_id(0)
    sample = (program // (tiles * tiles)).to(tl.int64)
    row = program // tiles % tiles * TILE + tl.arange(0, TILE)[:, None]
    column = program % tiles * TILE + tl.arange(0, TILE)[None, :]
    x, y = column + 0.5, row + 0.5
    # the bounding box of segments that may colour a pixel of the tile
    left, top = program % tiles * TILE - radius, program // tiles % tiles * TILE - radius
    right, bottom = left + TILE + 2 * radius, top + TILE + 2 * radius
    sample_points = points + sample * count * 2
    red = tl.zeros([TILE, TILE], tl.float32)
    green = tl.zeros([TILE, TILE], tl.float32)
    blue = tl.zeros([TILE, TILE], tl.float32)
    nearest = tl.full([TILE, TILE], 1e30, tl.float32)
    for segment in range(segments):
        a = sample_points + 2 * tl.load(layout + segment)
        b = sample_points + 2 * tl.load(layout + segments + segment)
        colour = tl.load(layout + 2 * segments + segment)
        ax, ay, bx, by = tl.load(a), tl.load(a + 1), tl.load(b), tl.load(b + 1)
        outside_x = ((ax < left) & (bx < left)) | ((ax > right) & (bx > right))
        outside_y = ((ay < top) & (by < top)) | ((ay > bottom) & (by > bottom))
        exists = (tl.abs(ax) <= FAR) & (tl.abs(ay) <= FAR) & (tl.abs(bx) <= FAR) & (tl.abs(by) <= FAR)
        if exists & ~(outside_x | outside_y):
            nearest = _segment(nearest, ax, ay, bx, by, x, y)
        if colour >= 0:
            coverage = tl.clamp(radius - tl.sqrt(nearest), 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
            red += coverage * ((colour // 65536).to(tl.float32) / 255 - red)
            green += coverage * ((colour // 256 % 256).to(tl.float32) / 255 - green)
            blue += coverage * ((colour % 256).to(tl.float32) / 255 - blue)
            nearest = tl.full([TILE, TILE], 1e30, tl.float32)
    inside = (row < size) & (column < size)
    plane = image + sample * 3 * size * size + row * size + column
    tl.store(plane, red * 2 - 1, inside)
    tl.store(plane + size * size, green * 2 - 1, inside)
    tl.store(plane + 2 * size * size, blue * 2 - 1, inside)


def draw_polylines(
    points: Tensor, indices: list[int], lengths: list[int], colours: list[int], image: Tensor
) -> None:
    """Run `talkinghead_native::draw_polylines`."""
    size = image.shape[-1]
    starts, ends, packed_colours = [], [], []
    for length, red, green, blue in zip(lengths, colours[::3], colours[1::3], colours[2::3], strict=True):
        part, indices = indices[:length], indices[length:]
        starts += part[:-1]
        ends += part[1:]
        # A polyline is painted after its last segment.
        packed_colours += [-1] * (length - 2) + [65536 * red + 256 * green + blue]
    with torch.cuda.device_of(image):
        layout = table([starts, ends, packed_colours], image.device)
        grid = (image.shape[0] * triton.cdiv(size, _TILE) ** 2,)
        radius = max(1.0, size / 256) + 0.5
        _draw[grid](
            points,
            layout,
            image,
            points.shape[1],
            len(starts),
            size,
            radius,
            TILE=_TILE,
            FAR=1e4,
            num_warps=4,
        )
