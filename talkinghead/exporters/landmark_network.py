"""ONNX export of the networks that find faces: plain operators of opset 20, the normalisations folded."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import require
from ..landmarks import detection_network, network
from ..landmarks.network_blocks import prepare_for_inference
from ..system.atomic_file import atomic_write
from ..system.quiet import suppress_warnings
from ..version import __version__

OPSET = 20
MAX_BATCH = 64
"""Largest batch of the file."""


class DetectionCells(nn.Module):
    """The detection network with one output.

    Args:
        network: of `prepare_for_inference`.
    """

    def __init__(self, network: detection_network.DetectionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        """Find the faces of pictures [B, 3, 160, 160].

        Returns:
            float32 [B, 400, 6]: of each cell the logit of a face, its centre x and y, the logarithm of its
            radius, and the cosine and sine of its roll.
        """
        logits, centres, log_radii, rolls = self.network(pictures)
        return torch.cat([logits[..., None], centres, log_radii[..., None], rolls], dim=2)


def export_landmark_network(path: str | Path, weights: str | Path = network.SHIPPED) -> None:
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
    prepared = prepare_for_inference(network.load_landmark_network(Path(weights)))
    _write_onnx(network.LandmarkRows(prepared), network.SIZE, path, "rows")


def export_detection_network(path: str | Path, weights: str | Path = detection_network.SHIPPED) -> None:
    """Write the detection network as ONNX.

    Its input "pictures" is float32 [B, 3, 160, 160], RGB, 0..1, of B = 1 to 64 pictures. Its output "cells"
    is that of `DetectionCells`.

    Args, Raises: as for `export_landmark_network`.
    """
    prepared = prepare_for_inference(detection_network.load_detection_network(Path(weights)))
    _write_onnx(DetectionCells(prepared), detection_network.SIZE, path, "cells")


def _write_onnx(module: nn.Module, size: int, path: str | Path, output: str) -> None:
    """Write a network from pictures of a size to one output."""
    for package in ("onnx", "onnxscript"):
        require(package, "onnx")
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    pictures = torch.rand(2, 3, size, size)
    with suppress_warnings("torch"):
        program = torch.onnx.export(
            torch.export.export(module.eval(), (pictures,), dynamic_shapes=({0: batch},)),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["pictures"],
            output_names=[output],
        )
    assert program is not None
    program.model.producer_name, program.model.producer_version = "talkinghead", __version__
    with atomic_write(Path(path)) as temp_path:
        program.save(temp_path, external_data=False)
