"""Eyelids that close: how far, in which pixels, and without a jump."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from talkinghead_kernels.warp_by_landmarks import GRID, landmark_motion, warp

from conftest import face_points
from talkinghead.landmarks.eyelids import close_lids, closing_lids
from talkinghead.landmarks.gaze import EYE_POINTS, look_ahead
from talkinghead.networks.references import background_plates, view_references

SIZE = 128
UPPER, LOWER = [[37, 38], [43, 44]], [[41, 40], [47, 46]]


@pytest.fixture
def face() -> torch.Tensor:
    """Return the landmarks of a face [1, 68, 2] whose eyes are 30 pixels wide and a third of it open."""
    points = torch.from_numpy(face_points((0.0, 0.0))).float()
    for first, centre in ((36, 0.35), (42, 0.65)):
        along = torch.tensor([-1, -1 / 3, 1 / 3, 1, 1 / 3, -1 / 3]) * 0.12
        across = torch.tensor([0, -1, -1, 0, 1, 1]) * 0.04
        points[0, first : first + 6] = torch.stack([centre + along, 0.4 + across], -1)
    return points


def closed(points: torch.Tensor, left: float, right: float) -> torch.Tensor:
    """Return the points with the upper lids lowered by shares of the eyes' openings."""
    points = points.clone()
    for share, upper, lower in zip((left, right), UPPER, LOWER, strict=True):
        points[:, upper] += share * (points[:, lower] - points[:, upper])
    return points


def eye_image(points: torch.Tensor) -> torch.Tensor:
    """Return an image [1, 1, SIZE, SIZE] that is 1 between the lids of the eyes and 0 elsewhere."""
    ticks = (torch.arange(SIZE) + 0.5) / SIZE
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    image = torch.zeros(SIZE, SIZE)
    for eye in points[0, EYE_POINTS]:
        bow = (1 - ((x - eye[[0, 3], 0].mean()) / 0.12) ** 2).clamp_min(0) * 9 / 8
        image[(y - eye[0, 1]).abs() < bow * 0.04] = 1
    return image[None, None]


def seen(image: torch.Tensor) -> np.ndarray:
    """Return how much of the left and of the right eye an image shows."""
    return image[0, 0].unflatten(1, (2, SIZE // 2)).sum(dim=(0, 2)).numpy()


def warped(points: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    images = eye_image(points).expand(-1, 3, -1, -1)
    plates = background_plates(images, points[:, :68])
    return view_references(images, points, target, plates).warped


@pytest.mark.parametrize(("lowered", "share"), [(0.0, 0), (0.19, 0), (0.325, 0.5), (0.46, 1), (1.2, 1)])
def test_share_grows_between_a_fifth_and_half_of_the_way(
    face: torch.Tensor, lowered: float, share: float
) -> None:
    lids = closing_lids(face, closed(face, lowered, 0.0))
    if share == 0:
        assert lids is None
    else:
        assert lids is not None
        torch.testing.assert_close(lids.share, torch.tensor([[share, 0.0]]), atol=1e-3, rtol=0)


def test_points_of_shut_lids_are_those_of_open_ones(face: torch.Tensor) -> None:
    moved = face + 0.05
    lids = closing_lids(face, closed(moved, 0.6, 0.1))
    assert lids is not None
    torch.testing.assert_close(lids.points[:, :42], moved[:, :42])
    torch.testing.assert_close(lids.points[:, 42:], closed(moved, 0.6, 0.1)[:, 42:])


def test_shut_lids_hide_the_eye(face: torch.Tensor) -> None:
    before = seen(eye_image(face))
    target = closed(face, 0.6, 0.1)
    smooth = warp(eye_image(face), landmark_motion(face, target))
    assert seen(smooth)[0] > 0.4 * before[0]
    left, right = seen(warped(face, target)) / before
    assert left < 0.2 and right > 0.8


def test_shut_lids_show_nothing_of_the_lower_half(face: torch.Tensor) -> None:
    image, target = eye_image(face), closed(face, 0.6, 0.6)
    image[:, :, : int(0.4 * SIZE)] = 0
    lids = closing_lids(face, target)
    assert lids is not None
    motion = landmark_motion(face, lids.points, GRID)
    assert (seen(warp(image, close_lids(motion, lids, SIZE)).clamp(0, 1)) < 0.05 * seen(image)).all()


def test_motion_outside_the_eye_is_unchanged(face: torch.Tensor) -> None:
    lids = closing_lids(face, closed(face, 0.6, 0.0))
    assert lids is not None
    motion = landmark_motion(face, lids.points, GRID)
    enlarged = F.interpolate(motion, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    changed = (close_lids(motion, lids, SIZE) != enlarged).any(1)[0]
    rows, columns = np.nonzero(changed.numpy())
    assert columns.min() / SIZE > 0.22 and columns.max() / SIZE < 0.48
    assert abs(rows.mean() / SIZE - 0.4) < 0.05 and np.ptp(rows) / SIZE < 0.3


def test_lids_close_without_a_jump(face: torch.Tensor) -> None:
    frames = [
        warped(face, closed(face, lowered, lowered))
        for lowered in np.arange(0.1, 0.6, 0.01).round(3).tolist()
    ]
    shares = np.stack([seen(frame) for frame in frames]) / seen(eye_image(face))
    assert (np.abs(np.diff(shares, axis=0)) < 0.05).all()
    assert (np.diff(shares, axis=0) < 0.01).all()


def test_driver_of_other_size_and_angle_closes_the_same(face: torch.Tensor) -> None:
    turn = torch.tensor([[0.9, 0.3], [-0.3, 0.9]])
    turn = turn / turn.norm(dim=0)
    target = (closed(face, 0.6, 0.0) - 0.5) @ turn * 0.8 + 0.5
    lids, straight = closing_lids(face, target), closing_lids(face, closed(face, 0.6, 0.0))
    assert lids is not None and straight is not None
    for name in ("share", "opened", "closed"):
        torch.testing.assert_close(getattr(lids, name), getattr(straight, name))
    torch.testing.assert_close(lids.points[:, :42], ((face - 0.5) @ turn * 0.8 + 0.5)[:, :42])


def turned(points: torch.Tensor, degrees: float, axis: int) -> torch.Tensor:
    """Return the landmarks of a face turned aside (axis 0) or nodding (axis 1), with the nose in front."""
    centred = points - 0.5
    depth = 0.8 * (0.3**2 - centred.square().sum(-1)).clamp_min(0).sqrt()
    depth[:, 27:36] += 0.06
    angle = torch.tensor(degrees).deg2rad()
    moved = centred.clone()
    moved[..., axis] = angle.cos() * centred[..., axis] + angle.sin() * depth
    return moved + 0.5


@pytest.mark.parametrize("reference", [-60, -45, -30, 0, 30, 45, 60])
@pytest.mark.parametrize("driver", [-80, -45, -20, 0, 20, 45, 80])
def test_head_that_turns_aside_closes_no_eye(face: torch.Tensor, reference: int, driver: int) -> None:
    assert closing_lids(turned(face, reference, 0), turned(face, driver, 0)) is None


@pytest.mark.parametrize("driver", [-20, 20])
def test_head_that_nods_closes_no_eye(face: torch.Tensor, driver: int) -> None:
    assert closing_lids(face, turned(face, driver, 1)) is None


@pytest.mark.parametrize("degrees", [-20, 20])
def test_lids_of_a_turned_head_close(face: torch.Tensor, degrees: int) -> None:
    lids = closing_lids(turned(face, degrees, 0), turned(closed(face, 0.6, 0.6), degrees, 0))
    assert lids is not None
    torch.testing.assert_close(lids.share, torch.ones(1, 2))


def test_tiny_eyes_are_not_closed(face: torch.Tensor) -> None:
    target = closed(face, 0.6, 0.6)
    assert closing_lids(0.05 * face + 0.4, target) is None
    assert closing_lids(0.5 * face, target) is not None


def test_face_that_is_not_finite_changes_no_other(face: torch.Tensor) -> None:
    target = closed(face, 0.6, 0.6)
    both, goals = torch.cat([face, face]), torch.cat([target, target * torch.nan])
    lids, alone = closing_lids(both, goals), closing_lids(face, target)
    assert lids is not None and alone is not None
    motion = landmark_motion(face, alone.points, GRID)
    fine = close_lids(motion.expand(2, -1, -1, -1), lids, SIZE)
    torch.testing.assert_close(fine[:1], close_lids(motion, alone, SIZE))


@pytest.mark.parametrize("shift", [0.45, 2.0, -2.0])
def test_eye_beyond_the_border_is_closed_as_far_as_it_shows(face: torch.Tensor, shift: float) -> None:
    target = closed(face, 0.6, 0.6) + shift
    assert torch.isfinite(warped(face, target)).all()


def test_irises_are_kept_and_the_driver_may_lack_them(face: torch.Tensor) -> None:
    irises = torch.from_numpy(look_ahead(face.numpy()))
    known = torch.cat([face, irises.flatten(1, 2)], 1)
    target = closed(known, 0.6, 0.6)
    lids = closing_lids(known, target)
    assert lids is not None
    torch.testing.assert_close(lids.points[:, 68:], target[:, 68:])
    assert closing_lids(known, target[:, :68]).points.shape == (1, 78, 2)  # type: ignore[union-attr]
    assert closing_lids(face, target).points.shape == (1, 68, 2)  # type: ignore[union-attr]
