"""Views of reference images that follow the driver's gaze."""

import numpy as np
import pytest
import torch
from talkinghead_kernels.warp_by_landmarks import GRID, landmark_motion

from conftest import face_clip, face_points
from talkinghead.landmarks.face_points import HIDDEN_IRIS, join_points
from talkinghead.landmarks.gaze import look_ahead, points_to_warp, shift_irises
from talkinghead.networks import References
from talkinghead.networks.references import ReferenceViewer, background_plates, view_references

SIZE = 64
AT_REST = face_points((0, 0))
EYE_WIDTH = float(np.linalg.norm(AT_REST[0, 39] - AT_REST[0, 36]))


def looking(shift=(0.0, 0.0), landmarks=AT_REST):
    """Return points float32 [N, 78, 2] of faces that look there, in widths and openings of their eyes."""
    irises = shift_irises(look_ahead(landmarks), landmarks, shift)
    return torch.from_numpy(join_points(landmarks, irises))


def hide(points, eye):
    """Return points of which one iris is hidden: its points are one, wherever that lies."""
    hidden = points.clone()
    hidden[:, 68 + 5 * eye : 73 + 5 * eye] = 0.3
    return hidden


def motion_at(motion, position):
    """Return the motion [2] of a field [2, GRID, GRID] at a position [2]."""
    column, row = (int(value * GRID) for value in position)
    return motion[:, row, column].numpy()


@pytest.mark.parametrize("shift", [(0.15, 0.0), (-0.15, 0.0), (0.0, 0.2)])
def test_iris_moves_as_far_as_the_drivers(shift):
    source, target = looking(), looking(shift)
    motion = landmark_motion(*points_to_warp(source, target), GRID)[0]
    for centre in (68, 73):
        expected_motion = (source - target)[0, centre].numpy()
        reached = motion_at(motion, target[0, centre]) @ expected_motion / (expected_motion @ expected_motion)
        assert 0.7 < reached < 1.3
    assert np.abs(motion_at(motion, target[0, 33])).max() < 0.1 * EYE_WIDTH * 0.15  # the nose stays


def views_of(points, target):
    torch.manual_seed(0)
    return view_references(torch.rand(1, 3, SIZE, SIZE), points, target, torch.rand(1, 4, SIZE, SIZE))


def test_references_without_irises_follow_landmarks_alone():
    known, target = looking((0.2, 0.0)), looking((-0.1, 0.0), face_points((0.03, 0.01)))
    expected = views_of(known[:, :68], target[:, :68])
    for view, value in zip(views_of(known[:, :68], target), expected, strict=True):
        assert torch.equal(view, value)


def test_driver_without_irises_is_one_of_hidden_irises():
    known, target = looking((0.2, 0.0)), looking((-0.1, 0.0), face_points((0.03, 0.01)))
    hidden = hide(hide(target, 0), 1)
    for view, value in zip(views_of(known, target[:, :68]), views_of(known, hidden), strict=True):
        assert torch.equal(view, value)


@pytest.mark.parametrize("side", ["reference", "driver"])
@pytest.mark.parametrize("eye", [0, 1])
def test_hidden_iris_moves_with_its_lids(side, eye):
    source, target = looking(), looking((0.2, 0.1))
    hidden = (hide(source, eye), target) if side == "reference" else (source, hide(target, eye))
    motion = landmark_motion(*points_to_warp(*hidden), GRID)[0]
    assert torch.isfinite(motion).all()
    centres = (68, 73)
    assert np.abs(motion_at(motion, target[0, centres[eye]])).max() < 0.1 * 0.2 * EYE_WIDTH
    assert np.abs(motion_at(motion, target[0, centres[1 - eye]])).max() > 0.6 * 0.2 * EYE_WIDTH


def test_iris_is_flattened_with_its_lids():
    open_eyes = looking()
    closed = open_eyes.clone()
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        middle = (closed[:, upper] + closed[:, lower]) / 2
        closed[:, upper], closed[:, lower] = middle - 1e-4, middle + 1e-4
    source, goal = points_to_warp(open_eyes, closed)
    for first in (68, 73):
        assert np.ptp(source[0, first : first + 5, 1].numpy()) > 0.2 * EYE_WIDTH
        assert np.ptp(goal[0, first : first + 5, 1].numpy()) < 0.02 * EYE_WIDTH
        assert np.ptp(goal[0, first : first + 5, 0].numpy()) > 0.2 * EYE_WIDTH
    torch.testing.assert_close(points_to_warp(closed, open_eyes)[1], open_eyes)  # wider eyes cover nothing


def test_nearest_reference_is_chosen_by_landmarks_alone():
    landmarks = face_points((0, 0), (0.1, 0))
    points = torch.cat([looking((0.25, 0.0), landmarks[:1]), looking((-0.25, 0.0), landmarks[1:])])
    images = torch.from_numpy(face_clip(landmarks, SIZE).frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    plates = background_plates(images, points[:, :68])
    target = looking((-0.25, 0.0), landmarks[:1])
    views = view_references(images, points, target, plates)
    torch.testing.assert_close(views.plate[0], plates[0])


def test_viewer_follows_gaze_in_one_scene_and_in_several():
    landmarks = face_points((0, 0), (0.06, 0))
    irises = look_ahead(landmarks)
    frames = face_clip(landmarks, SIZE).frames
    for one_scene in (True, False):
        viewer = ReferenceViewer(References(frames, landmarks, one_scene, irises=irises))
        ahead, aside = viewer(looking()).motion[0], viewer(looking((0.2, 0.0))).motion[0]
        difference = (ahead - aside).norm(dim=0)
        row, column = divmod(int(difference.argmax()), GRID)
        eyes = looking()[0, [68, 73]].numpy() * GRID
        assert np.linalg.norm(eyes - [column + 0.5, row + 0.5], axis=1).min() < 3
        assert difference.max() > 0.5 * 0.2 * EYE_WIDTH


def test_surroundings_of_several_scenes_are_warped_by_the_points_of_theirs():
    landmarks = face_points((-0.08, 0), (0.08, 0), (0.01, 0))
    references = References(face_clip(landmarks, SIZE).frames, landmarks, one_scene=False)
    viewer, target = ReferenceViewer(references), looking((0, 0), face_points((-0.07, 0.05)))
    assert viewer.scene == 2
    expected = view_references(viewer.images[2:], viewer.points[2:], target, viewer.plates[2:])
    edge = slice(-4, None)  # far from the head
    torch.testing.assert_close(
        viewer(target).motion[..., edge], expected.motion[..., edge], atol=1e-4, rtol=0
    )


def test_scene_of_another_picture_hides_its_irises():
    references = References(face_clip(AT_REST, SIZE).frames, AT_REST, irises=look_ahead(AT_REST)).with_scene(
        np.zeros((SIZE, SIZE, 3), np.uint8), face_points((0.05, 0))[0]
    )
    assert references.irises is not None and references.irises.shape == (2, 2, 5, 2)
    assert (references.irises[1] == HIDDEN_IRIS).all() and (references.irises[0] != HIDDEN_IRIS).all()


def test_irises_stay_within_their_eyes():
    landmarks, irises = AT_REST, look_ahead(AT_REST)
    far = shift_irises(irises, landmarks, (3.0, 0.0))
    assert 0.2 < (far - irises)[0, 0, 0, 0] / EYE_WIDTH < 0.3
    hidden = np.full_like(irises, HIDDEN_IRIS)
    assert np.array_equal(shift_irises(hidden, landmarks, (0.2, 0.1)), hidden)
