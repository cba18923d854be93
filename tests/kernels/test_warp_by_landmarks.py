"""The warp by landmarks on every backend that can run here."""

import itertools
import math

import pytest
import torch
from talkinghead_kernels import backend, backends, landmark_motion, warp, warp_by_landmarks
from talkinghead_kernels.warp_by_landmarks import warp_reference

from conftest import RUNNABLE
from support.cpu_capabilities import CPU_CAPABILITIES, check_with_capability
from support.warp_cases import CASES, DTYPES, FORMATS, LARGE, NAMES, SHAPES, faces, inputs, results

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
needs_cpp = pytest.mark.skipif("cpp" not in RUNNABLE, reason=f"cpp: {backends()['cpp']}")


def assert_as_good(answer, truth, baseline, name):
    """At most twice plain torch's error, or a rounding or two where plain torch happens to have none."""
    assert answer.isfinite().all(), name
    error, allowed = ((t.double() - truth).abs().max().item() for t in (answer, baseline))
    assert error <= 2 * allowed + 4 * torch.finfo(answer.dtype).eps * (1 + truth.abs().max().item()), name


def motion_by_formula(source, target, grid):
    """Return the field in double precision, position by position, by the formula."""
    fifths = [i / 4 for i in range(5)]
    border = torch.tensor([(x, y) for y in fifths for x in fifths if x in (0, 1) or y in (0, 1)]).double()
    field = torch.empty(len(source), 2, grid, grid, dtype=torch.float64)
    for sample, row, column in itertools.product(range(len(source)), range(grid), range(grid)):
        place = torch.tensor([(column + 0.5) / grid, (row + 0.5) / grid]).double()
        s, d = (torch.cat([points[sample].double(), border]) for points in (source, target))
        strength = torch.cat([torch.ones(source.shape[1]), torch.full((16,), 16.0)]).double()
        weight = strength / ((d - place).square().sum(1) + 1e-4) ** 1.5
        weight = (weight / weight.sum())[:, None]
        middle_d, middle_s = (weight * d).sum(0), (weight * s).sum(0)
        ridge = 1e-4 * torch.eye(2).double()
        left = (weight * (d - middle_d)).T @ (d - middle_d) + ridge
        right = (weight * (d - middle_d)).T @ (s - middle_s) + ridge
        read = (place - middle_d) @ torch.linalg.solve(left, right) + middle_s
        field[sample, :, row, column] = read - place
    return field


@pytest.mark.parametrize("grid", [1, 3, 16, 17])
@pytest.mark.parametrize("count", [0, 1, 84])
def test_motion_equals_formula(device, count, grid):
    source, target = faces(2, count, device=device)
    answer = landmark_motion(source, target, grid)
    assert answer.dtype == torch.float32 and answer.is_contiguous()
    truth = motion_by_formula(source.cpu(), target.cpu(), grid)
    torch.testing.assert_close(answer.cpu().double(), truth, atol=2e-6, rtol=0)


def test_motion_of_coinciding_and_outside_landmarks(device):
    source, target = faces(1, 20, device=device)
    target[:, :10], source[:, 10:12], target[:, 12] = target[:, :1], source[:, :1], 1.4
    source[:, 13], target[:, 14] = -0.5, 0.25
    answer = landmark_motion(source, target, 16)
    truth = motion_by_formula(source.cpu(), target.cpu(), 16)
    torch.testing.assert_close(answer.cpu().double(), truth, atol=2e-5, rtol=0)


def test_motion_moves_landmarks_to_target(device):
    source, target = (
        torch.tensor([[[0.3, 0.4]]], device=device),
        torch.tensor([[[0.40625, 0.46875]]], device=device),
    )
    field = landmark_motion(source, target, 16)  # the target is the centre of a place
    torch.testing.assert_close(field[0, :, 7, 6], (source - target)[0, 0], atol=2e-3, rtol=0)


def test_motion_accepts_any_dtype_and_strides(device):
    source, target = (points.bfloat16().float() for points in faces(3, 7, device=device))
    truth = landmark_motion(source, target, 9)
    assert torch.equal(landmark_motion(source.double(), target.bfloat16(), 9), truth)
    views = [points.transpose(0, 1).contiguous().transpose(0, 1) for points in (source, target)]
    assert torch.equal(landmark_motion(*views, 9), truth)
    assert not landmark_motion(source.requires_grad_(), target, 9).requires_grad


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_landmark_gives_nan_in_its_sample(device, bad):
    source, target = faces(2, 5, device=device)
    truth = landmark_motion(source, target, 8)
    for points in (source, target):
        points[1, 3, 0] = bad
        answer = landmark_motion(source, target, 8)
        assert torch.equal(answer[0], truth[0]) and not answer[1].isfinite().all(0).any()


@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape, field", CASES, ids=str)
def test_warp_error_is_like_plain_torch(device, threads, shape, field, dtype, memory_format):
    threads(2)
    tensors = inputs(shape, field, dtype, memory_format, device)
    answer, baseline = results(warp, *tensors), results(warp_reference, *tensors)
    truth = results(warp_reference, *(tensor.double() for tensor in tensors))
    assert [t.dtype for t in answer] == [dtype, dtype, torch.float32]
    assert all(t.is_contiguous(memory_format=memory_format) for t in answer[:2])
    for name, *values in zip(("result", "grad_image", "grad_motion"), answer, truth, baseline, strict=True):
        assert_as_good(*values, name)
    if dtype == torch.float32 and backend.current() != "reference":
        torch.testing.assert_close(answer[0].double(), truth[0], atol=2e-5, rtol=0)


def test_warp_equals_formula(device):
    image, motion, _ = inputs((1, 2, 6, 5), None, device=device, spread=0.4)

    def weights(t):
        near, far = (lambda d: (1.25 * d - 2.25) * d * d + 1), (lambda d: -0.75 * (((d - 5) * d + 8) * d - 4))
        return far(t + 1), near(t), near(1 - t), far(2 - t)

    truth = torch.zeros(1, 2, 6, 5)
    for row, column in itertools.product(range(6), range(5)):
        x, y = column + 5 * float(motion[0, 0, row, column]), row + 6 * float(motion[0, 1, row, column])
        for i, k in itertools.product(range(4), range(4)):
            at = min(max(math.floor(y) - 1 + i, 0), 5), min(max(math.floor(x) - 1 + k, 0), 4)
            weight = weights(y % 1)[i] * weights(x % 1)[k]
            truth[0, :, row, column] += weight * image[0, :, at[0], at[1]].cpu()
    torch.testing.assert_close(warp(image, motion).cpu(), truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
@pytest.mark.parametrize("shape", [*SHAPES, LARGE], ids=str)
def test_unmoved_landmarks_return_image(device, shape, memory_format):
    image, *_ = inputs(shape, None, memory_format=memory_format, device=device)
    points, _ = faces(shape[0], 84, device=device)
    same = warp_by_landmarks(image, points, points)
    torch.testing.assert_close(same, image, atol=1e-6 * max(shape[2:]), rtol=0)
    identity = warp(image, torch.zeros(shape[0], 2, 4, 4, device=device))
    # torch's own sampling turns places into fractions and back
    torch.testing.assert_close(identity, image, atol=1e-4 if backend.current() == "reference" else 0, rtol=0)


@pytest.mark.parametrize("right, down", [(1, 0), (0, 1), (-2, 3)])
@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
@pytest.mark.parametrize("field", [(1, 1), None], ids=str)
def test_constant_motion_shifts_image(device, field, memory_format, right, down):
    # The shift is by whole pixels; outside, pixels of the border are repeated.
    image, motion, _ = inputs((1, 3, 16, 32), field, memory_format=memory_format, device=device)
    motion[:, 0], motion[:, 1] = right / 32, down / 16
    columns, rows = (torch.arange(32) + right).clamp(0, 31), (torch.arange(16) + down).clamp(0, 15)
    assert torch.equal(warp(image, motion), image[:, :, rows.to(device)][..., columns.to(device)])


@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
@pytest.mark.parametrize("far", [1.5, 1e3, 1e30])
def test_positions_far_outside_read_border(device, far, memory_format):
    image, motion, grad = inputs((1, 3, 8, 9), (1, 1), memory_format=memory_format, device=device)
    for x, y in itertools.product((-far, far), (-far, far)):
        motion[:, 0], motion[:, 1] = x, y
        result, grad_image, grad_motion = results(warp, image, motion, grad)
        row, column = (-1 if y > 0 else 0), (-1 if x > 0 else 0)
        corner = image[:, :, row, column, None, None].expand_as(image)
        torch.testing.assert_close(result, corner, atol=1e-6, rtol=0)
        torch.testing.assert_close(grad_image[:, :, row, column], grad.sum((2, 3)), atol=1e-4, rtol=0)
        assert grad_motion.abs().max() < 1e-2


@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_motion_gives_nan_at_its_pixel(device, bad, memory_format):
    image, motion, grad = inputs((2, 3, 20, 24), None, memory_format=memory_format, device=device)
    truth = warp(image, motion)
    for plane in (0, 1):
        faulty = motion.clone()
        faulty[1, plane, 7, 5] = bad
        result, _, grad_motion = results(warp, image, faulty, grad)
        assert result[1, :, 7, 5].isnan().all() and int(result.isnan().sum()) == 3
        result[1, :, 7, 5] = truth[1, :, 7, 5]
        torch.testing.assert_close(result, truth, atol=1e-5, rtol=0)
        assert grad_motion[0].isfinite().all()


def test_warp_accepts_any_strides_and_dtype(device):
    full_image, field, grads = inputs((4, 6, 20, 24), (9, 8), device=device)
    for view in (
        lambda t: t[::2, ::2, 1:9, ::3],
        lambda t: t[:, :, :, :1].expand(4, 6, 20, 7),
        lambda t: t.transpose(2, 3),
    ):
        image, grad = view(full_image), view(grads)
        motion = field[: len(image)].transpose(2, 3)
        truth = results(warp, image.contiguous(), motion.contiguous(), grad.contiguous())
        for answer, same in zip(results(warp, image, motion, grad), truth, strict=True):
            torch.testing.assert_close(answer, same)
    for dtype in (torch.float64, torch.bfloat16):
        motion = field.to(dtype)
        answer, truth = (
            results(warp, full_image, motion, grads),
            results(warp, full_image, motion.float(), grads),
        )
        assert answer[2].dtype == dtype and torch.equal(answer[0], truth[0])
        torch.testing.assert_close(answer[2], truth[2].to(dtype))


def test_only_requested_gradient_is_computed(device):
    image, motion, grad = inputs((2, 3, 9, 10), (4, 4), device=device)
    _, grad_image, grad_motion = results(warp, image, motion, grad)
    alone = torch.autograd.grad(warp(image.requires_grad_(), motion), image, grad)[0]
    torch.testing.assert_close(alone, grad_image)
    image = image.detach()
    alone = torch.autograd.grad(warp(image, motion.requires_grad_()), motion, grad)[0]
    torch.testing.assert_close(alone, grad_motion, atol=1e-4, rtol=1e-4)
    op = torch.ops.talkinghead.warp_backward
    assert [t.numel() for t in op(grad, image.detach(), motion.detach(), False, False)] == [0, 0]


def test_empty_batch_gives_empty_result(device):
    image, motion, grad = inputs((0, 3, 8, 8), (4, 4), device=device)
    assert [tuple(t.shape) for t in results(warp, image, motion, grad)] == [
        (0, 3, 8, 8),
        (0, 3, 8, 8),
        (0, 2, 4, 4),
    ]
    points = torch.zeros(0, 5, 2, device=device)
    assert landmark_motion(points, points, 4).shape == (0, 2, 4, 4)


@pytest.mark.parametrize("memory_format", FORMATS, ids=NAMES)
@pytest.mark.parametrize("shape", [(1, 3, 160, 160), (5, 7, 33, 33)], ids=str)
def test_result_is_bit_equal_for_any_threads(device, threads, shape, memory_format):
    tensors, points = (
        inputs(shape, (64, 64), memory_format=memory_format, device=device),
        faces(shape[0], 84, device=device),
    )
    runs = []
    for count in (1, 2, 3, 2):
        threads(count)
        runs.append((*results(warp, *tensors), landmark_motion(*points, 64)))
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_batch_samples_are_independent(device):
    tensors = inputs((3, 3, 17, 18), (5, 4), device=device)
    together = results(warp, *tensors)
    for row in range(3):
        alone = results(warp, *(tensor[row : row + 1] for tensor in tensors))
        assert all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))


def test_backward_saves_image_and_motion_only(device):
    image, motion, _ = inputs((2, 3, 16, 16), (4, 4), torch.bfloat16, device=device)
    tensors = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: tensors.append(t) or t, lambda t: t):
        warp(image.requires_grad_(), motion)
    assert [t.data_ptr() for t in tensors] == [image.data_ptr(), motion.data_ptr()]


@needs_cpp
@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU_CAPABILITIES)
def test_older_instruction_sets(capability):
    check_with_capability(__file__, capability, "cpp and (formula or (plain_torch and (31 or 26))) or shifts")
