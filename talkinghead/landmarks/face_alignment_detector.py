"""The face-alignment package: a heat-map network for 68 landmarks behind the S3FD face detector.

The only module that imports face_alignment.
"""

import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import TalkingheadError, require
from .face import Face

WEIGHTS = ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth")
"""The files that the package looks up by these exact names in the folder `checkpoints` of ``torch.hub.get_dir()``."""
_LOST = 0.2  # mean height of the heat maps' peaks: about 1 where the network is sure, near 0 where it sees no face
_BATCH = 8  # faces of one frame that are fitted at once


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
    """68 iBUG landmarks by face-alignment's 2DFAN-4. Weights that are missing are downloaded by the package.

    Confidence is the mean height of the 68 heat maps' peaks.

    Args:
        device: "cpu" or "cuda".

    Raises:
        TalkingheadError: the package is not installed, or its weights can be neither found nor downloaded, or do not fit.
    """

    name = "face-alignment"
    choice_reason = "face-alignment: asked for by name"

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        package = require("face_alignment", "landmarks")
        try:
            # compiling would cost minutes and a cache in the user's home
            self._network = package.FaceAlignment(package.LandmarksType.TWO_D, device=device, compile=False, max_batch_size=_BATCH)
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

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """All faces of each frame uint8 [H, W, 3], RGB, the largest first; faces are searched for in one batch."""
        batch = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        found = self._network.face_detector.detect_from_batch(batch)
        return [self._fit(frame, sorted(boxes, key=_area, reverse=True)) for frame, boxes in zip(frames, found, strict=True)]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        """One face through consecutive frames, from its landmarks `near` [68, 2] beside the first; shorter when it is lost."""
        faces: list[Face] = []
        for frame in frames:
            face = self._fit(frame, [_box_around(near)])[0]
            if face.confidence < _LOST:
                break
            faces.append(face)
            near = face.landmarks
        return faces

    def __reduce__(self) -> tuple[type["FaceAlignmentDetector"], tuple[str]]:
        return FaceAlignmentDetector, (self._device,)  # another process opens its own

    def _fit(self, frame: np.ndarray, boxes: list[np.ndarray]) -> list[Face]:
        if not boxes:
            return []
        points, scores, _ = self._network.get_landmarks_from_image(frame, detected_faces=boxes, return_landmark_score=True)
        return [
            Face(np.asarray(each, dtype=np.float32), float(np.clip(np.mean(score), 0, 1)))
            for each, score in zip(points, scores, strict=True)
        ]


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _box_around(landmarks: np.ndarray) -> np.ndarray:
    """The box that the face detector would give: it holds the forehead, which has no landmarks."""
    (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
    return np.array([left, top - 0.25 * (bottom - top), right, bottom])


def _missing() -> list[str]:
    return [name for name in WEIGHTS if not (weights_folder() / name).is_file()]
