"""Batched anti-aliased polylines.

    coverage = clamp(r + 0.5 - d, 0, 1),   r = max(1, size / 256)

d is the distance from a pixel's centre to the nearest segment of a polyline. Polylines are painted in order
over black, so a later one covers an earlier one. Points are in pixels with fractions; the centre of pixel
(column i, row j) is (i + 0.5, j + 0.5). A segment with an end that is NaN or farther than 10,000 pixels away
is not drawn.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from . import backend
from .registration import register

_MAX_COORDINATE = 1e4  # pixels; up to there, float32 on a GPU is within 1/255


def draw_polylines_reference(
    points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]
) -> Tensor:
    """Return the images by the formula in plain torch, with a pass over whole images for every segment.

    `lengths` are the numbers of indices of the parts; `colours` has three values per part.
    """
    parts = _split_parts(indices, lengths)
    centres = torch.arange(size, device=points.device, dtype=torch.float64) + 0.5
    radius = max(1.0, size / 256)
    image = points.new_zeros(points.shape[0], 3, size, size, dtype=torch.float32)
    points = points.double()  # for the distances to segments that begin far outside the image
    for part, colour in zip(parts, [colours[i : i + 3] for i in range(0, len(colours), 3)], strict=True):
        squared = torch.stack(
            [_squared_distance(points[:, a], points[:, b], centres) for a, b in itertools.pairwise(part)]
        )
        coverage = (radius + 0.5 - squared.amin(0).sqrt()).clamp(0, 1).float()
        image = torch.stack(
            [
                old + coverage * (value / 255 - old)
                for old, value in zip(image.unbind(1), colour, strict=True)
            ],
            1,
        )
    return image * 2 - 1


def draw_polylines_float32(
    points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]
) -> Tensor:
    """Return the images within 1/255 of the reference, in float32 only and in few passes.

    This is for runtimes without float64 and with little fusion.
    """
    centres = torch.arange(size, device=points.device, dtype=torch.float32) + 0.5
    radius = max(1.0, size / 256)
    planes = [torch.zeros_like(points[:, :1, :1], dtype=torch.float32).expand(-1, size, size)] * 3
    frames = _segment_frames(points.float(), _split_parts(indices, lengths), centres)
    for number, (across_x, across_y, along_x, along_y, length) in enumerate(frames):
        along = along_y + along_x
        overshoot = along - along.clamp_min(0).minimum(length)
        squared = overshoot.square() + (across_y + across_x).square()
        coverage = (radius + 0.5 - squared.amin(1).sqrt()).clamp(0, 1)
        colour = colours[3 * number : 3 * number + 3]
        planes = [old + coverage * (value / 255 - old) for old, value in zip(planes, colour, strict=True)]
    return torch.stack(planes, 1) * 2 - 1


def draw_polylines(
    points: Tensor,
    size: int,
    parts: Sequence[Sequence[int]],
    colours: Sequence[tuple[int, int, int]],
) -> Tensor:
    """Draw polylines through points. No gradient flows into the points.

    Args:
        points: floating-point [B, N, 2], (x, y) in pixels; may lie outside the image; segments of points
            that are not finite are not drawn.
        size: height and width of the images in pixels.
        parts: polylines as indices into N, drawn in this order; a closed one ends with its first index.
        colours: RGB 0..255 of each polyline.

    Returns:
        float32 [B, 3, size, size] in [-1, 1].

    Raises:
        ValueError: an argument is not as above; the message names it.
        NotImplementedError: forward-mode differentiation or `torch.func` asks for the derivative of a point;
            detach it.
    """
    indices = [index for part in parts for index in part]
    lengths = [len(part) for part in parts]
    return _DRAW(points, size, indices, lengths, [value for colour in colours for value in colour])


def _check(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> None:
    if points.dim() != 3 or points.shape[2] != 2 or not points.is_floating_point():
        raise ValueError(
            f"draw_polylines: points must be a floating-point [B, N, 2], got {points.dtype} "
            f"{list(points.shape)}"
        )
    if size < 1:
        raise ValueError(f"draw_polylines: size must be at least 1, got {size}")
    if len(colours) != 3 * len(lengths) or any(length < 2 for length in lengths):
        raise ValueError(
            "draw_polylines: parts must have at least two indices and an RGB colour each, got lengths "
            f"{lengths} and {len(colours)} values"
        )
    if any(not 0 <= index < points.shape[1] for index in indices):
        raise ValueError(
            f"draw_polylines: parts must index into {points.shape[1]} points, got {min(indices)} to "
            f"{max(indices)}"
        )
    if any(not 0 <= value <= 255 for value in colours):
        raise ValueError(f"draw_polylines: colours must be in 0..255, got {min(colours)} to {max(colours)}")


def _run(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> Tensor:
    _check(points, size, indices, lengths, colours)
    points = points.float().contiguous()
    kernel = backend.select_kernel("draw_polylines", points)
    if kernel is None or points.shape[0] == 0:
        return draw_polylines_reference(points, size, indices, lengths, colours)
    image = points.new_empty(points.shape[0], 3, size, size)
    kernel(points, indices, lengths, colours, image)
    return image


def _fake(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> Tensor:
    _check(points, size, indices, lengths, colours)
    return points.new_empty(points.shape[0], 3, size, size, dtype=torch.float32)


def _formula(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> Tensor:
    _check(points, size, indices, lengths, colours)
    return draw_polylines_reference(points.float(), size, indices, lengths, colours)


_register = partial(
    register,
    run=_run,
    fake=_fake,
    formula=_formula,
    constant=True,
    refusal="no gradient flows into the points, and neither forward-mode differentiation nor torch.func "
    "goes through it; detach them",
)
_ARGUMENTS = "(Tensor points, int size, int[] indices, int[] lengths, int[] colours) -> Tensor"
_DRAW = _register(f"draw_polylines{_ARGUMENTS}")
# Engine files written before version 0.2 call the op by its old name.
_register(f"draw_landmarks{_ARGUMENTS}")


def _split_parts(indices: list[int], lengths: list[int]) -> list[list[int]]:
    ends = itertools.accumulate(lengths)
    return [indices[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _is_near(start: Tensor, end: Tensor) -> Tensor:
    return (start.abs() <= _MAX_COORDINATE) & (end.abs() <= _MAX_COORDINATE)


def _squared_distance(start: Tensor, end: Tensor, centres: Tensor) -> Tensor:
    """Return the squared distances [B, size, size] of pixel centres to segments from start to end [B, 2]."""
    along = end - start
    dx, dy = along[:, 0, None, None], along[:, 1, None, None]
    x = centres[None, None, :] - start[:, 0, None, None]
    y = centres[None, :, None] - start[:, 1, None, None]
    length = (dx * dx + dy * dy).clamp_min(1e-12)  # a segment of no length is a point
    t = (x * (dx / length) + y * (dy / length)).clamp(0, 1)
    is_valid = _is_near(start, end).all(1)[:, None, None]
    return torch.where(is_valid, (x - t * dx).square() + (y - t * dy).square(), torch.inf)


def _segment_frames(points: Tensor, parts: list[list[int]], centres: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield, for each part, the coordinates of pixels in the frames of reference of its segments.

    They are the coordinates across and along a segment, each as a row [B, S, 1, size] and a column
    [B, S, size, 1] to be added, and the segments' lengths [B, S, 1, 1]. Large numbers then do not cancel in
    float32.
    """
    first, second = (
        [part[i] for part in parts for i in range(begin, len(part) - 1 + begin)] for begin in (0, 1)
    )
    start, end = _gather_points(points, first + second).split(len(first), 1)
    is_valid = _is_near(start, end).all(2, keepdim=True)
    start, end = (torch.where(is_valid, point, 4 * _MAX_COORDINATE) for point in (start, end))
    along = end - start
    length = along.square().sum(2, keepdim=True).sqrt()
    unit = along / length.clamp_min(1e-6)
    # Any direction will do for a segment of no length.
    ux, uy = torch.where(length > 1e-6, unit[..., :1], 1.0)[..., None], unit[..., 1:, None]
    x, y = (centres - start[..., :1])[..., None, :], (centres - start[..., 1:])[..., None, :]
    coordinates = -x * uy, (y * ux).mT, x * ux, (y * uy).mT, length[..., None]
    counts = [len(part) - 1 for part in parts]
    return zip(*(values.split(counts, 1) for values in coordinates), strict=True)


def _gather_points(points: Tensor, indices: list[int]) -> Tensor:
    """Return points[:, indices] by slices, one for each run of successive indices."""
    starts = [i for i in range(len(indices)) if i == 0 or indices[i] != indices[i - 1] + 1]
    runs = [indices[a:b] for a, b in itertools.pairwise([*starts, len(indices)])]
    return torch.cat([points[:, run[0] : run[-1] + 1] for run in runs], 1)
