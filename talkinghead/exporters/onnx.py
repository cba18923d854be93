"""ONNX export: one file that runs without torch and without this package, in onnxruntime, OpenVINO, TensorRT
and others.

Plain operators of opset 20 (22 for bf16), no custom ones: our ops are exported in their decompositions,
resampling is folded into the weights, and every norm is a LayerNormalization in float32 in all precisions;
files for browsers have instance norms.
"""

from pathlib import Path
from typing import Any

import torch

from ..engines.manifest import Manifest, embed_checksum
from ..errors import require
from ..model import Person
from ..system.quiet import suppress_warnings
from ..version import __version__
from .frame_module import BROWSER_FORMS, RESAMPLE_FORMS, FrameModule, export_program
from .instance_norm import merge_instance_norms

OPSETS = {"fp32": 20, "fp16": 20, "bf16": 22}
"""The lowest opset whose operators support a precision."""
_MANIFEST_KEY = "talkinghead"
BATCH_DIMENSION = "N"
"""Name of the number of rows of inputs and outputs."""


def write_onnx(
    person: Person,
    path: Path,
    precision: str = "fp32",
    batch: int = 8,
    input: str = "points",
    output: str = "uint8",
    name: str = "",
    for_browser: bool = False,
) -> Manifest:
    """Write a person as ONNX and return the manifest that the file contains.

    Args:
        person: whose engine it is.
        path: the file; written in place.
        precision, batch, input, output: as in `talkinghead.engines.manifest.EngineSpec`.
        name: the person's file, for the manifest.
        for_browser: write the graph that onnxruntime-web is fastest in; for a batch of 1.

    Raises:
        TalkingheadError: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "onnx")
    forms = BROWSER_FORMS if for_browser else RESAMPLE_FORMS[precision]
    module = FrameModule(person, precision, input, output, forms=forms)
    opset = OPSETS[precision]
    with suppress_warnings("torch"), suppress_warnings("onnxscript"):
        onnx_program = torch.onnx.export(
            export_program(module, batch),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=module.input_names(),
            output_names=["frames"],
        )
    assert onnx_program is not None
    manifest = Manifest.of(
        person,
        "onnx",
        precision,
        batch,
        input=input,
        output=output,
        name=name,
        details={"opset": opset, "torch": torch.__version__},
    )
    model = onnx_program.model
    if for_browser:
        merge_instance_norms(model)
    _name_batch_dimension(model)
    model.metadata_props[_MANIFEST_KEY] = manifest.to_json()
    model.producer_name, model.producer_version = "talkinghead", __version__
    onnx_program.save(path, external_data=False)
    embed_checksum(path)
    return manifest


def _name_batch_dimension(model: Any) -> None:
    """Call the number of rows N in an onnx_ir model, where torch calls it by a symbol such as s32."""
    symbols = {str(value.shape[0]) for value in model.graph.inputs if not isinstance(value.shape[0], int)}
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        if value.shape is not None:
            value.shape = type(value.shape)(
                [BATCH_DIMENSION if str(size) in symbols else size for size in value.shape]
            )
