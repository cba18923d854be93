"""Landmark detector of the package face-alignment: S3FD for faces and a heat-map network for 68 landmarks.

The only module that imports face_alignment.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import TalkingheadError, require
from .detector import CheckedDetector, Face

WEIGHTS = ("2DFAN4-11f355bf06.pth.tar", "s3fd-619a316812.pth")
"""Names of the files that the package reads in the folder `checkpoints` of ``torch.hub.get_dir()``."""
_MIN_TRACKED_CONFIDENCE = 0.2
"""Smallest mean peak of the heat maps of a tracked face: about 1 on a clear one, near 0 without one."""
_BATCH_SIZE = 8  # faces of a frame that are fitted at once


def weights_folder() -> Path:
    """Return the folder of the weights: ``$TORCH_HOME/hub/checkpoints``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


class FaceAlignmentDetector(CheckedDetector):
    """Detector of 68 iBUG landmarks by face-alignment's 2DFAN-4; the package downloads missing weights.

    The confidence is the mean height of the 68 heat maps' peaks.

    Args:
        device: "cpu" or "cuda".

    Raises:
        TalkingheadError: the package is not installed, or its weights can be neither found nor downloaded, or
            do not fit.
    """

    name = "face-alignment"

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        package = require("face_alignment", "landmarks")
        try:
            # without compiling, which takes minutes and a cache in the user's home
            self._network = package.FaceAlignment(
                package.LandmarksType.TWO_D, device=device, compile=False, max_batch_size=_BATCH_SIZE
            )
        except OSError as error:
            raise TalkingheadError(
                f"face-alignment: {' and '.join(_missing_weights()) or 'its weights'} cannot be fetched "
                f"({error}); put them into {weights_folder()} or use --landmarks network"
            ) from error
        except (RuntimeError, AssertionError, EOFError, pickle.UnpicklingError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TalkingheadError(
                f"face-alignment: cannot be set up on {device} with the weights in {weights_folder()} "
                f"({reason}); "
                "delete the files to fetch them again, or use --landmarks network"
            ) from error

    def _find_faces(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Find all faces of each frame, in one batch."""
        batch = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        boxes_per_frame = self._network.face_detector.detect_from_batch(batch)
        return [
            self._fit(frame, sorted(boxes, key=_area, reverse=True))
            for frame, boxes in zip(frames, boxes_per_frame, strict=True)
        ]

    def _follow_face(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        faces: list[Face] = []
        for frame in frames:
            face = self._fit(frame, [_box_around(near)])[0]
            if face.confidence < _MIN_TRACKED_CONFIDENCE:
                break
            faces.append(face)
            near = face.landmarks
        return faces

    def __reduce__(self) -> tuple[type["FaceAlignmentDetector"], tuple[str]]:
        return FaceAlignmentDetector, (self._device,)  # another process loads its own network

    def _fit(self, frame: np.ndarray, boxes: list[np.ndarray]) -> list[Face]:
        if not boxes:
            return []
        points, scores, _ = self._network.get_landmarks_from_image(
            frame, detected_faces=boxes, return_landmark_score=True
        )
        return [
            Face(np.asarray(landmarks, dtype=np.float32), float(np.clip(np.mean(score), 0, 1)))
            for landmarks, score in zip(points, scores, strict=True)
        ]


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _box_around(landmarks: np.ndarray) -> np.ndarray:
    """Return the box of the face detector for landmarks; it includes the forehead, which has none."""
    (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
    return np.array([left, top - 0.25 * (bottom - top), right, bottom])


def _missing_weights() -> list[str]:
    return [name for name in WEIGHTS if not (weights_folder() / name).is_file()]
