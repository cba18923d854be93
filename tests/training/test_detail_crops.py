"""Detail crops: positions, content, and gradients with respect to the image."""

import pytest
import torch

from conftest import face_points
from talkinghead.training.detail_crops import SIZE, crop_boxes, detail_boxes

POINTS = torch.from_numpy(face_points((0, 0), (0.1, -0.05)))
EYES, MOUTH, ANYWHERE = 0.1, 0.4, 0.9


def boxes_for(choice, x=0.5, y=0.5, points=POINTS):
    return detail_boxes(points, torch.tensor([[choice, x, y]] * len(points)))


def contain(boxes, points):
    """Return whether the squares contain all of these points [B, n, 2]."""
    return ((points - boxes[:, None, :2]).abs() <= boxes[:, None, 2:] / 2).all()


@pytest.mark.parametrize("choice, part", [(EYES, slice(36, 48)), (MOUTH, slice(48, 68))])
def test_detail_boxes_contain_eyes_or_mouth(choice, part):
    boxes, inside = boxes_for(choice), POINTS[:, part]
    assert boxes.shape == (2, 3) and contain(boxes, inside)
    low, high = inside.amin(1), inside.amax(1)
    torch.testing.assert_close(boxes[:, :2], (low + high) / 2)
    torch.testing.assert_close(boxes[:, 2], (1.6 * (high - low).amax(1)).clamp_min(0.2))
    torch.testing.assert_close(
        boxes[1, :2] - boxes[0, :2], torch.tensor([0.1, -0.05]), atol=1e-5, rtol=0
    )  # they follow the face


def test_detail_boxes_of_eyes_and_mouth_differ():
    eyes, mouth = boxes_for(EYES), boxes_for(MOUTH)
    assert not contain(eyes, POINTS[:, 48:]) and not contain(mouth, POINTS[:, 36:48])
    assert (eyes[:, 1] < mouth[:, 1]).all()


def test_detail_boxes_of_small_faces_have_minimum_side():
    small = torch.from_numpy(face_points((0, 0), side=0.02))
    assert boxes_for(MOUTH, points=small)[0, 2].item() == pytest.approx(0.2)


def test_detail_boxes_of_random_parts_stay_inside_frame():
    for x, y in ((0.0, 0.0), (1.0, 0.25), (0.5, 1.0)):
        boxes = boxes_for(ANYWHERE, x, y)
        assert (boxes[:, 2] == 0.5).all()
        torch.testing.assert_close(boxes[0, :2], torch.tensor([0.25 + x / 2, 0.25 + y / 2]))
        assert (boxes[:, :2] - 0.25 >= 0).all() and (boxes[:, :2] + 0.25 <= 1).all()


def test_detail_boxes_choose_parts_with_their_shares():
    """Check a quarter of eyes, a quarter of mouths and half of random parts, chosen per row."""
    uniform = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    boxes = detail_boxes(POINTS[:1].expand(400, -1, -1), uniform)
    eyes, mouth = (
        (boxes - boxes_for(EYES)[0]).abs().amax(1) < 1e-6,
        (boxes - boxes_for(MOUTH)[0]).abs().amax(1) < 1e-6,
    )
    anywhere = boxes[:, 2] == 0.5
    assert torch.equal(eyes.int() + mouth.int() + anywhere.int(), torch.ones(400, dtype=torch.int32))
    assert 80 < eyes.sum() < 120 and 80 < mouth.sum() < 120
    assert boxes[anywhere][:, :2].std(0).min() > 0.1


def ramps(size, dtype=torch.float32):
    """Return an image [1, 2, size, size] whose channels are x and y of each pixel's centre, in fractions."""
    ticks = (torch.arange(size, dtype=dtype) + 0.5) / size
    return torch.stack([ticks.expand(size, -1), ticks[:, None].expand(-1, size)])[None]


@pytest.mark.parametrize("size", [8, 32, 48])
def test_crop_boxes_of_ramp_returns_its_values(size):
    boxes = torch.tensor([[0.5, 0.5, 1.0], [0.4, 0.6, 0.5], [0.3, 0.7, 0.2]])
    crops = crop_boxes(ramps(64).expand(3, -1, -1, -1), boxes, size)
    assert crops.shape == (3, 2, size, size)
    middle = (torch.arange(size) + 0.5) / size - 0.5
    for crop, (x, y, side) in zip(crops, boxes, strict=True):
        columns, rows = (
            (x + side * middle).clamp(0.5 / 64, 1 - 0.5 / 64),
            (y + side * middle).clamp(0.5 / 64, 1 - 0.5 / 64),
        )
        torch.testing.assert_close(crop[0], columns.expand(size, -1), atol=1e-5, rtol=0)
        torch.testing.assert_close(crop[1], rows[:, None].expand(-1, size), atol=1e-5, rtol=0)


def test_crop_boxes_of_whole_image_returns_it():
    picture = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(
        crop_boxes(picture, torch.tensor([[0.5, 0.5, 1.0]] * 2), 16), picture, atol=1e-5, rtol=0
    )
    assert crop_boxes(picture, torch.tensor([[0.5, 0.5, 1.0]] * 2)).shape[2:] == (SIZE, SIZE)


def test_crop_boxes_beyond_border_repeats_it():
    crop = crop_boxes(ramps(16), torch.tensor([[0.0, 0.5, 0.5]]), 16)
    assert (crop[0, 0, :, :8] == 0.5 / 16).all() and crop[0, 0].max() > 0.2


def test_crop_boxes_gradient_equals_finite_differences():
    picture = torch.rand(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.45, 0.55, 0.6]])
    assert torch.autograd.gradcheck(lambda x: crop_boxes(x, boxes, 5), picture)


def test_crop_boxes_gradient_stays_inside_box():
    picture = ramps(32).requires_grad_()
    crop_boxes(picture, torch.tensor([[0.25, 0.75, 0.25]]), 64).sum().backward()
    rows, columns = torch.nonzero(picture.grad[0, 0], as_tuple=True)
    assert (
        rows.min() >= 32 * 0.625 - 1
        and rows.max() <= 32 * 0.875
        and columns.min() >= 32 * 0.125 - 1
        and columns.max() <= 32 * 0.375
    )
    torch.testing.assert_close(picture.grad[0, 0].sum(), torch.tensor(64.0 * 64))
