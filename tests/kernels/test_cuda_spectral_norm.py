"""The CUDA spectral norm, run on the CPU by `cuda_emulator`, against the references."""

import ctypes
import math

import pytest
import torch
from talkinghead_kernels.resample import FORMS
from talkinghead_kernels.spectral_norm import (
    normalise_backward_reference,
    normalise_reference,
    power_iteration_reference,
)
from torch.nn.functional import normalize

from cuda_emulator import CODE, MISSING, build

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EPS = 1e-4
# of one row, of one column, prime, as wide as each size of team, and wider than a block holds
SHAPES = [
    (1, 1),
    (1, 4608),
    (7, 1),
    (13, 37),
    (3, 576),
    (64, 3),
    (5, 8, 1, 1),
    (33, 640),
    (31, 641),
    (9, 1280),
    (11, 1284),
    (10, 128, 3, 3),
]
SHAPES += [(6, 2561), (4, 512, 3, 3), (30, 3, 5, 5), (3, 5121), (2, 6000)]
KERNELS = [(1, 1, 3, 3), (7, 70, 3, 3), (70, 7, 3, 3), (64, 64, 3, 3), (13, 3, 3, 3)]


@pytest.fixture(scope="module", params=CODE)
def library(request, tmp_path_factory):
    library = build("spectral_norm", request.param, tmp_path_factory)
    library.functions.scratch_floats.restype = ctypes.c_int64
    return library


@pytest.fixture(autouse=True)
def _free(library):
    library.on("sm_90")
    library.launches()
    yield
    library.free()


def vectors(weights):
    us = [normalize(torch.randn(w.shape[0]), dim=0) for w in weights]
    return us, [normalize(torch.randn(w[0].numel()), dim=0) for w in weights]


class Layers:
    """The same layers in the emulator's memory, and calls of the three ops on them."""

    def __init__(self, library, weights, us, vs, forms=None, aligned=16):
        self.library, self.aligned = library, aligned
        self.weights, self.us, self.vs = ([self.placed(t) for t in tensors] for tensors in (weights, us, vs))
        self.forms = ["plain"] * len(weights) if forms is None else forms
        sizes = [length for w in weights for length in (w.shape[0], w[0].numel())]
        self.sizes = [len(weights), *sizes]
        self.constants = library.empty(torch.empty(sum(self.sizes)))

    def placed(self, tensor):
        return self.library.place(
            tensor,
            min(self.aligned, 16)
            if tensor.element_size() == 4
            else tensor.element_size() * self.aligned // 4,
        )

    def table(self, folded=None, grads=None):
        rows, at = [], len(self.weights)
        for i, (w, form) in enumerate(zip(self.weights, self.forms, strict=True)):
            out, inputs = w.shape[:2]
            last = folded is not None and not folded[i].is_contiguous()
            pointers = [
                t[i].data_ptr() if t is not None else 0
                for t in (self.weights, self.us, self.vs, folded, grads)
            ]
            rows.append(
                [*pointers, out, inputs, w.numel() // (out * inputs), list(FORMS).index(form), int(last), at]
            )
            at += out + w[0].numel()
        return torch.tensor(rows)

    def scratch(self, table, task, iterate):
        floats = self.library.functions.scratch_floats(
            ctypes.c_void_p(table.data_ptr()), ctypes.c_int64(len(table)), task, iterate
        )
        return self.library.empty(torch.empty(floats))

    def power_iteration(self, eps=EPS):
        table = self.table()
        self.library.call("run_power_iteration", table, len(table), eps, self.scratch(table, 0, 1))
        return self.us, self.vs

    def forward(self, dtype=torch.float32, last=False, eps=EPS):
        folded = []
        for w, form in zip(self.weights, self.forms, strict=True):
            like = torch.empty(w.shape if form == "plain" else FORMS[form](*w.shape[:2]), dtype=dtype)
            like = like.contiguous(memory_format=torch.channels_last) if last and like.dim() == 4 else like
            folded.append(self.library.empty(like, like.element_size() * self.aligned // 4))
        table = self.table(folded)
        scratch = self.scratch(table, 0, 0)
        self.library.call(
            "run_normalise_forward", table, len(table), self.constants, eps, DTYPES.index(dtype), scratch
        )
        return folded, self.constants

    def backward(self, grads, constants, eps=EPS):
        grads = [self.library.place(g, g.element_size() * self.aligned // 4) for g in grads]
        results = [self.library.empty(w, self.aligned) for w in self.weights]
        self.constants.copy_(constants)
        table = self.table(grads, results)
        scratch = self.scratch(table, 1, 0)
        self.library.call(
            "run_normalise_backward",
            table,
            len(table),
            self.constants,
            eps,
            DTYPES.index(grads[0].dtype),
            scratch,
        )
        return results


def error(got, exact):
    """Return the largest error relative to the largest number."""
    return ((got.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-30)).item()


def assert_as_good(got, plain, exact, floor=1e-6):
    """At most twice the error of plain torch; `floor` is a few roundings of a sum, which plain torch may
    escape by luck.
    """
    assert got.isfinite().all()
    assert error(got, exact) <= 2 * error(plain, exact) + floor


def test_power_iteration_handles_every_shape(library):
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in SHAPES]
    us, vs = vectors(weights)
    got_us, got_vs = Layers(library, weights, us, vs).power_iteration()
    for w, u, v, got_u, got_v in zip(weights, us, vs, got_us, got_vs, strict=True):
        plain, exact = (
            power_iteration_reference(w.to(t), u.to(t), v.to(t), EPS) for t in (torch.float32, torch.float64)
        )
        assert_as_good(got_u, plain[0], exact[0])
        assert_as_good(got_v, plain[1], exact[1])


@pytest.mark.parametrize("shape", [(96, 4608), (260, 2048), (2048, 96), (70, 6144)])
@pytest.mark.parametrize("aligned", [16, 4])
def test_power_iteration_over_many_blocks(library, shape, aligned):
    torch.manual_seed(1)
    weights = [torch.randn(shape), torch.randn(2, 3)]
    us, vs = vectors(weights)
    got_us, got_vs = Layers(library, weights, us, vs, aligned=aligned).power_iteration()
    (launch,) = library.launches()
    assert int(launch.split()[1]) > 16  # several groups
    for w, u, v, got_u, got_v in zip(weights, us, vs, got_us, got_vs, strict=True):
        plain, exact = (
            power_iteration_reference(w.to(t), u.to(t), v.to(t), EPS) for t in (torch.float32, torch.float64)
        )
        assert_as_good(got_u, plain[0], exact[0])
        assert_as_good(got_v, plain[1], exact[1])


def test_more_blocks_than_rows(library):
    # A row that is longer than the share of a block leaves blocks without rows.
    torch.manual_seed(2)
    weights = [torch.randn(3, 40000), torch.randn(1, 30000)]
    us, vs = vectors(weights)
    layers = Layers(library, weights, us, vs)
    folded, constants = layers.forward()
    got_us, got_vs = layers.power_iteration()
    for i, (w, u, v) in enumerate(zip(weights, us, vs, strict=True)):
        plain, exact = (
            power_iteration_reference(w.to(t), u.to(t), v.to(t), EPS) for t in (torch.float32, torch.float64)
        )
        assert_as_good(got_us[i], plain[0], exact[0])
        assert_as_good(got_vs[i], plain[1], exact[1])
        exact_weight, exact_sigma = normalise_reference(w.double(), u.double(), v.double(), EPS, "plain")
        plain_weight, plain_sigma = normalise_reference(w, u, v, EPS, "plain")
        assert abs(constants[i] - exact_sigma) <= 2 * abs(plain_sigma - exact_sigma) + 1e-5
        assert_as_good(folded[i], plain_weight, exact_weight, 1e-5)


def test_layers_of_three_networks(library):
    """Use 88 layers, more than the table of one launch holds, and 42, which fit."""
    torch.manual_seed(3)
    weights = [torch.randn(1 + i % 5, 1 + 3 * i % 11, *((3, 3) if i % 2 else (1, 1))) for i in range(88)]
    us, vs = vectors(weights)
    layers = Layers(library, weights, us, vs)
    folded, constants = layers.forward()
    assert len(library.launches()) == 4
    sigmas, *copies = constants.clone().split(layers.sizes)
    layers.power_iteration()
    assert len(library.launches()) == 2
    Layers(library, weights[:42], us[:42], vs[:42]).power_iteration()
    assert len(library.launches()) == 1
    for i, (w, u, v) in enumerate(zip(weights, us, vs, strict=True)):
        assert torch.equal(copies[2 * i], u)
        assert torch.equal(copies[2 * i + 1], v)
        expected, sigma = normalise_reference(w, u, v, EPS, "plain")
        torch.testing.assert_close(sigmas[i], sigma, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(folded[i], expected, atol=1e-5, rtol=max(1e-5, 1e-5 / abs(sigma.item())))
        expected_u, expected_v = power_iteration_reference(w, u, v, EPS)
        torch.testing.assert_close(layers.us[i], expected_u, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layers.vs[i], expected_v, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("aligned", [16, 4])
def test_every_form(library, dtype, last, aligned):
    torch.manual_seed(4)
    weights, forms = [torch.randn(shape) for shape in SHAPES[:14]], ["plain"] * 14
    for shape in KERNELS:
        weights.extend(torch.randn(shape) for _ in FORMS)
        forms.extend(FORMS)
    weights.append(torch.randn(6, 5, 2, 3))
    forms.append("plain")
    us, vs = vectors(weights)
    us, vs = zip(
        *(power_iteration_reference(*state, EPS) for state in zip(weights, us, vs, strict=True)), strict=True
    )  # sigma is not near 0
    layers = Layers(library, weights, us, vs, forms, aligned)
    folded, constants = layers.forward(dtype, last)
    sigmas, *_ = constants.split(layers.sizes)
    grads, exact_sigmas = [], []
    for i, (w, u, v, form) in enumerate(zip(weights, us, vs, forms, strict=True)):
        plain, _ = normalise_reference(w, u, v, EPS, form)
        exact, sigma = normalise_reference(w.double(), u.double(), v.double(), EPS, form)
        assert folded[i].shape == exact.shape
        assert_as_good(folded[i], plain.to(dtype), exact)
        assert abs(sigmas[i] - sigma) <= 1e-5 * sigma
        exact_sigmas.append(sigma)
        grads.append(torch.empty_like(folded[i]).copy_(torch.randn(exact.shape)))
    saved_constants = torch.cat(
        [torch.stack(exact_sigmas).float(), *(t for pair in zip(us, vs, strict=True) for t in pair)]
    )
    results = layers.backward(grads, saved_constants)
    for i, (grad, w, u, v, form) in enumerate(zip(grads, weights, us, vs, forms, strict=True)):
        plain = normalise_backward_reference(grad, w, saved_constants[i], u, v, EPS, form)
        exact = normalise_backward_reference(
            grad.double(), w.double(), saved_constants[i].double(), u.double(), v.double(), EPS, form
        )
        scale = (
            grad.float().abs().max() / saved_constants[i]
        ).double()  # of what is subtracted, where nearly nothing is left
        assert (results[i] - exact).abs().max() <= 2 * (plain - exact).abs().max() + 4e-6 * scale


@pytest.mark.parametrize("shape", [(4, 6), (1, 1), (2, 8, 3, 3)])
def test_zero_weight_stays_finite(library, shape):
    weights = [torch.zeros(shape)]
    us, vs = vectors(weights)
    forms = ["downsample" if len(shape) == 4 else "plain"]
    layers = Layers(library, weights, us, vs, forms)
    folded, constants = layers.forward()
    assert folded[0].eq(0).all() and constants[0] == 0
    grad = torch.randn(folded[0].shape)
    (result,) = layers.backward([grad], constants.clone())
    expected = normalise_backward_reference(grad, weights[0], constants[0], us[0], vs[0], EPS, forms[0])
    # no term of rank one; a fold's sums of several may nearly cancel
    torch.testing.assert_close(result, expected, rtol=1.3e-6, atol=1e-6 * float(grad.abs().max()) / EPS)
    (u,), (v,) = layers.power_iteration()
    assert u.eq(0).all() and v.eq(0).all()


def test_small_sigma_is_clamped_but_returned_unclamped(library):
    torch.manual_seed(9)
    weights = [torch.randn(5, 7) * 1e-6]
    us, vs = vectors(weights)
    layers = Layers(library, weights, us, vs)
    folded, constants = layers.forward()
    torch.testing.assert_close(folded[0], weights[0] / EPS)
    assert 0 < abs(constants[0]) < EPS
    grad = torch.randn(5, 7)
    expected = normalise_backward_reference(grad, weights[0], constants[0], us[0], vs[0], EPS, "plain")
    torch.testing.assert_close(
        layers.backward([grad], constants.clone())[0], expected, atol=0, rtol=1e-5
    )  # no term of rank one
    got_u, got_v = (t[0] for t in layers.power_iteration())
    for got, expected in zip(
        (got_u, got_v), power_iteration_reference(weights[0], us[0], vs[0], EPS), strict=True
    ):
        torch.testing.assert_close(got, expected, atol=1e-7, rtol=1e-4)


def test_nan_stays_in_its_layer(library):
    torch.manual_seed(5)
    weights = [torch.randn(4, 9), torch.randn(3, 3, 3, 3), torch.randn(2, 8)]
    weights[1][2, 1, 0, 0] = math.nan
    us, vs = vectors(weights)
    layers = Layers(library, weights, us, vs)
    folded, constants = layers.forward()
    assert [f.isnan().any().item() for f in folded] == [False, True, False]
    assert constants[:3].isnan().tolist() == [False, True, False]
    layers.power_iteration()
    for tensors in (layers.us, layers.vs):
        assert [t.isnan().all().item() for t in tensors] == [False, True, False]


def test_block_and_thread_order_changes_no_bit(library):
    torch.manual_seed(6)
    weights = [
        torch.randn(96, 128, 3, 3),
        torch.randn(300, 512),
        torch.randn(3, 64, 3, 3),
        torch.randn(40, 4608),
    ]
    us, vs = vectors(weights)
    forms = ["upsample", "plain", "downsample", "plain"]
    runs = []
    for schedule in (0, 1, 2, 3):
        library.on("sm_90", schedule)
        layers = Layers(library, weights, us, vs, forms)
        folded, constants = layers.forward()
        first = [t.clone() for t in (*folded, constants)]
        results = layers.backward([torch.ones_like(f) for f in folded], constants.clone())
        got = layers.power_iteration()
        runs.append([*first, *results, *got[0], *got[1]])
        runs[-1] = [t.clone() for t in runs[-1]]
        library.free()
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert torch.equal(a, b)


def test_v_is_overwritten_after_all_reads(library):
    # Delay each block in turn, so that it finishes last: the result is the same.
    torch.manual_seed(7)
    weights = [torch.randn(100, 1024)]
    us, vs = vectors(weights)
    expected = None
    for schedule in range(2, 10):
        library.on("sm_80", schedule)
        layers = Layers(library, weights, us, vs)
        got = torch.cat([t[0].clone() for t in layers.power_iteration()])
        expected = got if expected is None else expected
        assert torch.equal(got, expected)


def test_second_iteration_clears_tickets(library):
    torch.manual_seed(8)
    weights = [torch.randn(40, 700), torch.randn(9, 5000)]
    us, vs = vectors(weights)
    layers = Layers(library, weights, us, vs)
    table = layers.table()
    scratch = layers.scratch(table, 0, 1)
    for _ in range(3):
        library.call("run_power_iteration", table, len(table), EPS, scratch)
        us, vs = zip(
            *(power_iteration_reference(*state, EPS) for state in zip(weights, us, vs, strict=True)),
            strict=True,
        )
    for got, expected in zip([*layers.us, *layers.vs], [*us, *vs], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
