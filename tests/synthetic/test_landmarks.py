"""The landmarks are those that a detector finds in the pictures, and move with the face."""

import numpy as np
import pytest

pytest.importorskip("anny", reason="anny, whose heads are drawn here, is not installed")

from bench.synthetic_landmarks import PARTS, compare
from talkinghead.landmarks.draw import MIRROR
from talkinghead.synthetic.actor import rotation
from talkinghead.synthetic.head import Head, load_head
from talkinghead.synthetic.landmarks import Landmarks


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head()


def seen(head: Head, actions: dict[str, float] | None = None, yaw: float = 0.0) -> np.ndarray:
    """The landmarks of the template a metre away, x right and y down in metres."""
    face = head.template.copy()
    for name, value in (actions or {}).items():
        face += value * head.actions[head.action[name]]
    space = np.stack([face[:, 0], -face[:, 2], face[:, 1]], axis=1) @ rotation(np.array([yaw, 0, 0])).T
    space[:, 2] += 1.0
    return Landmarks(head, head.template).of(space.astype(np.float32), 1.0, (0.0, 0.0))


def test_dlib_agrees() -> None:
    found = compare(people=8, frames=2, seed=31)
    assert found["found"] >= 15  # of 16
    assert found["mean"] < 0.06
    assert found["parts"].keys() == PARTS.keys()
    assert max(found["parts"][name] for name in ("nose", "eyes", "mouth")) < 0.06
    assert max(found["parts"].values()) < 0.10


def test_left_and_right_mirror_each_other(head: Head) -> None:
    points = seen(head)
    assert np.abs(points[list(MIRROR)] * [-1, 1] - points).max() < 0.004
    assert (points[17:22, 0] < 0).all() and (points[22:27, 0] > 0).all()


@pytest.mark.parametrize(
    "action, points, way",
    [
        ("jawOpen", [57, 66, 8], (0, 1)),
        ("mouthSmileLeft", [54], (1, -1)),
        ("browInnerUp", [21, 22], (0, -1)),
        ("eyeBlinkLeft", [43, 44], (0, 1)),
        ("eyeBlinkRight", [37, 38], (0, 1)),
    ],
)
def test_they_move_with_the_face(head: Head, action: str, points: list[int], way: tuple[int, int]) -> None:
    moved = seen(head, {action: 1.0}) - seen(head)
    assert ((moved[points] * way).sum(axis=1) > 0.003).all()
    if action.startswith("eyeBlink"):
        assert np.abs(moved[48:]).max() < 0.001


def test_the_lips_part_when_the_jaw_opens(head: Head) -> None:
    shut, opened = seen(head), seen(head, {"jawOpen": 0.6})
    assert abs(shut[66, 1] - shut[62, 1]) < 0.004
    assert opened[66, 1] - opened[62, 1] > 0.012


def test_the_outline_follows_what_is_seen(head: Head) -> None:
    still = seen(head)
    for yaw in (20.0, 35.0):
        points = seen(head, yaw=yaw)
        # the places that the outline has from the front have gone behind the cheek
        face = head.template[(head.part == 0) & (head.masks[2] < 0.1) & (np.abs(head.template[:, 2] + 0.04) < 0.012)]
        space = np.stack([face[:, 0], -face[:, 2], face[:, 1]], axis=1) @ rotation(np.array([yaw, 0, 0])).T
        front = space[space[:, 2] < 0.02]
        contour = (front[:, 0] / (front[:, 2] + 1)).max()
        assert points[14, 0] == pytest.approx(contour, abs=0.009)
    assert np.ptp(still[:17, 0]) > 0.12
