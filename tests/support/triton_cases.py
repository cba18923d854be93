"""The Triton kernels in Triton's interpreter, through the public ops.

`test_triton.py` runs this with TRITON_INTERPRET=1, which must be set before the kernels are imported.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
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
from talkinghead_kernels.spectral_norm import normalise_reference, power_iteration_reference
from talkinghead_kernels.triton_kernels import spectral_norm_layers
from talkinghead_kernels.triton_kernels import table as tables
from talkinghead_kernels.triton_kernels.adain_tiles import choose_tiling
from triton.runtime import interpreter

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def _triton(monkeypatch):
    convert = interpreter._convert_float

    def to_nearest(value, source, target, mode):
        """Round to bfloat16 to nearest, as a GPU does; the interpreter truncates."""
        if target != tl.bfloat16:
            return convert(value, source, target, mode)
        rounded = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)).bfloat16()
        return rounded.view(torch.int16).numpy().view(np.uint16)

    monkeypatch.setattr(interpreter, "_convert_float", to_nearest)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # fills fresh allocations with NaN
    with use_backend("triton"):
        yield
    torch.use_deterministic_algorithms(False)


def plain_torch(x, residual, scale, bias, relu):
    h = x if residual is None else x + residual
    b, c = x.shape[:2]
    planes = h.reshape(1, b * c, *x.shape[2:]).contiguous()
    scale, bias = (v.expand(b, c).reshape(b, c, 1, 1).to(x.dtype) for v in (scale, bias))
    # batch norm of one sample is instance norm, and takes planes of one pixel
    normal = (
        F.batch_norm(planes, None, None, training=True, eps=1e-4).view(x.shape)
        if planes[0, 0].numel() > 1
        else h - h
    )
    y = torch.addcmul(bias, normal, scale)
    return (F.relu(y) if relu else y), h


def run(function, x, residual, scale, bias, relu, dtype):
    """Return y, h and the gradients, computed in a dtype."""
    leaves = [
        None if t is None else t.to(dtype).detach().requires_grad_() for t in (x, residual, scale, bias)
    ]
    y, h = function(*leaves, relu)
    generator = torch.Generator().manual_seed(7)
    grad_y, grad_h = (torch.randn(x.shape, generator=generator).to(x.dtype) for _ in range(2))
    loss = (y * grad_y.to(dtype)).sum()
    if residual is not None:
        loss = loss + (h * grad_h.to(dtype)).sum()
    grads = torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])
    return [t.detach() for t in (y, h, *grads)]


def op_adain(x, residual, scale, bias, relu):
    y = adain(x, scale, bias, activation="relu" if relu else None, residual=residual)
    return y if residual is not None else (y, x)


def exact(x, residual, scale, bias, relu):
    """Compute in float64, from the h that is stored in x's dtype."""
    if residual is None:
        return run(plain_torch, x, None, scale, bias, relu, torch.float64)
    y, h, grad, *styles = run(plain_torch, x + residual, None, scale, bias, relu, torch.float64)
    generator = torch.Generator().manual_seed(7)
    _, grad_h = (torch.randn(x.shape, generator=generator).to(x.dtype) for _ in range(2))
    return [y, h, grad + grad_h, grad + grad_h, *styles]


def assert_close(got, plain, expected, summed=0):
    """Check that errors are at most twice those of plain torch, plus one rounding.

    Sums over `summed` pixels, which are the matrices, may also differ by their order: where they nearly
    cancel, partial sums are about the root of their length, and are rounded.
    """
    for g, p, w in zip(got, plain, expected, strict=True):
        floor = (
            torch.finfo(g.dtype).eps * w.abs().max()
            + (g.dim() == 2) * torch.finfo(torch.float32).eps * summed**0.5
        )
        assert (g.double() - w).abs().max() <= 2 * (p.double() - w).abs().max() + floor


def inputs(shape, dtype, memory_format=torch.contiguous_format, residual=False):
    x = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    added = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format) if residual else None
    scale, bias = torch.randn(2, *shape[:2]).to(dtype).unbind()
    return x, added, scale, bias


# whole planes: one pixel, odd, typical, deep; split planes: with an odd tail
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 5, 1, 1), (2, 3, 5, 7), (2, 8, 16, 16), (1, 70, 3, 3), (1, 1, 70, 61)]
)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("residual", [False, True])
def test_adain_error_is_like_plain_torch(shape, memory_format, dtype, residual):
    relu = not residual
    tensors = inputs(shape, dtype, memory_format, residual)
    got = run(op_adain, *tensors, relu, dtype)
    assert got[0].is_contiguous(memory_format=memory_format) and got[2].is_contiguous(
        memory_format=memory_format
    )
    assert_close(got, run(plain_torch, *tensors, relu, dtype), exact(*tensors, relu), shape[2] * shape[3])


def test_chunks_of_several_tiles():
    tensors = inputs((1, 2, 364, 364), torch.float32, torch.channels_last, residual=True)
    tiling = choose_tiling(tensors[0], 16384)
    assert (
        tiling.tiles > 1 and (tiling.chunks * tiling.tiles - 1) * tiling.pixels > 364 * 364
    )  # the last tile is empty
    assert_close(
        run(op_adain, *tensors, True, torch.float32),
        run(plain_torch, *tensors, True, torch.float32),
        exact(*tensors, True),
    )


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 2, 70, 61)])
@pytest.mark.parametrize("memory_format", FORMATS)
class TestPlanes:
    def test_large_mean_keeps_spread(self, shape, memory_format):
        x, _, scale, bias = inputs(shape, torch.float32, memory_format)
        tensors = (x + 1000, None, scale, bias)
        assert_close(
            run(op_adain, *tensors, True, torch.float32),
            run(plain_torch, *tensors, True, torch.float32),
            exact(*tensors, True),
        )

    def test_constant_plane_gives_its_bias(self, shape, memory_format):
        x = torch.full(shape, 7.3).contiguous(memory_format=memory_format)
        bias = torch.randn(shape[1])
        assert torch.equal(adain(x, torch.ones(shape[1]), bias), bias[None, :, None, None].expand(shape))

    def test_nan_stays_in_its_plane_and_passes_relu(self, shape, memory_format):
        x, residual, scale, bias = inputs(shape, torch.float32, memory_format, residual=True)
        residual[-1, 1, 2, 3] = float("nan")
        x.requires_grad_()
        y, h = adain(x, scale, bias, activation="relu", residual=residual)
        expected = torch.zeros(shape[:2], dtype=torch.bool)
        expected[-1, 1] = True
        assert torch.equal(y.isnan().flatten(2).all(2), expected) and torch.equal(
            y.isnan().flatten(2).any(2), expected
        )
        assert h.isnan().sum() == 1
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(grad.isnan().flatten(2).any(2), expected)

    def test_two_runs_are_bit_equal(self, shape, memory_format):
        tensors = inputs(shape, torch.bfloat16, memory_format, residual=True)
        for first, second in zip(
            *(run(op_adain, *tensors, True, torch.bfloat16) for _ in range(2)), strict=True
        ):
            assert torch.equal(first, second)

    def test_styles_accept_strided_shared_and_float32(self, shape, memory_format):
        x = torch.randn(shape).bfloat16().contiguous(memory_format=memory_format)
        matrix = torch.randn(shape[0], 3 * shape[1])
        scale, _, bias = matrix.chunk(3, 1)
        assert torch.equal(adain(x, scale, bias), adain(x, scale.clone(), bias.clone()))
        shared = torch.randn(shape[1])
        assert torch.equal(
            adain(x, shared, bias.mean(0)), adain(x, shared.expand(shape[:2]), bias.mean(0).expand(shape[:2]))
        )
        column = torch.randn(shape[1], shape[0]).T
        assert torch.equal(adain(x, column, column), adain(x, column.contiguous(), column.contiguous()))


def test_gradient_of_single_result():
    x, residual, scale, bias = inputs((2, 3, 8, 8), torch.float32, residual=True)
    x.requires_grad_()
    y, _ = adain(x, scale, bias, residual=residual)
    _, h = adain(x, scale, bias, residual=residual)
    with use_backend("reference"):
        expected, _ = adain(x, scale, bias, residual=residual)
        (expected,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), x)[0], expected)
    assert torch.equal(torch.autograd.grad(h.sum(), x)[0], torch.ones_like(x))


SMALL = [(8, 3, 3, 3), (5, 8, 1, 1), (4, 16), (1, 1), *[(6, 7, 3, 3)] * 3, (2, 3, 3, 5)]
PLACES = ["plain", "plain", "plain", "plain", *list(FORMS)[1:], "plain"]
LONG = [
    (20, 1200),
    (3, 8200),
    (300, 2),
]  # rows, and numbers of them, of each kind that the kernels tell apart


def layers(shapes):
    weights = [torch.randn(shape) for shape in shapes]
    us = [F.normalize(torch.randn(weight.shape[0]), dim=0) for weight in weights]
    vs = [F.normalize(torch.randn(weight[0].numel()), dim=0) for weight in weights]
    for _ in range(2):  # towards a norm that does not cancel
        pairs = [power_iteration_reference(*layer, 1e-4) for layer in zip(weights, us, vs, strict=True)]
        us, vs = [u for u, _ in pairs], [v for _, v in pairs]
    return weights, us, vs


def test_power_iteration():
    weights, us, vs = layers(SMALL[:3] + LONG)
    expected = [
        power_iteration_reference(w.double(), u.double(), v.double(), 1e-4)
        for w, u, v in zip(weights, us, vs, strict=True)
    ]
    power_iteration_(weights, us, vs)
    for u, v, (expected_u, expected_v) in zip(us, vs, expected, strict=True):
        torch.testing.assert_close(u.double(), expected_u, atol=3e-7, rtol=1e-5)
        torch.testing.assert_close(v.double(), expected_v, atol=3e-7, rtol=1e-5)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_normalise_in_every_form(memory_format, dtype):
    weights, us, vs = layers(SMALL)
    leaves = [weight.requires_grad_() for weight in weights]
    got = normalise(leaves, us, vs, forms=PLACES, dtype=dtype, memory_format=memory_format)
    upstream = [
        torch.randn(g.shape).to(dtype).contiguous(memory_format=memory_format)
        if g.dim() == 4
        else torch.randn(g.shape).to(dtype)
        for g in got
    ]
    grads = torch.autograd.grad(got, leaves, upstream)
    for weight, u, v, form, g, up, grad in zip(weights, us, vs, PLACES, got, upstream, grads, strict=True):
        leaf = weight.detach().double().requires_grad_()
        expected, _ = normalise_reference(leaf, u.double(), v.double(), 1e-4, form)
        (expected_grad,) = torch.autograd.grad(expected, leaf, up.double())
        plain, _ = normalise_reference(weight, u, v, 1e-4, form)
        (plain_grad,) = torch.autograd.grad(plain, weight, up.float())
        assert g.dtype == dtype and (g.dim() != 4 or g.is_contiguous(memory_format=memory_format))
        assert_close(
            [g.detach(), grad], [plain.detach().to(dtype), plain_grad], [expected.detach(), expected_grad]
        )


@triton.jit
def total(values, count, result):
    tl.store(result, spectral_norm_layers.sum_in_memory(values, count))


@triton.jit
def length(values, count, result):
    tl.store(result, spectral_norm_layers.norm_in_memory(values, count, 1024))


def test_sums_longer_than_one_block():
    values, result = torch.randn(2500), torch.empty(1)
    total[(1,)](values, 2500, result)
    torch.testing.assert_close(result[0], values.sum(), atol=1e-5, rtol=1e-5)
    length[(1,)](values, 2500, result)
    torch.testing.assert_close(result[0], values.norm())


def test_network_of_many_layers():
    weights = [torch.randn(2, 3) for _ in range(60)]
    assert 8 * len(weights) > tables._GROUP  # the table takes several launches
    us, vs = [torch.randn(2) for _ in weights], [torch.randn(3) for _ in weights]
    expected = [power_iteration_reference(w, u, v, 1e-4) for w, u, v in zip(weights, us, vs, strict=True)]
    power_iteration_(weights, us, vs)
    for u, v, (expected_u, expected_v) in zip(us, vs, expected, strict=True):
        torch.testing.assert_close(u, expected_u)
        torch.testing.assert_close(v, expected_v)


def test_zero_weights_and_small_norms_stay_finite():
    weights = [torch.zeros(3, 4).requires_grad_(), torch.full((1, 1), 1e-6).requires_grad_()]
    us, vs = [torch.ones(3) / 3**0.5, torch.ones(1)], [torch.ones(4) / 2, torch.ones(1)]
    got = normalise(weights, us, vs)
    assert torch.equal(got[0], torch.zeros(3, 4))
    torch.testing.assert_close(got[1], torch.full((1, 1), 1e-2))
    for weight, grad in zip(
        weights, torch.autograd.grad(got, weights, [torch.ones_like(w) for w in weights]), strict=True
    ):
        torch.testing.assert_close(grad, torch.full_like(weight, 1e4))  # a clamped norm is a constant
    power_iteration_([w.detach() for w in weights], us, vs)
    assert torch.equal(us[0], torch.zeros(3)) and torch.equal(vs[0], torch.zeros(4))
    torch.testing.assert_close(us[1], torch.full((1,), 1e-2))
    small, u, v = torch.full((1, 1), 1e-3), torch.ones(1), torch.ones(1)
    power_iteration_(
        [small], [u], [v]
    )  # v is from the u of unit length, so that its own length is not clamped
    torch.testing.assert_close([u, v], [torch.ones(1)] * 2)


def test_nan_weight_stays_in_its_layer():
    weights, us, vs = layers(SMALL[:4])
    weights[0][1, 1, 1, 1] = float("nan")
    got = normalise(weights, us, vs)
    power_iteration_(weights, us, vs)
    assert got[0].isnan().all() and us[0].isnan().all() and vs[0].isnan().all()
    assert not any(t.isnan().any() for t in (*got[1:], *us[1:], *vs[1:]))


def test_spectral_norm_is_bit_equal_in_two_runs():
    weights, us, vs = layers(SMALL[:4])
    copies = [u.clone() for u in us], [v.clone() for v in vs]
    power_iteration_(weights, us, vs)
    power_iteration_(weights, *copies)
    for first, second in zip([*us, *vs], [*copies[0], *copies[1]], strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("size, batch", [(1, 1), (37, 3), (64, 1), (260, 1)])
def test_polylines_equal_reference(size, batch):
    points = torch.rand(batch, 9, 2) * 2 * size - size / 2
    points[:, 4] = points[:, 3]  # a segment of no length
    parts, colours = (
        ((0, 1, 2, 0), (3, 4), (5, 6, 7), (8, 1)),
        ((255, 0, 0), (0, 255, 255), (10, 20, 30), (0, 0, 0)),
    )
    got = draw_polylines(points, size, parts, colours)
    with use_backend("reference"):
        expected = draw_polylines(points, size, parts, colours)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert size == 1 or expected.unique().numel() > 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.1e4])
@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_segment_with_bad_end_is_skipped(bad, at):
    points = torch.rand(1, 4, 2) * 40
    expected = draw_polylines(points, 40, ((2, 3),), ((9, 9, 9),))
    points[0, at[0], at[1]] = bad
    assert torch.equal(draw_polylines(points, 40, ((0, 1), (2, 3)), ((255, 255, 255), (9, 9, 9))), expected)


@pytest.mark.parametrize("grid, batch, count", [(1, 2, 0), (7, 3, 5), (16, 1, 84)])
def test_motion(grid, batch, count):
    source = torch.rand(batch, count, 2)
    target = source + 0.1 * torch.randn(source.shape)
    target[:, 1::3] = target[:, :1]
    answer = landmark_motion(source, target, grid)
    with use_backend("reference"):
        truth = landmark_motion(source, target, grid)
    torch.testing.assert_close(answer, truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 3, 5), (2, 5, 17, 31), (1, 3, 40, 26)])
@pytest.mark.parametrize("field", [(1, 1), (64, 64), (5, 9), None])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_warp(shape, field, memory_format, dtype):
    image = torch.rand(shape).to(dtype).contiguous(memory_format=memory_format)
    motion = 0.3 * torch.randn(shape[0], 2, *(field or shape[2:]))
    motion[:, :, 0, 0] = torch.tensor([-4.0, 1e30])
    leaves = [tensor.requires_grad_() for tensor in (image, motion)]
    answer = warp(*leaves)
    with use_backend("reference"):
        truth = warp(*(tensor.double() for tensor in leaves))
        plain = warp(*leaves)
    assert answer.is_contiguous(memory_format=memory_format)
    assert_close([answer], [plain], [truth])
    grad = torch.randn(shape).to(dtype)
    grads, plain_grads = torch.autograd.grad(answer, leaves, grad), torch.autograd.grad(plain, leaves, grad)
    assert all(torch.equal(a, b) for a, b in zip(grads, plain_grads, strict=True))  # that of the reference


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_motion_gives_nan_at_its_pixel(bad):
    image, motion = torch.rand(1, 3, 20, 24), 0.1 * torch.randn(1, 2, 20, 24)
    truth = warp(image, motion)
    motion[0, 1, 7, 5] = bad
    answer = warp(image, motion)
    assert answer[0, :, 7, 5].isnan().all() and int(answer.isnan().sum()) == 3
    answer[0, :, 7, 5] = truth[0, :, 7, 5]
    assert torch.equal(answer, truth)
