"""Tests of what counts as a face."""

from dataclasses import replace

import numpy as np
import pytest

from talkinghead.landmarks.detector import Face, find_faces, follow_face
from talkinghead.landmarks.mean_face import MEAN_FACE

FACE = Face(MEAN_FACE[:, :2].astype(np.float32), 0.9, np.zeros((2, 5, 2), np.float32))
NOT_FACES = {
    "confidence": {"confidence": np.nan},
    "landmarks": {"landmarks": np.full((68, 2), np.inf, np.float32)},
    "a line": {"landmarks": FACE.landmarks * [1, 0]},
    "irises": {"irises": np.full((2, 5, 2), np.nan, np.float32)},
}


class FakeDetector:
    """Finds and follows the same faces in every frame."""

    def __init__(self, *faces: Face) -> None:
        self.faces = list(faces)

    def find(self, frames):
        return [self.faces for _ in frames]

    def follow(self, frames, near):
        return self.faces


@pytest.mark.parametrize("change", NOT_FACES.values(), ids=NOT_FACES)
def test_detections_that_cannot_be_faces_are_dropped(change):
    detector = FakeDetector(FACE, replace(FACE, **change), replace(FACE, irises=None))
    frame = np.zeros((8, 8, 3), np.uint8)
    assert find_faces(detector, [frame]) == [[detector.faces[0], detector.faces[2]]]
    assert follow_face(detector, [frame] * 3, FACE.landmarks) == [detector.faces[0]]
