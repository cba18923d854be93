"""Tests of the position and size of faces."""

import numpy as np

from talkinghead.landmarks.geometry import bounding_boxes, centre_and_scale

SQUARE = np.array([[0, 0], [2, 0], [2, 2], [0, 2]], np.float64)


def test_bounding_boxes_return_centre_and_longer_side() -> None:
    faces = np.stack([SQUARE, SQUARE * [3, 1] + [10, 0]])
    assert bounding_boxes(faces).tolist() == [[1, 1, 2], [13, 1, 6]]


def test_centre_and_scale_match_single_faces_bit_by_bit() -> None:
    faces = np.random.default_rng(0).normal(size=(5, 68, 2))
    centres, scales = centre_and_scale(faces)
    for face, centre, scale in zip(faces, centres, scales, strict=True):
        assert np.array_equal(centre_and_scale(face)[0], centre)
        assert centre_and_scale(face)[1] == scale
    centre, scale = centre_and_scale(SQUARE)
    assert centre.tolist() == [1, 1]
    assert scale == np.sqrt(2)
