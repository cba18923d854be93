"""Frames that an exported page is to show."""

from pathlib import Path

import numpy as np

from talkinghead.engines.frame_format import to_uint8
from talkinghead.exporters.quantisation import engine_inputs
from talkinghead.model import Person
from talkinghead.system.onnx_runtime import RUNTIMES


def page_frames(network: Path, person: Person, points: np.ndarray) -> np.ndarray:
    """Return frames uint8 [N, size, size, 3] of a network of a page for points [N, 68 or 78, 2]."""
    run = RUNTIMES["onnxruntime"](network, "cpu", "fp32")
    inputs = engine_inputs(person, points.astype(np.float32))
    return np.concatenate([to_uint8(run(dict(row))) for row in inputs])
