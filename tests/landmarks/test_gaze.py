"""Tests of gaze: points with irises, their image, and their way from a driver to a person."""

import numpy as np
import pytest
import torch
from talkinghead_kernels.rasterize import draw_polylines_float32, draw_polylines_reference
from test_retarget import ANNA, BOB, make_track, motion, rest_face

from talkinghead.clip import Track
from talkinghead.landmarks.face_points import (
    HIDDEN_IRIS,
    fit_points,
    join_points,
    split_points,
    track_points,
)
from talkinghead.landmarks.gaze import look_ahead, points_looking_ahead, retarget_irises
from talkinghead.landmarks.landmark_image import (
    IRIS_POLYLINES,
    POLYLINES,
    landmark_image,
    mirror_irises,
    mirror_points,
)
from talkinghead.landmarks.retarget import retarget
from talkinghead.pipelines.animate import align_track

REST = {name: np.full(8, float(name == "lids")) for name in motion()}
AS_TENSOR = pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])


def face(num_points: int = 78) -> np.ndarray:
    """Return points of a face that looks ahead, float32 [1, num_points, 2] as fractions."""
    landmarks = make_track(ANNA, motion(1)).landmarks[0] / 400
    return points_looking_ahead(landmarks, num_points)[None]


def with_gaze(track: Track, shift: np.ndarray) -> Track:
    """Return a track whose irises lie off the middle of their eyes: [N, 2] in widths of the eyes."""
    landmarks = track.landmarks
    right, down = (landmarks[:, [39, 45]] - landmarks[:, [36, 42]]), 0
    down = np.stack([-right[..., 1], right[..., 0]], axis=-1)
    offset = shift[:, None, :1] * right + shift[:, None, 1:] * down
    return Track(landmarks, track.size, track.fps, irises=look_ahead(landmarks) + offset[:, :, None])


def gaze_of(points: np.ndarray) -> np.ndarray:
    """Return the centres of the irises in their eyes, along and across in widths: [N, 2, 2]."""
    landmarks, irises = split_points(points.astype(np.float64))
    assert irises is not None
    ahead = look_ahead(landmarks)
    right = landmarks[:, [39, 45]] - landmarks[:, [36, 42]]
    down = np.stack([-right[..., 1], right[..., 0]], axis=-1)
    shift = irises[:, :, 0] - ahead[:, :, 0]
    squared = (right**2).sum(axis=-1)
    return np.stack([(shift * right).sum(-1) / squared, (shift * down).sum(-1) / squared], axis=-1)


@AS_TENSOR
def test_points_split_into_what_was_joined(convert):
    random = np.random.default_rng(0)
    landmarks, irises = convert(random.random((3, 68, 2))), convert(random.random((3, 2, 5, 2)))
    points = join_points(landmarks, irises)
    assert tuple(points.shape) == (3, 78, 2)
    assert (points[:, 68:73] == irises[:, 0]).all() and (points[:, 73:] == irises[:, 1]).all()
    parts = split_points(points)
    assert (parts[0] == landmarks).all() and (parts[1] == irises).all()
    assert join_points(landmarks, None) is landmarks and split_points(landmarks)[1] is None


@AS_TENSOR
def test_fit_points_cuts_or_hides_irises(convert):
    points = convert(face())
    assert fit_points(points, 78).shape == points.shape
    assert (fit_points(points, 68) == points[:, :68]).all()
    hidden = fit_points(points[:, :68], 78)
    assert tuple(hidden.shape) == (1, 78, 2) and hidden.dtype == points.dtype
    assert (hidden[:, :68] == points[:, :68]).all() and (hidden[:, 68:] == HIDDEN_IRIS).all()


def test_track_points_hold_known_irises():
    track = make_track(BOB, motion(3))
    assert track_points(track) is track.landmarks
    looking = with_gaze(track, np.zeros((3, 2)))
    np.testing.assert_array_equal(track_points(looking)[:, 73:], looking.irises[:, 1])


def test_landmark_image_shows_irises_last():
    points = torch.from_numpy(face()).float()
    image, without = landmark_image(points, 256), landmark_image(points[:, :68], 256)
    pixels = ((image[0] + 1) * 127.5).permute(1, 2, 0)
    for point, (_, colour) in zip((69, 74), IRIS_POLYLINES, strict=True):
        x, y = (points[0, point] * 256).long().tolist()
        assert np.abs(pixels[y, x].numpy() - colour).max() <= 64
    changed = (image != without).any(1)[0].nonzero().float() / 256
    box = points[0, 68:].flip(1)
    assert ((changed > box.amin(0) - 0.02) & (changed < box.amax(0) + 0.02)).all() and len(changed) > 20


@pytest.mark.parametrize("size", [32, 64, 256])
def test_hidden_irises_are_invisible_in_all_backends(size, device):
    landmarks = torch.from_numpy(face(68)).to(device)
    hidden = fit_points(landmarks, 78)
    assert torch.equal(landmark_image(hidden, size), landmark_image(landmarks, size))


@pytest.mark.parametrize("size", [32, 64, 256])
@pytest.mark.parametrize("draw", [draw_polylines_reference, draw_polylines_float32])
def test_hidden_irises_are_invisible_in_formulas(size, draw):
    landmarks = torch.from_numpy(face(68))
    lines = [line for line, _ in POLYLINES]
    edges = [tuple(68 + point for point in line) for line, _ in IRIS_POLYLINES]
    colours = [value for _, colour in POLYLINES + IRIS_POLYLINES for value in colour]
    images = [
        draw(
            points * size,
            size,
            [index for line in parts for index in line],
            [len(line) for line in parts],
            colours=colours[: 3 * len(parts)],
        )
        for points, parts in ((fit_points(landmarks, 78), lines + edges), (landmarks, lines))
    ]
    assert torch.equal(*images)


def test_mirrored_points_mirror_landmarks_and_irises():
    points = torch.from_numpy(face()).float()
    mirrored = mirror_points(points)
    assert torch.equal(mirrored[:, :68], mirror_points(points[:, :68]))
    expected = mirror_irises(points[:, 68:].reshape(1, 2, 5, 2), 1.0)
    assert torch.equal(mirrored[:, 68:].reshape(1, 2, 5, 2), expected)
    assert torch.allclose(mirror_points(mirrored), points, atol=1e-6)
    hidden = mirror_points(fit_points(points[:, :68], 78))[:, 68:]
    assert (hidden[..., 0] > 1.5).all()  # still outside of the picture


def test_look_ahead_puts_round_irises_between_lids():
    landmarks = make_track(ANNA, {**REST, "roll": np.full(8, 0.4)}).landmarks
    irises = look_ahead(landmarks)
    assert irises.shape == (8, 2, 5, 2) and irises.dtype == np.float32
    middle = landmarks[:, [[36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47]]].mean(axis=2)
    width = np.linalg.norm(landmarks[:, 39] - landmarks[:, 36], axis=1)[0]
    assert np.abs(irises[:, :, 0] - middle).max() < 0.1 * width
    radius = np.linalg.norm(irises[:, :, 1:] - irises[:, :, :1], axis=-1) / width
    np.testing.assert_allclose(radius[:, 0], 0.2, atol=1e-3)
    # the edges turn with the head: the first points along the corners of the eye, which slant by 0.04
    edge = irises[0, 0, 1] - irises[0, 0, 0]
    np.testing.assert_allclose(np.arctan2(edge[1], edge[0]), 0.44, atol=0.01)


def test_retarget_keeps_gaze_in_the_eye():
    movement = motion(40)
    shift = np.stack([0.15 * np.sin(np.arange(40)), 0.05 * np.cos(np.arange(40))], axis=1)
    driver = with_gaze(make_track(BOB, movement), shift)
    points = retarget(driver, rest_face(ANNA))
    assert points.shape == (40, 78, 2) and points.dtype == np.float32
    np.testing.assert_array_equal(points[:, :68], retarget(make_track(BOB, movement), rest_face(ANNA)))
    gaze = gaze_of(points)
    np.testing.assert_allclose(gaze[..., 0], np.repeat(shift[:, :1], 2, axis=1), atol=0.01)
    width = np.linalg.norm(points[:, [39, 45]] - points[:, [36, 42]], axis=-1)
    radius = np.linalg.norm(points[:, [69, 74]] - points[:, [68, 73]], axis=-1)
    np.testing.assert_allclose(radius / width, 0.2, rtol=0.01)


def test_retarget_keeps_hidden_irises_hidden():
    # a turned head that looks far to the side would move points at -1 into the picture
    track = make_track(BOB, motion(4))
    irises = look_ahead(track.landmarks)
    irises[1:3] = HIDDEN_IRIS * 20
    target = make_track(ANNA, motion(4)).landmarks / 400
    moved = retarget_irises(irises, track.landmarks, target)
    assert (moved[1:3] == HIDDEN_IRIS).all() and (moved[[0, 3]] > 0).all()


def test_retarget_measures_height_in_openings():
    # a wide open eye of the driver, a narrow one of the person: an iris at the upper lid stays there
    source, target = (make_track(ANNA, {**REST, "lids": np.full(8, lids)}).landmarks for lids in (1.0, 0.6))
    irises = look_ahead(source)
    lid = source[:, [37, 43]] - source[:, [41, 47]]
    irises += (lid / 2)[:, :, None]
    moved = retarget_irises(irises, source, target)
    middle = look_ahead(target)[:, :, 0]
    risen, expected = (middle - moved[:, :, 0])[..., 1], (target[:, [41, 47]] - target[:, [37, 43]])[..., 1]
    np.testing.assert_allclose(risen, expected / 2, rtol=0.15)


def test_retarget_is_finite_for_shut_eyes_and_profiles():
    landmarks = make_track(BOB, {**REST, "lids": np.linspace(-0.2, 1, 8)}).landmarks
    irises = look_ahead(landmarks)
    for face, share in ((-2, 0.02), (-1, 0.0)):  # an eye of almost no width, and of none
        landmarks[face, 42:48, 0] = landmarks[face, 42, 0] + share * np.ptp(landmarks[face, 42:48, 0]) * (
            np.arange(6) == 3
        )
    moved = retarget_irises(irises, landmarks, make_track(ANNA, REST).landmarks)
    assert np.isfinite(moved).all()
    size = np.ptp(landmarks[0], axis=0).max()
    assert np.ptp(moved, axis=2).max() < 0.3 * size


@pytest.mark.parametrize("with_irises", [True, False])
def test_alignment_keeps_irises_with_landmarks(with_irises):
    track = make_track(BOB, motion(5))
    looking = with_gaze(track, np.full((5, 2), 0.1))
    reference = rest_face(ANNA).points.astype(np.float32)
    points = align_track(looking if with_irises else track, reference)
    np.testing.assert_array_equal(points[:, :68], align_track(track, reference))
    assert points.shape[1] == (78 if with_irises else 68)
    if with_irises:
        np.testing.assert_allclose(gaze_of(points), 0.1, atol=0.01)
