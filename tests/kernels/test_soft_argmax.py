import pytest
import talkinghead_kernels as ops
import torch
from talkinghead_kernels import backends, extension
from talkinghead_kernels.soft_argmax import soft_argmax_reference

from support.cpu_capabilities import CPU_CAPABILITIES, check_with_capability

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
NO_KERNEL = extension.unavailable_reason("cpu", "soft_argmax")
RUNNABLE = [name for name in ("reference", "cpp") if backends()[name] is None]
SHAPES = [(1, 1, 1, 1), (2, 78, 8, 8), (3, 10, 32, 32), (2, 16, 5, 9), (1, 33, 1, 70), (4, 17, 3, 2)]
"""B, P, H, W."""


@pytest.fixture(params=RUNNABLE)
def backend(request):
    with ops.use_backend(request.param):
        yield request.param


def inputs(shape, spread=3.0):
    """Return votes in channels_last and the points to look around."""
    batch, count, height, width = shape
    random = torch.Generator().manual_seed(0)
    votes = torch.randn(batch, 3 * count, height, width, generator=random) * spread
    return votes.to(memory_format=torch.channels_last), torch.rand(batch, count, 2, generator=random)


def mean_by_definition(votes, around, reach):
    """Return the points cell by cell, in double."""
    batch, count, height, width = votes.shape[0], votes.shape[1] // 3, *votes.shape[2:]
    total, sums = torch.zeros(batch, count).double(), torch.zeros(batch, count, 2).double()
    largest = votes[:, :count].double().amax(dim=(2, 3))
    for row in range(height):
        for column in range(width):
            weight, right, down = votes[:, :, row, column].double().unflatten(1, (3, count)).unbind(1)
            centre = torch.tensor([(column + 0.5) / width, (row + 0.5) / height], dtype=torch.float64)
            weight = (weight - largest).exp()
            if around is not None:
                weight *= torch.exp(-(around.double() - centre).square().sum(-1) / (2 * reach**2))
            total += weight
            place = centre + torch.stack([right / width, down / height], -1)
            sums += weight[..., None] * place
    return sums / total[..., None]


@pytest.mark.parametrize("reach", [None, 0.3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_result_equals_definition(backend, threads, shape, reach):
    threads(2)
    votes, around = inputs(shape)
    points = ops.soft_argmax(votes, *(() if reach is None else (around, reach)))
    assert points.dtype == torch.float32 and points.shape == around.shape
    expected = mean_by_definition(votes, None if reach is None else around, reach)
    torch.testing.assert_close(points.double(), expected, atol=1e-6, rtol=1e-6)


def test_large_logarithms_do_not_overflow(backend):
    votes, _ = inputs((2, 5, 6, 6))
    votes[:, :5] += torch.tensor([3e4, -3e4, 100.0, -100.0, 0.0])[:, None, None]
    expected = mean_by_definition(votes, None, None)
    torch.testing.assert_close(ops.soft_argmax(votes).double(), expected, atol=3e-3, rtol=1e-3)


def test_far_cells_have_no_weight(backend):
    votes, around = torch.zeros(1, 6, 32, 32), torch.tensor([[[0.25, 0.25], [0.75, 0.5]]])
    expected = ops.soft_argmax(votes, around, 0.05)
    votes[:, :2, :, 25:] = torch.tensor([9.0, 0.0])[:, None, None]  # beyond ten reaches of the first
    torch.testing.assert_close(ops.soft_argmax(votes, around, 0.05), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(expected, around, atol=1e-3, rtol=0)


def test_nan_stays_in_its_point(backend):
    votes, _ = inputs((2, 20, 4, 4))
    expected = ops.soft_argmax(votes)
    for channel in (3, 23, 43):
        damaged = votes.clone()
        damaged[1, channel, 2, 1] = float("nan")
        points = ops.soft_argmax(damaged)
        assert points[1, 3].isnan().any()
        points[1, 3] = expected[1, 3]
        assert torch.equal(points, expected)


def test_votes_accept_any_strides(backend):
    votes, around = inputs((3, 10, 6, 7))
    expected = ops.soft_argmax(votes, around, 0.4)
    for other in (votes.contiguous(), torch.cat([votes, votes], 1)[:, :30]):
        torch.testing.assert_close(ops.soft_argmax(other, around, 0.4), expected, atol=2e-5, rtol=0)
    assert ops.soft_argmax(votes[:0], around[:0]).shape == (0, 10, 2)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
def test_threads_and_batch_change_no_bit(threads):
    votes, around = inputs((5, 78, 32, 32))
    threads(1)
    expected = ops.soft_argmax(votes, around, 0.1)
    for count in (2, 3, 40):
        threads(count)
        assert torch.equal(ops.soft_argmax(votes, around, 0.1), expected)
        assert torch.equal(ops.soft_argmax(votes[:1], around[:1], 0.1), expected[:1])


@pytest.mark.parametrize("default", ["float64", "float16", "meta"])
def test_defaults_of_torch_change_no_result(backend, torch_default, default):
    votes, around = inputs((3, 10, 6, 7))
    expected = ops.soft_argmax(votes, around, 0.4)
    torch_default(default)
    result = ops.soft_argmax(votes, around, 0.4)
    assert torch.equal(result, expected)


@pytest.mark.skipif(NO_KERNEL is not None, reason=f"cpp: {NO_KERNEL}")
@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_older_instruction_sets(capability):
    check_with_capability(__file__, capability, "cpp")


def test_missing_kernel_falls_back_to_formula(monkeypatch):
    votes, around = inputs((2, 9, 4, 5))
    expected = soft_argmax_reference(votes, around, 0.2)
    monkeypatch.setattr(extension, "unavailable_reason", lambda *_: "the extension is not built")
    assert torch.equal(ops.soft_argmax(votes, around, 0.2), expected)


BAD = [
    ({"votes": torch.zeros(30, 4, 4)}, r"votes must be float32 \[B, 3 P, H, W\] on cpu, got torch.float32"),
    ({"votes": torch.zeros(2, 31, 4, 4)}, r"votes must be float32 .* got torch.float32 \[2, 31, 4, 4\]"),
    ({"votes": torch.zeros(2, 30, 4, 4).half()}, "votes must be float32 .* got torch.float16"),
    ({"votes": torch.zeros(2, 30, 4, 4, device="meta")}, "votes must be float32 .* on meta"),
    ({"votes": torch.zeros(2, 30, 0, 4)}, "votes must be of one cell or more"),
    ({"around": torch.zeros(2, 9, 2)}, r"around must be float32 \[2, 10, 2\] on cpu, got .* \[2, 9, 2\]"),
    ({"around": torch.zeros(2, 10, 2).double()}, "around must be float32 .* got torch.float64"),
    ({"reach": 0.0}, "reach must be positive, got 0.0"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named(wrong, message):
    votes, around = inputs((2, 10, 4, 4))
    with pytest.raises(ValueError, match=f"^soft_argmax: {message}"):
        ops.soft_argmax(**{"votes": votes, "around": around, "reach": 0.1, **wrong})


def test_op_passes_opcheck(backend):
    votes, around = inputs((2, 10, 4, 4))
    torch.library.opcheck(
        torch.ops.talkinghead.soft_argmax.default,
        (votes, around, 0.1),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_compiled_and_exported_code_contains_op():
    class Layer(torch.nn.Module):
        def forward(self, votes):
            return ops.soft_argmax(votes * 2) + 1

    votes, _ = inputs((2, 10, 4, 4))
    expected = Layer()(votes)
    program = torch.export.export(Layer(), (votes,))
    assert "talkinghead.soft_argmax" in str(program.graph)
    torch.testing.assert_close(program.module()(votes), expected)
    torch.testing.assert_close(torch.compile(Layer(), fullgraph=True)(votes), expected)
