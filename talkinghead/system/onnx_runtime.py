"""Runtimes of ONNX files, onnxruntime and OpenVINO, as functions of named arrays; and quantisation."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import TalkingheadError, require
from .signal_stack import preserve_signal_stack

Call = Callable[[dict[str, np.ndarray]], np.ndarray]
"""A function from inputs by name to the first output."""
Inputs = Mapping[str, np.ndarray]
METHODS = ("MinMax", "Percentile")
"""Ways of onnxruntime to choose the ranges of maps from calibration inputs."""


def onnxruntime_session(path: Path, device: str = "cpu") -> Any:
    """Open an onnxruntime.InferenceSession that logs nothing.

    Raises:
        TalkingheadError: onnxruntime is not installed, or not for this device.
        Exception: of several types, when onnxruntime cannot run the file.
    """
    runtime = require("onnxruntime", "onnx")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4  # the caller reports problems, in one line
    settings.intra_op_num_threads = torch.get_num_threads()
    # otherwise its threads spin for 50 ms after a run, on cores that the caller's next step needs
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    if provider not in runtime.get_available_providers():
        raise TalkingheadError(
            f"onnx: this onnxruntime has no {provider}; use --device cpu, or pip install onnxruntime-gpu"
        )
    torch_device = torch.device(device)
    options = [{"device_id": torch_device.index or 0}] if torch_device.type == "cuda" else None
    session = runtime.InferenceSession(str(path), settings, providers=[provider], provider_options=options)
    if provider not in session.get_providers():  # onnxruntime falls back to the CPU silently
        raise TalkingheadError(
            "onnx: onnxruntime cannot start CUDA here; use --device cpu, or install the CUDA libraries it "
            "asks for"
        )
    return session


def run_by_onnxruntime(path: Path, device: str, precision: str) -> Call:
    """Open a file with onnxruntime, on a CPU or GPU; raises as `onnxruntime_session`."""
    session = onnxruntime_session(path, device)
    return lambda inputs: session.run(None, inputs)[0]


def run_by_openvino(path: Path, device: str, precision: str) -> Call:
    """Open a file with OpenVINO, on a CPU.

    Raises:
        TalkingheadError: openvino is not installed.
        RuntimeError: OpenVINO cannot run the file.
    """
    network = compile_by_openvino(path, precision)
    return lambda inputs: network(inputs)[0]


def compile_by_openvino(path: Path, precision: str = "fp32") -> Any:
    """Compile an ONNX or TFLite file for the CPU; raises as `run_by_openvino`."""
    openvino = require("openvino", "onnx")
    # OpenVINO's default is bf16 wherever the CPU has it, whatever precision the file has
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    with preserve_signal_stack():
        return openvino.Core().compile_model(str(path), "CPU", settings)


RUNTIMES: dict[str, Callable[[Path, str, str], Call]] = {
    "openvino": run_by_openvino,
    "onnxruntime": run_by_onnxruntime,
}
"""Name of a runtime -> its function of file, device and precision."""


def choose_runtime(device: str, precision: str) -> str:
    """Choose a runtime: on a CPU OpenVINO where it is installed, else onnxruntime; on a GPU onnxruntime.

    Raises:
        TalkingheadError: no installed runtime supports the precision.
    """
    if device != "cpu":
        return "onnxruntime"
    try:
        require("openvino", "onnx")
    except TalkingheadError as error:
        if precision == "bf16":  # onnxruntime has no bf16 kernels for CPUs
            raise TalkingheadError(
                f"onnx: of the runtimes for CPUs only OpenVINO runs bf16: {error}"
            ) from error
        return "onnxruntime"
    return "openvino"


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
            reduce_range=True,  # 7 bits for weights: sums of products overflow on older processors
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
