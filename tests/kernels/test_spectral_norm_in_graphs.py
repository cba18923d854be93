"""Tests of spectral norm in compiled code, and of its checks."""

import pytest
import torch
from talkinghead_kernels import (
    backends,
    normalise,
    power_iteration_,
    use_backend,
)

from support.spectral_norm_cases import EPS, FOLDED, copies, layers, leaves


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


def test_opcheck(backend):
    weights, us, vs = layers(FOLDED[:2])
    torch.library.opcheck(torch.ops.talkinghead.power_iteration_.default, (weights, us, vs, EPS))
    for forms, dtype in (["plain", "upsample"], None), (["downsample", "upsample_shuffle"], torch.bfloat16):
        arguments = (leaves(weights), us, vs, EPS, forms, dtype, dtype is not None)
        torch.library.opcheck(torch.ops.talkinghead.normalise.default, arguments)
    _, constants = torch.ops.talkinghead.normalise(weights, us, vs, EPS, ["plain"] * 2, None, False)
    torch.library.opcheck(
        torch.ops.talkinghead.normalise_backward.default, (weights, weights, constants, EPS, ["plain"] * 2)
    )


def test_compiles_once_for_every_backend():
    weights, us, vs = layers(FOLDED[:3])
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(_forward, fullgraph=True, backend=counter)
    expected = _forward(leaves(weights), copies(us), copies(vs))
    for name in ("reference", "cpp", "reference"):
        if backends()[name]:
            continue
        with use_backend(name):
            leaf_weights = leaves(weights)
            got = compiled(leaf_weights, copies(us), copies(vs))
            sum(g.square().sum() for g in got).backward()
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert all(leaf.grad.isfinite().all() for leaf in leaf_weights)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def _forward(weights, us, vs):
    power_iteration_(weights, us, vs)
    return normalise(
        weights, us, vs, forms=["plain", "upsample", "downsample"], memory_format=torch.channels_last
    )


def test_weights_changed_before_backward_are_rejected(backend):
    weights, us, vs = layers()
    leaf_weights = leaves(weights)
    normal = normalise(leaf_weights, us, vs)
    with torch.no_grad():
        leaf_weights[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        normal[0].sum().backward()


def _changed(index, position, tensor):
    state = [list(part) for part in layers()]
    state[index][position] = tensor
    return tuple(state)


BAD = {
    "lengths": (
        lambda w, u, v: (w, u[:-1], v),
        "weights, us and vs must have the same length, got 10, 9, 10",
    ),
    "none": (lambda w, u, v: ([], [], []), "weights must hold at least one tensor, got none"),
    "rank": (
        lambda *_: _changed(0, 0, torch.randn(4)),
        r"weights\[0\] must be float32 \[out, in, ...\], got torch.float32 \[4\]",
    ),
    "integers": (
        lambda *_: _changed(0, 1, torch.ones(5, 8, 1, 1).int()),
        r"weights\[1\] must be float32 \[out, in, ...\], got torch.int32",
    ),
    "half": (
        lambda *_: _changed(0, 1, torch.ones(5, 8, 1, 1).half()),
        r"weights\[1\] must be float32 \[out, in, ...\], got torch.float16",
    ),
    "empty": (
        lambda *_: _changed(0, 2, torch.randn(4, 0)),
        r"weights\[2\] must be float32 \[out, in, ...\], got torch.float32 \[4, 0\]",
    ),
    "u": (lambda *_: _changed(1, 2, torch.ones(5)), r"us\[2\] must be \[4\], got \[5\]"),
    "v": (lambda *_: _changed(2, 0, torch.ones(3, 9)), r"vs\[0\] must be \[27\], got \[3, 9\]"),
    "dtypes": (
        lambda *_: _changed(2, 3, torch.ones(1).double()),
        r"vs\[3\] must be torch.float32 on cpu like weights\[0\], got torch.float64",
    ),
    "devices": (
        lambda *_: _changed(1, 3, torch.ones(1, device="meta")),
        r"us\[3\] must be torch.float32 on cpu .*on meta",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("op", [power_iteration_, normalise], ids=["power_iteration_", "normalise"])
def test_bad_input_is_named(op, case):
    change, message = BAD[case]
    with pytest.raises(ValueError, match=f"^{op.__name__}: {message}"):
        op(*change(*layers()))


@pytest.mark.parametrize("case", ["lengths", "rank", "integers", "u", "v", "dtypes"])
@pytest.mark.parametrize("op", [power_iteration_, normalise], ids=["power_iteration_", "normalise"])
def test_compiled_code_names_bad_input(op, case):
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
        (
            {"forms": ["plain"] * 9 + ["square"]},
            r"forms\[9\] must be one of plain, upsample, upsample_shuffle, downsample, got 'square'",
        ),
        (
            {"forms": ["plain", "upsample"] + ["plain"] * 8},
            r"weights\[1\] must be \[out, in, 3, 3\] to be folded, got \[5, 8, 1, 1\]",
        ),
        ({"dtype": torch.int32}, "dtype must be a floating-point dtype, got torch.int32"),
        (
            {"memory_format": torch.preserve_format},
            "memory_format must be torch.contiguous_format or torch.channels_last",
        ),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=f"^normalise: {message}"):
        normalise(*layers(), **options)
    if "eps" in options:
        with pytest.raises(ValueError, match=f"^power_iteration_: {message}"):
            power_iteration_(*layers(), **options)
