"""The CUDA warp by landmarks, run on the CPU by `cuda_emulator`, against the reference."""

import math

import pytest
import torch
from talkinghead_kernels.warp_by_landmarks import (
    landmark_motion_reference,
    warp_backward_reference,
    warp_reference,
)

from cuda_emulator import CODE, MISSING, build

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]
NAMES = ["NCHW", "channels_last"]
SHAPES = [(1, 1, 1, 1), (2, 3, 3, 5), (1, 5, 17, 31), (2, 3, 20, 26)]
FIELDS = [(1, 1), (13, 29), None]
"""Sizes of the motion; None is the picture's."""


@pytest.fixture(scope="module", params=CODE)
def library(request, tmp_path_factory):
    return build("warp_by_landmarks", request.param, tmp_path_factory)


@pytest.fixture(autouse=True)
def _free(library):
    library.on("sm_90")
    yield
    library.free()


def make_motion(library, source, target, grid):
    field = library.empty(torch.empty(len(source), 2, grid, grid), 4)
    buffers = library.place(source, 4), library.place(target, 4)
    library.call("run_motion", *buffers, *source.shape[:2], grid, field)
    return field


def sizes_of(image, motion):
    last = not image.is_contiguous()
    return torch.tensor([*image.shape, *motion.shape[2:], int(last)])


def forward(library, image, motion):
    result = library.empty(image, image.element_size())
    buffers = library.place(image, image.element_size()), library.place(motion, 4)
    library.call("run_forward", DTYPES.index(image.dtype), sizes_of(image, motion), *buffers, result)
    return result


def backward(library, grad, image, motion, image_needed=True, motion_needed=True):
    grad_image = library.empty(image.float(), 4) if image_needed else None
    grad_motion = library.empty(motion, 4) if motion_needed else None
    buffers = (
        library.place(grad, grad.element_size()),
        library.place(image, image.element_size()),
        library.place(motion, 4),
    )
    sizes = sizes_of(image, motion)
    library.call("run_backward", DTYPES.index(image.dtype), sizes, *buffers, grad_image, grad_motion)
    return grad_image, grad_motion


def inputs(shape, field, dtype=torch.float32, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    image = torch.rand(shape).to(dtype).contiguous(memory_format=memory_format)
    motion = 0.2 * torch.randn(shape[0], 2, *(field or shape[2:]))
    grad = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    return grad, image, motion


def assert_as_good(answer, truth, baseline):
    """At most twice plain torch's error, or a rounding or two."""
    error, allowed = ((t.double() - truth).abs().max() for t in (answer, baseline))
    assert error <= 2 * allowed + 4 * torch.finfo(baseline.dtype).eps * (1 + truth.abs().max())


@pytest.mark.parametrize("grid, batch, count", [(1, 2, 1), (9, 3, 5), (16, 1, 84)])
def test_motion_equals_reference(library, grid, batch, count):
    torch.manual_seed(0)
    source = torch.rand(batch, count, 2)
    target = source + 0.1 * torch.randn(source.shape)
    target[:, 1::3] = target[:, :1]
    truth = landmark_motion_reference(source, target, grid)
    torch.testing.assert_close(make_motion(library, source, target, grid), truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("field", FIELDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_warp_and_gradient_errors_are_like_plain_torch(library, shape, field, dtype, memory_format):
    grad, image, motion = inputs(shape, field, dtype, memory_format)
    wide = grad.double(), image.double(), motion.double()
    result = forward(library, image, motion)
    assert_as_good(result, warp_reference(*wide[1:]), warp_reference(image, motion))
    grads = backward(library, grad, image, motion)
    baseline = warp_backward_reference(grad, image, motion, True, True)
    for values in zip(grads, warp_backward_reference(*wide, True, True), baseline, strict=True):
        assert_as_good(*values)


def test_only_requested_gradient_is_computed(library):
    tensors = inputs((2, 3, 9, 10), (4, 4))
    grad_image, grad_motion = backward(library, *tensors)
    assert torch.equal(backward(library, *tensors, motion_needed=False)[0], grad_image)
    assert torch.equal(backward(library, *tensors, image_needed=False)[1], grad_motion)


def test_block_and_thread_order_changes_no_bit(library):
    tensors = inputs((2, 2, 24, 20), (5, 4))
    runs = []
    for schedule in range(4):
        library.on("sm_80", schedule)
        runs.append(backward(library, *tensors))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_gradients_of_any_magnitude_are_exact(library, scale):
    # The unit of the integer sums depends on the largest gradient of each sample.
    grad, image, motion = inputs((2, 3, 9, 10), (4, 4))
    truth = backward(library, grad, image, motion)[0]
    grad[1] *= scale
    answer = backward(library, grad, image, motion)[0]
    assert torch.equal(answer[0], truth[0])
    torch.testing.assert_close(answer[1] / scale, truth[1], atol=1e-6, rtol=1e-5)
    grad[1] = 0
    assert not backward(library, grad, image, motion)[0][1].any()


def test_all_positions_on_one_pixel_do_not_overflow(library):
    grad, image, motion = inputs((1, 1, 30, 40), (1, 1))
    motion[:], grad[:] = -3, 3e38 / 1200
    answer = backward(library, grad, image, motion)[0]
    torch.testing.assert_close(float(answer[0, 0, 0, 0]) / 3e38, 1.0, atol=1e-5, rtol=0)
    assert int((answer != 0).sum()) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_gives_nan_in_its_sample(library, bad):
    grad, image, motion = inputs((2, 2, 9, 10), None)
    truth = backward(library, grad, image, motion)
    faulty = grad.clone()
    faulty[1, 1, 2, 3] = bad
    grad_image, _ = backward(library, faulty, image, motion)
    assert grad_image[1].isnan().all() and torch.equal(grad_image[0], truth[0][0])
    motion[1, 0, 4, 4] = bad
    grad_image, grad_motion = backward(library, grad, image, motion)
    assert grad_image[1].isnan().all() and torch.equal(grad_image[0], truth[0][0])
    assert torch.equal(grad_motion[0], truth[1][0])
    result = forward(library, image, motion)
    assert result[1, :, 4, 4].isnan().all() and int(result.isnan().sum()) == 2


@pytest.mark.parametrize("far", [1.5, 1e3, 1e30, -1e30])
def test_positions_far_outside_read_border(library, far):
    _, image, motion = inputs((1, 3, 8, 9), (1, 1))
    motion[:] = far
    at = -1 if far > 0 else 0
    corner = image[:, :, at, at, None, None].expand_as(image)
    torch.testing.assert_close(forward(library, image, motion), corner)
