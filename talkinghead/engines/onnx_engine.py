"""The ONNX engine: runs in onnxruntime or OpenVINO."""

from pathlib import Path

import numpy as np

from ..errors import TalkingheadError
from ..system.onnx_runtime import RUNTIMES, choose_runtime
from ..system.quiet import suppress_stderr
from .base import Engine, first_line
from .manifest import read_embedded


class OnnxEngine(Engine):
    """Engine of an ONNX file: on a CPU run by OpenVINO where it is installed, else by onnxruntime; on a GPU
    by onnxruntime.

    Args:
        path: what `talkinghead.exporters.onnx.write_onnx` wrote.
        device: "cpu" or "cuda".
        runtime: "openvino" or "onnxruntime"; by default as above.

    Attributes:
        manifest: of the file.
        runtime: the one that runs.

    Raises:
        TalkingheadError: the file is missing, cut or edited, or no runtime that can run it is installed.
    """

    def __init__(self, path: str | Path, device: str = "cpu", runtime: str | None = None) -> None:
        path = Path(path)
        self.manifest = read_embedded(path)
        self.spec = self.manifest.spec
        self.runtime = runtime or choose_runtime(device, self.manifest.precision)
        try:
            with suppress_stderr():  # runtimes print what they cannot read, and raise it too
                self._call = RUNTIMES[self.runtime](path, device, self.manifest.precision)
        except TalkingheadError:
            raise
        except Exception as error:  # each runtime has its own exception types
            raise TalkingheadError(
                f"{path}: {self.runtime} cannot run it ({first_line(error)}); export it in another precision"
            ) from error

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._call(inputs)
