"""AdaIN with ReLU against the baseline op, torch.compile of the reference and a copy."""

import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels import adain
from talkinghead_kernels.adain import adain_reference
from torch import Tensor

from bench.lib.harness import DEVICE, Case, by_backend, compiled, gradients, size

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def baseline(
    x: Tensor, scale: Tensor, bias: Tensor, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    h = x if residual is None else x + residual
    y = torch.relu(
        torch.addcmul(bias[:, :, None, None], F.instance_norm(h, eps=1e-4), scale[:, :, None, None])
    )
    return y if residual is None else (y, h)


def reference(
    x: Tensor, scale: Tensor, bias: Tensor, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    h = x if residual is None else x + residual
    y = adain_reference(h, scale, bias, 1e-4, True)[0]
    return y if residual is None else (y, h)


def ours(
    x: Tensor, scale: Tensor, bias: Tensor, residual: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    return adain(x, scale, bias, activation="relu", residual=residual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("direction", ["forward", "residual", "backward"])
def test_adain(bench, thorough, direction, dtype, memory_format, layer, batch):
    if batch > 1 and memory_format == "channels_last" and direction != "forward":
        pytest.skip("channels_last with residual or backward is measured at batch 1")
    channels, side = layer
    x = torch.randn(batch, channels, side, side, device=DEVICE).to(
        dtype, memory_format=FORMATS[memory_format]
    )
    scale, bias = torch.randn(2, batch, channels, device=DEVICE).to(dtype).unbind()
    inputs = (x, scale, bias, torch.randn_like(x)) if direction == "residual" else (x, scale, bias)
    backward = direction == "backward"
    # compiling takes longer than measuring: not of everything
    compiles = batch == 8 if DEVICE == "cuda" else dtype == torch.float32 and (batch == 1 or thorough)
    with_compiled = compiles and memory_format == "nchw" and direction != "residual"
    functions = {"baseline": baseline} | ({"compile": compiled(reference)} if with_compiled else {})
    if backward:
        grad = torch.randn_like(x)
        for tensor in inputs:
            tensor.requires_grad_()
        wide = [tensor.detach().float().requires_grad_() for tensor in inputs]
        expected = torch.autograd.grad(reference(*wide), wide, grad.float())
        runs = {name: gradients(run(), inputs, (grad,)) for name, run in by_backend(ours, *inputs).items()}
        runs |= {name: gradients(function(*inputs), inputs, (grad,)) for name, function in functions.items()}
    else:
        with torch.no_grad():
            expected = reference(*(tensor.float() for tensor in inputs))
        expected = expected if isinstance(expected, tuple) else (expected,)
        runs = by_backend(ours, *inputs) | {
            name: lambda function=function: function(*inputs) for name, function in functions.items()
        }
    plane = x.detach()
    bounds = {"copy": plane.clone}
    if DEVICE == "cuda" and direction == "forward":
        bounds["instance_norm"] = lambda: F.instance_norm(plane, eps=1e-4)
    with torch.inference_mode(not backward):
        bench(
            Case(
                "adain",
                direction,
                f"{channels}@{side}",
                batch,
                dtype,
                {"forward": 2, "residual": 4, "backward": 3}[direction] * size(x),
                expected,
                runs,
                bounds,
                memory_format,
                # where y is next to 0 rounding decides whether a gradient passes ReLU: one of a million more
                # or less
                tolerance=5e-3 if backward else None,
            )
        )
