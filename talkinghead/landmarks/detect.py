"""Which landmark detector runs, and why."""

from typing import Protocol

import numpy as np

from ..errors import TalkingheadError
from .dlib_face import DlibDetector
from .face_alignment_detector import FaceAlignmentDetector, unavailable, weights_folder

DETECTORS = ("auto", "dlib", "face-alignment")


class Detector(Protocol):
    """Finds the 68 iBUG landmarks of the largest face of a frame.

    Attributes:
        name: "dlib" or "face-alignment".
        choice_reason: one line that says which detector runs and why.
    """

    name: str
    choice_reason: str

    def __call__(self, frame: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
        """Landmarks float32 [68, 2] in continuous pixels of `frame` (uint8 [H, W, 3], RGB), or None without a face.

        `near`, landmarks of a frame before, says where to look first: a face there is taken, and only without one the largest elsewhere.
        """


def open_detector(name: str = "auto", device: str = "cpu") -> Detector:
    """The landmark detector of that name.

    Args:
        name: "dlib" (offline), "face-alignment" (fetches its weights when they are missing), or "auto": face-alignment when it is
            installed and its weights are at hand, else dlib; nothing is downloaded.
        device: "cpu" or "cuda", for face-alignment; dlib runs on the CPU.

    Raises:
        TalkingheadError: the name is unknown, or the detector or its model is not there.
    """
    if name not in DETECTORS:
        raise TalkingheadError(f"landmarks {name!r}: no such detector, expected one of {', '.join(DETECTORS)}")
    detector: Detector
    if name == "dlib":
        return DlibDetector()
    if name == "face-alignment":
        return FaceAlignmentDetector(device)
    lacking = unavailable()
    if lacking:
        detector = DlibDetector()
        detector.choice_reason = f"dlib: {lacking}"
    else:
        detector = FaceAlignmentDetector(device)
        detector.choice_reason = f"face-alignment: its weights are in {weights_folder()}"
    return detector
