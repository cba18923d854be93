"""Convolutions beside a resampling against torch's two ops; "folded" has its weight folded beforehand, as
`normalise` writes it.
"""

from functools import partial

import pytest
import torch
from talkinghead_kernels import conv_downsample, upsample_conv
from talkinghead_kernels.resample import apply_form, choose_form, fold

from bench.lib.harness import DEVICE, Case, gradients, size

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_upsample_conv(bench, thorough, direction, dtype, memory_format, up, batch):
    measure(bench, thorough, upsample_conv, direction, dtype, memory_format, up, batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_conv_downsample(bench, thorough, direction, dtype, memory_format, down, batch):
    measure(bench, thorough, conv_downsample, direction, dtype, memory_format, down, batch)


def measure(bench, thorough, op, direction, dtype, memory_format, layer, batch):
    if (
        DEVICE == "cpu"
        and batch > 1
        and (memory_format == "channels_last" or dtype != torch.float32 or not thorough)
    ):
        pytest.skip("more than one picture at a time, with --thorough, in float32 NCHW alone")
    inputs, outputs, side = layer
    name, layout = op.__name__, FORMATS[memory_format]
    backward = direction == "backward"
    x = torch.randn(batch, inputs, side, side, device=DEVICE).to(dtype, memory_format=layout)
    weight = (torch.randn(outputs, inputs, 3, 3, device=DEVICE) / (3 * inputs**0.5)).to(
        dtype, memory_format=layout
    )
    bias = torch.randn(outputs, device=DEVICE).to(dtype)
    form = choose_form(name, inputs, outputs, side, side, dtype, x.device, backward)
    folded = fold(weight, form).contiguous(memory_format=layout) if form != "plain" else weight

    def folded_beforehand(x, weight, bias):
        return apply_form(name, "plain", x, weight, bias) if form == "plain" else op(x, weight, bias)

    def baseline(x, weight, bias):
        return apply_form(name, "plain", x, weight, bias)

    tensors = (x, weight, bias)
    with torch.no_grad():
        y = baseline(*tensors)
    grad = torch.randn_like(y)
    if backward:
        for tensor in (*tensors, folded):
            tensor.requires_grad_()
        wide = [tensor.detach().float().requires_grad_() for tensor in tensors]
        expected = torch.autograd.grad(baseline(*wide), wide, grad.float())
        runs = {
            "baseline": gradients(baseline(*tensors), tensors, (grad,)),
            "ours": gradients(op(*tensors), tensors, (grad,)),
        }
        beforehand = gradients(folded_beforehand(x, folded, bias), (x, folded, bias), (grad,))
    else:
        with torch.no_grad():
            expected = (baseline(*(tensor.float() for tensor in tensors)),)
        runs = {"baseline": lambda: baseline(*tensors), "ours": lambda: op(*tensors)}
        beforehand = partial(folded_beforehand, x, folded, bias)
    positions = y[0, 0].numel() if name == "upsample_conv" else x[0, 0].numel()
    flops = (
        2 * 9 * inputs * outputs * positions * batch * (2 if backward else 1)
    )  # of the two ops as they are written, without the fold
    with torch.inference_mode(not backward):
        bench(
            Case(
                name,
                direction,
                f"{inputs}>{outputs}@{side}",
                batch,
                dtype,
                (size(x, weight, y)) * (2 if backward else 1),
                expected,
                runs,
                {"folded": beforehand},
                memory_format,
                flops,
                tolerance=1e-2 if dtype != torch.float32 else 1e-4,
            )
        )
