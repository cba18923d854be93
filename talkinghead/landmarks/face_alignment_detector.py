"""The face-alignment package: a heat-map network for 68 landmarks behind the S3FD face detector.

The only module that imports face_alignment.
"""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import torch

from ..errors import TalkingheadError, require

WEIGHTS = ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth")
"""The files that the package looks up by these exact names in the folder `checkpoints` of ``torch.hub.get_dir()``."""


def weights_folder() -> Path:
    """Where the weights are looked for: ``$TORCH_HOME/hub/checkpoints``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def unavailable() -> str:
    """Why the detector cannot run without a download, in a few words; empty when it can."""
    if importlib.util.find_spec("face_alignment") is None:
        return "face-alignment is not installed"
    missing = _missing()
    return f"face-alignment's weights {' and '.join(missing)} are not in {weights_folder()}" if missing else ""


class FaceAlignmentDetector:
    """68 iBUG landmarks of the largest face by face-alignment's 2DFAN-4. Weights that are missing are downloaded by the package.

    Args:
        device: "cpu" or "cuda".

    Raises:
        TalkingheadError: the package is not installed, or its weights can be neither found nor downloaded, or do not fit.
    """

    name = "face-alignment"
    choice_reason = "face-alignment: asked for by name"

    def __init__(self, device: str = "cpu") -> None:
        package = require("face_alignment", "landmarks")
        try:
            # compiling would cost minutes and a cache in the user's home
            self._network = package.FaceAlignment(package.LandmarksType.TWO_D, device=device, compile=False)
        except OSError as error:
            raise TalkingheadError(
                f"face-alignment: {' and '.join(_missing()) or 'its weights'} cannot be fetched ({error}); "
                f"put them into {weights_folder()} or use --landmarks dlib"
            ) from error
        except (RuntimeError, AssertionError, EOFError, pickle.UnpicklingError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TalkingheadError(
                f"face-alignment: cannot be set up on {device} with the weights in {weights_folder()} ({reason}); "
                "delete the files to fetch them again, or use --landmarks dlib"
            ) from error

    def __call__(self, frame: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
        """Landmarks float32 [68, 2] in continuous pixels of `frame` (uint8 [H, W, 3], RGB), or None without a face; `near` is ignored."""
        faces = self._network.face_detector.detect_from_image(frame.copy())
        if len(faces) == 0:
            return None
        largest = max(faces, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        return np.asarray(self._network.get_landmarks_from_image(frame, detected_faces=[largest])[0], dtype=np.float32)


def _missing() -> list[str]:
    return [name for name in WEIGHTS if not (weights_folder() / name).is_file()]
