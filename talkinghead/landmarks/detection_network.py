"""Detection network: the faces of a picture of 160 x 160, each with its centre, size and roll.

Anchor-free (Zhou et al. 2019, "Objects as Points"): each of 20 x 20 cells has the logit of a face whose
centre lies in it, the place of the centre, the size and the roll. A coarser level sees what surrounds a cell.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network_blocks import InvertedResidual, conv, load_weights

SIZE = 160
"""Side of the pictures in pixels."""
CELLS = 20
"""Cells in a row."""
KIND = "detection network"
SHIPPED = Path(__file__).with_name("detection_network.safetensors")
"""File of the weights that ship with the package."""


class DetectionOutput(NamedTuple):
    """Output of the network for B pictures.

    Attributes:
        logits: float32 [B, 400], of a face in each cell, row by row.
        centres: float32 [B, 400, 2], fractions of the picture.
        log_radii: float32 [B, 400], logarithm of the root-mean-square radius of the face's landmarks in
            fractions of the picture.
        rolls: float32 [B, 400, 2], cosine and sine of the roll, not normalised.
    """

    logits: Tensor
    centres: Tensor
    log_radii: Tensor
    rolls: Tensor


class DetectionNetwork(nn.Module):
    """Network from pictures to faces."""

    centres: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *[
                conv(3, 12, stride=2),
                conv(12, 20, stride=2),
                InvertedResidual(20, 20, expand=2),
                InvertedResidual(20, 40, expand=3, stride=2),
                InvertedResidual(40, 40, expand=3),
                InvertedResidual(40, 40, expand=3),
            ]
        )
        self.context = nn.Sequential(
            *[
                InvertedResidual(40, 64, expand=4, stride=2),
                InvertedResidual(64, 64, expand=3, kernel=5),
                InvertedResidual(64, 64, expand=3, kernel=5),
                InvertedResidual(64, 64, expand=3, kernel=5),
                conv(64, 40, kernel=1, relu=False),
            ]
        )
        self.merge = nn.Sequential(
            InvertedResidual(40, 40, expand=3, kernel=5), InvertedResidual(40, 40, expand=3)
        )
        self.head = nn.Conv2d(40, 6, 1)
        steps = (torch.arange(CELLS, dtype=torch.float32) + 0.5) / CELLS
        rows, columns = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("centres", torch.stack([columns, rows], dim=-1).reshape(-1, 2), persistent=False)
        # at the start faces are rare, of a tenth of the picture, and upright
        self.head.bias = nn.Parameter(torch.tensor([-4.6, 0.0, 0.0, -2.0, 1.0, 0.0]))

    def forward(self, pictures: Tensor) -> DetectionOutput:
        """Find the faces of pictures.

        Args:
            pictures: floating-point [B, 3, 160, 160], RGB, 0..1.
        """
        fine = self.stem(pictures * 4 - 2)
        coarse = F.interpolate(self.context(fine), scale_factor=2.0, mode="nearest")
        values = self.head(self.merge(fine + coarse)).float().flatten(2).transpose(1, 2)
        centres = self.centres + values[..., 1:3] * (1 / CELLS)
        return DetectionOutput(values[..., 0], centres, values[..., 3], values[..., 4:6])


def detection_loss(output: DetectionOutput, faces: Tensor, count: Tensor) -> dict[str, Tensor]:
    """Return the loss and its parts.

    Cells near a face's centre are neither right nor wrong (penalty-reduced focal loss, Law and Deng 2018).

    Args:
        output: for B pictures.
        faces: [B, N, 4], centre x and y, and radius in fractions of the picture, and roll in radians.
        count: [B], how many of the N faces each picture has.

    Returns:
        Scalars "loss", "centre" (mean distance in radii), "presence", "place", "size" and "roll".
    """
    present = (torch.arange(faces.shape[1]) < count[:, None]).float()
    step = 1 / CELLS
    cells = (faces[..., :2] * CELLS).floor().clamp(0, CELLS - 1).long()
    index = cells[..., 1] * CELLS + cells[..., 0]
    middles = (cells.float() + 0.5) * step
    grid = (torch.arange(CELLS, dtype=torch.float32) + 0.5) * step
    across = (grid[None, None, None, :] - middles[..., 0, None, None]).square()
    down = (grid[None, None, :, None] - middles[..., 1, None, None]).square()
    spread = (0.35 * faces[..., 2]).clamp(min=0.6 * step)[..., None, None]
    heat = torch.exp(-(across + down) / (2 * spread.square())) * present[..., None, None]
    target = heat.amax(dim=1).flatten(1)
    is_centre = (target > 0.999).float()
    probability = output.logits.sigmoid()
    right = -F.logsigmoid(output.logits) * (1 - probability).square() * is_centre
    wrong = -F.logsigmoid(-output.logits) * probability.square() * (1 - target).pow(4) * (1 - is_centre)
    number = present.sum().clamp(min=1)

    def at_faces(values: Tensor) -> Tensor:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))

    centres, radii = at_faces(output.centres), at_faces(output.log_radii[..., None])[..., 0]
    rolls = at_faces(output.rolls)
    safe = faces[..., 2].clamp(min=1e-3)
    off = (centres - faces[..., :2]).norm(dim=-1) / safe
    direction = torch.stack([faces[..., 3].cos(), faces[..., 3].sin()], dim=-1)
    parts = {
        "presence": (right + wrong).sum() / number,
        "place": 2 * (off * present).sum() / number,
        "size": 2 * ((radii - safe.log()).abs() * present).sum() / number,
        "roll": ((rolls - direction).abs().sum(dim=-1) * present).sum() / number,
    }
    return {"loss": sum(parts.values(), torch.zeros(())), "centre": (off * present).sum() / number, **parts}


def load_detection_network(path: Path) -> DetectionNetwork:
    """Return the network of a file that `save_network` wrote, for training or inference.

    Raises:
        TalkingheadError: the file is missing, damaged, or holds something else.
    """
    # leave the caller's random state, and defaults of dtype and device, out of it
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        network = DetectionNetwork().float()
    return load_weights(network, path, KIND)
