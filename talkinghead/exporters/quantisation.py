"""Convolutions in 8 bits: engines that are smaller, and faster where the processor has no better."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engines.frame_format import to_uint8
from ..engines.verify import pooled_psnr_db
from ..errors import require
from ..landmarks.face_points import fit_points
from ..landmarks.landmark_image import landmark_image
from ..landmarks.sample_motion import sample_motion
from ..model import Person
from ..networks.references import ReferenceViewer
from ..system.onnx_runtime import RUNTIMES

METHODS = ("MinMax", "Percentile")
"""Ways of onnxruntime to choose the ranges of maps from calibration inputs."""
MIN_PSNR_DB = 35.0
"""PSNR to the frames in float32 below which an engine in 8 bits is not kept."""

Inputs = Mapping[str, np.ndarray]


def quantise_convolutions(
    engine: Path, out: Path, calibration: Sequence[Inputs], method: str = "MinMax"
) -> None:
    """Write an ONNX engine whose convolutions compute in 8 bits, weights by channel.

    Args:
        engine: ONNX file in float32.
        out: the file; written in place.
        calibration: inputs by name, of which the ranges of maps are measured.
        method: one of `METHODS`.

    Raises:
        TalkingheadError: onnxruntime is not installed.
    """
    quantization: Any = require("onnxruntime.quantization", "onnx")
    shape_inference: Any = require("onnxruntime.quantization.shape_inference", "onnx")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._rows: Iterator[Inputs] = iter(calibration)

        def get_next(self) -> Inputs | None:
            return next(self._rows, None)

    with tempfile.TemporaryDirectory() as folder, _without_warnings():
        prepared = Path(folder) / "prepared.onnx"
        shape_inference.quant_pre_process(str(engine), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(out),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=getattr(quantization.CalibrationMethod, method),
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Let sessions that onnxruntime opens itself log errors alone."""
    onnxruntime: Any = require("onnxruntime", "onnx")
    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # its default


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
