"""ONNX: one file that runs where there is neither torch nor this package, in onnxruntime, OpenVINO, TensorRT and others.

Plain operators of opset 20 (22 for bf16), no custom ones: the ops go out in their decompositions, resampling folded into the weights, every
norm as LayerNormalization in float32 whatever the file's precision.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from talkinghead_kernels.export import decompositions

from ..checkpoint import Person
from ..errors import TalkingheadError, require
from ..media.pictures import no_stderr
from ..version import __version__
from .engine import Engine
from .frame import FrameNetwork
from .manifest import Manifest, check_seal_inside, seal_inside
from .sessions import RUNTIMES, choose_runtime

OPSETS = {"fp32": 20, "fp16": 20, "bf16": 22}
"""The lowest whose operators take the precision."""
_TRANSPOSED = {"upsample_conv": "upsample", "conv_downsample": "downsample"}
FORMS = {"fp32": _TRANSPOSED, "fp16": _TRANSPOSED, "bf16": {**_TRANSPOSED, "upsample_conv": "upsample_shuffle"}}
"""How resampling is folded, on whatever machine: files of one preset have the same weights to refit. TensorRT-RTX has no transposed
convolution in bf16."""
_KEY = "talkinghead"


def exported(network: FrameNetwork, batch: int, decomposed: bool = True) -> torch.export.ExportedProgram:
    """The network for 1 to `batch` frames at a time, in plain ATen if decomposed."""
    example = network.example(min(batch, 2))
    rows = {0: torch.export.Dim("batch", min=1, max=max(batch, 2))}  # of one there is no range
    others = ((rows,) * (len(example) - 1),) if len(example) > 1 else ()
    shapes = (rows, *others) if batch > 1 else None
    with torch.no_grad():
        program = torch.export.export(network, example, dynamic_shapes=shapes)
        return program.run_decompositions(decompositions()) if decomposed else program


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters and compilers say of their own parts."""
    chatty = logging.getLogger("torch")
    level = chatty.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chatty.setLevel(logging.ERROR)
        try:
            yield
        finally:
            chatty.setLevel(level)


def write_onnx(
    person: Person, path: Path, precision: str = "fp32", batch: int = 8, input: str = "points", output: str = "uint8", name: str = ""
) -> Manifest:
    """Write a person as ONNX.

    Args:
        person: whom.
        path: the file; written in place.
        precision, batch, input, output: as in `Manifest`.
        name: the person's file, for the record.

    Raises:
        TalkingheadError: onnx or onnxscript is not installed.
    """
    for module in ("onnx", "onnxscript"):
        require(module, "onnx")
    network = FrameNetwork(person, precision, input, output, FORMS[precision])
    opset, inputs = OPSETS[precision], network.input_names()
    with quiet():
        program = exported(network, batch)
        made = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=opset, input_names=inputs, output_names=["frames"])
    assert made is not None
    details = {"opset": opset, "torch": torch.__version__}
    manifest = Manifest.of(person, "onnx", precision, batch, input, output, name, details=details)
    made.model.metadata_props[_KEY] = manifest.to_json()
    made.model.producer_name, made.model.producer_version = "talkinghead", __version__
    made.save(path, external_data=False)
    seal_inside(path)
    return manifest


class OnnxEngine(Engine):
    """Runs an ONNX file of ours: on a CPU by OpenVINO where that is installed, else by onnxruntime; on a GPU by onnxruntime.

    Args:
        path: what `write_onnx` wrote.
        device: "cpu" or "cuda".
        runtime: "openvino" or "onnxruntime"; by default as above.

    Attributes:
        runtime: which one runs.

    Raises:
        TalkingheadError: the file is missing, cut or edited, or no runtime that can run it is installed.
    """

    def __init__(self, path: str | Path, device: str = "cpu", runtime: str | None = None) -> None:
        path = Path(path)
        self.manifest = check_seal_inside(path)
        self.runtime = runtime or choose_runtime(device, self.manifest.precision)
        try:
            with no_stderr():  # where runtimes complain of what they cannot read, beside raising
                self._call = RUNTIMES[self.runtime](path, device, self.manifest.precision)
        except TalkingheadError:
            raise
        except Exception as error:  # each runtime has a kind of its own for every complaint
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
            raise TalkingheadError(f"{path}: {self.runtime} cannot run it ({reason}); export it in another precision") from error

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._call(inputs)
