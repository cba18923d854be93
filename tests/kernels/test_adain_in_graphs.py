"""Tests of AdaIN in compiled and exported code."""

import io

import pytest
import torch
from talkinghead_kernels import adain, decompositions, use_backend
from torch import nn

from conftest import DEVICES, RUNNABLE
from support.adain_cases import FORMATS, inputs

pytestmark = pytest.mark.usefixtures("poisoned_allocations")


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
def test_opcheck(device, memory_format):
    x, residual, scale, bias, grad_y, grad_h = inputs((2, 3, 4, 5), torch.float32, memory_format, device)
    ops = torch.ops.talkinghead
    leaves = [t.requires_grad_() for t in (x, scale, bias)]
    torch.library.opcheck(ops.adain.default, (*leaves, 1e-4, "relu"))
    torch.library.opcheck(ops.add_adain.default, (x, residual.requires_grad_(), scale, bias, 1e-4, None))
    x, scale, bias = (t.detach() for t in leaves)
    *_, mean, rstd = ops.adain(x, scale, bias, 1e-4, "relu")
    for more in (grad_h, None):
        torch.library.opcheck(ops.adain_backward.default, (grad_y, more, x, scale, bias, mean, rstd, "relu"))


def test_compiled_code_follows_backend_without_recompiling():
    def step(x, scale, bias, residual):
        y, h = adain(x, scale, bias, activation="relu", residual=residual)
        return adain(y + h, scale, bias)

    x, residual, scale, bias, grad_y, _ = inputs((2, 3, 8, 8), torch.float32)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    leaves = [t.requires_grad_() for t in (x, scale, bias)]
    expected = torch.autograd.grad(step(*leaves, residual), leaves, grad_y)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for name in (*RUNNABLE, *RUNNABLE):
            if DEVICES[name] != "cpu":
                continue
            with use_backend(name):
                got = torch.autograd.grad(compiled(*leaves, residual), leaves, grad_y)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
def test_inductor(memory_format):
    x, residual, scale, bias, *_ = inputs((2, 3, 8, 8), torch.float32, memory_format)

    def step(x, residual):
        return adain(x * 2, scale, bias, activation="relu", residual=residual)[0] + 1

    torch.testing.assert_close(torch.compile(step, fullgraph=True)(x, residual), step(x, residual))


class Exported(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def forward(self, x, style):
        y = adain(x, style, style * 2, activation="relu")
        y, h = adain(y, self.scale, self.bias, residual=x)
        return y + h


def exported():
    torch.manual_seed(0)
    module = Exported().eval()
    batch = torch.export.Dim("batch")
    arguments = torch.randn(3, 6, 5, 8), torch.randn(3, 6)
    program = torch.export.export(module, arguments, dynamic_shapes=({0: batch}, {0: batch}))
    return module, program, (torch.randn(6, 6, 5, 8), torch.randn(6, 6))


def test_export_keeps_op_until_decomposed():
    module, program, arguments = exported()
    names = [str(node.target) for node in program.graph.nodes]
    assert any(name.startswith("talkinghead.") for name in names)
    plain_program = program.run_decompositions(decompositions())
    assert not [
        name for name in (str(node.target) for node in plain_program.graph.nodes) if "talkinghead" in name
    ]
    for run in (program.module(), plain_program.module()):
        torch.testing.assert_close(run(*arguments), module(*arguments), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_decomposition_equals_op(dtype):
    x, residual, scale, bias, *_ = inputs((2, 3, 5, 7), dtype)
    table, ops = decompositions(), torch.ops.talkinghead
    for op, arguments in ((ops.adain.default, (x, scale)), (ops.add_adain.default, (x, residual, scale))):
        for got, expected in zip(
            table[op](*arguments, bias, 1e-4, "relu"), op(*arguments, bias, 1e-4, "relu"), strict=True
        ):
            assert got.dtype == expected.dtype
            torch.testing.assert_close(got, expected)


def test_onnx_accepts_any_batch():
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    module, program, arguments = exported()
    buffer = io.BytesIO()
    torch.onnx.export(program.run_decompositions(decompositions()), dynamo=True, verbose=False).save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    (got,) = session.run(None, dict(zip(names, (a.numpy() for a in arguments), strict=True)))
    torch.testing.assert_close(torch.from_numpy(got), module(*arguments).detach(), atol=1e-5, rtol=0)
