"""Tests of AdaIN on every backend that can run here.

Triton on a CPU needs TRITON_INTERPRET=1, set before Python starts.
"""

import re

import pytest
import torch
from talkinghead_kernels import adain, backends
from torch.fx.experimental.proxy_tensor import make_fx

from conftest import RUNNABLE
from support.adain_cases import FORMATS, SHAPES, inputs, plain
from support.cpu_capabilities import CPU_CAPABILITIES, check_with_capability

pytestmark = pytest.mark.usefixtures("poisoned_allocations")


def test_every_available_backend_is_tested():
    missing = {name: reason for name, reason in backends().items() if reason}
    assert "reference" in RUNNABLE
    if missing:
        pytest.skip("; ".join(f"{name}: {reason}" for name, reason in missing.items()))


def gradients(outputs, leaves, grads):
    return torch.autograd.grad([o for o in outputs if o.requires_grad], leaves, grads)


def results(function, h, scale, bias, activation, grad_y, grad_h, residual=None):
    """Return y, then the gradients of h (or x), scale and bias."""
    leaves = [t.detach().requires_grad_() for t in (h, scale, bias)]
    if residual is not None:
        y, kept = function(*leaves, activation=activation, residual=residual)
        return y, *torch.autograd.grad((y, kept), leaves, (grad_y, grad_h)), kept
    y = function(*leaves, activation=activation)
    return y, *torch.autograd.grad(y, leaves, grad_y)


def exact(h, scale, bias, activation, grad_y, grad_h=None):
    """Yield the results of plain torch in double precision, then in the dtype of `h`."""
    for dtype in (torch.float64, h.dtype):
        expected = list(
            results(plain, *(t.to(dtype) for t in (h, scale, bias)), activation, grad_y.to(dtype), None)
        )
        if grad_h is not None:
            expected[1] = expected[1] + grad_h.to(dtype)
        yield expected


def assert_as_good(got, expected, baseline, name):
    """Check that the error is at most twice that of plain torch, or a few roundings if that has none."""
    assert got.isfinite().all(), name
    error, allowed = (
        (t.double() - expected).abs().nan_to_num(0).max().item() for t in (got, baseline)
    )  # plain half overflows
    assert error <= 2 * allowed + 2 * torch.finfo(got.dtype).eps * (1 + expected.abs().max().item()), name


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("added", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_like_plain_torch(device, threads, shape, dtype, memory_format, added, activation):
    threads(2)
    x, residual, scale, bias, grad_y, grad_h = inputs(shape, dtype, memory_format, device)
    h = x + residual if added else x
    expected, baseline = exact(h, scale, bias, activation, grad_y, grad_h if added else None)
    got = results(adain, x, scale, bias, activation, grad_y, grad_h, residual if added else None)
    if added:
        assert torch.equal(got[4], h)
    for name, *values in zip(
        ("y", "grad_x", "grad_scale", "grad_bias"), got[:4], expected, baseline, strict=True
    ):
        assert values[0].dtype == dtype
        assert_as_good(*values, name)
    for large in (got[0], got[1], got[-1] if added else got[0]):
        assert large.is_contiguous(memory_format=memory_format)


def test_float64_runs_reference(device):
    x, _, scale, bias, *_ = inputs((2, 3, 5, 7), torch.float64, device=device)
    torch.testing.assert_close(
        adain(x, scale, bias, activation="relu"), plain(x, scale, bias, "relu"), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
def test_styles_accept_views_and_shared_values(device, memory_format):
    x, _, _, _, grad_y, _ = inputs((3, 6, 4, 5), torch.float32, memory_format, device)
    style = torch.randn(3, 20, device=device, requires_grad=True)
    shared = torch.randn(2, 6, device=device, requires_grad=True)
    transposed = torch.randn(6, 3, device=device).T
    for scale, bias, leaf in (
        (style[:, 2:8], style[:, 10:16], style),
        (shared[0], shared[1], shared),
        (transposed, style[:, :6], style),
    ):
        expected = plain(x, scale, bias, "relu")
        got = adain(x, scale, bias, activation="relu")
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        (grad,), (expected_grad,) = (torch.autograd.grad(y, leaf, grad_y) for y in (got, expected))
        torch.testing.assert_close(grad, expected_grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_accepts_float_styles(device, dtype):
    x, _, scale, bias, *_ = inputs((2, 3, 8, 8), dtype, device=device)
    got = adain(x, scale.float(), bias.float())
    assert got.dtype == dtype
    assert torch.equal(got, adain(x, scale, bias))


def test_input_and_gradient_accept_any_strides(device):
    whole, _, scale, bias, grads, _ = inputs((4, 6, 10, 12), torch.float32, device=device)
    for view in (
        lambda t: t[::2, ::2, 1:9, ::3],
        lambda t: t[:, :, :, :1].expand(4, 6, 10, 5),
        lambda t: t.transpose(2, 3),
    ):
        x, grad = view(whole), view(grads)
        s, b = scale[: x.shape[0], : x.shape[1]], bias[: x.shape[0], : x.shape[1]]
        expected, _ = exact(x, s, b, "relu", grad)
        for got, value in zip(results(adain, x, s, b, "relu", grad, None), expected, strict=True):
            torch.testing.assert_close(got.double(), value, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
def test_large_mean_keeps_precision(device, memory_format):
    x = (torch.randn(2, 3, 96, 100) + 1000).to(device).contiguous(memory_format=memory_format)
    scale, bias = (torch.ones(3, device=device) * k for k in (1, 0))
    y = adain(x, scale, bias)
    assert (y - plain(x.double(), scale, bias, None)).abs().max() < 5e-4
    torch.testing.assert_close(
        y.double().var((2, 3)), torch.ones(2, 3, device=device).double(), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("size", [1, 8])
def test_constant_plane_gives_its_bias(device, size, memory_format):
    x = (
        torch.full((1, 2, size, size), 7.0, device=device)
        .contiguous(memory_format=memory_format)
        .requires_grad_()
    )
    bias = torch.tensor([0.5, -0.5], device=device)
    y = adain(x, torch.ones(2, device=device), bias)
    torch.testing.assert_close(y[0, :, 0, 0], bias, atol=1e-5, rtol=0)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    torch.testing.assert_close(grad, torch.zeros_like(x), atol=1e-3, rtol=0)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
def test_relu_blocks_gradient_at_zero(device, memory_format):
    x = torch.full((1, 2, 8, 8), 7.0, device=device).contiguous(memory_format=memory_format)
    ones, bias = torch.ones(1, 2, device=device), torch.tensor([[0.0, 1.0]], device=device)
    *_, grad_bias = results(adain, x, ones, bias, "relu", torch.ones_like(x), None)
    assert grad_bias.tolist() == [[0, 64]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stays_in_its_plane(device, value, memory_format, dtype):
    x, _, scale, bias, grad_y, _ = inputs((2, 20, 65, 64), dtype, memory_format, device)
    x[1, 2, 50, 3] = value
    y, grad_x, *_ = results(adain, x, scale, bias, "relu", grad_y, None)
    expected = torch.zeros(2, 20, dtype=torch.bool, device=device)
    expected[1, 2] = True
    assert torch.equal(y.isnan().flatten(2).all(2), expected)
    assert torch.equal(y.isnan().flatten(2).any(2), expected)
    assert torch.equal(grad_x.isnan().flatten(2).any(2), expected)


@pytest.mark.parametrize("affine", [(2, 2), (2,)])
def test_gradcheck(affine):
    torch.manual_seed(0)
    x, residual = (torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale, bias = (torch.randn(affine, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *a: adain(*a, activation="relu"), (x, scale, bias))
    assert torch.autograd.gradcheck(lambda x, s, b, r: adain(x, s, b, residual=r), (x, scale, bias, residual))


def test_gradient_of_single_result(device):
    x, residual, scale, bias, grad_y, grad_h = inputs((2, 3, 4, 4), torch.float32, device=device)
    x.requires_grad_()
    y, h = adain(x, scale, bias, residual=residual)
    assert torch.equal(torch.autograd.grad(h, x, grad_h, retain_graph=True)[0], grad_h)
    expected, _ = exact((x + residual).detach(), scale, bias, None, grad_y)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad_y)[0].double(), expected[1], atol=1e-5, rtol=0)


def test_backward_saves_input_and_statistics(device):
    x, residual, scale, bias, *_ = inputs((2, 3, 16, 16), torch.bfloat16, device=device)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        _, h = adain(x.requires_grad_(), scale, bias, activation="relu", residual=residual)
    assert [tuple(t.shape) for t in kept] == [(2, 3, 16, 16)] + [(2, 3)] * 4
    assert kept[0].data_ptr() == h.data_ptr()
    assert [t.dtype for t in kept[3:]] == [torch.float32] * 2


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("shape", [(1, 3, 160, 160), (5, 33, 33, 33), (2, 64, 64, 64)], ids=str)
def test_result_is_bit_equal_for_any_threads(device, threads, shape, memory_format):
    x, residual, scale, bias, grad_y, grad_h = inputs(shape, torch.float32, memory_format, device)
    runs = []
    for count in (1, 2, 3, 2):
        threads(count)
        runs.append(results(adain, x, scale, bias, "relu", grad_y, grad_h, residual))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


@pytest.mark.skipif("cpp" not in RUNNABLE, reason=f"cpp: {backends()['cpp']}")
@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_older_instruction_sets(capability):
    check_with_capability(__file__, capability, "plain_torch and cpp and residual-relu and (100 or 31)")


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
def test_inference_mode_gives_same_result(device, memory_format):
    # In inference mode the body of the op is called without the dispatcher, except while tracing.
    x, residual, scale, bias, *_ = inputs((2, 16, 32, 32), torch.float32, memory_format, device)
    y, (z, h) = adain(x, scale, bias), adain(x, scale, bias, activation="relu", residual=residual)
    with torch.inference_mode():
        assert torch.equal(adain(x, scale, bias), y)
        assert all(
            torch.equal(a, b)
            for a, b in zip(adain(x, scale, bias, activation="relu", residual=residual), (z, h), strict=True)
        )
        strided = adain(x[:, :, ::2, 1:], scale, bias)
        assert (
            torch.equal(strided, adain(x[:, :, ::2, 1:].contiguous(), scale, bias))
            and strided.is_contiguous()
        )
        traced = make_fx(lambda *tensors: adain(*tensors), tracing_mode="fake")(x, scale, bias)
    assert torch.ops.talkinghead.adain.default in [node.target for node in traced.graph.nodes]


@pytest.mark.parametrize("memory_format", FORMATS, ids=["NCHW", "channels_last"])
def test_large_output_bypasses_cache(device, memory_format):
    x, _, scale, bias, grad_y, _ = inputs((9, 64, 128, 128), torch.bfloat16, memory_format, device)
    whole = results(adain, x, scale, bias, "relu", grad_y, None)
    first = results(adain, x[:1], scale[:1], bias[:1], "relu", grad_y[:1], None)
    assert all(torch.equal(a[:1], b) for a, b in zip(whole, first, strict=True))
    assert not whole[0].isnan().any() and not whole[1].isnan().any()


GOOD = torch.zeros(1, 2, 3, 3), torch.zeros(2), torch.zeros(2)
BAD = [
    (
        (torch.zeros(1, 2, 3), *GOOD[1:]),
        "x must be a floating-point [B, C, H, W], got torch.float32 [1, 2, 3]",
    ),
    (
        (torch.zeros(1, 2, 3, 3, dtype=torch.int32), *GOOD[1:]),
        "x must be a floating-point [B, C, H, W], got torch.int32 [1, 2, 3, 3]",
    ),
    ((torch.zeros(0, 2, 3, 3), *GOOD[1:]), "x must not be empty, got [0, 2, 3, 3]"),
    ((GOOD[0], torch.zeros(3), GOOD[2]), "scale must be [B, C] = [1, 2] or [C], got [3]"),
    ((GOOD[0], torch.zeros(()), GOOD[2]), "scale must be [B, C] = [1, 2] or [C], got []"),
    ((GOOD[0], GOOD[1], torch.zeros(2, 2)), "bias must be [B, C] = [1, 2] or [C], got [2, 2]"),
    ((GOOD[0], GOOD[1].half(), GOOD[2].half()), "scale must have x's dtype, or float32"),
    (
        (GOOD[0].half(), GOOD[1].half(), GOOD[2]),
        "bias must have x's dtype, or float32 as scale and bias both",
    ),
    ((GOOD[0], GOOD[1], GOOD[2].to("meta")), "bias must be on x's device cpu, got meta"),
    ((*GOOD, -1.0), "eps must be finite and not negative, got -1.0"),
    ((*GOOD, float("nan")), "eps must be finite and not negative, got nan"),
    ((*GOOD, float("inf")), "eps must be finite and not negative, got inf"),
    ((*GOOD, 1e-4, "gelu"), "activation must be None or 'relu', got 'gelu'"),
    (
        (*GOOD, 1e-4, None, torch.zeros(1)),
        "residual must be like x, torch.float32 [1, 2, 3, 3] on cpu, got torch.float32 [1] on cpu",
    ),
    ((*GOOD, 1e-4, None, GOOD[0].to("meta")), "residual must be like x"),
    ((*GOOD, 1e-4, None, GOOD[0].half()), "residual must be like x"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(f"adain: {message}")) as caught:
        adain(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("arguments", "message"), BAD[:6] + BAD[9:10] + BAD[12:14], ids=lambda value: None)
def test_compiled_code_names_bad_input(arguments, message):
    torch._dynamo.reset()
    with pytest.raises(Exception, match=re.escape(f"adain: {message}")):
        torch.compile(adain, fullgraph=True, backend="aot_eager")(*arguments)
