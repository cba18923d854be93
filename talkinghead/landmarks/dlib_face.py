"""dlib's face detector, 68 landmarks and face descriptor: all offline, from the `face-recognition-models` package or Debian's libdlib-data.

The only module that imports dlib.
"""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import TalkingheadError, require

_SEARCH_SIDE = 640  # longer side in pixels of the picture that is searched first
_NEAR_FACE = 110  # a face this large is found without upsampling (dlib's own template is 80 px)
_SURE = 0.2  # dlib's score, from which a face anywhere is believed; where one is expected, 0 is enough
_POINTS_FACE = 200  # dlib rounds its points to whole pixels: on a face of this size that is 1/200 of it


class DlibDetector:
    """68 iBUG landmarks of the largest face by dlib, on the CPU.

    Raises:
        TalkingheadError: dlib or its landmark model is not installed.
    """

    name = "dlib"
    choice_reason = "dlib: asked for by name"

    def __init__(self) -> None:
        _face_detector()
        _shape_predictor()

    def __call__(self, frame: np.ndarray, near: np.ndarray | None = None) -> np.ndarray | None:
        """Landmarks of one frame.

        Args:
            frame: uint8 [H, W, 3], RGB.
            near: landmarks float [68, 2] of the frame before, if any: the face is first looked for around them.

        Returns:
            float32 [68, 2], continuous pixels of `frame`; None when no face is found.
        """
        box = _find_face(frame, near)
        return None if box is None else _points(frame, box)[0]


def face_descriptor(frame: np.ndarray) -> np.ndarray | None:
    """What dlib's face-recognition network says of the largest face: pictures of one person are nearer than about 0.6 (Euclidean).

    Args:
        frame: uint8 [H, W, 3], RGB.

    Returns:
        float32 [128]; None when no face is found.

    Raises:
        TalkingheadError: dlib or one of its models is not installed.
    """
    box = _find_face(frame, None)
    if box is None:
        return None
    _, window, shape = _points(frame, box)
    return np.asarray(_recogniser().compute_face_descriptor(window, shape), dtype=np.float32)


def _find_face(frame: np.ndarray, near: np.ndarray | None) -> np.ndarray | None:
    """The largest face as float64 [left, top, right, bottom] in pixels of `frame`."""
    if near is not None:
        low, high = near.min(axis=0), near.max(axis=0)
        side = float((high - low).max())
        centre = (low + high) / 2
        found = _search(frame, centre - 1.1 * side, centre + 1.1 * side, _NEAR_FACE / side, 0.0)
        if found is not None:
            return found
    height, width = frame.shape[:2]
    scale = min(1.0, _SEARCH_SIDE / max(height, width))
    for enlarged in (1, 2, 4):  # one that is found without upsampling is found soonest
        if enlarged > 1 and max(height, width) * scale * enlarged > 2 * _SEARCH_SIDE:
            break
        found = _search(frame, np.zeros(2), np.array([width, height]), scale * enlarged, _SURE)
        if found is not None:
            return found
    return None


def _search(frame: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float, score: float) -> np.ndarray | None:
    window, origin, factor = _window(frame, low, high, scale)
    faces = _face_detector().run(window, 0, score)[0]
    if not faces:
        return None
    face = max(faces, key=lambda rectangle: rectangle.area())
    corners = np.array([[face.left(), face.top()], [face.right() + 1, face.bottom() + 1]], dtype=np.float64)
    return (corners / factor + origin).reshape(4)


def _points(frame: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """Landmarks float32 [68, 2] in pixels of `frame`, and the window and dlib shape they were found as."""
    low, high = box[:2], box[2:]
    side = float((high - low).max())
    window, origin, factor = _window(frame, low - side / 2, high + side / 2, _POINTS_FACE / side)
    left, top = np.rint((low - origin) * factor).astype(int).tolist()
    right, bottom = np.rint((high - origin) * factor - 1).astype(int).tolist()
    shape = _shape_predictor()(window, require("dlib", "dlib").rectangle(left, top, right, bottom))
    pixels = np.array([[part.x + 0.5, part.y + 0.5] for part in shape.parts()])
    return (pixels / factor + origin).astype(np.float32), window, shape


def _window(frame: np.ndarray, low: np.ndarray, high: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of `frame` between two corners, resized; its origin [2] and its scale [2] (x, y) for the way back."""
    limit = np.array(frame.shape[1::-1])
    # at least one pixel, also for a box that left the frame
    origin = np.clip(np.floor(low), 0, limit - 1).astype(int)
    end = np.clip(np.ceil(high), origin + 1, limit).astype(int)
    part = np.ascontiguousarray(frame[origin[1] : end[1], origin[0] : end[0]])
    width, height = np.maximum(np.rint((end - origin) * scale), 1).astype(int).tolist()
    if (height, width) != part.shape[:2]:
        planes = torch.from_numpy(part).permute(2, 0, 1)[None]
        planes = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
        resized = np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())
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
