"""Landmark detector of our own: networks that ship with the package find faces, 68 points and the irises."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..clip import IRIS_POINTS, POINTS
from ..errors import TalkingheadError
from ..system.file_hash import sha256
from ..system.onnx_runtime import RUNTIMES, choose_runtime
from .detector import CheckedDetector, Face
from .face_finder import FaceFinder
from .network import (
    CROP_SIDE,
    SHIPPED,
    SIZE,
    LandmarkRows,
    load_landmark_network,
)
from .network_blocks import load_on_device
from .oriented_crop import OrientedCrop, crop_of_landmarks, crops_of_landmarks, sample_crops

_MIN_PRESENCE = 0.5  # probability of a face in a crop, below which a detection was wrong
_MIN_DETECTED_CONFIDENCE = 0.4  # of a detected face; less certain ones are none
_LARGE_FACE_SHARE = 0.08  # of the frame's longer side: with such a face, no small ones are looked for
_MIN_DISTANCE = 0.35  # of the centres of two faces, in sides of the larger
_MAX_SHIFT, _MAX_GROWTH, _MAX_TURN = 0.05, 1.1, 0.12  # of a crop: beyond, a face is fitted once more
_PERFECT_SCALE, _WORST_SCALE = -4.6, -2.6  # mean log scale of the points at confidence 1 and 0
_MIN_TRACKED_CONFIDENCE = 0.15  # of a face that is followed
_BATCH = 16


class NetworkDetector(CheckedDetector):
    """Detector of 68 iBUG landmarks and the irises by the landmark network.

    Args:
        device: where the network runs, such as "cpu" or "cuda".
        weights: file of the network, or an .onnx of it (`talkinghead export-landmarks`), which runs in
            OpenVINO or onnxruntime; the one that ships by default.

    Raises:
        TalkingheadError: the file cannot be read, or its runtime is not installed.
    """

    name = "network"

    def __init__(self, device: str = "cpu", weights: str | Path = SHIPPED) -> None:
        self._device, self._weights = device, Path(weights)
        self._finder = FaceFinder(device)
        self._run_network = _open_network(self._weights, device)

    def __reduce__(self) -> tuple[type["NetworkDetector"], tuple[str | Path, ...]]:
        # another process loads its own network, on another machine perhaps from another folder
        shipped = self._weights == SHIPPED
        return NetworkDetector, (self._device,) if shipped else (self._device, self._weights)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights of both networks, one after the other."""
        return f"{sha256(self._weights)}{sha256(self._finder.weights)}"

    def _find_faces(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        faces_of_frames = self._confirm(frames, [self._finder.find(frame, CROP_SIDE) for frame in frames])
        unsure = [
            index
            for index, (frame, faces) in enumerate(zip(frames, faces_of_frames, strict=True))
            if not _shows_large_face(frame, faces)
        ]
        parts = [self._finder.find_small(frames[index], CROP_SIDE) for index in unsure]
        small_faces = self._confirm([frames[index] for index in unsure], parts)
        for index, faces in zip(unsure, small_faces, strict=True):
            faces_of_frames[index] = _without_repeats([*faces_of_frames[index], *faces])
        return [sorted(faces, key=lambda face: -face.box[2]) for faces in faces_of_frames]

    def _confirm(
        self, frames: Sequence[np.ndarray], crops_of_frames: Sequence[list[OrientedCrop]]
    ) -> list[list[Face]]:
        """Return the faces of each frame that the landmark network sees in the crops, each face once."""
        repeated = [frame for frame, crops in zip(frames, crops_of_frames, strict=True) for _ in crops]
        faces = iter(self._fit(repeated, list(chain.from_iterable(crops_of_frames)), is_certain=False))
        fitted = [list(islice(faces, len(crops))) for crops in crops_of_frames]
        return [
            _without_repeats([face for face in row if face.confidence >= _MIN_DETECTED_CONFIDENCE])
            for row in fitted
        ]

    def _follow_face(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        faces: list[Face] = []
        for start in range(0, len(frames), _BATCH):
            batch = frames[start : start + _BATCH]
            crop = crop_of_landmarks(near, CROP_SIDE)
            fitted = self._fit(batch, [crop] * len(batch), is_certain=True)
            for face in fitted:
                if face.confidence < _MIN_TRACKED_CONFIDENCE:
                    return faces
                faces.append(face)
            near = fitted[-1].landmarks
        return faces

    def _fit(
        self, frames: Sequence[np.ndarray], crops: Sequence[OrientedCrop], is_certain: bool
    ) -> list[Face]:
        """Return the face in each crop; it is fitted once more where it lies elsewhere in the crop.

        Args:
            frames: one for each crop.
            crops: where the faces are expected.
            is_certain: whether a crop is of the face in an adjacent frame, not of a box.
        """
        faces = self._run(frames, crops)
        if not faces:
            return faces
        fitted = crops_of_landmarks(np.stack([face.landmarks for face in faces]), CROP_SIDE)
        pairs = zip(crops, fitted, strict=True)
        moved = [index for index, pair in enumerate(pairs) if not is_certain or _has_moved(*pair)]
        if moved:
            refitted = self._run([frames[index] for index in moved], [fitted[index] for index in moved])
            for index, face in zip(moved, refitted, strict=True):
                faces[index] = face
        return faces

    def _run(self, frames: Sequence[np.ndarray], crops: Sequence[OrientedCrop]) -> list[Face]:
        """Run the network on crops, in batches."""
        faces: list[Face] = []
        for start in range(0, len(frames), _BATCH):
            part = crops[start : start + _BATCH]
            pictures = sample_crops(frames[start : start + _BATCH], part, SIZE)
            faces += _faces(self._run_network(pictures), part)
        return faces


def _open_network(path: Path, device: str) -> Callable[[Tensor], np.ndarray]:
    """Return a function from pictures to the rows of `LandmarkRows`."""
    if path.suffix.lower() == ".onnx":
        try:
            call = RUNTIMES[choose_runtime(device, "fp32")](path, device, "fp32")
        except TalkingheadError:
            raise
        except Exception as error:  # runtimes raise many types
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise TalkingheadError(
                f"{path}: cannot be run as a landmark network ({reason}); write one with: talkinghead "
                "export-landmarks"
            ) from error
        return lambda pictures: call({"pictures": pictures.contiguous().numpy()})
    network = LandmarkRows(load_on_device(load_landmark_network(path), device))

    def run(pictures: Tensor) -> np.ndarray:
        with torch.inference_mode():
            return network(pictures.to(device)).cpu().numpy()

    return run


def _faces(rows: np.ndarray, crops: Sequence[OrientedCrop]) -> list[Face]:
    """Return the faces of the network's rows [N, 79, 3] for N crops."""
    places = np.array([(crop.x, crop.y, crop.side) for crop in crops])
    axes = np.stack([crop.axes for crop in crops])
    points = ((rows[:, :-1, :2] - np.float64(0.5)) @ axes + places[:, None, :2]).astype(np.float32)
    log_scale = rows[:, :POINTS, 2]
    expected_errors = (np.exp(log_scale) * places[:, 2:]).astype(np.float32)
    certainties = zip(rows[:, -1, 0].tolist(), log_scale.mean(axis=1).tolist(), strict=True)
    confidences = [_confidence(logit, mean) for logit, mean in certainties]
    return [
        Face(place[:POINTS], confidence, place[POINTS:].reshape(2, IRIS_POINTS, 2), expected_error)
        for place, confidence, expected_error in zip(points, confidences, expected_errors, strict=True)
    ]


def _confidence(logit: float, mean_log_scale: float) -> float:
    """Return the confidence of a face from the logit of its presence; 0 without a face."""
    presence = 1 / (1 + math.exp(-min(max(logit, -50.0), 50.0)))
    certainty = (_WORST_SCALE - mean_log_scale) / (_WORST_SCALE - _PERFECT_SCALE)
    return 0.0 if presence < _MIN_PRESENCE else presence * min(max(certainty, 1e-3), 1.0)


def _shows_large_face(frame: np.ndarray, faces: Sequence[Face]) -> bool:
    """Return whether one of the faces of a frame is so large that others, much smaller, do not matter."""
    return any(face.box[2] >= _LARGE_FACE_SHARE * max(frame.shape[:2]) for face in faces)


def _without_repeats(faces: Sequence[Face]) -> list[Face]:
    """Return faces of which several crops show one, once: the most certain."""
    chosen: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.confidence):
        x, y, size = face.box
        boxes = [other.box for other in chosen]
        if all(np.hypot(x - u, y - v) > _MIN_DISTANCE * max(size, other) for u, v, other in boxes):
            chosen.append(face)
    return chosen


def _has_moved(crop: OrientedCrop, other: OrientedCrop) -> bool:
    """Return whether two crops differ so much that a face in the other is fitted better."""
    growth = other.side / crop.side
    return (
        math.hypot(other.x - crop.x, other.y - crop.y) > _MAX_SHIFT * crop.side
        or not 1 / _MAX_GROWTH < growth < _MAX_GROWTH
        or abs(math.remainder(other.angle - crop.angle, 2 * math.pi)) > _MAX_TURN
    )
