"""Which landmark detector runs, and why."""

from ..errors import TalkingheadError
from .dlib_face import DlibDetector
from .face import Detector
from .face_alignment_detector import FaceAlignmentDetector, unavailable, weights_folder

DETECTORS = ("auto", "dlib", "face-alignment")


def open_detector(name: str = "auto", device: str = "cpu") -> Detector:
    """The landmark detector of that name.

    Args:
        name: "dlib" (offline), "face-alignment" (fetches its weights when they are missing), or "auto": face-alignment when it is
            installed and its weights are at hand, else dlib; nothing is downloaded.
        device: where face-alignment runs, such as "cpu", "cuda" or "cuda:1"; dlib runs on the CPU.

    Raises:
        TalkingheadError: the name is unknown, the detector or its model is not there, or it cannot run on the device.
    """
    if name not in DETECTORS:
        raise TalkingheadError(f"landmarks {name!r}: no such detector, expected one of {', '.join(DETECTORS)}")
    lacking = unavailable() if name == "auto" else ""
    detector: Detector
    if name == "dlib" or lacking:
        if device != "cpu":
            raise TalkingheadError(f"dlib: runs on the cpu, not on {device!r}{f' ({lacking})' * bool(lacking)}; leave the device out")
        detector = DlibDetector()
        reason = lacking
    else:
        detector = FaceAlignmentDetector(device)
        reason = f"its weights are in {weights_folder()}"
    if name == "auto":
        detector.choice_reason = f"{detector.name}: {reason}"
    return detector
