"""Tests of the landmarks of synthetic people: agreement with a detector, symmetry, motion with the face."""

import numpy as np
import pytest

pytest.importorskip("anny", reason="anny, which provides the head model, is not installed")

from bench.experiments.synthetic_landmarks import PARTS, compare
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.landmark_image import MIRROR_INDEX
from talkinghead.synthetic.face_rig import rotation
from talkinghead.synthetic.head import Head, load_head
from talkinghead.synthetic.landmarks import LandmarkLocator


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head()


def project_template(head: Head, actions: dict[str, float] | None = None, yaw: float = 0.0) -> np.ndarray:
    """Return the landmarks of the template a metre away, x right and y down in metres."""
    return project_turned(LandmarkLocator(head, head.template), head, (yaw, 0.0, 0.0), actions)


def project_turned(
    locator: LandmarkLocator,
    head: Head,
    turn: tuple[float, float, float],
    actions: dict[str, float] | None = None,
) -> np.ndarray:
    """Return the landmarks of the template, turned by yaw, pitch and roll, as `project_template` does."""
    face = head.template.copy()
    for name, value in (actions or {}).items():
        face += value * head.actions[head.action[name]]
    space = np.stack([face[:, 0], -face[:, 2], face[:, 1]], axis=1) @ rotation(np.array(turn)).T
    space[:, 2] += 1.0
    return locator.project(space.astype(np.float32), 1.0, (0.0, 0.0))


@pytest.mark.identity
def test_landmarks_agree_with_dlib() -> None:
    results = compare(people=8, frames=2, seed=31)
    assert results["found"] >= 15  # of 16
    assert results["mean"] < 0.06
    assert results["parts"].keys() == PARTS.keys()
    assert max(results["parts"][name] for name in ("nose", "eyes", "mouth")) < 0.06
    assert max(results["parts"].values()) < 0.10


def test_landmarks_of_template_are_symmetric(head: Head) -> None:
    points = project_template(head)
    assert np.abs(points[list(MIRROR_INDEX)] * [-1, 1] - points).max() < 0.004
    assert (points[17:22, 0] < 0).all() and (points[22:27, 0] > 0).all()


@pytest.mark.parametrize(
    "action, points, direction",
    [
        ("jawOpen", [57, 66, 8], (0, 1)),
        ("mouthSmileLeft", [54], (1, -1)),
        ("browInnerUp", [21, 22], (0, -1)),
        ("eyeBlinkLeft", [43, 44], (0, 1)),
        ("eyeBlinkRight", [37, 38], (0, 1)),
    ],
)
def test_landmarks_move_with_facial_actions(
    head: Head, action: str, points: list[int], direction: tuple[int, int]
) -> None:
    moved = project_template(head, {action: 1.0}) - project_template(head)
    assert ((moved[points] * direction).sum(axis=1) > 0.003).all()
    if action.startswith("eyeBlink"):
        assert np.abs(moved[48:]).max() < 0.001


def test_lips_part_when_jaw_opens(head: Head) -> None:
    closed, opened = project_template(head), project_template(head, {"jawOpen": 0.6})
    assert abs(closed[66, 1] - closed[62, 1]) < 0.004
    assert opened[66, 1] - opened[62, 1] > 0.012


def test_jaw_landmarks_follow_visible_contour(head: Head) -> None:
    frontal = project_template(head)
    for yaw in (20.0, 35.0):
        points = project_template(head, yaw=yaw)
        # the points of the frontal contour are now hidden behind the cheek
        face = head.template[
            (head.part == 0) & (head.masks[2] < 0.1) & (np.abs(head.template[:, 2] + 0.04) < 0.012)
        ]
        space = np.stack([face[:, 0], -face[:, 2], face[:, 1]], axis=1) @ rotation(np.array([yaw, 0, 0])).T
        front = space[space[:, 2] < 0.02]
        contour = (front[:, 0] / (front[:, 2] + 1)).max()
        assert points[14, 0] == pytest.approx(contour, abs=0.009)
    assert np.ptp(frontal[:17, 0]) > 0.12


@pytest.fixture(scope="module")
def wide_locator(head: Head) -> LandmarkLocator:
    return LandmarkLocator(head, head.template, "wide")


@pytest.mark.parametrize(("pitch", "roll"), [(0.0, 0.0), (30.0, 0.0), (-30.0, 20.0)])
def test_wide_landmarks_are_continuous_over_yaw(
    head: Head, wide_locator: LandmarkLocator, pitch: float, roll: float
) -> None:
    points = np.stack(
        [project_turned(wide_locator, head, (yaw, pitch, roll)) for yaw in np.arange(-90, 90.1, 1.0)]
    )
    assert np.isfinite(points).all()
    assert np.linalg.norm(np.diff(points, axis=0), axis=2).max() < 0.004  # metres per degree of yaw


def test_wide_landmarks_agree_with_talking_ones_near_the_front(
    head: Head, wide_locator: LandmarkLocator
) -> None:
    for yaw in (-30.0, -15.0, 0.0, 15.0, 30.0):
        wide, talking = project_turned(wide_locator, head, (yaw, 0.0, 0.0)), project_template(head, yaw=yaw)
        distance = np.linalg.norm(wide - talking, axis=1)
        assert distance[:17].mean() < 0.002 and distance[:17].max() < 0.008
        np.testing.assert_allclose(wide[17:], talking[17:], atol=1e-6)


@pytest.mark.parametrize("sign", [-1, 1])
def test_wide_jaw_of_profile_is_on_the_edge_of_the_far_cheek(
    head: Head, wide_locator: LandmarkLocator, sign: int
) -> None:
    points = project_turned(wide_locator, head, (sign * 90.0, 0.0, 0.0)) * [sign, 1]
    far, near = (range(12, 17), range(5)) if sign > 0 else (range(5), range(12, 17))
    nose_tip, chin = points[30], points[8]
    eye_corners = points[[36, 45], 0]
    assert (points[far, 0] < nose_tip[0]).all() and (points[far, 0] > eye_corners.min() - 0.03).all()
    assert (points[near, 0] < points[far, 0].min() - 0.02).all()  # by the ear
    heights = points[[0, 4, 6, 8, 10, 12, 16], 1]
    assert heights.argmax() in (2, 3, 4) and chin[1] > points[57, 1]
    # in order from the eye down to the chin
    order = points[list(far)[::-1] if sign > 0 else list(far), 1]
    assert (np.diff(order) > 0.005).all()


def test_jaw_landmarks_do_not_flip_at_a_profile(head: Head) -> None:
    before, after = (project_template(head, yaw=yaw) for yaw in (80.0, 90.0))
    assert np.linalg.norm(after - before, axis=1)[:17].max() < 0.03


def test_unknown_poses_of_landmarks_are_rejected(head: Head) -> None:
    with pytest.raises(TalkingheadError, match="'profile' are unknown; choose one of talking, wide"):
        LandmarkLocator(head, head.template, "profile")
