"""Inputs of the tests of the warp by landmarks."""

import itertools

import torch

SHAPES = [(1, 1, 1, 1), (2, 3, 3, 5), (1, 1, 4, 4), (2, 5, 17, 31), (2, 3, 30, 26), (1, 8, 12, 40)]
LARGE = (1, 3, 256, 256)
FIELDS = [(1, 1), (64, 64), (5, 9), None]
"""Sizes of the motion; None is the image's."""
CASES = [*itertools.product(SHAPES, FIELDS), (LARGE, (64, 64))]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]
NAMES = ["NCHW", "channels_last"]


def faces(batch, count, spread=0.05, device="cpu"):
    """Return random landmarks, and their target positions."""
    torch.manual_seed(0)
    source = 0.2 + 0.6 * torch.rand(batch, count, 2)
    return source.to(device), (source + spread * torch.randn(batch, count, 2)).to(device)


def inputs(shape, field, dtype=torch.float32, memory_format=FORMATS[0], device="cpu", spread=0.1):
    """Return image, motion and a gradient of the result."""
    torch.manual_seed(0)
    image = torch.rand(shape).to(dtype).contiguous(memory_format=memory_format)
    motion = spread * torch.randn(shape[0], 2, *(field or shape[2:]))
    grad = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    return image.to(device), motion.to(device), grad.to(device)


def results(function, image, motion, grad):
    """Return the result, then the gradients of image and motion."""
    leaves = [t.detach().requires_grad_() for t in (image, motion)]
    result = function(*leaves)
    return result, *torch.autograd.grad(result, leaves, grad)
