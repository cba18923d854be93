import io
import itertools
import math
import re

import pytest
import torch
from talkinghead_kernels import decompositions, draw_polylines, use_backend
from talkinghead_kernels.rasterize import draw_polylines_float32, draw_polylines_reference
from torch import nn

from conftest import DEVICES, RUNNABLE

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
PARTS = ((0, 1, 2, 3, 0), (4, 5), (6, 7, 8), (9, 10, 11))
COLOURS = ((255, 0, 0), (0, 255, 3), (1, 2, 255), (200, 210, 220))


def draw_per_pixel(points, size, parts, colours):
    """Draw one face pixel by pixel, by the formula."""
    radius = max(1.0, size / 256)
    image = [[[0.0, 0.0, 0.0] for _ in range(size)] for _ in range(size)]
    for part, colour in zip(parts, colours, strict=True):
        for row in range(size):
            for column in range(size):
                nearest = math.inf
                for a, b in itertools.pairwise(part):
                    (ax, ay), (bx, by) = points[a], points[b]
                    px, py, dx, dy = column + 0.5 - ax, row + 0.5 - ay, bx - ax, by - ay
                    length = dx * dx + dy * dy
                    t = min(1.0, max(0.0, (px * dx + py * dy) / length)) if length else 0.0
                    nearest = min(nearest, math.hypot(px - t * dx, py - t * dy))
                coverage = min(1.0, max(0.0, radius + 0.5 - nearest))
                for channel in range(3):
                    old = image[row][column][channel]
                    image[row][column][channel] = old + coverage * (colour[channel] / 255 - old)
    return torch.tensor(image).permute(2, 0, 1) * 2 - 1


def faces(count, size, spread=1.0):
    torch.manual_seed(0)
    return (torch.rand(count, 12, 2) - 0.5) * size * spread + size / 2


def test_result_equals_formula(device):
    points = torch.tensor(
        [[[2.3, 3.1], [11.7, 4.9], [6.0, 14.2], [6.0, 14.2], [-4.0, 8.0], [30.0, 8.5]]], device=device
    )
    parts, colours = ((0, 1, 2, 0), (2, 3), (4, 5)), ((255, 0, 0), (0, 255, 255), (10, 20, 30))
    image = draw_polylines(points, 16, parts, colours)
    assert image.dtype == torch.float32
    torch.testing.assert_close(
        image[0].cpu(), draw_per_pixel(points[0].tolist(), 16, parts, colours), atol=1 / 255, rtol=0
    )


@pytest.mark.parametrize("size", [1, 7, 64, 65, 300])
@pytest.mark.parametrize("spread", [0.02, 1, 4, 30])
def test_backends_agree(device, size, spread):
    points = faces(3, size, spread).to(device)
    image = draw_polylines(points, size, PARTS, COLOURS)
    with use_backend("reference"):
        expected = draw_polylines(points, size, PARTS, COLOURS)
    torch.testing.assert_close(image, expected, atol=1 / 255, rtol=0)


def test_later_parts_cover_earlier_ones(device):
    points = torch.tensor([[[0.0, 8.0], [16.0, 8.0], [8.0, 0.0], [8.0, 16.0]]], device=device)
    for parts, expected in ((((0, 1), (2, 3)), [-1, 1, -1]), (((2, 3), (0, 1)), [1, -1, -1])):
        colours = ((255, 0, 0), (0, 255, 0)) if parts[0] == (0, 1) else ((0, 255, 0), (255, 0, 0))
        assert draw_polylines(points, 16, parts, colours)[0, :, 8, 8].tolist() == expected


def test_joint_of_segments_is_not_darker(device):
    points = torch.tensor([[[4.3, 4.3], [8.3, 4.3], [12.3, 4.3]]], device=device)
    bent, straight = (draw_polylines(points, 16, (part,), ((255, 255, 255),)) for part in ((0, 1, 2), (0, 2)))
    torch.testing.assert_close(bent, straight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -2e6])
def test_nonfinite_points_are_skipped(device, value):
    points = faces(2, 32).to(device)
    points[0, 1, 1] = value  # joins the first and second segment of the first part
    image = draw_polylines(points, 32, PARTS, COLOURS)
    without = draw_polylines(points, 32, ((2, 3, 0), *PARTS[1:]), COLOURS)
    torch.testing.assert_close(image[0], without[0], atol=1 / 255, rtol=0)
    torch.testing.assert_close(
        image[1], draw_polylines(points[1:], 32, PARTS, COLOURS)[0], atol=1 / 255, rtol=0
    )
    points[:] = value
    assert (draw_polylines(points, 32, PARTS, COLOURS) == -1).all()


def test_line_from_far_outside_crosses_image(device):
    points = torch.tensor([[[-9000.0, -9000.0], [9000.0, 9000.0]]], device=device)
    image = draw_polylines(points, 32, ((0, 1),), ((255, 255, 255),))[0, 0]
    near = draw_polylines(points / 100, 32, ((0, 1),), ((255, 255, 255),))[0, 0]
    torch.testing.assert_close(image, near, atol=1 / 255, rtol=0)
    assert (image.diagonal() == 1).all()


def test_segment_of_no_length_is_dot(device):
    points = torch.full((1, 2, 2), 8.5, device=device)
    image = draw_polylines(points, 16, ((0, 1),), ((255, 255, 255),))[0, 0]
    assert image[8, 8] == 1
    assert int((image > -1).sum()) == 9  # the eight neighbours lie 1 and sqrt(2) away, both below 1.5


def test_batch_rows_are_independent(device):
    points = faces(3, 20).to(device)
    together = draw_polylines(points, 20, PARTS, COLOURS)
    for row in range(3):
        assert torch.equal(together[row], draw_polylines(points[row : row + 1], 20, PARTS, COLOURS)[0])


def test_lines_are_wider_on_large_images(device):
    points = torch.tensor([[[0.0, 256.0], [512.0, 256.0]]], device=device)
    column = draw_polylines(points, 512, ((0, 1),), ((255, 255, 255),))[0, 0, :, 256]
    assert int((column > 0.99).sum()) == 4  # r = 2: centres up to 1.5 pixels away are full


def test_result_is_bit_equal_for_any_threads(device):
    points, before = faces(3, 150).to(device), torch.get_num_threads()
    try:
        images = []
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            images.append(draw_polylines(points, 150, PARTS, COLOURS))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(image, images[0]) for image in images)


def test_points_accept_any_dtype_and_strides(device):
    points = faces(2, 32).round().to(device)
    expected = draw_polylines(points, 32, PARTS, COLOURS)
    for other in (
        points.double(),
        points.half(),
        points.bfloat16(),
        points.transpose(0, 1).contiguous().transpose(0, 1),
        points.flip(2).flip(2),
    ):
        assert torch.equal(draw_polylines(other, 32, PARTS, COLOURS), expected)
    assert not draw_polylines(points.requires_grad_(), 32, PARTS, COLOURS).requires_grad


def test_no_polylines_give_black(device):
    assert draw_polylines(torch.zeros(0, 12, 2, device=device), 8, PARTS, COLOURS).shape == (0, 3, 8, 8)
    assert (draw_polylines(torch.zeros(2, 0, 2, device=device), 8, (), ()) == -1).all()


def test_opcheck(device):
    indices, lengths, colours = [0, 1, 2, 2, 3], [3, 2], [255, 0, 0, 0, 9, 255]
    torch.library.opcheck(
        torch.ops.talkinghead.draw_polylines.default, (faces(2, 9).to(device), 9, indices, lengths, colours)
    )


def test_compiled_code_follows_backend_without_recompiling():
    points = faces(2, 32)
    compiled = torch.compile(
        lambda p: draw_polylines(p * 2, 32, PARTS, COLOURS) + 1, fullgraph=True, backend="aot_eager"
    )
    expected = draw_polylines(points * 2, 32, PARTS, COLOURS) + 1
    compiled(points)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for name in [name for name in RUNNABLE if DEVICES[name] == "cpu"]:
            with use_backend(name):
                torch.testing.assert_close(compiled(points), expected, atol=1 / 255, rtol=0)


class Exported(nn.Module):
    def forward(self, points):
        return draw_polylines(points, 16, PARTS, COLOURS)


def test_export_by_decomposition():
    batch = torch.export.Dim("batch")
    program = torch.export.export(Exported(), (faces(3, 16),), dynamic_shapes=({0: batch},))
    plain = program.run_decompositions(decompositions())
    assert "talkinghead" in str(program.graph) and "talkinghead" not in str(plain.graph)
    points = faces(5, 16)
    expected = draw_polylines(points, 16, PARTS, COLOURS)
    torch.testing.assert_close(plain.module()(points), expected, atol=1e-5, rtol=0)
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    buffer = io.BytesIO()
    torch.onnx.export(plain, dynamo=True, verbose=False).save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: points.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-5, rtol=0)


class ExportedByOldName(nn.Module):
    def forward(self, points):
        return torch.ops.talkinghead.draw_landmarks(
            points, 16, [0, 1, 2, 0, 4, 5], [4, 2], [255, 0, 0, 0, 255, 3]
        )


def test_old_op_name_draws_the_same(device):
    points = faces(2, 16).to(device)
    expected = draw_polylines(points, 16, ((0, 1, 2, 0), (4, 5)), ((255, 0, 0), (0, 255, 3)))
    assert torch.equal(ExportedByOldName()(points), expected)


def test_exported_program_with_old_op_name_runs():
    points = faces(3, 16)
    expected = draw_polylines(points, 16, ((0, 1, 2, 0), (4, 5)), ((255, 0, 0), (0, 255, 3)))
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(ExportedByOldName(), (points,)), buffer)
    buffer.seek(0)
    program = torch.export.load(buffer)
    assert "draw_landmarks" in str(program.graph)
    assert torch.equal(program.module()(points), expected)
    plain = program.run_decompositions(decompositions())
    assert "talkinghead" not in str(plain.graph)
    torch.testing.assert_close(plain.module()(points), expected, atol=1e-5, rtol=0)


POINTS = torch.zeros(1, 2, 2)
WHITE = ((255, 255, 255),)
BAD = [
    (
        (torch.zeros(1, 2, 3), 8, ((0, 1),), WHITE),
        "points must be a floating-point [B, N, 2], got torch.float32 [1, 2, 3]",
    ),
    (
        (torch.zeros(2, 2), 8, ((0, 1),), WHITE),
        "points must be a floating-point [B, N, 2], got torch.float32 [2, 2]",
    ),
    (
        (torch.zeros(1, 2, 2, dtype=torch.int64), 8, ((0, 1),), WHITE),
        "points must be a floating-point [B, N, 2], got torch.int64 [1, 2, 2]",
    ),
    ((POINTS, 0, ((0, 1),), WHITE), "size must be at least 1, got 0"),
    ((POINTS, 8, ((0,),), WHITE), "parts must have at least two indices and an RGB colour each"),
    ((POINTS, 8, ((0, 1),), ()), "parts must have at least two indices and an RGB colour each"),
    ((POINTS, 8, ((0, 2),), WHITE), "parts must index into 2 points, got 0 to 2"),
    ((POINTS, 8, ((-1, 1),), WHITE), "parts must index into 2 points, got -1 to 1"),
    ((POINTS, 8, ((0, 1),), ((0, 0, 256),)), "colours must be in 0..255, got 0 to 256"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: None)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(f"draw_polylines: {message}")) as caught:
        draw_polylines(*arguments)
    assert "\n" not in str(caught.value)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=re.escape(f"draw_polylines: {message}")):
        torch.compile(draw_polylines, fullgraph=True, backend="aot_eager")(*arguments)


@pytest.mark.parametrize("size, spread", [(1, 1), (7, 0.02), (64, 1), (65, 4), (300, 30), (512, 1)])
def test_decomposition_equals_reference(size, spread):
    points = faces(3, size, spread)
    points[0, 5], points[1, 0], points[2, 7], points[2, 6] = math.nan, 1e6, size / 3, size / 3
    indices, lengths = [index for part in PARTS for index in part], [len(part) for part in PARTS]
    arguments = points, size, indices, lengths, [value for colour in COLOURS for value in colour]
    torch.testing.assert_close(
        draw_polylines_float32(*arguments), draw_polylines_reference(*arguments), atol=1 / 255, rtol=0
    )
