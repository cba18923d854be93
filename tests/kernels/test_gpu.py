"""Tests of every op on the GPU, with every backend, against the reference."""

import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels import (
    adain,
    backends,
    conv_downsample,
    draw_polylines,
    normalise,
    power_iteration_,
    upsample_conv,
    use_backend,
)
from talkinghead_kernels.adain import adain_reference
from talkinghead_kernels.resample import CANDIDATES, FORMS, apply_form
from talkinghead_kernels.spectral_norm import normalise_reference, power_iteration_reference

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device", allow_module_level=True)

pytestmark = pytest.mark.gpu

BACKENDS = ("cuda", "triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
SHAPES = ((1, 1, 1, 1), (2, 3, 5, 7), (1, 64, 256, 256), (2, 512, 16, 16), (3, 128, 33, 31), (8, 256, 64, 64))
EPS = 1e-4


@pytest.fixture(params=BACKENDS)
def backend(request):
    reason = backends()[request.param]
    if reason:
        pytest.skip(f"{request.param}: {reason}")
    with use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _poisoned():
    """Fresh allocations hold NaN, so that what no kernel writes shows."""
    torch.manual_seed(0)
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before


def baseline(x, scale, bias, residual=None):
    h = x if residual is None else x + residual
    variance, mean = torch.var_mean(
        h.float(), (2, 3), correction=0, keepdim=True
    )  # F.instance_norm refuses planes of one pixel
    normal = ((h.float() - mean) * (variance + EPS).rsqrt()).to(x.dtype)
    y = torch.relu(torch.addcmul(bias[:, :, None, None], normal, scale[:, :, None, None]))
    return (y,) if residual is None else (y, h)


def adain_in_float64(x, scale, bias, residual=None):
    """Compute in float64 from the same h, which is rounded before it is normalised."""
    h = x if residual is None else (x.float() + residual.float()).to(x.dtype)
    h = (
        h.double()
        if residual is None
        else x.double() + residual.double() + (h.double() - x.double() - residual.double()).detach()
    )
    y = adain_reference(h, scale.double(), bias.double(), EPS, True)[0]
    return (y,) if residual is None else (y, h)


def adain_block(x, scale, bias, residual=None):
    result = adain(x, scale, bias, EPS, "relu", residual)
    return result if isinstance(result, tuple) else (result,)


def differs(results, expected):
    return [
        float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))
        for a, b in zip(results, expected, strict=True)
    ]


def close(results, others, expected, dtype):
    """Check that errors are at most twice those of the baseline, or one rounding."""
    floor = {torch.float32: 3e-6, torch.bfloat16: 6e-3, torch.float16: 8e-4}[dtype]
    errors, baseline_errors = differs(results, expected), differs(others, expected)
    assert all(a <= max(2 * b, floor) for a, b in zip(errors, baseline_errors, strict=True)), (
        f"errors {errors}, of the baseline {baseline_errors}"
    )


def inputs(shape, dtype, memory_format, residual=False):
    x = torch.randn(shape, device="cuda").to(dtype, memory_format=memory_format)
    scale, bias = (torch.randn(shape[:2], device="cuda").to(dtype) for _ in range(2))
    return [x, scale, bias, *([torch.randn_like(x)] if residual else [])]


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adain_forward_and_backward(backend, shape, dtype, memory_format, residual):
    leaves = [tensor.requires_grad_() for tensor in inputs(shape, dtype, memory_format, residual)]
    expected, results, others = adain_in_float64(*leaves), adain_block(*leaves), baseline(*leaves)
    close(results, others, expected, dtype)
    assert all(result.is_contiguous(memory_format=memory_format) for result in results)
    if shape[2] * shape[3] == 1:
        return  # the gradient of a constant is zero, and relative errors say nothing
    grads = [torch.randn_like(result) for result in results]
    wide = torch.autograd.grad(expected, leaves, [grad.double() for grad in grads])
    close(
        torch.autograd.grad(results, leaves, grads), torch.autograd.grad(others, leaves, grads), wide, dtype
    )


def test_adain_runs_bit_equal(backend):
    leaves = inputs((4, 64, 64, 64), torch.float32, torch.contiguous_format)
    assert torch.equal(adain_block(*leaves)[0], adain_block(*leaves)[0])


def test_adain_with_large_mean_constant_and_nan_planes(backend):
    x = torch.randn(2, 3, 32, 32, device="cuda")
    one, zero = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda")
    assert (
        adain(x + 1000, one, zero) - adain((x + 1000).double(), one.double(), zero.double())
    ).abs().max() < 1e-3
    x[0, 0], x[1, 2, 3, 4] = 7, torch.nan
    y = adain(x, one, zero, activation="relu")
    assert (y[0, 0] == 0).all()
    assert y[1, 2].isnan().all() and y.isnan().sum() == 32 * 32


def capture(function):
    """Capture a function in a CUDA graph and return the graph and its results.

    Inputs may change in place between replays.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        results = function()
    return graph, results


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_adain_is_captured_and_replayed(backend, residual, memory_format):
    tensors = inputs((2, 64, 64, 64), torch.bfloat16, memory_format, residual)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    grad = torch.randn_like(tensors[0])

    def step():
        results = adain_block(*leaves)
        return (*results, *torch.autograd.grad(results[0], leaves, grad))

    graph, results = capture(step)
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.randn_like(tensor))
    graph.replay()
    for replayed, expected in zip(results, step(), strict=True):
        assert torch.equal(replayed, expected)


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
def test_adain_compiles_whole(backend, residual):
    torch.compiler.reset()
    leaves = [
        tensor.requires_grad_()
        for tensor in inputs((2, 32, 16, 16), torch.float32, torch.contiguous_format, residual)
    ]
    results, expected = torch.compile(adain_block, fullgraph=True)(*leaves), adain_block(*leaves)
    for a, b in zip((*results, *grads(results, leaves)), (*expected, *grads(expected, leaves)), strict=True):
        torch.testing.assert_close(a, b)


def grads(results, leaves):
    return torch.autograd.grad(sum(result.square().sum() for result in results), leaves)


LAYERS = (
    (64, 3, 3, 3),
    (128, 64, 3, 3),
    (128, 128, 3, 3),
    (16, 128, 1, 1),
    (1, 1, 1, 1),
    (600, 512),
    (512, 512, 3, 3),
    (3, 40, 3, 3),
)


def state():
    weights = [torch.randn(shape, device="cuda") for shape in LAYERS]
    us = [F.normalize(torch.randn(w.shape[0], device="cuda"), dim=0) for w in weights]
    vs = [F.normalize(torch.randn(w[0].numel(), device="cuda"), dim=0) for w in weights]
    return weights, us, vs


def test_power_iteration(backend):
    weights, us, vs = state()
    expected = [
        power_iteration_reference(w.double(), u.double(), v.double(), EPS)
        for w, u, v in zip(weights, us, vs, strict=True)
    ]
    first = [u.clone() for u in us], [v.clone() for v in vs]
    power_iteration_(weights, us, vs, EPS)
    copies = first
    power_iteration_(weights, *copies, EPS)
    for u, v, (expected_u, expected_v), u2, v2 in zip(us, vs, expected, *copies, strict=True):
        torch.testing.assert_close(u.double(), expected_u, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(v.double(), expected_v, atol=1e-5, rtol=1e-4)
        assert torch.equal(u, u2) and torch.equal(v, v2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalise(backend, form, memory_format, dtype):
    weights, us, vs = state()
    power_iteration_(weights, us, vs, EPS)
    forms = [form if len(w.shape) == 4 and w.shape[2] == 3 else "plain" for w in weights]
    leaves = [w.requires_grad_() for w in weights]
    results = normalise(leaves, us, vs, EPS, forms, dtype, memory_format)
    wide = [w.double() for w in leaves]
    expected = [
        normalise_reference(w, u.double(), v.double(), EPS, f)[0]
        for w, u, v, f in zip(wide, us, vs, forms, strict=True)
    ]
    plain = [
        normalise_reference(w, u, v, EPS, f)[0].to(dtype)
        for w, u, v, f in zip(leaves, us, vs, forms, strict=True)
    ]
    close(results, plain, expected, dtype)
    upstream = [torch.randn_like(result) for result in results]
    op_grads = torch.autograd.grad(results, leaves, upstream)
    expected_grads = torch.autograd.grad(expected, leaves, [grad.double() for grad in upstream])
    others = torch.autograd.grad(plain, leaves, upstream)
    # a 1x1 weight is normalised to its sign, and its gradient is zero
    chosen = [index for index, shape in enumerate(LAYERS) if shape != (1, 1, 1, 1)]
    close(*([tensors[index] for index in chosen] for tensors in (op_grads, others, expected_grads)), dtype)


def test_spectral_norm_of_zeros_is_finite(backend):
    weights = [torch.zeros(8, 4, 3, 3, device="cuda")]
    us, vs = (
        [F.normalize(torch.ones(8, device="cuda"), dim=0)],
        [F.normalize(torch.ones(36, device="cuda"), dim=0)],
    )
    power_iteration_(weights, us, vs, EPS)
    assert (
        us[0].isfinite().all()
        and vs[0].isfinite().all()
        and normalise(weights, us, vs, EPS)[0].isfinite().all()
    )


def test_spectral_norm_is_captured_and_replayed(backend):
    weights, us, vs = state()
    leaves = [w.requires_grad_() for w in weights]

    def step():
        power_iteration_(leaves, us, vs, EPS)
        results = normalise(leaves, us, vs, EPS)
        return (*results, *torch.autograd.grad(results, leaves, results))

    graph, results = capture(step)
    before = [u.clone() for u in us], [v.clone() for v in vs]
    graph.replay()
    replayed = [result.clone() for result in results]
    for tensor, old in zip((*us, *vs), (*before[0], *before[1]), strict=True):
        tensor.copy_(old)
    for a, b in zip(replayed, step(), strict=True):
        assert torch.equal(a, b)


def test_spectral_norm_compiles_whole(backend):
    torch.compiler.reset()
    weights, us, vs = state()
    run = torch.compile(lambda weights: normalise(weights, us, vs, EPS), fullgraph=True)
    for a, b in zip(run(weights), normalise(weights, us, vs, EPS), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("count", "size"), [(1, 64), (16, 256), (3, 37)])
def test_draw_polylines(backend, count, size):
    points = torch.rand(count, 10, 2, device="cuda") * size * 1.4 - 0.2 * size
    points[:, 3] = points[:, 2]  # a segment of no length
    parts, colours = [[0, 1, 2, 3, 4], [5, 6, 7, 5], [8, 9]], [(255, 0, 128), (0, 255, 0), (9, 90, 255)]
    with use_backend("reference"):
        expected = draw_polylines(points.cpu(), size, parts, colours)
    image = draw_polylines(points, size, parts, colours)
    assert (image.cpu() - expected).abs().max() <= 2 / 255  # of [-1, 1]
    graph, replayed = capture(lambda: draw_polylines(points, size, parts, colours))
    graph.replay()
    assert torch.equal(replayed, image)
    torch.compiler.reset()
    torch.testing.assert_close(
        torch.compile(draw_polylines, fullgraph=True)(points, size, parts, colours), image
    )


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("op", "form"), [(op, form) for op, forms in CANDIDATES.items() for form in forms])
def test_every_form_of_resampling(op, form, dtype, memory_format, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    x = torch.randn(2, 24, 16, 16, device="cuda").to(dtype, memory_format=memory_format).requires_grad_()
    weight = (
        (torch.randn(40, 24, 3, 3, device="cuda") / 15)
        .to(dtype, memory_format=memory_format)
        .requires_grad_()
    )
    bias = torch.randn(40, device="cuda").to(dtype).requires_grad_()
    leaves = (x, weight, bias)
    expected = apply_form(op, "plain", *(tensor.double() for tensor in leaves))
    result, plain = apply_form(op, form, *leaves), apply_form(op, "plain", *leaves)
    close([result], [plain], [expected], dtype)
    grad = torch.randn_like(result)
    wide = torch.autograd.grad(expected, leaves, grad.double())
    close(torch.autograd.grad(result, leaves, grad), torch.autograd.grad(plain, leaves, grad), wide, dtype)


@pytest.mark.parametrize("op", [upsample_conv, conv_downsample])
def test_resampling_is_captured_and_compiles_whole(op):
    x, weight = (
        torch.randn(2, 8, 16, 16, device="cuda"),
        torch.randn(8, 8, 3, 3, device="cuda", requires_grad=True),
    )

    def step():
        return torch.autograd.grad(op(x, weight).square().sum(), weight)[0]

    graph, replayed = capture(step)
    graph.replay()
    torch.testing.assert_close(replayed, step(), atol=1e-2, rtol=1e-2)
    torch.compiler.reset()
    torch.testing.assert_close(
        torch.compile(op, fullgraph=True)(x, weight), op(x, weight), atol=1e-2, rtol=1e-2
    )
