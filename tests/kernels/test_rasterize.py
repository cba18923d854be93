import itertools
import math

import pytest
import torch
from talkinghead_kernels import draw_landmarks


def by_hand(points, size, parts, colours):
    """One face, pixel by pixel, with the formula and nothing else."""
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


def test_equals_the_formula():
    points = torch.tensor([[[2.3, 3.1], [11.7, 4.9], [6.0, 14.2], [6.0, 14.2], [-4.0, 8.0], [30.0, 8.5]]])
    parts, colours = ((0, 1, 2, 0), (2, 3), (4, 5)), ((255, 0, 0), (0, 255, 255), (10, 20, 30))
    drawn = draw_landmarks(points, 16, parts, colours)
    torch.testing.assert_close(drawn[0], by_hand(points[0].tolist(), 16, parts, colours), atol=1 / 255, rtol=0)


def test_rows_of_a_batch_are_drawn_alone():
    points = torch.rand(3, 4, 2) * 20
    parts, colours = ((0, 1), (2, 3)), ((255, 255, 255), (0, 255, 0))
    together = draw_landmarks(points, 20, parts, colours)
    for row in range(3):
        assert torch.equal(together[row], draw_landmarks(points[row : row + 1], 20, parts, colours)[0])


def test_lines_are_wider_on_large_images():
    points = torch.tensor([[[0.0, 256.0], [512.0, 256.0]]])
    column = draw_landmarks(points, 512, ((0, 1),), ((255, 255, 255),))[0, 0, :, 256]
    assert int((column > 0.99).sum()) == 4  # r = 2: centres up to 1.5 pixels away are full


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="points must be"):
        draw_landmarks(torch.zeros(1, 2, 3), 8, ((0, 1),), ((0, 0, 0),))
    with pytest.raises(ValueError, match="parts must have"):
        draw_landmarks(torch.zeros(1, 2, 2), 8, ((0,),), ((0, 0, 0),))
