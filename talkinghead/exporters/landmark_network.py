"""ONNX export of the landmark network: plain operators of opset 20, with the normalisations folded."""

from pathlib import Path

import torch

from ..errors import require
from ..landmarks.network import (
    SHIPPED,
    SIZE,
    LandmarkRows,
    load_landmark_network,
)
from ..landmarks.network_blocks import prepare_for_inference
from ..system.atomic_file import atomic_write
from ..system.quiet import suppress_warnings
from ..version import __version__

OPSET = 20
MAX_BATCH = 64
"""Largest batch of the file."""


def export_landmark_network(path: str | Path, weights: str | Path = SHIPPED) -> None:
    """Write the landmark network as ONNX.

    Its input "pictures" is float32 [B, 3, 128, 128], RGB, 0..1, of B = 1 to 64 crops. Its output "rows" is
    float32 [B, 79, 3]: x and y in fractions of the crop and the logarithm of the expected error, of 68
    landmarks and two irises of 5 points; then the logit of whether the crop shows a face, 0 and 0.

    Args:
        path: the file.
        weights: file of the network; the one that ships by default.

    Raises:
        TalkingheadError: onnx or onnxscript is not installed, `weights` cannot be read, or `path` cannot be
            written to.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "onnx")
    module = LandmarkRows(prepare_for_inference(load_landmark_network(Path(weights)))).eval()
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    pictures = torch.rand(2, 3, SIZE, SIZE)
    with suppress_warnings("torch"):
        program = torch.onnx.export(
            torch.export.export(module, (pictures,), dynamic_shapes=({0: batch},)),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["pictures"],
            output_names=["rows"],
        )
    assert program is not None
    program.model.producer_name, program.model.producer_version = "talkinghead", __version__
    with atomic_write(Path(path)) as temp_path:
        program.save(temp_path, external_data=False)
