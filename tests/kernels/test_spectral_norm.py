"""Tests of spectral norm against torch's parametrization, its closed form, and folded convolutions."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels import (
    backends,
    conv_downsample,
    normalise,
    power_iteration_,
    upsample_conv,
    use_backend,
)
from talkinghead_kernels.resample import FORMS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from support.spectral_norm_cases import EPS, FOLDED, SHAPES, copies, layers, leaves

LARGE = [(260, 67, 3, 3), (3000, 61), (7, 30011), (128, 64, 3, 3)]  # many blocks of rows, one not full
FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=["reference", "cpp"])  # test_triton.py and test_gpu.py hold the others to the same
def backend(request):
    name = request.param
    if backends()[name]:
        pytest.skip(backends()[name])
    with use_backend(name):
        yield name


@pytest.fixture(autouse=True)
def repeatable_and_fresh_memory_is_nan():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def double(tensors):
    return [t.double() for t in tensors]


def error(got: Tensor, exact: Tensor) -> float:
    assert got.shape == exact.shape
    assert got.isfinite().all()
    return (got.double() - exact).norm().item()


class Parametrized(nn.Module):
    """A weight under torch's spectral norm, in a given state."""

    def __init__(self, weight, u, v, eps=EPS):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        spectral_norm(self, eps=eps)
        self.norm = self.parametrizations.weight[0]
        self.norm._u.copy_(u)
        self.norm._v.copy_(v)


def norm_of_torch(weights, us, vs):
    """Run a training step of torch's parametrization, and return weights, us, vs and the modules."""
    modules = [Parametrized(*state) for state in zip(weights, us, vs, strict=True)]
    return [m.weight for m in modules], [m.norm._u for m in modules], [m.norm._v for m in modules], modules


@pytest.mark.parametrize("shapes", [SHAPES, LARGE], ids=["small", "large"])
def test_step_error_is_like_torch(backend, shapes):
    weights, us, vs = layers(shapes)
    upstream = layers(shapes, seed=1)[0]
    torch_weights, their_us, their_vs, modules = norm_of_torch(weights, us, vs)
    torch.autograd.backward(torch_weights, upstream)
    exact, exact_us, exact_vs, exact_modules = norm_of_torch(double(weights), double(us), double(vs))
    torch.autograd.backward(exact, double(upstream))

    leaf_weights = leaves(weights)
    power_iteration_(leaf_weights, us, vs)
    normalised = normalise(leaf_weights, us, vs)
    torch.autograd.backward(normalised, upstream)
    for i, shape in enumerate(shapes):
        original = modules[i].parametrizations.weight.original.grad
        exact_grad = exact_modules[i].parametrizations.weight.original.grad
        for name, got, plain, expected in (
            ("u", us[i], their_us[i], exact_us[i]),
            ("v", vs[i], their_vs[i], exact_vs[i]),
            ("weight", normalised[i], torch_weights[i], exact[i]),
            ("gradient", leaf_weights[i].grad, original, exact_grad),
        ):
            rounding = 2e-7 * max(expected.norm().item(), 1)  # where torch happens to be exact
            assert error(got, expected) <= 2 * error(plain, expected) + rounding, (name, shape)


def test_training_steps_equal_torch(backend):
    torch.manual_seed(2)
    convolution, linear = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Linear(8, 5, bias=False)
    weights = leaves([convolution.weight.detach(), linear.weight.detach()])
    torch_modules = [spectral_norm(convolution, eps=EPS), spectral_norm(linear, eps=EPS)]
    us = [m.parametrizations.weight[0]._u.clone() for m in torch_modules]
    vs = [m.parametrizations.weight[0]._v.clone() for m in torch_modules]
    parameters = [p for m in torch_modules for p in m.parameters()]
    their_optimiser, our_optimiser = torch.optim.SGD(parameters, lr=0.05), torch.optim.SGD(weights, lr=0.05)

    def loss(hidden, output, x, target):
        return (output(hidden(x).relu().mean((2, 3))) - target).square().sum()

    for _ in range(100):
        x, target = torch.randn(4, 3, 6, 6), torch.randn(4, 5)
        their_loss = loss(*torch_modules, x, target)
        power_iteration_(weights, us, vs)
        first, second = normalise(weights, us, vs)
        our_loss = loss(lambda h, w=first: F.conv2d(h, w, padding=1), lambda h, w=second: h @ w.T, x, target)
        torch.testing.assert_close(our_loss, their_loss, rtol=1e-4, atol=1e-4)
        for optimiser, value in ((their_optimiser, their_loss), (our_optimiser, our_loss)):
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    for i, module in enumerate(torch_modules):
        torch.testing.assert_close(
            weights[i].detach(), module.parametrizations.weight.original.detach(), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(us[i], module.parametrizations.weight[0]._u, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(vs[i], module.parametrizations.weight[0]._v, rtol=1e-4, atol=1e-4)


def test_power_iteration_finds_first_singular_value(backend):
    weights, us, vs = layers()
    for _ in range(200):
        power_iteration_(weights, us, vs)
    for weight, normal in zip(weights, normalise(weights, us, vs), strict=True):
        sigma = torch.linalg.matrix_norm(weight.flatten(1), 2)
        torch.testing.assert_close(normal, weight / sigma, atol=1e-4, rtol=1e-4)


def test_gradient_equals_closed_form(backend):
    weights, us, vs = layers(SHAPES + LARGE)
    upstream = layers(SHAPES + LARGE, seed=1)[0]
    leaf_weights = leaves(weights)
    torch.autograd.backward(normalise(leaf_weights, us, vs), upstream)
    for leaf, weight, u, v, grad in zip(leaf_weights, *map(double, (weights, us, vs, upstream)), strict=True):
        sigma = (u @ weight.flatten(1) @ v).clamp_min(EPS)
        inner = (grad * weight).sum() / sigma if sigma > EPS else 0
        expected = (grad - inner * torch.outer(u, v).view_as(weight)) / sigma
        # sums of both signs: what is lost is relative to what was summed
        scale = (grad.norm() + (grad * weight).norm() / sigma) / sigma
        assert error(leaf.grad, expected) <= 1e-6 * scale


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form):
    shapes = [(3, 2, 3, 3), (1, 1, 3, 3), (4, 3, 3, 3)] + ([(3, 4), (2, 3, 1, 1)] if form == "plain" else [])
    weights, us, vs = layers(shapes, dtype=torch.float64)
    weights = leaves(weights)
    assert torch.autograd.gradcheck(lambda *w: tuple(normalise(w, us, vs, forms=[form] * len(w))), weights)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_form_errors_are_like_torch(backend, form, dtype, memory_format):
    shapes = SHAPES + LARGE if form == "plain" else FOLDED
    weights, us, vs = layers(shapes)
    forms = [form] * len(shapes)

    leaf_weights = leaves(weights)
    outputs = normalise(leaf_weights, us, vs, forms=forms, dtype=dtype, memory_format=memory_format)
    upstream = [torch.randn(o.shape).to(o) for o in outputs]
    torch.autograd.backward(outputs, upstream)
    with use_backend("reference"):
        plain, exact = leaves(weights), leaves(double(weights))
        plain_outputs = normalise(plain, us, vs, forms=forms, dtype=dtype)
        exact_outputs = normalise(exact, double(us), double(vs), forms=forms)
        torch.autograd.backward(plain_outputs, upstream)
        torch.autograd.backward(exact_outputs, double(upstream))
    for i, shape in enumerate(shapes):
        assert outputs[i].dtype == dtype
        assert outputs[i].is_contiguous(
            memory_format=memory_format if outputs[i].dim() == 4 else torch.contiguous_format
        )
        rounding = 2e-7 * exact_outputs[i].norm().item()
        assert (
            error(outputs[i], exact_outputs[i]) <= 2 * error(plain_outputs[i], exact_outputs[i]) + rounding
        ), shape
        assert leaf_weights[i].grad.dtype == torch.float32
        sigma = us[i] @ weights[i].flatten(1) @ vs[i]
        inner = (exact_outputs[i] * upstream[i]).sum().abs()
        rounding = (
            2e-7 * ((upstream[i].norm() + inner) / sigma).item()
        )  # what the gradient is the difference of
        assert (
            error(leaf_weights[i].grad, exact[i].grad) <= 2 * error(plain[i].grad, exact[i].grad) + rounding
        ), shape


def test_folded_weights_convolve_like_unfolded(backend):
    (weight,), (u,), (v,) = layers([(6, 5, 3, 3)])
    x = torch.randn(2, 5, 8, 10)
    plain, up, shuffled, down = (
        normalise([weight], [u], [v], forms=[form], memory_format=torch.channels_last)[0]
        for form in ("plain", *list(FORMS)[1:])
    )
    doubled = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), plain, padding=1)
    halved = F.avg_pool2d(F.conv2d(x, plain, padding=1), 2)
    for got, expected in (
        (F.conv_transpose2d(x, up, stride=2, padding=1), doubled),
        (F.pixel_shuffle(F.conv2d(x, shuffled, padding=1), 2)[..., 1:-1, 1:-1], doubled),
        (upsample_conv(x, plain), doubled),
        (F.conv2d(x, down, stride=2, padding=1), halved),
        (conv_downsample(x, plain), halved),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_mixed_forms_and_missing_gradient(backend):
    weights, us, vs = layers([(6, 5, 3, 3)] * 5)
    forms = [*FORMS, "plain"]
    leaf_weights = leaves(weights)
    outputs = normalise(leaf_weights, us, vs, forms=forms)
    for i, form in enumerate(forms):
        (alone,) = normalise([weights[i]], [us[i]], [vs[i]], forms=[form])
        assert torch.equal(outputs[i], alone)
    (
        outputs[1].square().sum() + outputs[3].sum()
    ).backward()  # the gradient of sum() is one element, expanded
    for i, leaf in enumerate(leaf_weights):
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any() == (i in (1, 3))


def test_iteration_before_backward_keeps_gradient(backend):
    weights, us, vs = layers()
    leaf_weights = leaves(weights)
    normal = normalise(leaf_weights, us, vs)
    before = torch.autograd.grad(sum(n.pow(3).sum() for n in normal), leaf_weights, retain_graph=True)
    power_iteration_(leaf_weights, us, vs)
    after = torch.autograd.grad(sum(n.pow(3).sum() for n in normal), leaf_weights)
    assert all(map(torch.equal, before, after))


def test_autocast_does_not_change_result(backend):
    weights, us, vs = layers()
    expected_us, expected_vs = copies(us), copies(vs)
    power_iteration_(weights, expected_us, expected_vs)
    reference = leaves(weights)
    expected_normal = normalise(reference, expected_us, expected_vs)
    torch.autograd.backward(expected_normal, weights)
    leaf_weights = leaves(weights)
    with torch.autocast("cpu", torch.bfloat16):
        power_iteration_(leaf_weights, us, vs)
        normal = normalise(leaf_weights, us, vs)
        torch.autograd.backward(normal, weights)
    for got, expected in zip(
        [*us, *vs, *normal], [*expected_us, *expected_vs, *expected_normal], strict=True
    ):
        assert torch.equal(got, expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(leaf_weights, reference, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_zero_weights_stay_finite(backend, form):
    _, us, vs = layers(FOLDED)
    weights = leaves([torch.zeros(shape) for shape in FOLDED])
    outputs = normalise(weights, us, vs, forms=[form] * len(weights))
    torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
    power_iteration_(weights, us, vs)
    assert all(t.isfinite().all() for t in (*outputs, *us, *vs, *(w.grad for w in weights)))
    assert not any(t.any() for t in (*outputs, *us, *vs))
    torch.testing.assert_close(
        weights[0].grad, torch.full(FOLDED[0], {"plain": 1, "downsample": 1}.get(form, 4) / EPS)
    )


def test_clamped_norm_has_no_gradient(backend):
    weights, us, vs = layers()
    leaf_weights = leaves([1e-6 * w for w in weights])
    torch.autograd.backward(normalise(leaf_weights, us, vs), weights)
    for leaf, weight in zip(leaf_weights, weights, strict=True):
        torch.testing.assert_close(leaf.grad, weight / EPS)


def test_one_by_one_weight_becomes_its_sign(backend):
    weights = leaves([torch.tensor([[-3.0]]), torch.tensor([[[[1e-30]]]])])
    us, vs = [torch.ones(1), torch.ones(1)], [torch.ones(1), torch.ones(1)]
    power_iteration_(weights, us, vs)
    first, second = normalise(weights, us, vs)
    assert first.item() == pytest.approx(-1)
    (first + second).sum().backward()
    assert second.isfinite().all() and weights[0].grad.item() == pytest.approx(0, abs=1e-6)
    assert weights[1].grad.item() == pytest.approx(1 / EPS)


def test_nan_stays_in_its_layer(backend):
    weights, us, vs = layers()
    weights[1][0, 0] = float("nan")
    leaf_weights = leaves(weights)
    power_iteration_(leaf_weights, us, vs)
    outputs = normalise(leaf_weights, us, vs)
    torch.autograd.backward(outputs, weights)
    for i, tensors in enumerate(zip(us, vs, outputs, (w.grad for w in leaf_weights), strict=True)):
        for tensor in tensors:
            assert tensor.isnan().all() if i == 1 else tensor.isfinite().all(), i


def test_vectors_and_weights_accept_strides(backend):
    weights, us, vs = layers()
    expected_us, expected_vs = copies(us), copies(vs)
    power_iteration_(weights, expected_us, expected_vs)
    strided_us, strided_vs = ([torch.stack([t, t], 1)[:, 0] for t in vectors] for vectors in (us, vs))
    strided = [w.transpose(0, 1).contiguous().transpose(0, 1) for w in weights]
    power_iteration_(strided, strided_us, strided_vs)
    for got, expected in zip([*strided_us, *strided_vs], [*expected_us, *expected_vs], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    for got, expected in zip(
        normalise(strided, strided_us, strided_vs), normalise(weights, expected_us, expected_vs), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_float64_equals_torch(backend):
    weights, us, vs = layers(dtype=torch.float64)
    reference, expected_us, expected_vs, _ = norm_of_torch(weights, us, vs)
    power_iteration_(weights, us, vs)
    for got, expected in zip(
        [*normalise(weights, us, vs), *us, *vs], [*reference, *expected_us, *expected_vs], strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    weights, us, vs = layers()
    leaf_weights = leaves(weights)
    outputs = normalise(leaf_weights, us, vs, dtype=torch.float64)
    sum(o.sum() for o in outputs).backward()
    assert all(o.dtype == torch.float64 for o in outputs) and all(
        w.grad.dtype == torch.float32 for w in leaf_weights
    )


def step(weights, us, vs, forms):
    """Return all results of a step as one list, without changing the state."""
    us, vs, weights = copies(us), copies(vs), leaves(weights)
    power_iteration_(weights, us, vs)
    outputs = normalise(weights, us, vs, forms=forms, memory_format=torch.channels_last)
    torch.autograd.backward(outputs, [torch.cos(o.detach()) for o in outputs])
    return [*us, *vs, *outputs, *(w.grad for w in weights)]


def test_result_is_bit_equal_for_any_threads():
    if backends()["cpp"]:
        pytest.skip(backends()["cpp"])
    shapes = [*FOLDED, *[(260, 67, 3, 3)] * 12, *SHAPES, *LARGE]
    state = layers(shapes)
    names = itertools.cycle(FORMS)
    forms = [next(names) if shape[2:] == (3, 3) else "plain" for shape in shapes]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 2, 3, 3):
            torch.set_num_threads(count)
            with use_backend("cpp"):
                results.append(step(*state, forms))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_many_layers_of_unusual_sizes(backend):
    primes = (1, 2, 3, 5, 7, 11, 13, 17, 31, 67)
    kernels = ((), (1, 1), (3, 3), (3, 1))
    shapes = [(primes[i % 10], primes[i * 7 % 9], *kernels[i % 4]) for i in range(88)]
    state = layers(shapes)
    results = step(*state, None)
    with use_backend("reference"):
        reference = step(*state, None)
    for i, (got, expected) in enumerate(zip(results, reference, strict=True)):
        torch.testing.assert_close(
            got,
            expected,
            rtol=1e-4,
            atol=1e-5 * (1 + expected.abs().max().item()),
            msg=lambda m, i=i: f"{i}: {m}",
        )
