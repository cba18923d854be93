"""Conversion of a generator's images to the frames that an engine returns."""

import numpy as np
import torch
from torch import Tensor

from ..media.pixel_range import float_to_levels, float_to_uint8


def to_output_format(images: Tensor, output: str) -> Tensor:
    """Convert images float32 [B, 3, H, W] in [-1, 1] to the output format of an engine.

    Args:
        images: of the generator.
        output: "float" returns them unchanged; "uint8" converts to uint8 [B, H, W, 3].
    """
    if output == "float":
        return images
    # the cast comes last because TensorRT supports uint8 only as an input or output of the network
    return float_to_levels(images).permute(0, 2, 3, 1).contiguous().to(torch.uint8)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Convert images float [B, 3, H, W] in [-1, 1] to frames uint8 [B, H, W, 3]."""
    return float_to_uint8(images).transpose(0, 2, 3, 1)
