"""Runtimes of ONNX files: onnxruntime and OpenVINO, each as a function of named arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import TalkingheadError, require

Call = Callable[[dict[str, np.ndarray]], np.ndarray]
"""The first output, for inputs by their names."""


def onnxruntime_session(path: Path, device: str = "cpu") -> Any:
    """An onnxruntime.InferenceSession that says nothing of its own accord.

    Raises:
        TalkingheadError: onnxruntime is not installed, or not for this device.
        Exception: of many kinds, where it cannot run the file.
    """
    runtime = require("onnxruntime", "onnx")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 4  # what is wrong is told by the caller, in one line
    settings.intra_op_num_threads = torch.get_num_threads()
    # its threads would go on waiting busily for 50 ms, on the cores that whatever comes next needs
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    wanted = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    if wanted not in runtime.get_available_providers():
        raise TalkingheadError(f"onnx: this onnxruntime has no {wanted}; use --device cpu, or pip install onnxruntime-gpu")
    there = torch.device(device)
    options = [{"device_id": there.index or 0}] if there.type == "cuda" else None
    session = runtime.InferenceSession(str(path), settings, providers=[wanted], provider_options=options)
    if wanted not in session.get_providers():  # it falls back to the CPU without a word
        raise TalkingheadError("onnx: onnxruntime cannot start CUDA here; use --device cpu, or install the CUDA libraries it asks for")
    return session


def run_by_onnxruntime(path: Path, device: str, precision: str) -> Call:
    """On a CPU or GPU; raises as `onnxruntime_session`."""
    session = onnxruntime_session(path, device)
    return lambda given: session.run(None, given)[0]


def run_by_openvino(path: Path, device: str, precision: str) -> Call:
    """On a CPU.

    Raises:
        TalkingheadError: openvino is not installed.
        RuntimeError: it cannot run the file.
    """
    core = require("openvino", "onnx").Core()
    # its own default is bf16 wherever the CPU has it, whatever the file says
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    network = core.compile_model(str(path), "CPU", settings)
    return lambda given: network(given)[0]


RUNTIMES: dict[str, Callable[[Path, str, str], Call]] = {"openvino": run_by_openvino, "onnxruntime": run_by_onnxruntime}
"""By name; a function of the file, the device and the precision."""


def choose_runtime(device: str, precision: str) -> str:
    """On a CPU OpenVINO where it is installed, else onnxruntime; on a GPU onnxruntime.

    Raises:
        TalkingheadError: none is installed that runs this.
    """
    if device != "cpu":
        return "onnxruntime"
    try:
        require("openvino", "onnx")
    except TalkingheadError as error:
        if precision == "bf16":  # onnxruntime's CPU kernels know none
            raise TalkingheadError(f"onnx: of the runtimes for CPUs only OpenVINO runs bf16: {error}") from error
        return "onnxruntime"
    return "openvino"
