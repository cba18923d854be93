"""Run every op once on small shapes, on a GPU by the CUDA kernels: what compute-sanitizer watches in
`bench/gpu/run.sh sanitizer`.

python -m bench.experiments.small_shapes
"""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from talkinghead_kernels import (
    adain,
    draw_polylines,
    landmark_motion,
    normalise,
    power_iteration_,
    use_backend,
    warp,
)
from talkinghead_kernels.resample import FORMS
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLANES = ((1, 1, 1, 1), (2, 3, 5, 7), (1, 8, 16, 16), (1, 4, 64, 64), (1, 8, 160, 144))
"""Shapes whose planes range from one kept by a warp to one that is streamed."""
WEIGHTS = ((8, 3, 3, 3), (40, 16, 1, 1), (5, 700), (3, 5121))


def run_adain() -> Iterator[Tensor]:
    for shape in PLANES:
        for dtype in (torch.float32, torch.bfloat16):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x, residual = (
                    torch.randn(shape, device=DEVICE).to(dtype, memory_format=memory_format).requires_grad_()
                    for _ in range(2)
                )
                scale, bias = (torch.randn(shape[:2], device=DEVICE).requires_grad_() for _ in range(2))
                y, h = adain(x, scale, bias, activation="relu", residual=residual)
                yield from torch.autograd.grad((y.float() + h.float()).sum(), (x, residual, scale, bias))


def run_spectral_norm() -> Iterator[Tensor]:
    weights = [torch.randn(shape, device=DEVICE).requires_grad_() for shape in WEIGHTS]
    us = [F.normalize(torch.randn(w.shape[0], device=DEVICE), dim=0) for w in weights]
    vs = [F.normalize(torch.randn(w[0].numel(), device=DEVICE), dim=0) for w in weights]
    power_iteration_([w.detach() for w in weights], us, vs)
    for form in FORMS:
        forms = [form if w.shape[2:] == (3, 3) else "plain" for w in weights]
        yield from torch.autograd.grad(
            sum(result.square().sum() for result in normalise(weights, us, vs, forms=forms)), weights
        )


def run_landmarks() -> Iterator[Tensor]:
    points = torch.rand(2, 10, 2, device=DEVICE) * 48 - 4
    yield draw_polylines(
        points, 40, [[0, 1, 2, 3, 4], [5, 6, 7, 5], [8, 9]], [(255, 0, 128), (0, 255, 0), (9, 90, 255)]
    )


def run_warp() -> Iterator[Tensor]:
    source, target = (torch.rand(2, 12, 2, device=DEVICE) for _ in range(2))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        image = (
            torch.rand(2, 3, 30, 26, device=DEVICE).contiguous(memory_format=memory_format).requires_grad_()
        )
        motion = landmark_motion(source, target, 16).requires_grad_()
        yield from torch.autograd.grad(warp(image, motion).sum(), (image, motion))


def main() -> None:
    torch.manual_seed(0)
    with use_backend("cuda") if DEVICE == "cuda" else nullcontext():
        for run in (run_adain, run_spectral_norm, run_landmarks, run_warp):
            results = list(run())
            assert all(result.isfinite().all() for result in results), (
                f"{run.__name__}: a result is not finite"
            )
            print(f"{run.__name__}: {len(results)} results", flush=True)


if __name__ == "__main__":
    main()
