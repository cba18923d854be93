"""Batched anti-aliased polylines.

    coverage = clamp(r + 0.5 - d, 0, 1),   r = max(1, size / 256)

d is the distance from a pixel's centre to the nearest segment of a polyline. Polylines are painted in order over black, so a later one
covers an earlier one. Points are in pixels, sub-pixel; the centre of pixel (column i, row j) is (i + 0.5, j + 0.5). A segment with an end
that is not a number or lies farther than 10,000 pixels away is left out.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from . import backend
from .registration import register

_FAR = 1e4  # float32 on a GPU is within 1/255 up to there


def draw_landmarks_reference(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> Tensor:
    """The formula in plain torch, a pass over whole images for every segment. `lengths`: indices of each part, `colours`: three a part."""
    ends = list(itertools.accumulate(lengths))
    parts = [indices[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    centres = torch.arange(size, device=points.device, dtype=torch.float64) + 0.5
    radius = max(1.0, size / 256)
    image = points.new_zeros(points.shape[0], 3, size, size, dtype=torch.float32)
    points = points.double()  # distances to segments that begin far outside the image
    for part, colour in zip(parts, [colours[i : i + 3] for i in range(0, len(colours), 3)], strict=True):
        squared = torch.stack([_squared_distance(points[:, a], points[:, b], centres) for a, b in itertools.pairwise(part)])
        coverage = (radius + 0.5 - squared.amin(0).sqrt()).clamp(0, 1).float()
        image = torch.stack([old + coverage * (value / 255 - old) for old, value in zip(image.unbind(1), colour, strict=True)], 1)
    return image * 2 - 1


def draw_landmarks_flat(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> Tensor:
    """The same within 1/255 in float32 alone and in few passes, for runtimes that know no float64 and fuse little."""
    centres = torch.arange(size, device=points.device, dtype=torch.float32) + 0.5
    radius = max(1.0, size / 256)
    planes = [torch.zeros_like(points[:, :1, :1], dtype=torch.float32).expand(-1, size, size)] * 3
    ends = list(itertools.accumulate(lengths))
    parts = [indices[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    frames = _segment_frames(points.float(), parts, centres)
    for number, (beside_x, beside_y, onward_x, onward_y, length) in enumerate(frames):
        onward = onward_y + onward_x
        beyond = onward - onward.clamp_min(0).minimum(length)
        squared = beyond.square() + (beside_y + beside_x).square()
        coverage = (radius + 0.5 - squared.amin(1).sqrt()).clamp(0, 1)
        colour = colours[3 * number : 3 * number + 3]
        planes = [old + coverage * (value / 255 - old) for old, value in zip(planes, colour, strict=True)]
    return torch.stack(planes, 1) * 2 - 1


def draw_landmarks(
    points: Tensor,
    size: int,
    parts: Sequence[Sequence[int]],
    colours: Sequence[tuple[int, int, int]],
) -> Tensor:
    """Draw polylines through points. No gradient flows into the points.

    Args:
        points: floating-point [B, N, 2], (x, y) in pixels; may lie outside the image; not drawn where not finite.
        size: height and width of the images in pixels.
        parts: polylines as indices into N, drawn in this order; a closed one ends with its first index.
        colours: RGB 0..255 of each polyline.

    Returns:
        float32 [B, 3, size, size] in [-1, 1].

    Raises:
        ValueError: an argument is not as above; the message names it.
        NotImplementedError: forward-mode differentiation or `torch.func` asks for the derivative of a point; detach it.
    """
    indices = [index for part in parts for index in part]
    lengths = [len(part) for part in parts]
    return _DRAW(points, size, indices, lengths, [value for colour in colours for value in colour])


def _check(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> None:
    if points.dim() != 3 or points.shape[2] != 2 or not points.is_floating_point():
        raise ValueError(f"draw_landmarks: points must be a floating-point [B, N, 2], got {points.dtype} {list(points.shape)}")
    if size < 1:
        raise ValueError(f"draw_landmarks: size must be 1 or more, got {size}")
    if len(colours) != 3 * len(lengths) or any(length < 2 for length in lengths):
        raise ValueError(
            f"draw_landmarks: parts must have two indices or more and an RGB colour each, got lengths {lengths} and {len(colours)} values"
        )
    if any(not 0 <= index < points.shape[1] for index in indices):
        raise ValueError(f"draw_landmarks: parts must index into {points.shape[1]} points, got {min(indices)} to {max(indices)}")
    if any(not 0 <= value <= 255 for value in colours):
        raise ValueError(f"draw_landmarks: colours must be in 0..255, got {min(colours)} to {max(colours)}")


def _run(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> Tensor:
    _check(points, size, indices, lengths, colours)
    points = points.float().contiguous()
    kernel = backend.kernel("draw_landmarks", points)
    if kernel is None or points.shape[0] == 0:
        return draw_landmarks_reference(points, size, indices, lengths, colours)
    image = points.new_empty(points.shape[0], 3, size, size)
    kernel(points, indices, lengths, colours, image)
    return image


def _fake(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> Tensor:
    _check(points, size, indices, lengths, colours)
    return points.new_empty(points.shape[0], 3, size, size, dtype=torch.float32)


def _plain(points: Tensor, size: int, indices: list[int], lengths: list[int], colours: list[int]) -> Tensor:
    _check(points, size, indices, lengths, colours)
    return draw_landmarks_reference(points.float(), size, indices, lengths, colours)


_DRAW = register(
    "draw_landmarks(Tensor points, int size, int[] indices, int[] lengths, int[] colours) -> Tensor",
    _run,
    _fake,
    _plain,
    constant=True,
    refusal="no gradient flows into the points, and neither forward-mode differentiation nor torch.func goes through it; detach them",
)


def _squared_distance(start: Tensor, end: Tensor, centres: Tensor) -> Tensor:
    """[B, size, size]: squared distance of every pixel centre to the segment from start to end [B, 2]."""
    along = end - start
    dx, dy = along[:, 0, None, None], along[:, 1, None, None]
    x = centres[None, None, :] - start[:, 0, None, None]
    y = centres[None, :, None] - start[:, 1, None, None]
    length = (dx * dx + dy * dy).clamp_min(1e-12)  # a segment of no length is a point
    t = (x * (dx / length) + y * (dy / length)).clamp(0, 1)
    drawn = ((start.abs() <= _FAR) & (end.abs() <= _FAR)).all(1)[:, None, None]
    return torch.where(drawn, (x - t * dx).square() + (y - t * dy).square(), torch.inf)


def _segment_frames(points: Tensor, parts: list[list[int]], centres: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """For each part, where pixels are in its segments' own frames of reference: across and along them, each as a row and a column to be
    added, [B, S, 1, size] and [B, S, size, 1], and the segments' lengths [B, S, 1, 1]. So nothing large cancels in float32."""
    first, second = ([part[i] for part in parts for i in range(begin, len(part) - 1 + begin)] for begin in (0, 1))
    start, end = _taken(points, first + second).split(len(first), 1)
    drawn = ((start.abs() <= _FAR) & (end.abs() <= _FAR)).all(2, keepdim=True)
    start, end = (torch.where(drawn, each, 4 * _FAR) for each in (start, end))
    along = end - start
    length = along.square().sum(2, keepdim=True).sqrt()
    unit = along / length.clamp_min(1e-6)
    # of a segment of no length any direction will do
    ux, uy = torch.where(length > 1e-6, unit[..., :1], 1.0)[..., None], unit[..., 1:, None]
    x, y = (each[..., None, :] for each in (centres - start[..., :1], centres - start[..., 1:]))
    whole = -x * uy, (y * ux).mT, x * ux, (y * uy).mT, length[..., None]
    return zip(*(each.split([len(part) - 1 for part in parts], 1) for each in whole), strict=True)


def _taken(points: Tensor, indices: list[int]) -> Tensor:
    """points[:, indices] by slices, one for each run of rising indices."""
    starts = [at for at in range(len(indices)) if at == 0 or indices[at] != indices[at - 1] + 1]
    runs = [indices[a:b] for a, b in itertools.pairwise([*starts, len(indices)])]
    return torch.cat([points[:, run[0] : run[-1] + 1] for run in runs], 1)
