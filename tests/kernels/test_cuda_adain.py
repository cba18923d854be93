"""Tests of csrc/cuda/adain.cu in the emulator of tests/cuda_emulator, against the formula."""

import ctypes

import pytest
import torch
from talkinghead_kernels.adain import adain_backward_reference, adain_reference

import cuda_emulator
from support.cuda_adain_cases import DTYPES, Plan, ctypes_pointer, forward, has_clusters, planned, problem

pytestmark = pytest.mark.skipif(cuda_emulator.MISSING is not None, reason=str(cuda_emulator.MISSING))
SPREAD = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture(scope="module", params=cuda_emulator.CODE)
def library(request, tmp_path_factory):
    return cuda_emulator.build("adain", request.param, tmp_path_factory)


@pytest.fixture(autouse=True)
def _placed(request):
    yield
    if "library" in request.fixturenames:
        request.getfixturevalue("library").free()


def backward(library, grad_y, grad_h, h, scale, bias, mean, rstd, last, relu=True, aligned=16):
    batch, channels, height, width = h.shape
    placed = [library.place(t, aligned) if t is not None else None for t in (grad_y, grad_h, h)]
    grad_x = library.empty(h, aligned)
    grad_scale, grad_bias = (library.empty(torch.zeros(batch, channels), 4) for _ in range(2))
    affine = [library.place(t, t.element_size()) for t in (scale, bias)]
    statistics = [library.place(t, 4) for t in (mean, rstd)]
    out = (ctypes.c_int64 * len(Plan._fields))()
    library.call(
        "backward", DTYPES.index(h.dtype), batch, channels, height * width, last, *placed,
        affine[0], affine[0].stride(0), affine[1], affine[1].stride(0), scale.dtype == torch.float32,
        *statistics, relu, grad_x, grad_scale, grad_bias, ctypes_pointer(out),
    )  # fmt: skip
    return grad_x, grad_scale, grad_bias, Plan(*out)


def close(got, expected, plain, dtype):
    """Check that the error against float64 is at most twice that of plain torch, or one rounding."""
    assert not got.isnan().any()
    scale = expected.abs().max().item() or 1.0
    allowed = 2 * (plain.double() - expected).abs().max().item() + scale * SPREAD[dtype]
    error = (got.double() - expected).abs().max().item()
    assert error <= allowed, (error, allowed)


def check(
    library,
    device,
    shape,
    dtype,
    last=False,
    residual=False,
    skip=False,
    relu=True,
    wide=True,
    shared=False,
    mean=0.0,
    aligned=16,
    schedule=0,
):
    """Run and compare forward and backward, and return both plans."""
    x, r, scale, bias, grad_y, grad_h = problem(shape, dtype, last, residual, wide, shared, mean)
    library.on(device, schedule)
    y, h, m, rstd, plan = forward(library, x, r, scale, bias, last, relu, aligned=aligned)
    summed = x if r is None else x + r
    if r is not None:
        assert torch.equal(h, summed)
    standard = summed.contiguous()
    exact = [t.double() for t in (standard, scale, bias)]
    expected = adain_reference(*exact, 1e-4, relu)
    plain = adain_reference(standard, scale.to(torch.float32), bias.to(torch.float32), 1e-4, relu)
    for got, want, by_torch in zip((y, m, rstd), expected, plain, strict=True):
        close(got, want, by_torch, dtype if got is y else torch.float32)
    grad_h = grad_h if skip else None
    grads = backward(library, grad_y, grad_h, summed, scale, bias, m, rstd, last, relu, aligned=aligned)
    args = (scale, bias, m, rstd)
    plain = adain_backward_reference(grad_y, grad_h, summed, *args, relu)
    expected = adain_backward_reference(
        grad_y.double(),
        None if grad_h is None else grad_h.double(),
        summed.double(),
        *(v.double() for v in args),
        relu,
    )
    area = shape[2] * shape[3]
    if (
        relu
    ):  # where rounding decides which side of zero an element lies, float32 may decide otherwise than float64
        value = (summed.double() - m.double()[:, :, None, None]) * (rstd * scale.float()).double()[
            :, :, None, None
        ] + bias.double()[:, :, None, None]
        assert (value.abs() > 1e-6).all() or area > 1
    for got, want, by_torch in zip(grads[:3], expected, plain, strict=True):
        close(got, want, by_torch, dtype if got is grads[0] else torch.float32)
    return plan, grads[3]


# device, shape, dtype, channels_last, options -> what must have run: on chip, bytes of a pack, packs of a
# thread, whether with clusters
FORWARD = {
    "a warp a plane, one pack": ("sm_80", (2, 3, 4, 8), torch.bfloat16, False, {}, (1, 16, 1, False)),
    "a warp a plane, four packs": (
        "sm_80",
        (2, 3, 16, 16),
        torch.float32,
        False,
        {"residual": True},
        (1, 16, 4, False),
    ),
    "several planes a block": ("sm_80", (2, 217, 4, 4), torch.float32, False, {}, (1, 16, 1, False)),
    "one element": ("sm_90", (2, 3, 1, 1), torch.float32, False, {"skip": True}, (1, 4, 8, False)),
    "odd plane": (
        "sm_90",
        (3, 5, 5, 7),
        torch.float16,
        False,
        {"residual": True, "skip": True},
        (1, 2, 8, False),
    ),
    "odd plane, a block": ("sm_80", (1, 2, 45, 67), torch.float32, False, {}, (1, 4, 8, False)),
    "odd plane, a larger block": (
        "sm_80",
        (1, 1, 77, 77),
        torch.bfloat16,
        False,
        {"residual": True},
        (1, 2, 16, False),
    ),
    "odd plane, a cluster": ("sm_90", (1, 1, 73, 73), torch.float32, False, {"skip": True}, (1, 4, 8, True)),
    "a block a plane": (
        "sm_80",
        (1, 2, 64, 64),
        torch.float32,
        False,
        {"residual": True, "skip": True},
        (1, 16, 4, False),
    ),
    "a block, eight packs": ("sm_80", (1, 1, 100, 100), torch.float32, False, {}, (1, 16, 8, False)),
    "a cluster a plane": (
        "sm_90",
        (1, 2, 64, 64),
        torch.float32,
        False,
        {"residual": True, "skip": True},
        (1, 16, 4, True),
    ),
    "a cluster, uneven": (
        "sm_90",
        (1, 1, 101, 48),
        torch.bfloat16,
        False,
        {"residual": True},
        (1, 16, 4, True),
    ),
    "a cluster, eight packs": ("sm_90", (1, 1, 264, 256), torch.float32, False, {}, (1, 16, 8, True)),
    "streamed": (
        "sm_80",
        (1, 2, 192, 192),
        torch.float32,
        False,
        {"residual": True, "skip": True},
        (0, 16, 0, False),
    ),
    "streamed, odd": ("sm_80", (1, 1, 131, 127), torch.bfloat16, False, {"residual": True}, (0, 2, 0, False)),
    "pixels": (
        "sm_80",
        (2, 32, 8, 8),
        torch.bfloat16,
        True,
        {"residual": True, "skip": True},
        (1, 16, 4, False),
    ),
    "pixels, eight packs": ("sm_80", (1, 8, 40, 40), torch.float32, True, {}, (1, 16, 8, False)),
    "pixels, a cluster": ("sm_90", (1, 72, 24, 24), torch.bfloat16, True, {"skip": True}, (1, 16, 4, True)),
    "pixels, a tile with fewer channels": (
        "sm_90",
        (2, 20, 16, 16),
        torch.float32,
        True,
        {"residual": True},
        (1, 16, 4, True),
    ),
    "pixels, three channels": (
        "sm_90",
        (2, 3, 9, 11),
        torch.float32,
        True,
        {"residual": True, "skip": True},
        (1, 4, 4, True),
    ),
    "pixels, odd channels": ("sm_80", (2, 37, 6, 5), torch.float16, True, {}, (1, 2, 4, False)),
    "pixels, streamed": (
        "sm_80",
        (2, 16, 80, 72),
        torch.float32,
        True,
        {"residual": True, "skip": True},
        (0, 16, 0, False),
    ),
    "pixels, streamed by clusters": ("sm_90", (1, 24, 144, 144), torch.bfloat16, True, {}, (0, 16, 0, True)),
    "pixels, streamed, odd": (
        "sm_80",
        (1, 5, 70, 71),
        torch.bfloat16,
        True,
        {"residual": True},
        (0, 2, 0, False),
    ),
}


@pytest.mark.parametrize("case", FORWARD)
def test_every_plan_equals_reference(library, case):
    device, shape, dtype, last, options, expected = FORWARD[case]
    plan, _ = check(library, device, shape, dtype, last, **options)
    if has_clusters(library):
        assert (plan.on_chip, plan.pack_bytes, plan.packs, plan.ranks > 1) == expected
    else:
        assert plan.ranks == 1


def test_every_backward_plan_is_covered(library):
    if not has_clusters(library):
        pytest.skip("code for compute_80 has no clusters, so not these plans")
    reached = set()
    for device, shape, dtype, last, _, _ in FORWARD.values():
        plan = planned(library, device, dtype, shape, last, held=2)
        reached.add((plan.on_chip, plan.pack_bytes == 16, plan.packs, last))
    vector, element = {(1, True, 1, False), (1, True, 4, False)}, {(1, False, 4, False), (1, False, 8, False)}
    pixels, streamed = (
        {(1, True, 4, True), (1, False, 4, True)},
        {(0, wide, 0, last) for wide in (True, False) for last in (True, False)},
    )
    assert reached == vector | element | pixels | streamed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("device", ["sm_80", "sm_90", "sm_120"])
def test_every_dtype_format_and_device(library, device, last, dtype):
    check(library, device, (2, 8, 12, 12), dtype, last, residual=True, wide=False, skip=True)
    check(library, device, (3, 8, 6, 4), dtype, last, relu=False, shared=True)


@pytest.mark.parametrize("schedule", [1, 2, 3])
@pytest.mark.parametrize(
    "case", ["a cluster a plane", "a block a plane", "pixels, a cluster", "streamed, odd", "pixels, streamed"]
)
def test_thread_order_changes_no_bit(library, case, schedule):
    device, shape, dtype, last, _, _ = FORWARD[case]
    shape = (*shape[:2], min(shape[2], 100), shape[3])
    x, r, scale, bias, grad_y, grad_h = problem(shape, dtype, last, residual=True)
    results = []
    for order in (0, schedule):
        library.on(device, order)
        y, h, mean, rstd, _ = forward(library, x, r, scale, bias, last)
        results.append(
            (y, h, mean, rstd, *backward(library, grad_y, grad_h, h, scale, bias, mean, rstd, last)[:3])
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unaligned_addresses(library, dtype, last):
    plan, back = check(
        library, "sm_90", (2, 8, 16, 16), dtype, last, residual=True, skip=True, aligned=dtype.itemsize
    )
    assert plan.pack_bytes == back.pack_bytes == dtype.itemsize


@pytest.mark.parametrize(
    "case",
    [
        "a warp a plane, four packs",
        "odd plane, a cluster",
        "a cluster a plane",
        "streamed",
        "pixels, a cluster",
        "pixels, streamed",
    ],
)
def test_large_mean_keeps_spread(library, case):
    device, shape, _, last, _, _ = FORWARD[case]
    x, _, scale, bias, _, _ = problem(shape, torch.float32, last, mean=1000)
    library.on(device)
    y, _, mean, rstd, _ = forward(library, x, None, scale, bias, last, relu=False)
    expected = adain_reference(x.double().contiguous(), scale.double(), bias.double(), 1e-4, False)
    # the mean is rounded to float32 near 1000, which is 3e-5 of the spread
    assert (y.double() - expected[0]).abs().max() < 1e-4 * scale.abs().max()
    assert (rstd.double() / expected[2] - 1).abs().max() < 1e-5
    assert (mean.double() - expected[1]).abs().max() < 1e-4


@pytest.mark.parametrize(
    "case",
    [
        "several planes a block",
        "a cluster a plane",
        "a block a plane",
        "streamed",
        "pixels, a cluster",
        "pixels, streamed",
    ],
)
def test_nan_stays_in_its_plane_and_passes_relu(library, case):
    device, shape, dtype, last, _, _ = FORWARD[case]
    x, _, scale, bias, grad_y, _ = problem(shape, dtype, last)
    x[0, 1, -1, -1] = float("nan")
    library.on(device)
    y, _, mean, rstd, _ = forward(library, x, None, scale, bias, last)
    expected = torch.zeros(shape[:2], dtype=torch.bool)
    expected[0, 1] = True
    grad_x, grad_scale, _, _ = backward(library, grad_y, None, x, scale, bias, mean, rstd, last)
    for values in (y, grad_x):
        assert torch.equal(values.isnan().flatten(2).any(2), expected)
        assert values[0, 1].isnan().all()
    for values in (mean, rstd, grad_scale):
        assert torch.equal(values.isnan(), expected)


def test_constant_plane_gives_its_bias(library):
    library.on("sm_90")
    scale, bias = torch.ones(1, 4), torch.tensor([[0.5, -0.5, 0.0, 2.0]])
    for shape in ((1, 4, 64, 64), (1, 4, 5, 5)):
        y, _, _, rstd, _ = forward(
            library, torch.full(shape, 1234.5678), None, scale, bias, False, relu=False
        )
        assert torch.equal(y.amax((2, 3)), bias) and torch.equal(y.amin((2, 3)), bias)
        assert (rstd == 100).all()


def test_streamed_groups_fit_cache(library):
    plan = planned(library, "sm_80", torch.float32, (8, 64, 256, 256))
    assert not plan.on_chip and plan.group * plan.rows * 16 <= (40 << 20) / 3
    library.on("sm_80")
    library.launches()
    check(library, "sm_80", (3, 16, 80, 72), torch.float32, True)
    assert len(library.launches()) == 4  # all in one group: two kernels forward, two backward
