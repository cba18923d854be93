"""Choice of the landmark detector."""

from ..constants import DETECTORS
from ..errors import TalkingheadError
from ..system.device import choose_device
from .detector import CheckedDetector, Detector
from .dlib_detector import DlibDetector
from .face_alignment_detector import FaceAlignmentDetector
from .face_landmarker_detector import SUFFIX, FaceLandmarkerDetector
from .network_detector import NetworkDetector


def open_detector(name: str = "auto", device: str = "cpu") -> CheckedDetector:
    """Open the landmark detector of that name.

    Args:
        name: "network", or "auto", the default: the networks that ship with the package. "dlib",
            "face-alignment" (fetches its weights when they are missing), or the path of a
            face_landmarker.task of MediaPipe, which OpenVINO runs on the CPU, or of a landmark network,
            .safetensors or .onnx.
        device: where face-alignment and networks run, such as "cpu", "cuda" or "cuda:1"; the others run
            on the CPU.

    Raises:
        TalkingheadError: the name is unknown, the detector or its model is not installed, or it cannot run on
            the device.
    """
    if name.endswith(SUFFIX):
        if device != "cpu":
            raise TalkingheadError(f"{name}: runs on the cpu, not on {device!r}; leave the device out")
        return FaceLandmarkerDetector(name)
    if name.endswith((".onnx", ".safetensors")):
        return NetworkDetector(str(choose_device(device)), name)
    if name in ("auto", "network"):
        return NetworkDetector(str(choose_device(device)))
    if name.partition(":")[0] in ("cpu", "cuda"):
        raise TalkingheadError(
            f"detector {name!r}: is a device; give a detector that was opened there by "
            f'talkinghead.landmarks.open_detector.open_detector("network", {name!r})'
        )
    if name not in DETECTORS:
        raise TalkingheadError(
            f"landmarks {name!r}: no such detector; choose one of {', '.join(DETECTORS)}, or name a "
            f"face_landmarker{SUFFIX}"
        )
    if name == "face-alignment":
        return FaceAlignmentDetector(device)
    if device != "cpu":
        raise TalkingheadError(f"dlib: runs on the cpu, not on {device!r}; leave the device out")
    return DlibDetector()


def resolve_detector(detector: Detector | str | None) -> Detector:
    """Return a detector, opened by its name where it is one; None is "auto".

    Raises:
        TalkingheadError: as for `open_detector`, or it is neither a detector nor a name.
    """
    if detector is None or isinstance(detector, str):
        return open_detector(detector or "auto")
    if not callable(getattr(detector, "find", None)):
        raise TalkingheadError(
            f"detector: got {type(detector).__name__}; give one of {', '.join(DETECTORS)}, or a Detector"
        )
    return detector
