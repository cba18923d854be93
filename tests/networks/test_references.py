"""Reference images and their views: weights, continuity, background plates, and what a file keeps."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from talkinghead_kernels.warp_by_landmarks import GRID, landmark_motion, warp_by_landmarks

from conftest import face_clip, face_points
from talkinghead.errors import TalkingheadError
from talkinghead.media.images import encode_jpeg
from talkinghead.networks import References
from talkinghead.networks.references import (
    ReferenceViewer,
    background_plates,
    reference_weights,
    shape_distance,
    view_episodes,
    view_references,
)

SIZE = 64


def landmarks_at(*moves, side=0.15):
    return torch.from_numpy(face_points(*moves, side=side))


def video_stream(points, seed=0):
    """Return smooth images float32 [T, 3, SIZE, SIZE] in [-1, 1] of faces at these landmarks."""
    frames = face_clip(points.numpy(), SIZE, seed).frames
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def plate_of(pictures, landmarks):
    """Return the plate [3, SIZE, SIZE] behind the first picture, and how far it was seen [SIZE, SIZE]."""
    plate = background_plates(pictures, landmarks)[0]
    return plate[:3], plate[3]


def smooth_scenes(count, seed):
    """Return unrelated scenes [count, 3, SIZE, SIZE]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear", align_corners=True)


def test_reference_weights_sum_to_one():
    landmarks, target = (
        landmarks_at((0, 0), (0.06, 0), (0, 0.05)),
        landmarks_at((0.03, 0.01), (0.2, 0.2), (0.0, 0.025), (0.06, 0)),
    )
    share = reference_weights(landmarks, target)
    assert share.shape == (4, 3) and (share >= 0).all()
    torch.testing.assert_close(share.sum(1), torch.ones(4))
    torch.testing.assert_close(share[2, 0], share[2, 2])  # as far from both
    own = reference_weights(landmarks.expand(4, -1, -1, -1), target)  # each row with pictures of its own
    assert torch.equal(own, share)


def test_reference_weights_select_own_landmarks():
    landmarks = landmarks_at((0, 0), (0.01, 0), (0, 0.05))
    pictures = video_stream(landmarks)
    assert torch.equal(reference_weights(landmarks, landmarks), torch.eye(3))
    plates = torch.rand(3, 4, SIZE, SIZE)
    views = view_references(pictures, landmarks, landmarks, plates)
    torch.testing.assert_close(views.warped, pictures, atol=1e-4, rtol=0)
    assert torch.equal(views.plate, plates)
    assert views.motion.abs().max() < 1e-6


def test_shape_distance_ignores_similarity_transforms():
    landmarks = face_points((0, 0), (0.1, 0))
    turn = np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
    speaking = landmarks[:1].copy()
    speaking[0, 55:60, 1] += 0.05
    targets = np.concatenate([1.7 * landmarks[:1] @ turn + 0.2, speaking])
    moved, spoken = shape_distance(landmarks, targets)
    assert moved < 1e-6 < 0.02 < spoken
    assert (
        shape_distance(np.concatenate([landmarks, speaking]), targets).max() < 1e-6
    )  # the nearest picture counts
    assert shape_distance(100 * landmarks, 100 * targets)[1] == pytest.approx(spoken)


def path(steps, *landmarks):
    """Return landmarks in small even steps from the first to the second and so on."""
    parts = [a + (b - a) * torch.linspace(0, 1, steps + 1)[:-1, None, None] for a, b in pairwise(landmarks)]
    return torch.cat([*parts, landmarks[-1][None]])


@pytest.mark.parametrize("moves", [[(0, 0), (0.08, 0)], [(0, 0), (0.02, 0), (-0.05, 0.06)]])
def test_views_are_continuous_along_path(moves):
    landmarks = landmarks_at(*moves)
    pictures = video_stream(landmarks)
    shades = 0.6 * torch.tensor([1.0, -1, 0.3])[: len(landmarks)].view(-1, 1, 1, 1)  # they differ all over
    pictures = 0.4 * F.avg_pool2d(pictures, 2) + shades
    widest, plates = {}, torch.rand(len(landmarks), 4, 8, 8)
    for steps in (300, 1200):
        targets = path(steps, *landmarks, landmarks[0])
        share = reference_weights(landmarks, targets)
        views = view_references(pictures, landmarks, targets, plates)
        assert set(share.argmax(1).tolist()) == set(range(len(landmarks)))
        widest[steps] = [float(signal.diff(dim=0).abs().max()) for signal in (share, *views)]
        step = float(targets.diff(dim=0).norm(dim=2).mean(1).max())
        assert all(
            jump < most * step for jump, most in zip(widest[steps], (1600, 2000, 1600, 120), strict=True)
        )
    # four times as many steps, each about a quarter as far: a jump would stay as wide as it is
    assert all(fine < 0.5 * rough for fine, rough in zip(widest[1200], widest[300], strict=True))


def test_views_are_weighted_sums_of_warped_references():
    """Check rows that use one, two and three references, each warped and added up here."""
    landmarks = landmarks_at((0, 0), (0.04, 0), (0.02, 0.035))
    pictures, plates = video_stream(landmarks), torch.rand(3, 4, SIZE, SIZE)
    target = landmarks_at((0.04, 0), (0.02, 0), (0.02, 0.012))
    share = reference_weights(landmarks, target)
    assert (share > 0).sum(1).tolist() == [1, 2, 3]
    views = view_references(pictures, landmarks, target, plates)
    for row, points in enumerate(target):
        to = points.expand(3, -1, -1)
        weight = share[row].view(3, 1, 1, 1)
        torch.testing.assert_close(
            views.warped[row], (weight * warp_by_landmarks(pictures, landmarks, to)).sum(0), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            views.motion[row], (weight * landmark_motion(landmarks, to)).sum(0), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(views.plate[row], (weight * plates).sum(0), atol=1e-5, rtol=0)
    assert views.motion.shape == (3, 2, GRID, GRID)


def test_warped_references_match_landmarks():
    """Check that eyes and mouth of the view lie at the target landmarks."""
    landmarks, target = landmarks_at((-0.06, 0)), landmarks_at((0.05, 0.03))
    picture = video_stream(torch.cat([landmarks, target]))
    views = view_references(picture[:1], landmarks, target, torch.rand(1, 4, SIZE, SIZE))
    box = (slice(None), slice(20, 48), slice(22, 50))  # around the head's new place
    error = (views.warped[0] - picture[1])[box].abs().mean()
    assert error < 0.05 < 0.3 * (picture[0] - picture[1])[box].abs().mean()


def test_view_episodes_rows_use_own_references():
    landmarks = torch.stack([landmarks_at((0, 0), (0.05, 0)), landmarks_at((0.1, 0), (0, 0.05))])
    pictures = torch.stack([video_stream(points, seed) for seed, points in enumerate(landmarks)])
    target = landmarks_at((0.02, 0), (0.05, 0.02))
    views = view_episodes(pictures, landmarks, target)
    for row in range(2):
        plates = background_plates(pictures[row], landmarks[row])
        separate = view_references(pictures[row], landmarks[row], target[row, None], plates)
        for view, expected in zip(views, separate, strict=True):
            assert torch.equal(view[row], expected[0])


def with_heads(scene, landmarks, reach=0.8):
    """Return a scene [3, SIZE, SIZE] with a red disc over each face, [T, 3, SIZE, SIZE], and where the
    discs are [T, SIZE, SIZE].
    """
    ticks = (torch.arange(SIZE) + 0.5) / SIZE
    low, high = landmarks.amin(1), landmarks.amax(1)
    middle, extent = (low + high) / 2, high - low
    x = (ticks[None, None] - middle[:, 0, None, None]) / (0.72 * extent[:, 0, None, None])
    y = (ticks[None, :, None] - middle[:, 1, None, None] + 0.18 * extent[:, 1, None, None]) / (
        0.95 * extent[:, 1, None, None]
    )
    discs = torch.hypot(x, y) < reach
    return torch.where(discs[:, None], torch.tensor([1.0, -1, -1]).view(3, 1, 1), scene), discs


APART = ((-0.25, 0.0), (0.25, 0.0), (0.0, 0.28))


def test_plate_restores_area_behind_head():
    landmarks = landmarks_at(*APART, side=0.07)
    scene = smooth_scenes(1, 3)[0]
    pictures, discs = with_heads(scene, landmarks)
    for plate, disc, picture in zip(background_plates(pictures, landmarks), discs, pictures, strict=True):
        before, after = (picture - scene)[:, disc].abs().mean(), (plate[:3] - scene)[:, disc].abs().mean()
        assert after < 0.06 * before
        assert (plate[:3] - scene)[
            :, ~discs.any(0)
        ].abs().max() < 0.03  # and where no head is, it is the scene
        assert (plate[:3] - scene)[
            :, discs.any(0)
        ].abs().mean() < 0.06 * before  # heads of others are not taken in
        assert plate[3].min() > 0.9 and plate[3].max() < 1.001  # one or another saw every place


def test_plate_fills_unseen_area_with_surroundings():
    """Check that with one image the area behind the head is filled in and marked as unseen."""
    landmarks = landmarks_at((0, 0.05), side=0.12)
    scene = torch.tensor([0.2, -0.4, 0.6]).view(3, 1, 1).expand(3, SIZE, SIZE)
    pictures, discs = with_heads(scene, landmarks)
    plate, seen = plate_of(pictures, landmarks)
    inner = with_heads(scene, landmarks, 0.6)[1]
    assert (plate - scene)[:, inner[0]].abs().max() < 0.1 and (plate - scene)[:, discs[0]].abs().mean() < 0.05
    assert seen[inner[0]].max() < 0.05
    outside = ~with_heads(scene, landmarks, 1.4)[1][0]
    assert seen[outside].min() > 0.95
    torch.testing.assert_close(plate[:, outside], pictures[0][:, outside], atol=0.01, rtol=0)


def test_plate_fills_unseen_area_from_nearby():
    """Check that behind a head between two colours each side gets its colour."""
    landmarks = landmarks_at((0, 0.05), side=0.1)
    left, right = torch.tensor([0.8, -0.8, 0.0]).view(3, 1, 1), torch.tensor([-0.8, 0.8, 0.0]).view(3, 1, 1)
    scene = torch.where(torch.arange(SIZE) < SIZE // 2, left, right).expand(3, SIZE, SIZE)
    pictures, discs = with_heads(scene, landmarks)
    plate, _ = plate_of(pictures, landmarks)
    columns = torch.arange(SIZE).expand(SIZE, SIZE)
    for side, colour in (
        (discs[0] & (columns < SIZE // 2 - 4), left),
        (discs[0] & (columns > SIZE // 2 + 4), right),
    ):
        assert side.sum() > 50 and (plate * colour).sum(0)[side].mean() > 0.5


def test_plates_with_large_heads_share_scene():
    """Use two images whose difference lies mostly in their heads."""
    landmarks = landmarks_at((-0.22, 0), (0.22, 0), side=0.12)
    scene = 0.3 * smooth_scenes(1, 6)[0] + torch.tensor([-0.6, 0.6, 0.6]).view(3, 1, 1)
    pictures, discs = with_heads(scene, landmarks)
    assert (pictures[0] - pictures[1]).abs().mean() > 0.35
    plate, seen = plate_of(pictures, landmarks)
    assert (plate - scene)[:, discs[0]].abs().mean() < 0.15 * (pictures[0] - scene)[:, discs[0]].abs().mean()
    assert seen[discs[0]].mean() > 0.8


def test_plate_keeps_brightness_of_its_image():
    """Check that outside the heads a plate is its own image, not the mean of images of other brightness."""
    landmarks = landmarks_at(*APART, side=0.07)
    scene = 0.5 * smooth_scenes(1, 3)[0]
    plates = background_plates(torch.stack([scene, scene + 0.1, scene + 0.1]), landmarks)
    corner = (slice(0, 3), slice(0, 6), slice(0, 6))
    for plate, light in zip(plates, (0.0, 0.1, 0.1), strict=True):
        assert (plate[:3] - scene - light)[corner].abs().max() < 0.001


def test_plate_averages_noise_of_equal_images():
    landmarks = landmarks_at(*APART, side=0.07)
    scene = 0.5 * smooth_scenes(1, 3)[0]
    noise = 0.02 * torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    corner = (slice(None), slice(0, 16), slice(0, 16))
    assert (plate_of(scene + noise, landmarks)[0] - scene)[corner].std() < 0.8 * noise[0][corner].std()


def test_plate_excludes_other_scenes():
    landmarks = landmarks_at(*APART, (0.3, 0.3), side=0.07)
    scene, other = smooth_scenes(2, 4)
    pictures = torch.cat([with_heads(scene, landmarks[:3])[0], other[None]])
    own_plates, joint_plates = (
        background_plates(pictures[:3], landmarks[:3]),
        background_plates(pictures, landmarks),
    )
    assert (joint_plates[:3] - own_plates).abs().max() < 1e-3 < 0.3 < (scene - other).abs().mean()
    own_weights, with_other = (
        background_plates(pictures[numbers], landmarks[numbers])[0] for numbers in ([0], [0, 3])
    )
    assert (
        with_other - own_weights
    ).abs().max() < 0.02  # rather the colours around than a scene that is not there


def test_viewer_uses_plates_of_nearest():
    landmarks = landmarks_at((-0.25, 0), (0.25, 0), (0.02, 0), side=0.07)
    scene = 0.5 * smooth_scenes(1, 5)[0]
    shades = torch.tensor([0.0, 0.1, 0.2]).view(3, 1, 1, 1)
    frames = ((scene + shades + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    references = References(frames, landmarks.numpy())
    pictures, points = references.tensors()
    plates = background_plates(pictures, points)
    target = torch.cat([landmarks[:2], landmarks.mean(0, keepdim=True)])
    views = ReferenceViewer(references)(target)
    torch.testing.assert_close(views.warped[:2], pictures[:2], atol=1e-3, rtol=0)
    assert torch.equal(views.plate[:2], plates[:2])
    share = reference_weights(landmarks, target)[2]
    assert share[2] == 1 or (share > 0).sum() > 1
    torch.testing.assert_close(views.plate[2], (share.view(3, 1, 1, 1) * plates).sum(0))


def test_references_tensors_are_in_unit_range():
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    pictures[1, 1, 2, 0] = 255
    tensors, landmarks = References(pictures, face_points((0, 0), (0, 0))).tensors()
    assert tensors.shape == (2, 3, 4, 4) and tensors[1, 0, 1, 2] == 1 and tensors.sum() == -94
    assert landmarks.dtype == torch.float32 and landmarks.shape == (2, 68, 2)


@pytest.mark.parametrize(
    "shape, dtype, count",
    [
        ((2, 8, 9, 3), np.uint8, 2),
        ((2, 8, 8, 4), np.uint8, 2),
        ((8, 8, 3), np.uint8, 8),
        ((0, 8, 8, 3), np.uint8, 0),
        ((2, 8, 8, 3), np.float32, 2),
        ((2, 8, 8, 3), np.uint8, 3),
    ],
)
def test_references_reject_other_image_shapes(shape, dtype, count):
    with pytest.raises(
        TalkingheadError, match=r"references: pictures .* with landmarks .*make the person again"
    ) as error:
        References(np.zeros(shape, dtype), np.zeros((count, 68, 2), np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(2, 67, 2), (2, 68, 3), (136, 2)])
def test_references_reject_other_landmark_shapes(shape):
    with pytest.raises(TalkingheadError, match="references: pictures"):
        References(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_references_reject_landmarks_not_finite(value):
    points = face_points((0, 0), (0.1, 0))
    points[1, 40, 1] = value
    with pytest.raises(TalkingheadError, match="references: a landmark is not finite"):
        References(np.zeros((2, 8, 8, 3), np.uint8), points)


def test_encoded_references_decode_equal():
    clip = face_clip(face_points((0, 0), (0.05, 0)), SIZE)
    points = clip.track.landmarks / SIZE
    first = References.encode(clip.frames, points)
    decoded = References.decode(first.jpegs, points)
    assert np.array_equal(first.images, decoded.images) and first.jpegs == decoded.jpegs and len(decoded) == 2
    assert np.array_equal(first.landmarks, points) and first.landmarks.dtype == np.float32
    difference = first.images.astype(int) - clip.frames
    assert 0 < np.abs(difference).max() < 20  # they have been through JPEG


def test_encoded_references_have_no_metadata():
    for data in References.encode(face_clip(face_points((0, 0)), SIZE).frames, face_points((0, 0))).jpegs:
        with Image.open(io.BytesIO(data)) as opened:
            assert not opened.getexif() and set(opened.info) <= {
                "jfif",
                "jfif_version",
                "jfif_unit",
                "jfif_density",
            }
            assert opened.format == "JPEG" and opened.size == (SIZE, SIZE)
        assert b"Exif" not in data and b"http" not in data
    assert encode_jpeg(np.zeros((8, 8, 3), np.uint8))[:2] == b"\xff\xd8"


def test_several_scenes_share_plate_of_middle():
    """Use images that were cropped separately: blending their scenes would show them
    double.
    """
    landmarks = landmarks_at((-0.05, 0), (0, 0), (0.06, 0))
    pictures = video_stream(landmarks)
    plates = background_plates(pictures, landmarks, one_scene=False)
    assert plates.shape == (3, 4, *pictures.shape[2:])
    for plate in plates:
        assert torch.equal(plate, background_plates(pictures[1:2], landmarks[1:2])[0])
    assert not torch.equal(background_plates(pictures, landmarks)[0], plates[0])


def test_references_keep_one_scene(tmp_path):
    landmarks = landmarks_at((0, 0), (0.05, 0)).numpy()
    pictures = np.full((2, 32, 32, 3), 90, np.uint8)
    for one_scene in (True, False):
        assert References.encode(pictures, landmarks, one_scene).one_scene is one_scene


def test_several_scenes_share_only_heads():
    """Check that outside the head the views are those of the middle image; inside, those of the nearest."""
    landmarks = landmarks_at((-0.05, 0), (0, 0), (0.06, 0), side=0.07)
    shades = np.array([40, 120, 200], np.uint8)
    pictures = np.broadcast_to(shades[:, None, None, None], (3, 32, 32, 3)).copy()
    view = ReferenceViewer(References(pictures, landmarks.numpy(), one_scene=False))(landmarks[2:])
    pixels = (view.warped + 1) * 127.5
    middle = landmarks[2].mean(0) * 32
    assert pixels[0, :, int(middle[1]), int(middle[0])] == pytest.approx(200, abs=1)
    assert pixels[0, :, -1, 0] == pytest.approx(120, abs=1) and pixels[0, :, 0, -1] == pytest.approx(
        120, abs=1
    )
    together = ReferenceViewer(References(pictures, landmarks.numpy()))(landmarks[2:])
    assert ((together.warped + 1) * 127.5)[0, :, -1, 0] == pytest.approx(200, abs=1)


def test_with_scene_keeps_heads():
    landmarks = landmarks_at((0, 0), (0.05, 0), side=0.07).numpy()
    references = References(np.full((1, 32, 32, 3), 200, np.uint8), landmarks[:1])
    moved = references.with_scene(np.full((32, 32, 3), 40, np.uint8), landmarks[1])
    assert (len(moved), moved.one_scene, moved.scene) == (2, False, 1)
    view = ReferenceViewer(moved)(torch.from_numpy(landmarks[:1]))
    pixels, middle = (view.warped + 1) * 127.5, landmarks[0].mean(0) * 32
    assert pixels[0, :, int(middle[1]), int(middle[0])] == pytest.approx(200, abs=1)
    assert pixels[0, :, -1, 0] == pytest.approx(40, abs=1)
    assert ((view.plate[:, :3] + 1) * 127.5)[0, :, -1, 0] == pytest.approx(40, abs=1)
