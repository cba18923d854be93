"""The CUDA landmark image, run on the CPU by `cuda_emulator`, against the reference."""

import math

import pytest
import torch
from talkinghead_kernels import rasterize

from cuda_emulator import CODE, MISSING, build
from talkinghead.landmarks.landmark_image import POLYLINES


def draw_polylines_reference(points, size, parts, colours):
    return rasterize.draw_polylines_reference(
        points, size, [i for part in parts for i in part], [len(part) for part in parts], colours
    )


pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

FACE = [list(part) for part, _ in POLYLINES]
FACE_COLOURS = [value for _, colour in POLYLINES for value in colour]
LINE = [[0, 1]]


@pytest.fixture(scope="module", params=CODE)
def library(request, tmp_path_factory):
    return build("rasterize", request.param, tmp_path_factory)


@pytest.fixture(autouse=True)
def _free(library):
    library.on("sm_90")
    library.launches()
    yield
    library.free()


def draw(library, points, size, parts, colours, aligned=16):
    indices = torch.tensor([index for part in parts for index in part])
    lengths, colours = torch.tensor([len(part) for part in parts]), torch.tensor(colours)
    placed = library.place(points, 4)
    image = library.empty(torch.empty(len(points), 3, size, size), aligned)
    library.call(
        "run_draw",
        placed,
        *points.shape[:2],
        size,
        indices,
        len(indices),
        lengths,
        colours,
        len(parts),
        image,
    )
    return image


def faces(count, size):
    """Return points like those of faces: noisy, rotated ellipses and arcs that reach to the border."""
    torch.manual_seed(size)
    turn = torch.linspace(0, 1, 17)
    jaw = torch.stack([0.5 - 0.42 * torch.cos(math.pi * turn), 0.4 + 0.5 * torch.sin(math.pi * turn)], 1)
    pieces = [jaw]
    for x in (0.3, 0.7):
        pieces.append(
            torch.stack(
                [
                    x - 0.12 + 0.24 * torch.linspace(0, 1, 5),
                    0.3 - 0.04 * torch.sin(math.pi * torch.linspace(0, 1, 5)),
                ],
                1,
            )
        )
    pieces.append(torch.stack([torch.full((4,), 0.5), torch.linspace(0.38, 0.56, 4)], 1))
    pieces.append(
        torch.stack(
            [torch.linspace(0.42, 0.58, 5), 0.6 + 0.02 * torch.sin(math.pi * torch.linspace(0, 1, 5))], 1
        )
    )
    for x, y, a, b, n in (
        (0.3, 0.4, 0.07, 0.03, 6),
        (0.7, 0.4, 0.07, 0.03, 6),
        (0.5, 0.74, 0.14, 0.06, 12),
        (0.5, 0.74, 0.1, 0.02, 8),
    ):
        angle = 2 * math.pi * torch.arange(n) / n
        pieces.append(torch.stack([x + a * torch.cos(angle), y + b * torch.sin(angle)], 1))
    face = torch.cat(pieces)
    assert face.shape == (68, 2)
    return (face + 0.01 * torch.randn(count, 68, 2) + 0.05 * torch.randn(count, 1, 2)) * size


@pytest.mark.parametrize("size", [1, 3, 16, 17, 31, 64, 101, 256])
@pytest.mark.parametrize("count", [1, 3])
def test_faces_equal_reference(library, size, count):
    points = faces(count, size)
    image = draw(library, points, size, FACE, FACE_COLOURS)
    torch.testing.assert_close(
        image, draw_polylines_reference(points, size, FACE, FACE_COLOURS), atol=1e-5, rtol=0
    )
    assert size < 16 or image.max() == 1


def test_large_images_have_wide_lines(library):
    points = faces(1, 700)
    image = draw(library, points, 700, FACE, FACE_COLOURS)
    torch.testing.assert_close(
        image, draw_polylines_reference(points, 700, FACE, FACE_COLOURS), atol=1e-5, rtol=0
    )


def test_unaligned_image(library):
    points = faces(2, 32)
    image = draw(library, points, 32, FACE, FACE_COLOURS, aligned=4)
    torch.testing.assert_close(
        image, draw_polylines_reference(points, 32, FACE, FACE_COLOURS), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("spread", [1e-3, 10, 1e2, 3e3])
def test_points_far_outside_equal_reference(library, spread):
    """Draw points inside and far outside the image, some of them equal."""
    torch.manual_seed(3)
    points = 20 + spread * torch.randn(4, 40, 2)
    points[:, 1::7] = points[:, ::7]  # segments of no length
    points[:, 2::7] = torch.rand(4, 6, 2) * 45
    parts = [list(range(i, i + 4)) for i in range(0, 37, 3)]
    colours = torch.randint(0, 256, (3 * len(parts),)).tolist()
    image = draw(library, points, 45, parts, colours)
    torch.testing.assert_close(
        image, draw_polylines_reference(points, 45, parts, colours), atol=max(1e-5, spread * 1e-6), rtol=0
    )


def test_line_at_every_distance_from_tile(library):
    """Draw short lines a third of a pixel apart around corners and edges of tiles; none may be dropped."""
    steps = torch.arange(-5, 70, 1 / 3)
    starts = torch.stack([steps, (steps * 7.3) % 75 - 5], 1)
    points = torch.stack([starts, starts + torch.tensor([0.6, 0.4])], 1)
    image = draw(library, points, 65, LINE, [255, 255, 255])
    torch.testing.assert_close(
        image, draw_polylines_reference(points, 65, LINE, [255, 255, 255]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.1e4])
@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_segment_with_bad_end_is_skipped(library, bad, end, axis):
    points = torch.tensor([[[4.0, 4.0], [12.0, 9.0], [3.0, 12.0], [14.0, 13.0]]])
    whole = points.clone()
    points[0, end, axis] = bad
    parts, colours = [[0, 1], [2, 3]], [255, 0, 0, 0, 255, 0]
    image = draw(library, points, 16, parts, colours)
    assert torch.equal(image, draw(library, whole, 16, parts[1:], colours[3:]))
    torch.testing.assert_close(image, draw_polylines_reference(points, 16, parts, colours), atol=1e-5, rtol=0)


def test_other_segments_of_part_are_drawn(library):
    points = torch.tensor([[[2.0, 2.0], [9.0, 3.0], [math.nan, 5.0], [3.0, 12.0], [14.0, 13.0]]])
    image = draw(library, points, 16, [[0, 1, 2, 3, 4]], [255, 255, 255])
    expected = draw_polylines_reference(points[:, [0, 1, 3, 4]], 16, [[0, 1], [2, 3]], [255] * 6)
    assert image.isfinite().all()
    torch.testing.assert_close(image > 0.9, expected > 0.9)


def test_block_and_thread_order_changes_no_bit(library):
    points = faces(2, 64)
    image = []
    for schedule in range(4):
        library.on("sm_80", schedule)
        image.append(draw(library, points, 64, FACE, FACE_COLOURS))
        assert torch.equal(image[0], image[-1])


def test_no_parts_give_black(library):
    image = library.empty(torch.empty(2, 3, 9, 9))
    library.call("run_draw", library.place(torch.zeros(2, 1, 2)), 2, 1, 9, None, 0, None, None, 0, image)
    assert image.eq(-1).all()


def test_largest_table_fits_and_larger_is_rejected(library):
    torch.manual_seed(4)
    points = torch.rand(1, 400, 2) * 24
    chunks = [list(range(5 * i, 5 * i + 5)) for i in range(64)]  # 256 segments in 64 parts
    colours = torch.randint(0, 256, (3 * 65,)).tolist()
    image = draw(library, points, 24, chunks, colours[:-3])
    torch.testing.assert_close(
        image, draw_polylines_reference(points, 24, chunks, colours[:-3]), atol=1e-5, rtol=0
    )
    with pytest.raises(RuntimeError, match="draw_polylines: the CUDA kernel draws at most 64 parts, got 65"):
        draw(library, points, 24, [*chunks, [0, 1]], colours)
    with pytest.raises(
        RuntimeError, match="draw_polylines: the CUDA kernel draws at most 256 segments, got 257"
    ):
        draw(library, points, 24, [[0] * 258], colours[:3])
