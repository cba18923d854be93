"""Squares of images, sampled by affine maps with bilinear interpolation.

    result[channel, j, i] = image[y, x, channel] / 255,   (x, y) = map[:, :2] (i, j) + map[:, 2]

(x, y) are indices of pixels with fractions. Pixels outside the image are black. The kernel is C++ for CPUs.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend, extension
from .registration import is_transformed, register


def warp_affine_reference(images: Sequence[Tensor], transforms: Tensor, size: int) -> Tensor:
    """Return the squares in plain torch."""
    result = _empty(images, size)
    steps = torch.arange(size, dtype=torch.float32, device="cpu")
    for index, (image, transform) in enumerate(zip(images, transforms.tolist(), strict=True)):
        height, width = image.shape[:2]
        # positions from -1 to 1 as complex numbers, which torch adds faster than pairs
        across, down, start = (
            complex(2 * x / width, 2 * y / height) for x, y in zip(*transform, strict=True)
        )
        grid = (steps * across + (start + complex(1 / width - 1, 1 / height - 1))) + (steps * down)[:, None]
        pixels = image.permute(2, 0, 1)[None].float().mul_(1 / 255)
        # what is not finite lies outside
        positions = torch.view_as_real(grid.to(torch.complex64))[None].nan_to_num_(3, 3, -3)
        result[index] = F.grid_sample(pixels, positions, mode="bilinear", align_corners=False)[0]
    return result


def warp_affine(images: Sequence[Tensor], transforms: Tensor, size: int) -> Tensor:
    """Sample a square of each image. No gradient flows into the maps.

    Args:
        images: uint8 [H, W, 3] each, on the CPU, of any sizes.
        transforms: floating-point [N, 2, 3], the map of each image, on the CPU.
        size: side of the squares in pixels.

    Returns:
        float32 [N, 3, size, size], 0..1, in channels_last.

    Raises:
        ValueError: an argument is not as above; the message names it.
        NotImplementedError: forward-mode differentiation or `torch.func` asks for the derivative of a map;
            detach it.
    """
    if torch.compiler.is_compiling() or is_transformed():
        return _WARP_AFFINE(list(images), transforms, size)
    return _run(list(images), transforms, size)  # the dispatcher takes as long as a small square


def _check(images: list[Tensor], transforms: Tensor, size: int) -> None:
    for image in images:
        if (
            image.dim() != 3
            or image.shape[2] != 3
            or image.dtype != torch.uint8
            or image.device.type != "cpu"
            or image.numel() == 0
        ):
            raise ValueError(
                f"warp_affine: images must be uint8 [H, W, 3] on cpu, got {image.dtype} "
                f"{list(image.shape)} on {image.device.type}"
            )
    expected = (len(images), 2, 3)
    is_right = transforms.is_floating_point() and transforms.device.type == "cpu"
    if transforms.shape != expected or not is_right:
        raise ValueError(
            f"warp_affine: transforms must be floating-point {list(expected)} on cpu, got "
            f"{transforms.dtype} {list(transforms.shape)} on {transforms.device.type}"
        )
    if size < 1:
        raise ValueError(f"warp_affine: size must be at least 1, got {size}")


def _empty(images: Sequence[Tensor], size: int) -> Tensor:
    shape = (len(images), 3, size, size)
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)


def _run(images: list[Tensor], transforms: Tensor, size: int) -> Tensor:
    _check(images, transforms, size)
    # The other backends have no kernel, but networks must run on them: use the formula there.
    if (
        backend.current() not in (None, "cpp")
        or extension.unavailable_reason("cpu", "warp_affine") is not None
    ):
        return warp_affine_reference(images, transforms, size)
    # not contiguous(), which returns an image of one column as it is
    rows = [
        image if image.stride()[1:] == (3, 1) else image.clone(memory_format=torch.contiguous_format)
        for image in images
    ]
    result = _empty(images, size)
    torch.ops.talkinghead_native.warp_affine(rows, transforms.detach().double().contiguous(), result)
    return result


def _fake(images: list[Tensor], transforms: Tensor, size: int) -> Tensor:
    _check(images, transforms, size)
    return _empty(images, size)


_WARP_AFFINE = register(
    "warp_affine(Tensor[] images, Tensor transforms, int size) -> Tensor",
    _run,
    _fake,
    constant=True,
    refusal="no gradient flows into the maps, and neither forward-mode differentiation nor torch.func goes "
    "through it; detach them",
)
