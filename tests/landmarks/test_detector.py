"""Tests of what counts as a face, and of what detectors refuse."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from talkinghead.errors import TalkingheadError
from talkinghead.landmarks import detector
from talkinghead.landmarks.detector import CheckedDetector, Face, find_faces, follow_face
from talkinghead.landmarks.dlib_detector import DlibDetector
from talkinghead.landmarks.face_alignment_detector import FaceAlignmentDetector
from talkinghead.landmarks.face_landmarker_detector import FaceLandmarkerDetector
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.landmarks.network import CROP_SIDE
from talkinghead.landmarks.network_detector import NetworkDetector
from talkinghead.landmarks.oriented_crop import crop_of_landmarks

DETECTORS = (DlibDetector, FaceAlignmentDetector, FaceLandmarkerDetector, NetworkDetector)
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
    fake = FakeDetector(FACE, replace(FACE, **change), replace(FACE, irises=None))
    frame = np.zeros((8, 8, 3), np.uint8)
    assert find_faces(fake, [frame]) == [[fake.faces[0], fake.faces[2]]]
    assert follow_face(fake, [frame] * 3, FACE.landmarks) == [fake.faces[0]]


FRAME = np.zeros((64, 80, 3), np.uint8)
NEAR = MEAN_FACE[:, :2] * 20 + [40, 32]
BAD_FRAMES = {
    "grey": (FRAME[..., 0], r"uint8 \[64, 80\]"),
    "float": (FRAME.astype(np.float32), r"float32 \[64, 80, 3\]"),
    "RGBA": (np.zeros((64, 80, 4), np.uint8), r"uint8 \[64, 80, 4\]"),
    "empty": (FRAME[:0], r"uint8 \[0, 80, 3\]"),
    "row": (FRAME[0, :, 0], r"uint8 \[80\]"),
    "tensor": (torch.zeros(64, 80, 3, dtype=torch.uint8), "Tensor"),
}
BAD_NEAR = {
    "NaN": (np.where(np.arange(136).reshape(68, 2) == 7, np.nan, NEAR), r"not finite"),
    "infinite": (np.full((68, 2), np.inf), r"not finite"),
    "irises": (np.zeros((78, 2)), r"float64 \[78, 2\], expected \[68, 2\]"),
    "3D": (MEAN_FACE, r"float\d+ \[68, 3\], expected \[68, 2\]"),
}


@pytest.fixture(scope="module")
def network_detector():
    """Open the shipped networks."""
    return NetworkDetector()


@pytest.fixture(params=DETECTORS, ids=lambda kind: kind.name)
def unopened_detector(request):
    """Return a detector of each kind without its networks, which may need packages that are missing."""
    return object.__new__(request.param)


def test_every_detector_of_the_package_checks_what_it_is_given():
    modules = {path.stem for path in Path(detector.__file__).parent.glob("*_detector.py")} - {"open_detector"}
    assert modules == {kind.__module__.rpartition(".")[2] for kind in DETECTORS}
    for kind in DETECTORS:
        assert (kind.find, kind.follow) == (CheckedDetector.find, CheckedDetector.follow)


@pytest.mark.parametrize(("frame", "got"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frame_reports_user_error(unopened_detector, frame, got):
    message = rf"^frame 2: {got}, expected uint8 \[H, W, 3\]; convert it to 8-bit RGB$"
    with pytest.raises(TalkingheadError, match=message):
        find_faces(unopened_detector, [FRAME, frame])
    with pytest.raises(TalkingheadError, match=message):
        follow_face(unopened_detector, [FRAME, frame], NEAR)


@pytest.mark.parametrize(("near", "got"), BAD_NEAR.values(), ids=BAD_NEAR)
def test_bad_landmarks_to_follow_report_user_error(unopened_detector, near, got):
    with pytest.raises(
        TalkingheadError, match=f"^landmarks to follow: {got}; pass those of a detected face$"
    ):
        follow_face(unopened_detector, [FRAME], near)


@pytest.mark.parametrize("default", ["float64", "float16", "meta"])
def test_defaults_of_torch_change_no_face(network_detector, torch_default, default):
    frame = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    crop = crop_of_landmarks(NEAR * 4, CROP_SIDE)
    (expected,) = network_detector._run([frame], [crop])
    torch_default(default)
    for opened in (network_detector, NetworkDetector()):
        assert opened.find([frame]) == [[]]  # noise
        (face,) = opened._run([frame], [crop])
        np.testing.assert_array_equal(face.landmarks, expected.landmarks)
