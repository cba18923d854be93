"""Comparison of engines in 8 bits with those in float32, on a short motion of a person."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..engines.frame_format import to_uint8
from ..engines.verify import pooled_psnr_db
from ..landmarks.face_points import fit_points
from ..landmarks.landmark_image import landmark_image
from ..landmarks.sample_motion import sample_motion
from ..model import Person
from ..networks.references import ReferenceViewer
from ..system.onnx_runtime import RUNTIMES, Inputs

MIN_PSNR_DB = 35.0
"""PSNR to the frames in float32 below which an engine in 8 bits is not kept."""


def sample_inputs(person: Person) -> list[Inputs]:
    """Return the inputs of an engine of landmark images and constant styles for a short motion."""
    return engine_inputs(person, sample_motion(person.neutral_landmarks, person.config.networks.num_points))


def engine_inputs(person: Person, points: np.ndarray) -> list[Inputs]:
    """Return the inputs of an engine of landmark images and constant styles, for one frame each.

    Args:
        person: whose engine it is.
        points: float32 [N, 68 or 78, 2], fractions of the crop; a network without irises draws none.
    """
    networks = person.config.networks
    viewer = None if person.references is None else ReferenceViewer(person.references)
    inputs = list[Inputs]()
    for row in points[:, None]:
        image_points = torch.from_numpy(fit_points(row, networks.num_points))
        image = landmark_image(image_points, networks.layer_size)
        views = {} if viewer is None else viewer(row)._asdict()
        inputs.append({name: value.numpy() for name, value in {"image": image, **views}.items()})
    return inputs


def least_psnr_db(engine: Path, other: Path, inputs: Sequence[Inputs]) -> float:
    """Return the least PSNR in dB between frames of two ONNX engines, whose output is float.

    Raises:
        TalkingheadError: onnxruntime is not installed.
    """
    first, second = (RUNTIMES["onnxruntime"](path, "cpu", "fp32") for path in (engine, other))
    return min(pooled_psnr_db(to_uint8(second(dict(row))), to_uint8(first(dict(row)))) for row in inputs)
