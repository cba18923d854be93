"""Attention on every backend that can run here; those without a kernel of it run the reference."""

import io
import math
import re

import pytest
import torch
from talkinghead_kernels import attention, backends, decompositions, use_backend
from talkinghead_kernels.attention import torch_attention
from torch import nn

from conftest import DEVICES, RUNNABLE
from support.cpu_capabilities import CPU_CAPABILITIES, check_with_capability

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 37, 19, 3, 5),
    (3, 33, 16, 8, 24),
    (2, 300, 270, 10, 40),
    (1, 130, 129, 33, 150),
    (1, 64, 400, 40, 7),
]
"""B, N, M, d, e."""


def plain(query, key, value):
    """Compute attention in plain torch, in the tensors' own dtype."""
    return (query @ key.mT).softmax(-1) @ value


def inputs(shape, dtype, device="cpu"):
    """Return query, key, value and the gradient of the result."""
    torch.manual_seed(0)
    batch, queries, keys, width, depth = shape
    sizes = (queries, width), (keys, width), (keys, depth), (queries, depth)
    return [torch.randn(batch, *size).to(device, dtype) for size in sizes]


def results(function, query, key, value, grad):
    """Return the result, then the gradients of query, key and value."""
    leaves = [t.detach().requires_grad_() for t in (query, key, value)]
    out = function(*leaves)
    return out, *torch.autograd.grad(out, leaves, grad)


def torch_results(*tensors):
    """Return `results` of torch's attention, or of plain torch where an older instruction set is asked for
    and torch's own kernel of bfloat16 refuses it.
    """
    try:
        return results(torch_attention, *tensors)
    except RuntimeError as error:
        if "only supported when avx512" not in str(error):
            raise
        return results(plain, *tensors)


def assert_as_good(got, expected, *baseline, name):
    """At most twice torch's error, or some roundings where torch happens to have none."""
    assert got.isfinite().all(), name
    error, *others = ((t.double() - expected).abs().max().item() for t in (got, *baseline))
    allowed = max(others)
    assert error <= 2 * allowed + 2 * torch.finfo(got.dtype).eps * (1 + expected.abs().max().item()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_like_plain_torch(device, threads, shape, dtype):
    threads(2)
    tensors = inputs(shape, dtype, device)
    expected, got = results(plain, *(t.double() for t in tensors)), results(attention, *tensors)
    # torch's fused backward forms weights again, as the kernel's does, and is less exact than the plain one
    # in float32
    baseline = results(plain, *tensors), torch_results(*tensors)
    for name, *values in zip(
        ("out", "grad_query", "grad_key", "grad_value"), got, expected, *baseline, strict=True
    ):
        assert values[0].dtype == dtype and values[0].is_contiguous()
        assert_as_good(*values, name=name)


def test_float64_runs_reference(device):
    tensors = inputs((2, 37, 19, 3, 5), torch.float64, device)
    for got, expected in zip(results(attention, *tensors), results(plain, *tensors), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_tensors_accept_any_strides(device):
    # Tensors of a network are views of channels_last maps, and a gradient may be expanded.
    query, key, value, grad = inputs((2, 40, 24, 8, 20), torch.float32, device)
    expected = results(attention, query, key, value, grad)
    turned = [t.mT.contiguous().mT for t in (query, key, value, grad)]
    spread = [torch.stack([t, t], 2)[:, :, 0] for t in (query, key, value, grad)]
    for views in (turned, spread):
        for got, same in zip(results(attention, *views), expected, strict=True):
            torch.testing.assert_close(got, same, atol=1e-5, rtol=1e-5)
    one = torch.ones((), device=device).expand_as(grad)
    for got, same in zip(
        results(attention, query, key, value, one),
        results(attention, query, key, value, one.contiguous()),
        strict=True,
    ):
        torch.testing.assert_close(got, same, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mean", [1000, -1000])
def test_scores_far_from_zero_stay_finite(device, dtype, mean):
    # Exponentials of such scores overflow or are all 0; softmax subtracts the maximum first.
    query, key, value, grad = inputs((1, 40, 300, 4, 16), dtype, device)
    query[..., 0], key[..., 0] = mean, 1
    got, expected = (
        results(attention, query, key, value, grad),
        results(plain, *(t.double() for t in (query, key, value, grad))),
    )
    tolerance = 2e-3 if dtype == torch.float32 else 3e-2
    for tensor, true in zip((got[0], got[3]), (expected[0], expected[3]), strict=True):
        torch.testing.assert_close(tensor.double(), true, atol=tolerance, rtol=tolerance)
    assert all(tensor.isfinite().all() for tensor in got)


def test_last_key_dominates_softmax(device):
    query, key, value, _ = inputs((1, 20, 400, 4, 16), torch.float32, device)
    query[..., 0], key[..., 0], key[:, -1, 0] = 1, 0, 200
    torch.testing.assert_close(attention(query, key, value), value[:, -1:].expand(1, 20, 16))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_stays_in_its_row(device, bad):
    query, key, value, _ = inputs((2, 40, 20, 4, 16), torch.float32, device)
    expected = attention(query, key, value)
    query[1, 3] = bad
    got = attention(query, key, value)
    assert got[1, 3].isnan().all()
    assert got.isnan().sum() == 16 and torch.equal(got.nan_to_num(0)[0], expected[0])
    value[0, 2, 5] = bad
    assert attention(query, key, value)[0, :, 5].isfinite().logical_not().all()


def test_empty_batch_gives_empty_result(device):
    for shape in ((0, 5, 4, 3, 2), (2, 0, 4, 3, 2)):
        tensors = inputs(shape, torch.float32, device)
        out, *grads = results(attention, *tensors)
        assert out.shape == tensors[3].shape
        for grad, leaf in zip(grads, tensors, strict=False):
            assert grad.shape == leaf.shape and not grad.any()


def test_gradcheck():
    query, key, value, _ = (t.requires_grad_() for t in inputs((2, 5, 4, 2, 3), torch.float64))
    assert torch.autograd.gradcheck(attention, (query, key, value))


@pytest.mark.skipif("cpp" not in RUNNABLE, reason=f"cpp: {backends()['cpp']}")
def test_cpp_treats_tiny_weights_as_zero():
    """Use weights of small powers of 2: the smallest would be denormal, which is slow on some CPUs."""
    key = torch.tensor([0.0, -90, -110, -127, -140]).mul(math.log(2)).view(1, 5, 1)
    value = 2.0**100 * torch.eye(5)[None]
    with use_backend("cpp"):
        out = attention(torch.ones(1, 1, 1), key, value)
    assert (out[0, 0] > 0).tolist() == [True, True, False, False, False]
    assert float(out[0, 0, 1]) == pytest.approx(2.0**10, rel=1e-4)


@pytest.mark.skipif("cpp" not in RUNNABLE, reason=f"cpp: {backends()['cpp']}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(dtype):
    query, key, value, grad = inputs((2, 5, 4, 2, 3), dtype)
    op = torch.ops.talkinghead
    torch.library.opcheck(
        op.attention.default, tuple(t.clone().requires_grad_() for t in (query, key, value))
    )
    out, lse = op.attention(query, key, value)
    torch.library.opcheck(op.attention_backward.default, (grad, query, key, value, out, lse))


def test_compiled_code_follows_backend_without_recompiling():
    def step(query, key, value):
        return attention(query * 2, key, value) + 1

    query, key, value, grad = inputs((2, 37, 19, 3, 5), torch.float32)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = results(step, query, key, value, grad)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for name in (*RUNNABLE, *RUNNABLE):
            if DEVICES[name] != "cpu":
                continue
            with use_backend(name):
                for got, true in zip(results(compiled, query, key, value, grad), expected, strict=True):
                    torch.testing.assert_close(got, true, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_does_not_change_result(device, dtype):
    if device != "cpu":
        pytest.skip("elsewhere it is torch's own op, and autocast's to cast")
    tensors = inputs((1, 37, 19, 3, 5), dtype)
    expected = results(attention, *tensors)
    with torch.autocast("cpu", torch.bfloat16):
        got = results(attention, *tensors)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


class Exported(nn.Module):
    def forward(self, query, key, value):
        return attention(query, key, value) * 2


def test_export_and_onnx_accept_any_batch():
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    tensors = inputs((3, 12, 7, 4, 6), torch.float32)[:3]
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Exported(), tuple(tensors), dynamic_shapes=({0: batch},) * 3
    ).run_decompositions(decompositions())
    names = [str(node.target) for node in program.graph.nodes]
    assert not any("talkinghead" in name or "logsumexp" in name for name in names), names
    tensors = inputs((5, 12, 7, 4, 6), torch.float32)[:3]
    expected = Exported()(*tensors)
    torch.testing.assert_close(program.module()(*tensors), expected, atol=1e-5, rtol=0)
    buffer = io.BytesIO()
    torch.onnx.export(program, dynamo=True, verbose=False).save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    feed = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), tensors, strict=True)}
    torch.testing.assert_close(torch.from_numpy(session.run(None, feed)[0]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_decomposition_equals_op(dtype):
    query, key, value, _ = inputs((2, 5, 7, 3, 4), dtype)
    op = torch.ops.talkinghead.attention.default
    for got, expected in zip(decompositions()[op](query, key, value), op(query, key, value), strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(
            got, expected, **({"atol": 2e-3, "rtol": 2e-2} if dtype == torch.bfloat16 else {})
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_result_is_bit_equal_for_any_threads(device, threads, dtype):
    tensors = inputs((2, 333, 270, 10, 40), dtype, device)
    runs = []
    for count in (1, 2, 3, 2):
        threads(count)
        runs.append(results(attention, *tensors))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.skipif("cpp" not in RUNNABLE, reason=f"cpp: {backends()['cpp']}")
@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_older_instruction_sets(capability):
    check_with_capability(__file__, capability, "cpp and (19 or 129 or nan_stays or tiny)")


def test_missing_kernel_falls_back_to_torch(monkeypatch):
    from talkinghead_kernels import extension

    tensors = inputs((2, 37, 19, 3, 5), torch.float32)
    expected = results(attention, *tensors)
    monkeypatch.setattr(
        extension, "unavailable_reason", lambda device, kernel=None: "the extension is not built"
    )
    for got, true in zip(results(attention, *tensors), expected, strict=True):
        torch.testing.assert_close(got, true, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="attention: query must be"):
        attention(tensors[0][0], *tensors[1:3])


GOOD = torch.zeros(2, 5, 3), torch.zeros(2, 4, 3), torch.zeros(2, 4, 6)
BAD = [
    ((GOOD[0][0], *GOOD[1:]), "query must be a floating-point [B, N, d], got torch.float32 [5, 3]"),
    ((GOOD[0].int(), *GOOD[1:]), "query must be a floating-point [B, N, d], got torch.int32 [2, 5, 3]"),
    ((GOOD[0][..., :0], *GOOD[1:]), "query must be a floating-point [B, N, d], got torch.float32 [2, 5, 0]"),
    ((GOOD[0], GOOD[1][:1], GOOD[2]), "key must be [B, M, d] = [2, M, 3], got [1, 4, 3]"),
    ((GOOD[0], GOOD[1][..., :2], GOOD[2]), "key must be [B, M, d] = [2, M, 3], got [2, 4, 2]"),
    ((GOOD[0], GOOD[1][:, :0], GOOD[2][:, :0]), "key must have at least one row, got [2, 0, 3]"),
    ((GOOD[0], GOOD[1], GOOD[2][:, :3]), "value must be [B, M, e] = [2, 4, e], got [2, 3, 6]"),
    ((GOOD[0], GOOD[1], GOOD[2][..., :0]), "value must be [B, M, e] = [2, 4, e], got [2, 4, 0]"),
    (
        (GOOD[0], GOOD[1].half(), GOOD[2]),
        "key must be like query, torch.float32 on cpu, got torch.float16 on cpu",
    ),
    (
        (GOOD[0], GOOD[1], GOOD[2].to("meta")),
        "value must be like query, torch.float32 on cpu, got torch.float32 on meta",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(f"attention: {message}")) as caught:
        attention(*arguments)
    assert "\n" not in str(caught.value)
