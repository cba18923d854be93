"""Pose of a head from its landmarks."""

import numpy as np
import pytest

from talkinghead.landmarks.head_pose import head_pose
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.synthetic.face_rig import rotation


@pytest.mark.parametrize("pose", [(0, 0, 0), (35, 0, 0), (0, -20, 0), (0, 0, 50), (-40, 18, -25), (80, 5, 3)])
def test_pose_of_turned_mean_face_is_its_rotation(pose: tuple[float, float, float]) -> None:
    space = MEAN_FACE * [1, 1, -1]  # z away from the camera
    turned = space @ rotation(np.array(pose)).T
    assert head_pose(turned[:, :2] * 40 + [300, 200]) == pytest.approx(pose, abs=0.01)
