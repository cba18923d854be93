"""Face detector, landmarks and irises of MediaPipe's face_landmarker.task, run by OpenVINO.

The task file (Apache-2.0) is the user's: it is given as `--landmarks PATH`. Its labels may train what ships.
Anchors, crops and decoding follow "BlazeFace" (Bazarevsky et al. 2019) and "Real-time Facial Surface
Geometry" (Kartynnik et al. 2019). The only module that reads a task file.
"""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..errors import TalkingheadError
from ..system.onnx_runtime import compile_by_openvino
from .detector import MIN_CONFIDENCE, CheckedDetector, Face
from .geometry import centre_and_scale
from .oriented_crop import OrientedCrop, crop_of_landmarks, sample_crops

SUFFIX = ".task"
"""Ending of the files that hold the networks."""
_MEMBERS = ("face_detector.tflite", "face_landmarks_detector.tflite")
_MAX_MEMBER_BYTES = 64 << 20
_DETECTOR_SIZE, _LANDMARK_SIZE = 128, 256  # pixels, inputs of the two networks
_MIN_SCORE = 0.5  # of a detected face
_MAX_OVERLAP = 0.3  # intersection over union of two boxes above which they are one face
_MAX_FACES = 32
_CROP_OF_BOX = 1.5  # side of the landmark network's crop, in longer sides of the detector's box
_CROP_OF_LANDMARKS = (4.8, 0.15)  # its side, and how far it is raised, in radii of the 68 landmarks
_VARIATIONS = ((0.0, 0.0, 1.0, 0.0), (0.03, 0.02, 1.06, 4.0), (-0.03, -0.02, 0.95, -4.0))
"""Shifts in sides, scale, and rotation in degrees of the crops in which a face is fitted."""
_MAX_SPREAD = 0.1  # of the landmarks over these crops, in radii, at which confidence is 0

# fmt: off
LANDMARKS_68 = (
    (127,), (234,), (93,), (132, 58), (58,), (136,), (150,), (176,), (152,), (400,), (379,), (365,), (288,),
    (361, 288), (323,), (454,), (356,),  # jaw
    (70, 46), (63, 53), (105, 52), (66, 65), (107, 55),  # brows
    (336, 285), (296, 295), (334, 282), (293, 283), (300, 276),
    (168,), (197,), (5,), (4,), (75, 64), (97,), (2,), (326,), (305, 294),  # nose
    (33,), (160,), (158,), (133,), (153,), (144,),  # eyes
    (362,), (385,), (387,), (263,), (373,), (380,),
    (61,), (39,), (37,), (0,), (267,), (269,), (291,), (405,), (314,), (17,), (84,), (181,),  # lips
    (78,), (82,), (13,), (312,), (308,), (317,), (14,), (87,),
)
# fmt: on
"""Points of the 478 whose mean is each of the 68 landmarks."""
_FIRST_IRIS = 468


class FaceLandmarkerDetector(CheckedDetector):
    """Detector of 68 iBUG landmarks and the irises by MediaPipe's networks, on the CPU.

    A face is fitted in three slightly different crops: the mean of the landmarks jitters less than one fit,
    and their spread measures how far they agree.

    Args:
        path: a face_landmarker.task.
        num_crops: 3, or 1, which takes half as long.

    Raises:
        TalkingheadError: OpenVINO is not installed, or the file is missing or no such file.
    """

    name = "face-landmarker"

    def __init__(self, path: str | Path, num_crops: int = 3) -> None:
        self._path, self._num_crops = Path(path), num_crops
        self._detect, self._fit_mesh = _open_networks(self._path)
        self._anchors = _anchors()

    def __reduce__(self) -> tuple[type["FaceLandmarkerDetector"], tuple[Path, int]]:
        return FaceLandmarkerDetector, (self._path, self._num_crops)  # another process opens its own networks

    def _find_faces(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [self._find(frame) for frame in frames]

    def _follow_face(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        faces: list[Face] = []
        for frame in frames:
            face = self._fit(frame, crop_of_landmarks(near, *_CROP_OF_LANDMARKS))
            if face.confidence < MIN_CONFIDENCE / 2:
                break
            faces.append(face)
            near = face.landmarks
        return faces

    def _find(self, frame: np.ndarray) -> list[Face]:
        crops = self._boxes(frame)
        first = [self._fit(frame, crop) for crop in crops]
        faces = [self._fit(frame, crop_of_landmarks(face.landmarks, *_CROP_OF_LANDMARKS)) for face in first]
        return sorted(faces, key=lambda face: -face.box[2])

    def _boxes(self, frame: np.ndarray) -> list[OrientedCrop]:
        """Return the landmark network's crop of each face, of the most certain first."""
        height, width = frame.shape[:2]
        whole = OrientedCrop(width / 2, height / 2, float(max(height, width)))
        pixels = sample_crops([frame], [whole], _DETECTOR_SIZE).mul_(2).sub_(1)
        boxes, scores = self._detect(_channels_last(pixels))
        scores = 1 / (1 + np.exp(-np.clip(scores[0, :, 0], -80, 80)))
        values = boxes[0].reshape(-1, 8, 2) / _DETECTOR_SIZE
        values[:, [0, *range(2, 8)]] += self._anchors[:, None]
        chosen: list[np.ndarray] = []
        for index in np.argsort(-scores):
            if scores[index] < _MIN_SCORE or len(chosen) == _MAX_FACES:
                break
            if all(_overlap(values[index], other) < _MAX_OVERLAP for other in chosen):
                chosen.append(values[index])
        return [_crop_of_box(whole, box) for box in chosen]

    def _fit(self, frame: np.ndarray, crop: OrientedCrop) -> Face:
        """Return the face in a crop; confidence 0 without a face."""
        crops = [
            crop.varied((x, y), scale, degrees) for x, y, scale, degrees in _VARIATIONS[: self._num_crops]
        ]
        pixels = sample_crops([frame] * len(crops), crops, _LANDMARK_SIZE)
        mesh, score = self._fit_mesh(_channels_last(pixels))
        fits = mesh.reshape(len(crops), -1, 3)[..., :2] / _LANDMARK_SIZE
        points = np.stack([one.to_frame(fit) for one, fit in zip(crops, fits, strict=True)])
        landmarks = np.stack([points[:, indices].mean(axis=1) for indices in map(list, LANDMARKS_68)], axis=1)
        mean = landmarks.mean(axis=0)
        radius = max(float(centre_and_scale(mean)[1]), 1e-6)
        spread = float(np.sqrt(((landmarks - mean) ** 2).sum(axis=2).mean())) / radius
        presence = 1 / (1 + np.exp(-np.clip(float(np.median(score)), -80, 80)))
        irises = points[:, _FIRST_IRIS:].mean(axis=0).reshape(2, 5, 2)
        confidence = presence * max(0.0, 1 - spread / _MAX_SPREAD)
        return Face(mean.astype(np.float32), float(confidence), irises.astype(np.float32))


Network = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A function from pictures float32 [N, S, S, 3] to its first two outputs."""


def _open_networks(path: Path) -> tuple[Network, Network]:
    """Return the detector and the landmark network of a task file."""
    try:
        with zipfile.ZipFile(path) as archive, TemporaryDirectory() as folder:
            networks = []
            for name in _MEMBERS:
                info = archive.getinfo(name)
                if info.file_size > _MAX_MEMBER_BYTES:
                    raise ValueError(f"{name} claims {info.file_size} bytes")
                (Path(folder) / name).write_bytes(archive.read(info))
                networks.append(compile_by_openvino(Path(folder) / name))
    except TalkingheadError:
        raise
    except FileNotFoundError as error:
        raise TalkingheadError(f"{path}: no such file; give a face_landmarker.task of MediaPipe") from error
    except Exception as error:  # zipfile and OpenVINO raise many types
        raise TalkingheadError(
            f"{path}: cannot be read as a face_landmarker.task ({_first_line(error)}); fetch the file again"
        ) from error
    detector, mesh = networks
    return _outputs(detector, "regressors", "classificators"), _outputs(mesh, "Identity", "Identity_1")


def _outputs(network: Any, *names: str) -> Network:
    """Return a function that runs a network and returns two of its outputs."""

    def run(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = network(pixels)
        first, second = (np.asarray(result[name]) for name in names)
        return first, second

    return run


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _anchors() -> np.ndarray:
    """Return the centres of the detector's anchors in fractions of its picture, float32 [896, 2]."""
    levels = []
    for cells, count in ((16, 2), (8, 6)):
        centres = (np.arange(cells) + 0.5) / cells
        x, y = np.meshgrid(centres, centres)
        levels.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), count, axis=0))
    return np.concatenate(levels).astype(np.float32)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection over union of two boxes, whose rows 0 and 1 are centre and size."""
    low = np.maximum(one[0] - one[1] / 2, other[0] - other[1] / 2)
    high = np.minimum(one[0] + one[1] / 2, other[0] + other[1] / 2)
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / max(float(np.prod(one[1]) + np.prod(other[1])) - shared, 1e-9)


def _crop_of_box(whole: OrientedCrop, box: np.ndarray) -> OrientedCrop:
    """Return the crop of a detected face [8, 2]: centre, size, then right and left eye and four others."""
    right_eye, left_eye = whole.to_frame(box[2]), whole.to_frame(box[3])
    x, y = whole.to_frame(box[0])
    across = left_eye - right_eye
    side = _CROP_OF_BOX * float(box[1].max()) * whole.side
    return OrientedCrop(float(x), float(y), max(side, 1.0), float(np.arctan2(across[1], across[0])))


def _channels_last(pixels: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
