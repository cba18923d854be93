"""Constants of the Python modules that the exported page has in JavaScript, as one JavaScript module.

So there is one place for each number: the Python module.
"""

import importlib
import json
from typing import Any

import numpy as np

MODULES = (
    "talkinghead_kernels.bicubic",
    "talkinghead_kernels.rasterize",
    "talkinghead_kernels.warp_by_landmarks",
    "talkinghead.landmarks.eyelids",
    "talkinghead.landmarks.face_finder",
    "talkinghead.landmarks.gaze",
    "talkinghead.landmarks.landmark_image",
    "talkinghead.landmarks.network_detector",
    "talkinghead.landmarks.online",
    "talkinghead.landmarks.online_neutral",
    "talkinghead.landmarks.oriented_crop",
    "talkinghead.landmarks.retarget",
    "talkinghead.landmarks.smoothing",
    "talkinghead.networks.references",
)
"""Modules of which the page reads constants, most of them in the JavaScript module of the same name."""


def constants_module() -> str:
    """Return JavaScript that exports an object of constants for each of `MODULES`, such as `faceFinder`.

    The names are the Python ones, without an underscore at the start.
    """
    lines = ["// Written by `talkinghead export`: the constants of the Python modules of these names."]
    for module in MODULES:
        first, *others = module.rpartition(".")[2].split("_")
        name = first + "".join(word.capitalize() for word in others)
        lines.append(f"export const {name} = {json.dumps(module_constants(module))};")
    return "\n".join(lines) + "\n"


def module_constants(module: str) -> dict[str, Any]:
    """Return the numbers, sequences and arrays that a module names in capitals, as values of JSON."""
    return {
        name.lstrip("_"): _as_json(value)
        for name, value in vars(importlib.import_module(module)).items()
        if name.isupper() and _is_numeric(value)
    }


def _is_numeric(value: Any) -> bool:
    """Return whether a constant is of numbers alone."""
    if isinstance(value, (tuple, list)):
        return all(map(_is_numeric, value))
    return isinstance(value, (int, float, slice, np.ndarray))


def _as_json(value: Any) -> Any:
    """Return a constant as a value of JSON; a slice is its first index and the one after its last."""
    if isinstance(value, slice):
        return [value.start, value.stop]
    return np.asarray(value).tolist() if isinstance(value, np.ndarray) else value
