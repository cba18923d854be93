"""The warp by landmarks on a GPU, by every backend, against the reference. Run by `bench/gpu/run.sh`; nothing
here runs without one.
"""

import pytest
import torch
from talkinghead_kernels import backends, landmark_motion, use_backend, warp
from talkinghead_kernels.warp_by_landmarks import landmark_motion_reference, warp_reference

from support.warp_cases import DTYPES, FORMATS, LARGE, NAMES, faces, inputs, results

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device", allow_module_level=True)

pytestmark = pytest.mark.gpu

CASES = [
    ((1, 1, 1, 1), None),
    ((2, 3, 3, 5), (1, 1)),
    ((2, 5, 17, 31), (5, 9)),
    ((1, 8, 12, 40), None),
    (LARGE, (64, 64)),
]


@pytest.fixture(params=["cuda", "triton"])
def backend(request):
    reason = backends()[request.param]
    if reason:
        pytest.skip(f"{request.param}: {reason}")
    with use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _poisoned():
    """Fresh allocations hold NaN, so that what no kernel writes shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("grid", "batch", "count"), [(1, 2, 1), (7, 3, 5), (64, 2, 84)])
def test_motion_equals_reference(backend, grid, batch, count):
    source, target = faces(batch, count, device="cuda")
    truth = landmark_motion_reference(source, target, grid)
    torch.testing.assert_close(landmark_motion(source, target, grid), truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "field"), CASES, ids=str)
def test_warp_and_gradient_errors_are_like_plain_torch(backend, shape, field, dtype, memory_format):
    image, motion, grad = inputs(shape, field, dtype, memory_format, "cuda")
    answers = results(warp, image, motion, grad)
    truths = results(warp_reference, image.double(), motion.double(), grad.double())
    plain = results(warp_reference, image, motion, grad)
    assert answers[0].is_contiguous(memory_format=memory_format)
    for answer, truth, baseline in zip(answers, truths, plain, strict=True):
        assert answer.isfinite().all()
        allowed = 2 * (baseline.double() - truth).abs().max() + 4 * torch.finfo(baseline.dtype).eps * (
            1 + truth.abs().max()
        )
        assert (answer.double() - truth).abs().max() <= allowed


def test_warp_runs_bit_equal(backend):
    tensors = inputs(LARGE, (64, 64), device="cuda")
    assert all(
        torch.equal(a, b) for a, b in zip(results(warp, *tensors), results(warp, *tensors), strict=True)
    )


def test_warp_is_captured_and_replayed(backend):
    source, target = faces(2, 84, device="cuda")
    image = torch.rand(2, 3, 64, 64, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(3):
            warp(image, landmark_motion(source, target, 16))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        replayed = warp(image, landmark_motion(source, target, 16))
    target.add_(0.02)
    graph.replay()
    assert torch.equal(replayed, warp(image, landmark_motion(source, target, 16)))


def test_warp_compiles_whole(backend):
    torch.compiler.reset()
    image, motion, _ = inputs((2, 3, 20, 24), (5, 9), device="cuda")
    torch.testing.assert_close(torch.compile(warp, fullgraph=True)(image, motion), warp(image, motion))
