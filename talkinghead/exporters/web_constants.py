"""Constants of the Python modules that the exported page has in JavaScript, as one JavaScript module.

So there is one place for each number: the Python module.
"""

import json
from types import ModuleType
from typing import Any

import numpy as np
from talkinghead_kernels import rasterize

from ..landmarks import (
    detection_network,
    detector,
    face_finder,
    gaze,
    landmark_image,
    network,
    network_detector,
    online,
    online_neutral,
    oriented_crop,
    retarget,
    smoothing,
)

MODULES: tuple[ModuleType, ...] = (
    detection_network,
    detector,
    face_finder,
    gaze,
    landmark_image,
    network,
    network_detector,
    online,
    online_neutral,
    oriented_crop,
    rasterize,
    retarget,
    smoothing,
)
"""Modules of which the page has a JavaScript module of the same name, or reads constants."""


def constants_module() -> str:
    """Return JavaScript that exports an object of constants for each of `MODULES`, such as `faceFinder`.

    The names are the Python ones, without an underscore at the start.
    """
    lines = ["// Written by `talkinghead export`: the constants of the Python modules of these names."]
    for module in MODULES:
        first, *others = module.__name__.rpartition(".")[2].split("_")
        name = first + "".join(word.capitalize() for word in others)
        lines.append(f"export const {name} = {json.dumps(module_constants(module))};")
    return "\n".join(lines) + "\n"


def module_constants(module: ModuleType) -> dict[str, Any]:
    """Return the numbers, sequences and arrays that a module names in capitals, as values of JSON."""
    return {
        name.lstrip("_"): _as_json(value)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, (int, float, tuple, list, slice, np.ndarray))
    }


def _as_json(value: Any) -> Any:
    """Return a constant as a value of JSON; a slice is its first index and the one after its last."""
    if isinstance(value, slice):
        return [value.start, value.stop]
    return np.asarray(value).tolist() if isinstance(value, np.ndarray) else value
