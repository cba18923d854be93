"""Attention of one head against torch's own op and torch.compile of the formula."""

import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels import attention
from talkinghead_kernels.attention import attention_reference
from torch import Tensor

from bench.lib.harness import DEVICE, Case, by_backend, compiled, gradients, size


def baseline(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]


def reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return attention_reference(query, key, value)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_attention(bench, thorough, direction, dtype, attended, batch):
    channels, side = attended
    shapes = (
        (side * side, channels // 8),
        (side * side // 4, channels // 8),
        (side * side // 4, channels // 2),
    )
    inputs = tuple(torch.randn(batch, *shape, device=DEVICE).to(dtype) for shape in shapes)
    functions = {"baseline": baseline} | (
        {"compile": compiled(reference)} if batch == 1 and (dtype == torch.float32 or thorough) else {}
    )
    if direction == "backward":
        wide = [tensor.float().requires_grad_() for tensor in inputs]
        for tensor in inputs:
            tensor.requires_grad_()
        grad = torch.randn(batch, shapes[0][0], channels // 2, device=DEVICE).to(dtype)
        expected = torch.autograd.grad(reference(*wide), wide, grad.float())
        runs = {
            name: gradients(run(), inputs, (grad,)) for name, run in by_backend(attention, *inputs).items()
        }
        runs |= {name: gradients(function(*inputs), inputs, (grad,)) for name, function in functions.items()}
    else:
        with torch.no_grad():
            expected = (reference(*(tensor.float() for tensor in inputs)),)
        runs = by_backend(attention, *inputs) | {
            name: lambda function=function: function(*inputs) for name, function in functions.items()
        }
    products = (
        (2 * channels // 2 + 3 * channels // 8)
        if direction == "backward"
        else (channels // 8 + channels // 2)
    )
    with torch.inference_mode(direction == "forward"):
        bench(
            Case(
                "attention",
                direction,
                f"{channels}@{side}",
                batch,
                dtype,
                (2 if direction == "backward" else 1) * size(*inputs, expected[0]),
                expected,
                runs,
                flops=2 * batch * shapes[0][0] * shapes[1][0] * products,
                tolerance=None if dtype == torch.float32 else 0.02,
            )
        )
