import numpy as np
import pytest
import torch
import torch.nn.functional as F

from talkinghead.dataset.augment import sample_augmentation, sample_jitter


def test_augmentation_zero_is_identity():
    assert sample_augmentation(0, 5, 0) is None


def test_augmentations_are_deterministic_and_distinct():
    a, repeated, other = (
        sample_augmentation(0, 1, 2),
        sample_augmentation(0, 1, 2),
        sample_augmentation(0, 1, 3),
    )
    assert np.array_equal(a.warp_field, repeated.warp_field) and a.gamma == repeated.gamma
    assert not np.array_equal(a.warp_field, other.warp_field)


@pytest.mark.parametrize("number", range(9))
def test_augmentation_moves_landmarks_with_image(number):
    """Check that a bright dot at a landmark is at the moved landmark."""
    variant, size = sample_augmentation(7, 0, number) or sample_jitter(np.random.default_rng(1), 0.1), 128
    points = torch.full((1, 68, 2), 0.5)
    points[0, 30] = torch.tensor([0.42, 0.55])
    image = -torch.ones(1, 3, size, size)
    column, row = (points[0, 30] * size).long().tolist()
    image[0, :, row - 1 : row + 2, column - 1 : column + 2] = 1
    moved_image, moved = variant.apply(image, points)
    light = F.relu(moved_image[0].sum(0) - moved_image[0].sum(0).median())
    centres = (torch.arange(size) + 0.5) / size
    position = torch.stack([(light.sum(0) * centres).sum(), (light.sum(1) * centres).sum()]) / light.sum()
    name = 30  # on the mirror line: keeps its own index
    assert (position - moved[0, name]).abs().max() < 1.0 / size


def test_augmentation_keeps_pixel_range():
    variant = sample_augmentation(0, 0, 1)
    images, points = variant.apply(torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 68, 2))
    assert images.abs().max() <= 1 and images.dtype == torch.float32
    assert points.isfinite().all()


def test_jitter_keeps_colours_and_moves_little():
    points = torch.rand(1, 68, 2)
    images, moved = sample_jitter(np.random.default_rng(0), 0.03).apply(
        torch.full((1, 3, 32, 32), 0.25), points
    )
    torch.testing.assert_close(images, torch.full((1, 3, 32, 32), 0.25), atol=1e-5, rtol=0)
    assert 0 < (moved - points).abs().max() < 0.15


def test_jitter_without_warp_moves_points_rigidly():
    points = torch.rand(1, 68, 2, dtype=torch.float32)
    rigid, bent = (
        sample_jitter(np.random.default_rng(1), 0.03, warp_share).apply(torch.zeros(1, 3, 32, 32), points)[1]
        for warp_share in (0, 0.3)
    )
    distances, bent_distances, expected = ((p[0, :, None] - p[0]).norm(dim=2) for p in (rigid, bent, points))
    scale = distances.sum() / expected.sum()
    torch.testing.assert_close(distances, scale * expected, atol=1e-5, rtol=0)
    assert (bent_distances - scale * expected).abs().max() > 1e-3
