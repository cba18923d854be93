"""Spectral norm: against torch's own parametrization, against its closed form, and in the forms in which convolutions use it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels import backends, conv_downsample, normalise, power_iteration_, upsample_conv, use_backend
from talkinghead_kernels.resample import FORMS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

EPS = 1e-4
SHAPES = [(8, 3, 3, 3), (5, 8, 1, 1), (4, 16), (1, 1), (1, 1, 3, 3), (17, 23, 3, 3), (37, 19, 3, 3), (6, 7, 5, 5), (3, 4, 3), (2, 3, 3, 1)]
LARGE = [(260, 67, 3, 3), (3000, 61), (7, 30011), (128, 64, 3, 3)]  # many blocks of rows, one not full
FOLDED = [(8, 3, 3, 3), (1, 1, 3, 3), (17, 23, 3, 3), (32, 16, 3, 3), (130, 67, 3, 3)]
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


def layers(shapes=SHAPES, seed=0, dtype=torch.float32):
    """Weights, us and vs after two power iterations: sigma of random vectors may be negative, or next to nothing."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    weights = [draw(*shape) for shape in shapes]
    us = [F.normalize(draw(w.shape[0]), dim=0) for w in weights]
    vs = [F.normalize(draw(w[0].numel()), dim=0) for w in weights]
    for weight, u, v in zip(weights, us, vs, strict=True):
        for _ in range(2):
            u.copy_(F.normalize(weight.flatten(1) @ v, dim=0))
            v.copy_(F.normalize(weight.flatten(1).T @ u, dim=0))
    return weights, us, vs


def copies(tensors):
    return [t.clone() for t in tensors]


def leaves(tensors):
    return [t.clone().requires_grad_() for t in tensors]


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
    """One step in training mode of torch's parametrization: weights, u, v after it, and the modules."""
    modules = [Parametrized(*state) for state in zip(weights, us, vs, strict=True)]
    return [m.weight for m in modules], [m.norm._u for m in modules], [m.norm._v for m in modules], modules


@pytest.mark.parametrize("shapes", [SHAPES, LARGE], ids=["small", "large"])
def test_a_step_is_as_right_as_torch(backend, shapes):
    weights, us, vs = layers(shapes)
    upstream = layers(shapes, seed=1)[0]
    theirs, their_us, their_vs, modules = norm_of_torch(weights, us, vs)
    torch.autograd.backward(theirs, upstream)
    exact, exact_us, exact_vs, exact_modules = norm_of_torch(double(weights), double(us), double(vs))
    torch.autograd.backward(exact, double(upstream))

    ours = leaves(weights)
    power_iteration_(ours, us, vs)
    normalised = normalise(ours, us, vs)
    torch.autograd.backward(normalised, upstream)
    for i, shape in enumerate(shapes):
        original = modules[i].parametrizations.weight.original.grad
        exact_grad = exact_modules[i].parametrizations.weight.original.grad
        for name, got, plain, wanted in (
            ("u", us[i], their_us[i], exact_us[i]),
            ("v", vs[i], their_vs[i], exact_vs[i]),
            ("weight", normalised[i], theirs[i], exact[i]),
            ("gradient", ours[i].grad, original, exact_grad),
        ):
            rounding = 2e-7 * max(wanted.norm().item(), 1)  # where torch happens to be exact
            assert error(got, wanted) <= 2 * error(plain, wanted) + rounding, (name, shape)


def test_equals_torch_over_training_steps(backend):
    torch.manual_seed(2)
    convolution, linear = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Linear(8, 5, bias=False)
    weights = leaves([convolution.weight.detach(), linear.weight.detach()])
    theirs = [spectral_norm(convolution, eps=EPS), spectral_norm(linear, eps=EPS)]
    us = [m.parametrizations.weight[0]._u.clone() for m in theirs]
    vs = [m.parametrizations.weight[0]._v.clone() for m in theirs]
    parameters = [p for m in theirs for p in m.parameters()]
    their_optimiser, our_optimiser = torch.optim.SGD(parameters, lr=0.05), torch.optim.SGD(weights, lr=0.05)

    def loss(hidden, output, x, target):
        return (output(hidden(x).relu().mean((2, 3))) - target).square().sum()

    for _ in range(100):
        x, target = torch.randn(4, 3, 6, 6), torch.randn(4, 5)
        their_loss = loss(*theirs, x, target)
        power_iteration_(weights, us, vs)
        first, second = normalise(weights, us, vs)
        our_loss = loss(lambda h, w=first: F.conv2d(h, w, padding=1), lambda h, w=second: h @ w.T, x, target)
        torch.testing.assert_close(our_loss, their_loss, rtol=1e-4, atol=1e-4)
        for optimiser, value in ((their_optimiser, their_loss), (our_optimiser, our_loss)):
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
    for i, module in enumerate(theirs):
        torch.testing.assert_close(weights[i].detach(), module.parametrizations.weight.original.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(us[i], module.parametrizations.weight[0]._u, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(vs[i], module.parametrizations.weight[0]._v, rtol=1e-4, atol=1e-4)


def test_finds_the_first_singular_value(backend):
    weights, us, vs = layers()
    for _ in range(200):
        power_iteration_(weights, us, vs)
    for weight, normal in zip(weights, normalise(weights, us, vs), strict=True):
        sigma = torch.linalg.matrix_norm(weight.flatten(1), 2)
        torch.testing.assert_close(normal, weight / sigma, atol=1e-4, rtol=1e-4)


def test_gradient_is_the_closed_form(backend):
    weights, us, vs = layers(SHAPES + LARGE)
    upstream = layers(SHAPES + LARGE, seed=1)[0]
    ours = leaves(weights)
    torch.autograd.backward(normalise(ours, us, vs), upstream)
    for leaf, weight, u, v, grad in zip(ours, *map(double, (weights, us, vs, upstream)), strict=True):
        sigma = (u @ weight.flatten(1) @ v).clamp_min(EPS)
        inner = (grad * weight).sum() / sigma if sigma > EPS else 0
        wanted = (grad - inner * torch.outer(u, v).view_as(weight)) / sigma
        # sums of both signs: what is lost is relative to what was summed
        scale = (grad.norm() + (grad * weight).norm() / sigma) / sigma
        assert error(leaf.grad, wanted) <= 1e-6 * scale


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form):
    shapes = [(3, 2, 3, 3), (1, 1, 3, 3), (4, 3, 3, 3)] + ([(3, 4), (2, 3, 1, 1)] if form == "plain" else [])
    weights, us, vs = layers(shapes, dtype=torch.float64)
    weights = leaves(weights)
    assert torch.autograd.gradcheck(lambda *w: tuple(normalise(w, us, vs, forms=[form] * len(w))), weights)


@pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_forms_are_as_right_as_torch(backend, form, dtype, memory_format):
    shapes = SHAPES + LARGE if form == "plain" else FOLDED
    weights, us, vs = layers(shapes)
    forms = [form] * len(shapes)

    ours = leaves(weights)
    outputs = normalise(ours, us, vs, forms=forms, dtype=dtype, memory_format=memory_format)
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
        assert outputs[i].is_contiguous(memory_format=memory_format if outputs[i].dim() == 4 else torch.contiguous_format)
        rounding = 2e-7 * exact_outputs[i].norm().item()
        assert error(outputs[i], exact_outputs[i]) <= 2 * error(plain_outputs[i], exact_outputs[i]) + rounding, shape
        assert ours[i].grad.dtype == torch.float32
        sigma = us[i] @ weights[i].flatten(1) @ vs[i]
        inner = (exact_outputs[i] * upstream[i]).sum().abs()
        rounding = 2e-7 * ((upstream[i].norm() + inner) / sigma).item()  # what the gradient is the difference of
        assert error(ours[i].grad, exact[i].grad) <= 2 * error(plain[i].grad, exact[i].grad) + rounding, shape


def test_forms_convolve_as_the_unfolded_network_does(backend):
    (weight,), (u,), (v,) = layers([(6, 5, 3, 3)])
    x = torch.randn(2, 5, 8, 10)
    plain, up, shuffled, down = (
        normalise([weight], [u], [v], forms=[form], memory_format=torch.channels_last)[0] for form in ("plain", *list(FORMS)[1:])
    )
    doubled = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), plain, padding=1)
    halved = F.avg_pool2d(F.conv2d(x, plain, padding=1), 2)
    for got, wanted in (
        (F.conv_transpose2d(x, up, stride=2, padding=1), doubled),
        (F.pixel_shuffle(F.conv2d(x, shuffled, padding=1), 2)[..., 1:-1, 1:-1], doubled),
        (upsample_conv(x, plain), doubled),
        (F.conv2d(x, down, stride=2, padding=1), halved),
        (conv_downsample(x, plain), halved),
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_forms_of_one_call_may_differ_and_a_gradient_may_lack(backend):
    weights, us, vs = layers([(6, 5, 3, 3)] * 5)
    forms = [*FORMS, "plain"]
    ours = leaves(weights)
    outputs = normalise(ours, us, vs, forms=forms)
    for i, form in enumerate(forms):
        (alone,) = normalise([weights[i]], [us[i]], [vs[i]], forms=[form])
        assert torch.equal(outputs[i], alone)
    (outputs[1].square().sum() + outputs[3].sum()).backward()  # the gradient of sum() is one element, expanded
    for i, leaf in enumerate(ours):
        assert leaf.grad.isfinite().all()
        assert leaf.grad.any() == (i in (1, 3))


def test_iteration_between_forward_and_backward_leaves_the_gradient_alone(backend):
    weights, us, vs = layers()
    ours = leaves(weights)
    normal = normalise(ours, us, vs)
    before = torch.autograd.grad(sum(n.pow(3).sum() for n in normal), ours, retain_graph=True)
    power_iteration_(ours, us, vs)
    after = torch.autograd.grad(sum(n.pow(3).sum() for n in normal), ours)
    assert all(map(torch.equal, before, after))


def test_autocast_leaves_it_alone(backend):
    weights, us, vs = layers()
    wanted_us, wanted_vs = copies(us), copies(vs)
    power_iteration_(weights, wanted_us, wanted_vs)
    wanted = leaves(weights)
    wanted_normal = normalise(wanted, wanted_us, wanted_vs)
    torch.autograd.backward(wanted_normal, weights)
    ours = leaves(weights)
    with torch.autocast("cpu", torch.bfloat16):
        power_iteration_(ours, us, vs)
        normal = normalise(ours, us, vs)
        torch.autograd.backward(normal, weights)
    for got, expected in zip([*us, *vs, *normal], [*wanted_us, *wanted_vs, *wanted_normal], strict=True):
        assert torch.equal(got, expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, wanted, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_zero_weights_stay_finite(backend, form):
    _, us, vs = layers(FOLDED)
    weights = leaves([torch.zeros(shape) for shape in FOLDED])
    outputs = normalise(weights, us, vs, forms=[form] * len(weights))
    torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
    power_iteration_(weights, us, vs)
    assert all(t.isfinite().all() for t in (*outputs, *us, *vs, *(w.grad for w in weights)))
    assert not any(t.any() for t in (*outputs, *us, *vs))
    torch.testing.assert_close(weights[0].grad, torch.full(FOLDED[0], {"plain": 1, "downsample": 1}.get(form, 4) / EPS))


def test_clamped_norm_is_a_constant(backend):
    weights, us, vs = layers()
    ours = leaves([1e-6 * w for w in weights])
    torch.autograd.backward(normalise(ours, us, vs), weights)
    for leaf, weight in zip(ours, weights, strict=True):
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
    ours = leaves(weights)
    power_iteration_(ours, us, vs)
    outputs = normalise(ours, us, vs)
    torch.autograd.backward(outputs, weights)
    for i, tensors in enumerate(zip(us, vs, outputs, (w.grad for w in ours), strict=True)):
        for tensor in tensors:
            assert tensor.isnan().all() if i == 1 else tensor.isfinite().all(), i


def test_vectors_and_weights_may_be_strided(backend):
    weights, us, vs = layers()
    wanted_us, wanted_vs = copies(us), copies(vs)
    power_iteration_(weights, wanted_us, wanted_vs)
    strided_us, strided_vs = ([torch.stack([t, t], 1)[:, 0] for t in vectors] for vectors in (us, vs))
    strided = [w.transpose(0, 1).contiguous().transpose(0, 1) for w in weights]
    power_iteration_(strided, strided_us, strided_vs)
    for got, wanted in zip([*strided_us, *strided_vs], [*wanted_us, *wanted_vs], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(normalise(strided, strided_us, strided_vs), normalise(weights, wanted_us, wanted_vs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_double_precision_is_the_reference(backend):
    weights, us, vs = layers(dtype=torch.float64)
    wanted, wanted_us, wanted_vs, _ = norm_of_torch(weights, us, vs)
    power_iteration_(weights, us, vs)
    for got, expected in zip([*normalise(weights, us, vs), *us, *vs], [*wanted, *wanted_us, *wanted_vs], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    weights, us, vs = layers()
    ours = leaves(weights)
    outputs = normalise(ours, us, vs, dtype=torch.float64)
    sum(o.sum() for o in outputs).backward()
    assert all(o.dtype == torch.float64 for o in outputs) and all(w.grad.dtype == torch.float32 for w in ours)


def step(weights, us, vs, forms):
    """All that a step computes, as one list; the state is left alone."""
    us, vs, weights = copies(us), copies(vs), leaves(weights)
    power_iteration_(weights, us, vs)
    outputs = normalise(weights, us, vs, forms=forms, memory_format=torch.channels_last)
    torch.autograd.backward(outputs, [torch.cos(o.detach()) for o in outputs])
    return [*us, *vs, *outputs, *(w.grad for w in weights)]


def test_runs_and_numbers_of_threads_are_equal_to_the_bit():
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


def test_many_layers_of_odd_sizes(backend):
    primes = (1, 2, 3, 5, 7, 11, 13, 17, 31, 67)
    kernels = ((), (1, 1), (3, 3), (3, 1))
    shapes = [(primes[i % 10], primes[i * 7 % 9], *kernels[i % 4]) for i in range(88)]
    state = layers(shapes)
    ours = step(*state, None)
    with use_backend("reference"):
        wanted = step(*state, None)
    for i, (got, expected) in enumerate(zip(ours, wanted, strict=True)):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * (1 + expected.abs().max().item()), msg=lambda m, i=i: f"{i}: {m}")


def test_opcheck(backend):
    weights, us, vs = layers(FOLDED[:2])
    torch.library.opcheck(torch.ops.talkinghead.power_iteration_.default, (weights, us, vs, EPS))
    for forms, dtype in (["plain", "upsample"], None), (["downsample", "upsample_shuffle"], torch.bfloat16):
        arguments = (leaves(weights), us, vs, EPS, forms, dtype, dtype is not None)
        torch.library.opcheck(torch.ops.talkinghead.normalise.default, arguments)
    _, constants = torch.ops.talkinghead.normalise(weights, us, vs, EPS, ["plain"] * 2, None, False)
    torch.library.opcheck(torch.ops.talkinghead.normalise_backward.default, (weights, weights, constants, EPS, ["plain"] * 2))


def test_compiles_once_for_every_backend():
    weights, us, vs = layers(FOLDED[:3])
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(_forward, fullgraph=True, backend=counter)
    wanted = _forward(leaves(weights), copies(us), copies(vs))
    for name in ("reference", "cpp", "reference"):
        if backends()[name]:
            continue
        with use_backend(name):
            ours = leaves(weights)
            got = compiled(ours, copies(us), copies(vs))
            sum(g.square().sum() for g in got).backward()
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert all(leaf.grad.isfinite().all() for leaf in ours)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def _forward(weights, us, vs):
    power_iteration_(weights, us, vs)
    return normalise(weights, us, vs, forms=["plain", "upsample", "downsample"], memory_format=torch.channels_last)


def test_weights_written_before_backward_are_refused(backend):
    weights, us, vs = layers()
    ours = leaves(weights)
    normal = normalise(ours, us, vs)
    with torch.no_grad():
        ours[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        normal[0].sum().backward()


def _changed(index, position, tensor):
    state = [list(part) for part in layers()]
    state[index][position] = tensor
    return tuple(state)


BAD = {
    "lengths": (lambda w, u, v: (w, u[:-1], v), "weights, us and vs must be of one length, got 10, 9, 10"),
    "none": (lambda w, u, v: ([], [], []), "weights must hold a tensor or more, got none"),
    "rank": (lambda *_: _changed(0, 0, torch.randn(4)), r"weights\[0\] must be float32 \[out, in, ...\], got torch.float32 \[4\]"),
    "integers": (
        lambda *_: _changed(0, 1, torch.ones(5, 8, 1, 1).int()),
        r"weights\[1\] must be float32 \[out, in, ...\], got torch.int32",
    ),
    "half": (lambda *_: _changed(0, 1, torch.ones(5, 8, 1, 1).half()), r"weights\[1\] must be float32 \[out, in, ...\], got torch.float16"),
    "empty": (lambda *_: _changed(0, 2, torch.randn(4, 0)), r"weights\[2\] must be float32 \[out, in, ...\], got torch.float32 \[4, 0\]"),
    "u": (lambda *_: _changed(1, 2, torch.ones(5)), r"us\[2\] must be \[4\], got \[5\]"),
    "v": (lambda *_: _changed(2, 0, torch.ones(3, 9)), r"vs\[0\] must be \[27\], got \[3, 9\]"),
    "dtypes": (
        lambda *_: _changed(2, 3, torch.ones(1).double()),
        r"vs\[3\] must be torch.float32 on cpu like weights\[0\], got torch.float64",
    ),
    "devices": (lambda *_: _changed(1, 3, torch.ones(1, device="meta")), r"us\[3\] must be torch.float32 on cpu .*on meta"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("op", [power_iteration_, normalise], ids=["power_iteration_", "normalise"])
def test_bad_input_is_named(op, case):
    change, message = BAD[case]
    with pytest.raises(ValueError, match=f"^{op.__name__}: {message}"):
        op(*change(*layers()))


@pytest.mark.parametrize("case", ["lengths", "rank", "integers", "u", "v", "dtypes"])
@pytest.mark.parametrize("op", [power_iteration_, normalise], ids=["power_iteration_", "normalise"])
def test_bad_input_is_named_the_same_when_compiled(op, case):
    change, message = BAD[case]
    torch._dynamo.reset()
    with pytest.raises(Exception, match=f"{op.__name__}: {message}"):
        torch.compile(lambda *state: op(*state), fullgraph=True, backend="aot_eager")(*change(*layers()))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"eps": float("nan")}, "eps must be finite and positive, got nan"),
        ({"eps": 0.0}, "eps must be finite and positive, got 0.0"),
        ({"eps": float("inf")}, "eps must be finite and positive, got inf"),
        ({"forms": ["plain"]}, "forms must be as many as weights, 10, got 1"),
        ({"forms": ["plain"] * 9 + ["square"]}, r"forms\[9\] must be one of plain, upsample, upsample_shuffle, downsample, got 'square'"),
        ({"forms": ["plain", "upsample"] + ["plain"] * 8}, r"weights\[1\] must be \[out, in, 3, 3\] to be folded, got \[5, 8, 1, 1\]"),
        ({"dtype": torch.int32}, "dtype must be a floating-point dtype, got torch.int32"),
        ({"memory_format": torch.preserve_format}, "memory_format must be torch.contiguous_format or torch.channels_last"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"^normalise: {message}"):
        normalise(*layers(), **options)
    if "eps" in options:
        with pytest.raises(ValueError, match=f"^power_iteration_: {message}"):
            power_iteration_(*layers(), **options)
