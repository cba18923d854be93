"""The warp by landmarks under torch.compile, torch.export and differentiation, and what it refuses."""

import io
import itertools
import re

import pytest
import torch
from talkinghead_kernels import decompositions, landmark_motion, use_backend, warp, warp_by_landmarks
from torch import nn

from conftest import DEVICES, RUNNABLE
from support.warp_cases import FORMATS, NAMES, faces, inputs

pytestmark = pytest.mark.usefixtures("poisoned_allocations")


@pytest.mark.parametrize("field", [(1, 1), (3, 4), None], ids=str)
def test_gradcheck(field):
    image, motion, _ = (t.requires_grad_() for t in inputs((2, 2, 5, 4), field, torch.float64, spread=0.3))
    assert torch.autograd.gradcheck(warp, (image, motion.detach().double().requires_grad_()))


@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
def test_opcheck(device, memory_format):
    image, motion, grad = inputs((2, 3, 6, 5), (4, 4), memory_format=memory_format, device=device)
    ops = torch.ops.talkinghead
    torch.library.opcheck(ops.landmark_motion.default, (*faces(2, 5, device=device), 4))
    torch.library.opcheck(ops.warp.default, (image.clone().requires_grad_(), motion.clone().requires_grad_()))
    for needed in itertools.product((True, False), (True, False)):
        torch.library.opcheck(ops.warp_backward.default, (grad, image, motion, *needed))


def test_compiled_code_follows_backend_and_batch():
    def step(image, source, target):
        return warp(image * 2, landmark_motion(source, target, 8) * 1.5) + 1

    fast = torch.compile(step, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, name in itertools.product((2, 3), [name for name in RUNNABLE if DEVICES[name] == "cpu"]):
            image, _, grad = inputs((batch, 3, 9, 10), None)
            points = faces(batch, 7)
            image.requires_grad_()
            for tensor in (image, *points):
                torch._dynamo.mark_dynamic(tensor, 0)
            with use_backend(name):
                answer, truth = fast(image, *points), step(image, *points)
                torch.testing.assert_close(answer, truth, atol=1e-5, rtol=0)
                for first, second in zip(
                    torch.autograd.grad(answer, image, grad),
                    torch.autograd.grad(truth, image, grad),
                    strict=True,
                ):
                    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_inductor():
    image, *_ = inputs((2, 3, 8, 9), None, memory_format=torch.channels_last)
    points = faces(2, 7)
    fast = torch.compile(warp_by_landmarks, fullgraph=True)
    torch.testing.assert_close(fast(image, *points), warp_by_landmarks(image, *points))


class Exported(nn.Module):
    def forward(self, image, source, target):
        return warp(image, landmark_motion(source, target, 8))


def test_export_and_onnx_accept_any_batch():
    batch = torch.export.Dim("batch")
    arguments = inputs((3, 3, 20, 24), None)[0], *faces(3, 9)
    program = torch.export.export(Exported(), arguments, dynamic_shapes=({0: batch},) * 3)
    plain = program.run_decompositions(decompositions())
    assert "talkinghead" in str(program.graph) and "talkinghead" not in str(plain.graph)
    assert "grid_sampler" in str(plain.graph)
    arguments = inputs((5, 3, 20, 24), None)[0], *faces(5, 9)
    truth = Exported()(*arguments)
    torch.testing.assert_close(plain.module()(*arguments), truth, atol=1e-5, rtol=0)
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    buffer = io.BytesIO()
    torch.onnx.export(plain, dynamo=True, verbose=False).save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    feed = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), arguments, strict=True)}
    torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), truth, atol=2e-5, rtol=0)


POINTS = torch.zeros(2, 4, 2)
IMAGE, MOTION = torch.zeros(2, 3, 5, 6), torch.zeros(2, 2, 4, 4)
BAD = [
    (
        landmark_motion,
        (POINTS[0], POINTS),
        "landmark_motion: source must be a floating-point [B, N, 2], got torch.float32 [4, 2]",
    ),
    (
        landmark_motion,
        (POINTS.int(), POINTS),
        "landmark_motion: source must be a floating-point [B, N, 2], got torch.int32 [2, 4, 2]",
    ),
    (
        landmark_motion,
        (POINTS, POINTS[..., :1]),
        "landmark_motion: target must be a floating-point [B, N, 2], got torch.float32 [2, 4, 1]",
    ),
    (
        landmark_motion,
        (POINTS, POINTS[:1]),
        "landmark_motion: target must be [2, 4, 2] on cpu as source is, got [1, 4, 2] on cpu",
    ),
    (
        landmark_motion,
        (POINTS, POINTS.to("meta")),
        "landmark_motion: target must be [2, 4, 2] on cpu as source is, got [2, 4, 2] on meta",
    ),
    (landmark_motion, (POINTS, POINTS, 0), "landmark_motion: grid must be at least 1, got 0"),
    (
        warp,
        (IMAGE[0], MOTION),
        "warp: image must be a floating-point [B, C, H, W], got torch.float32 [3, 5, 6]",
    ),
    (
        warp,
        (IMAGE.int(), MOTION),
        "warp: image must be a floating-point [B, C, H, W], got torch.int32 [2, 3, 5, 6]",
    ),
    (
        warp,
        (IMAGE[:, :0], MOTION),
        "warp: image must have at least one channel, row and column, got [2, 0, 5, 6]",
    ),
    (
        warp,
        (IMAGE, MOTION[:, :1]),
        "warp: motion must be a floating-point [B, 2, h, w], got torch.float32 [2, 1, 4, 4]",
    ),
    (
        warp,
        (IMAGE, MOTION.long()),
        "warp: motion must be a floating-point [B, 2, h, w], got torch.int64 [2, 2, 4, 4]",
    ),
    (
        warp,
        (IMAGE, MOTION[:1]),
        "warp: motion must be [2, 2, h, w] on cpu for the image, got [1, 2, 4, 4] on cpu",
    ),
    (
        warp,
        (IMAGE, MOTION.to("meta")),
        "warp: motion must be [2, 2, h, w] on cpu for the image, got [2, 2, 4, 4] on meta",
    ),
    (warp, (IMAGE, MOTION[..., :0]), "warp: motion must have at least one row and column, got [2, 2, 4, 0]"),
]


@pytest.mark.parametrize("function, arguments, message", BAD, ids=[message[:50] for *_, message in BAD])
def test_bad_input_is_named(function, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    if any(tensor.device.type == "meta" for tensor in arguments if isinstance(tensor, torch.Tensor)):
        return
    torch._dynamo.reset()
    with pytest.raises(Exception, match=re.escape(message)):
        torch.compile(function, fullgraph=True, backend="aot_eager")(*arguments)
