"""The warp by landmarks against F.interpolate and F.grid_sample, and its field against the formula in
torch.
"""

import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels import landmark_motion, warp
from talkinghead_kernels.warp_by_landmarks import GRID, landmark_motion_reference
from torch import Tensor

from bench.lib.harness import DEVICE, Case, by_backend, compiled, gradients, size

POINTS = 84


def shaken_points(count: int) -> tuple[Tensor, Tensor]:
    """Return random landmarks in the middle of images, and their target positions."""
    source = 0.2 + 0.6 * torch.rand(count, POINTS, 2, device=DEVICE)
    return source, source + 0.02 * torch.randn(count, POINTS, 2, device=DEVICE)


def baseline(image: Tensor, motion: Tensor) -> Tensor:
    height, width = image.shape[2:]
    motion = F.interpolate(motion.to(image.dtype), (height, width), mode="bilinear", align_corners=False)
    x = (torch.arange(width, device=image.device, dtype=image.dtype) + 0.5) / width
    y = (torch.arange(height, device=image.device, dtype=image.dtype) + 0.5) / height
    positions = torch.stack([motion[:, 0] + x, motion[:, 1] + y[:, None]], 3) * 2 - 1
    return F.grid_sample(image, positions, mode="bicubic", padding_mode="border", align_corners=False)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_warp(bench, thorough, direction, faces):
    count, side = faces
    source, target = shaken_points(count)
    coarse = torch.rand(count, 3, side // 8 + 1, side // 8 + 1, device=DEVICE)
    image = F.interpolate(coarse, (side, side), mode="bicubic")
    motion = landmark_motion(source, target, GRID)
    functions = {"baseline": baseline}
    if count == 1 or thorough:
        functions["compile"] = compiled(baseline)
    inputs = image, motion
    traffic = size(image, image, motion)
    if direction == "backward":
        for tensor in inputs:
            tensor.requires_grad_()
        wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
        grad = torch.randn_like(image)
        expected = tuple(grad.float() for grad in torch.autograd.grad(baseline(*wide), wide, grad.double()))
        runs = {name: gradients(run(), inputs, (grad,)) for name, run in by_backend(warp, *inputs).items()}
        runs |= {name: gradients(function(*inputs), inputs, (grad,)) for name, function in functions.items()}
        traffic += size(image, motion)
    else:
        expected = (baseline(*(tensor.double() for tensor in inputs)).float(),)
        runs = by_backend(warp, *inputs)
        runs |= {name: lambda function=function: function(*inputs) for name, function in functions.items()}
    with torch.inference_mode(direction == "forward"):
        bench(
            Case("warp", direction, f"{side}", count, torch.float32, traffic, expected, runs, tolerance=1e-4)
        )


def test_landmark_motion(bench, thorough, batch):
    points = shaken_points(batch)
    expected = landmark_motion_reference(*points, GRID)
    runs = by_backend(landmark_motion, *points, GRID)
    runs["baseline"] = lambda: landmark_motion_reference(*points, GRID)
    if batch == 1 or thorough:
        compact = compiled(landmark_motion_reference)
        runs["compile"] = lambda: compact(*points, GRID)
    with torch.inference_mode():
        traffic = size(*points, expected)
        bench(
            Case(
                "landmark_motion",
                "forward",
                f"{GRID}",
                batch,
                torch.float32,
                traffic,
                (expected,),
                runs,
                tolerance=1e-4,
            )
        )
