"""Warping of images by landmarks: a motion field by moving least squares, and sampling along the field.

`landmark_motion` gives, for each position p of a G x G grid, the position to sample as a displacement in
fractions of the image:

    w_i = c_i / (|d_i - p|^2 + eps)^1.5,   d* = sum w_i d_i / sum w_i,   s* = sum w_i s_i / sum w_i
    M   = (sum w_i (d_i - d*)^T (d_i - d*) + lam I)^-1 (sum w_i (d_i - d*)^T (s_i - s*) + lam I)
    motion(p) = (p - d*) M + s* - p

w_i are divided by their sum in M. s_i are the landmarks of the image and d_i their targets; 16 points on the
border, at the quarters of each side, do not move. c_i is 1 for landmarks and 16 for border points,
eps = lam = 1e-4 (the affine deformation of Schaefer, McPhail and Warren 2006, "Image deformation using moving
least squares"). `warp` enlarges the field bilinearly, adds pixel centres, and samples the image there by
bicubic convolution (a = -0.75) with taps clamped to the border. Neither needs a solver, so every runtime can
execute them.

source and target are [B, N, 2], motion [B, 2, h, w], image [B, C, H, W] and the result like image. The field
is float32; `warp` computes and sums in float32 for every dtype (float64 for a float64 image). The result has
the image's dtype and memory format, and is NaN at positions that are not finite. Saved for backward: image
and motion. The kernels are C++, CUDA and Triton; Triton uses the reference for the gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend, bicubic
from .formats import FLOAT_DTYPES, empty_like, memory_format_of, stats_dtype
from .registration import register

GRID = 64
"""Default side of the motion field."""
BORDER_WEIGHT = 16.0
_SOFTENING = 1e-4  # eps, in squared fractions of the image
_RIDGE = 1e-4  # lam


def landmark_motion_reference(source: Tensor, target: Tensor, grid: int) -> Tensor:
    """Return the motion field in plain torch; arguments as for `landmark_motion`."""
    source, target, border = source.float(), target.float(), _border_points(source)
    border_strength = source.new_full((border.shape[1],), BORDER_WEIGHT)
    strength = torch.cat([source.new_ones(source.shape[1]), border_strength])
    source, target = torch.cat([source, border], 1), torch.cat([target, border], 1)
    ticks = (torch.arange(grid, device=source.device, dtype=torch.float32) + 0.5) / grid
    x, y = ticks[None, None, :, None], ticks[None, :, None, None]
    dx, dy = target[:, None, None, :, 0] - x, target[:, None, None, :, 1] - y
    sx, sy = source[:, None, None, :, 0] - x, source[:, None, None, :, 1] - y
    weight = strength * (dx * dx + dy * dy + _SOFTENING).rsqrt() ** 3
    weight = weight / weight.sum(3, keepdim=True)
    mean_dx, mean_dy, mean_sx, mean_sy = ((weight * value).sum(3) for value in (dx, dy, sx, sy))
    dx, dy = dx - mean_dx[..., None], dy - mean_dy[..., None]
    sx, sy = sx - mean_sx[..., None], sy - mean_sy[..., None]
    a11, a12 = (weight * dx * dx).sum(3) + _RIDGE, (weight * dx * dy).sum(3)
    a22 = (weight * dy * dy).sum(3) + _RIDGE
    b11, b12 = (weight * dx * sx).sum(3) + _RIDGE, (weight * dx * sy).sum(3)
    b21, b22 = (weight * dy * sx).sum(3), (weight * dy * sy).sum(3) + _RIDGE
    scale = 1 / (a11 * a22 - a12 * a12)
    u = scale * (a22 * -mean_dx + a12 * mean_dy)  # (p - d*) A^-1
    v = scale * (a12 * mean_dx + a11 * -mean_dy)
    return torch.stack([u * b11 + v * b21 + mean_sx, u * b12 + v * b22 + mean_sy], 1)


def _border_points(source: Tensor) -> Tensor:
    """Return the border points [B, 16, 2], float32.

    They are computed, because a constant would keep an exporter's graph from being functional.
    """
    ticks = torch.arange(5, device=source.device, dtype=torch.float32) / 4
    low, high, inner = torch.zeros_like(ticks), torch.ones_like(ticks), ticks[1:4]
    x = torch.cat([ticks, ticks, low[:3], high[:3]])
    y = torch.cat([low, high, inner, inner])
    return torch.stack([x, y], 1).expand(source.shape[0], -1, -1)


def warp_reference(image: Tensor, motion: Tensor) -> Tensor:
    """Return the warped image in plain torch; arguments as for `warp`."""
    values = image.to(stats_dtype(image))
    positions = _sampling_grid(_enlarge(motion.to(values.dtype), image))
    result = F.grid_sample(values, positions, mode="bicubic", padding_mode="border", align_corners=False)
    return result.to(image.dtype)


def warp_backward_reference(
    grad: Tensor,
    image: Tensor,
    motion: Tensor,
    image_needed: bool,
    motion_needed: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of image and motion in plain torch; one that is not needed has no elements."""
    size = image.shape[2:]
    values = image.to(stats_dtype(image))
    positions = _sampling_grid(_enlarge(motion.to(values.dtype), image))
    needs = [image_needed, motion_needed]
    bicubic, border = 2, 1
    backward = torch.ops.aten.grid_sampler_2d_backward
    grad_image, grad_positions = backward(
        grad.to(values.dtype),
        values,
        positions,
        interpolation_mode=bicubic,
        padding_mode=border,
        align_corners=False,
        output_mask=needs,
    )
    if motion_needed:
        grad_motion = grad_positions.movedim(3, 1).contiguous() * 2
        if motion.shape[2:] != size:
            shrink = torch.ops.aten.upsample_bilinear2d_backward
            grad_motion = shrink(grad_motion, list(size), list(motion.shape), False)
    return (
        empty_like(image).copy_(grad_image) if image_needed else image.new_empty(0),
        grad_motion.to(motion.dtype).contiguous() if motion_needed else motion.new_empty(0),
    )


def landmark_motion(source: Tensor, target: Tensor, grid: int = GRID) -> Tensor:
    """Return the motion field that warps images so that `source` moves to `target`.

    No gradient flows into the points.

    Args:
        source: floating-point [B, N, 2], (x, y) of the images' landmarks, as fractions of the image.
        target: their positions after the warp, of the same shape.
        grid: height and width of the field.

    Returns:
        float32 [B, 2, grid, grid]: the sampling position minus the grid position, (x, y) in fractions of the
        image; not finite anywhere in an image with a landmark that is not.

    Raises:
        ValueError: an argument is not as above; the message names it.
        NotImplementedError: forward-mode differentiation or `torch.func` asks for the derivative of a point;
            detach it.
    """
    return _MOTION(source, target, grid)


def warp(image: Tensor, motion: Tensor) -> Tensor:
    """Sample images at positions displaced by a motion field; differentiable in both.

    Args:
        image: [B, C, H, W]; float32, bfloat16, float16 or float64; NCHW or channels_last.
        motion: floating-point [B, 2, h, w], (x, y) in fractions of the image; enlarged bilinearly to H x W.

    Returns:
        [B, C, H, W] in the image's dtype and memory format; bicubic, so it may overshoot the image's range.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """
    return _WARP(image, motion)


def warp_by_landmarks(image: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Warp images so that their landmarks `source` move to `target`.

    Args:
        image: [B, C, H, W], as for `warp`.
        source, target: [B, N, 2], as fractions of the image, as for `landmark_motion`.

    Returns:
        [B, C, H, W] like the image.

    Raises:
        ValueError: an argument is not as for `landmark_motion` and `warp`; the message names it.
    """
    return warp(image, landmark_motion(source, target))


def _check_points(source: Tensor, target: Tensor, grid: int) -> None:
    for name, points in (("source", source), ("target", target)):
        if points.dim() != 3 or points.shape[2] != 2 or not points.is_floating_point():
            what = f"{points.dtype} {list(points.shape)}"
            raise ValueError(f"landmark_motion: {name} must be a floating-point [B, N, 2], got {what}")
    if target.shape != source.shape or target.device != source.device:
        raise ValueError(
            f"landmark_motion: target must be {list(source.shape)} on {source.device} as source is,"
            f" got {list(target.shape)} on {target.device}"
        )
    if grid < 1:
        raise ValueError(f"landmark_motion: grid must be at least 1, got {grid}")


def _check(image: Tensor, motion: Tensor) -> None:
    shape = image.shape
    if len(shape) != 4 or image.dtype not in FLOAT_DTYPES:
        what = f"{image.dtype} {list(shape)}"
        raise ValueError(f"warp: image must be a floating-point [B, C, H, W], got {what}")
    if 0 in shape[1:]:
        raise ValueError(f"warp: image must have at least one channel, row and column, got {list(shape)}")
    if motion.dim() != 4 or motion.shape[1] != 2 or motion.dtype not in FLOAT_DTYPES:
        what = f"{motion.dtype} {list(motion.shape)}"
        raise ValueError(f"warp: motion must be a floating-point [B, 2, h, w], got {what}")
    if motion.shape[0] != shape[0] or motion.device != image.device:
        what = f"{list(motion.shape)} on {motion.device}"
        raise ValueError(
            f"warp: motion must be [{shape[0]}, 2, h, w] on {image.device} for the image, got {what}"
        )
    if 0 in motion.shape[2:]:
        raise ValueError(f"warp: motion must have at least one row and column, got {list(motion.shape)}")


def _enlarge(motion: Tensor, image: Tensor) -> Tensor:
    if motion.shape[2:] == image.shape[2:]:
        return motion
    return F.interpolate(motion, size=image.shape[2:], mode="bilinear", align_corners=False)


def _sampling_grid(motion: Tensor) -> Tensor:
    """Return the positions [B, H, W, 2] of a field of the image's size, in coordinates of grid_sample."""
    height, width = motion.shape[2:]
    x = (torch.arange(width, device=motion.device, dtype=motion.dtype) + 0.5) / width
    y = (torch.arange(height, device=motion.device, dtype=motion.dtype) + 0.5) / height
    return torch.stack([motion[:, 0] + x, motion[:, 1] + y[:, None]], 3) * 2 - 1


def _motion(source: Tensor, target: Tensor, grid: int) -> Tensor:
    _check_points(source, target, grid)
    source, target = source.float(), target.float()
    kernel = backend.select_kernel("landmark_motion", source)
    if kernel is None or source.shape[0] == 0:
        return landmark_motion_reference(source, target, grid)
    motion = source.new_empty(source.shape[0], 2, grid, grid)
    kernel(source.contiguous(), target.contiguous(), motion)
    return motion


def _motion_fake(source: Tensor, target: Tensor, grid: int) -> Tensor:
    _check_points(source, target, grid)
    return source.new_empty(source.shape[0], 2, grid, grid, dtype=torch.float32)


def _forward(image: Tensor, motion: Tensor) -> Tensor:
    _check(image, motion)
    result = empty_like(image)
    if image.shape[0] == 0:
        return result
    kernel = backend.select_kernel("warp_forward", image)
    if kernel is None:
        return result.copy_(warp_reference(image, motion))
    kernel(image.contiguous(memory_format=memory_format_of(image)), motion.float().contiguous(), result)
    return result


def _forward_fake(image: Tensor, motion: Tensor) -> Tensor:
    _check(image, motion)
    return empty_like(image)


def _backward(
    grad: Tensor,
    image: Tensor,
    motion: Tensor,
    image_needed: bool,
    motion_needed: bool,
) -> tuple[Tensor, Tensor]:
    if image.shape[0] == 0:
        return _backward_fake(grad, image, motion, image_needed, motion_needed)
    # Triton has no such kernel, but networks must run on it: use the reference there.
    kernel = None if backend.current() == "triton" else backend.select_kernel("warp_backward", image)
    if kernel is None:
        return warp_backward_reference(grad, image, motion, image_needed, motion_needed)
    grad_image = empty_like(image, torch.float32) if image_needed else None
    grad_motion = motion.new_empty(motion.shape, dtype=torch.float32) if motion_needed else None
    layout = memory_format_of(image)
    kernel(
        grad.to(image.dtype).contiguous(memory_format=layout),
        image.contiguous(memory_format=layout),
        motion.float().contiguous(),
        grad_image,
        grad_motion,
    )
    return (
        image.new_empty(0) if grad_image is None else grad_image.to(image.dtype),
        motion.new_empty(0) if grad_motion is None else grad_motion.to(motion.dtype),
    )


def _backward_fake(
    grad: Tensor,
    image: Tensor,
    motion: Tensor,
    image_needed: bool,
    motion_needed: bool,
) -> tuple[Tensor, Tensor]:
    return (
        empty_like(image) if image_needed else image.new_empty(0),
        motion.new_empty(motion.shape) if motion_needed else motion.new_empty(0),
    )


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.backend = backend.current()


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    needs = ctx.needs_input_grad
    if torch.is_grad_enabled():  # for second derivatives
        return torch.func.vjp(_formula, *ctx.saved_tensors)[1](grad)
    # Autograd runs CUDA gradients in its own thread, which does not see the choice of this context.
    with backend.restore_backend(ctx.backend):
        grads = _WARP_BACKWARD(grad, *ctx.saved_tensors, *needs)
    return (grads[0] if needs[0] else None), (grads[1] if needs[1] else None)


def _motion_formula(source: Tensor, target: Tensor, grid: int) -> Tensor:
    _check_points(source, target, grid)
    return landmark_motion_reference(source, target, grid)


def _formula(image: Tensor, motion: Tensor) -> Tensor:
    _check(image, motion)
    values = image.to(stats_dtype(image))
    return bicubic.sample(values, *_sampling_pixels(motion, values)).to(image.dtype)


def _backward_formula(
    grad: Tensor,
    image: Tensor,
    motion: Tensor,
    image_needed: bool,
    motion_needed: bool,
) -> tuple[Tensor, Tensor]:
    values, (height, width) = image.to(stats_dtype(image)), image.shape[2:]
    x, y = _sampling_pixels(motion, values)
    grad_image, grad_x, grad_y = bicubic.sample_backward(grad.to(values.dtype), values, x, y)
    grad_motion = torch.stack([grad_x * width, grad_y * height], 1)
    if motion.shape[2:] != image.shape[2:]:
        shrink = torch.ops.aten.upsample_bilinear2d_backward
        grad_motion = shrink(grad_motion, [height, width], list(motion.shape), False)
    return (
        grad_image.to(image.dtype) if image_needed else image.new_empty(0),
        grad_motion.to(motion.dtype) if motion_needed else motion.new_empty(0),
    )


def _sampling_pixels(motion: Tensor, image: Tensor) -> list[Tensor]:
    """Return the sampling positions x and y [B, H, W] of an image in pixels."""
    positions = _sampling_grid(_enlarge(motion.to(image.dtype), image))
    return [
        (positions[..., i] + 1) * (size / 2) - 0.5 for i, size in enumerate((image.shape[3], image.shape[2]))
    ]


_MOTION = register(
    "landmark_motion(Tensor source, Tensor target, int grid) -> Tensor",
    _motion,
    _motion_fake,
    _motion_formula,
    constant=True,
    refusal="no gradient flows into the points, and neither forward-mode differentiation nor torch.func "
    "goes through it; detach them",
)
_WARP = register(
    "warp(Tensor image, Tensor motion) -> Tensor",
    _forward,
    _forward_fake,
    _formula,
    gradient=(_autograd, _save),
)
_WARP_BACKWARD = register(
    "warp_backward(Tensor grad, Tensor image, Tensor motion, bool image_needed, bool motion_needed) -> "
    "(Tensor, Tensor)",
    _backward,
    _backward_fake,
    _backward_formula,
    refusal="is a gradient itself; differentiate that of warp, with create_graph=True",
)
