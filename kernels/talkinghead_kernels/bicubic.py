"""Bicubic sampling in plain torch.

It has forward mode, vmap and second derivatives, which torch's grid_sample lacks in part.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_A = -0.75


def sample(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return an image [B, C, H, W] sampled at positions [B, H', W'] in pixels.

    0 is the centre of the first pixel; taps are clamped to the border.
    """
    result = torch.zeros_like(image[:, :, :1, :1])
    for _, value, (weight_x, _), (weight_y, _) in _taps(image, x, y):
        result = result + value * (weight_x * weight_y)[:, None]
    return result


def sample_backward(grad: Tensor, image: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of image, x and y."""
    grad_image, grad_x, grad_y = torch.zeros_like(image.flatten(2)), torch.zeros_like(x), torch.zeros_like(y)
    for index, value, (weight_x, slope_x), (weight_y, slope_y) in _taps(image, x, y):
        grad_image = grad_image.scatter_add(2, index, (grad * (weight_x * weight_y)[:, None]).flatten(2))
        inner = (grad * value).sum(1)
        grad_x, grad_y = grad_x + inner * slope_x * weight_y, grad_y + inner * weight_x * slope_y
    return grad_image.view(image.shape), grad_x, grad_y


def _taps(
    image: Tensor, x: Tensor, y: Tensor
) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Yield each of the 16 taps.

    A tap is its index in a plane [B, C, H' * W'], the image there [B, C, H', W'], and its two weights with
    their slopes.
    """
    height, width = image.shape[2:]
    left, top = x.detach().floor(), y.detach().floor()
    for row, weight_y in enumerate(_weights(y - top)):
        start = (top + (row - 1)).clamp(0, height - 1) * width
        for column, weight_x in enumerate(_weights(x - left)):
            offset = start + (left + (column - 1)).clamp(0, width - 1)
            index = offset.nan_to_num(0).long().flatten(1)[:, None].expand(-1, image.shape[1], -1)
            yield index, image.flatten(2).gather(2, index).unflatten(2, x.shape[1:]), weight_x, weight_y


def _weights(t: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return weight and slope of each of the four taps around a position that lies t after the second."""
    (weight0, slope0), (weight1, slope1), (weight2, slope2), (weight3, slope3) = (
        _outer_kernel(t + 1),
        _inner_kernel(t),
        _inner_kernel(1 - t),
        _outer_kernel(2 - t),
    )
    return (weight0, slope0), (weight1, slope1), (weight2, -slope2), (weight3, -slope3)


def _inner_kernel(d: Tensor) -> tuple[Tensor, Tensor]:
    """Return the kernel and its slope at distances of 0 to 1."""
    return ((_A + 2) * d - (_A + 3)) * d * d + 1, (3 * (_A + 2) * d - 2 * (_A + 3)) * d


def _outer_kernel(d: Tensor) -> tuple[Tensor, Tensor]:
    """Return the kernel and its slope at distances of 1 to 2."""
    return ((_A * d - 5 * _A) * d + 8 * _A) * d - 4 * _A, (3 * _A * d - 10 * _A) * d + 8 * _A
