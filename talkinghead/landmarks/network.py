"""Landmark network: 68 points, two irises, how sure each is, and whether there is a face, from a crop.

An inverted-residual network (Sandler et al. 2018) reduces a picture of 128 x 128 to 8 x 8 cells. Each cell
votes for each point with a weight and an offset; a point is the mean of these votes (integral regression, Sun
et al. 2018, with offsets), so it is differentiable in the picture and jitters little.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip import POINTS_WITH_IRISES
from .network_blocks import InvertedResidual, conv, load_weights

SIZE = 128
"""Side of the pictures in pixels."""
CROP_SIDE = 3.8
"""Side of a crop in root-mean-square radii of the face's landmarks."""
CELLS = 8
"""Cells of the last feature map in a row."""
NUM_POINTS = POINTS_WITH_IRISES
KIND = "landmark network"
SHIPPED = Path(__file__).with_name("landmark_network.safetensors")
"""File of the weights that ship with the package."""


class LandmarkOutput(NamedTuple):
    """Output of the network for B crops.

    Attributes:
        points: float32 [B, 78, 2], fractions of the crop: the 68 landmarks, then the irises [2, 5].
        log_scale: float32 [B, 78], logarithm of the expected error of each point in fractions of the crop.
        presence: float32 [B], logit of whether the crop shows a face.
    """

    points: Tensor
    log_scale: Tensor
    presence: Tensor


class LandmarkNetwork(nn.Module):
    """Network from crops to landmarks, of 0.34 million parameters and 36 million multiplications."""

    centres: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *[
                conv(3, 16, stride=2),
                conv(16, 24, stride=2),
                InvertedResidual(24, 24, expand=2),
                InvertedResidual(24, 48, expand=3, stride=2),
                InvertedResidual(48, 48, expand=2),
                InvertedResidual(48, 48, expand=2),
                InvertedResidual(48, 96, expand=4, stride=2),
                InvertedResidual(96, 96, expand=3, kernel=5),
                InvertedResidual(96, 96, expand=3, kernel=5),
                InvertedResidual(96, 96, expand=3, kernel=5),
                conv(96, 192, kernel=1),
            ]
        )
        self.votes = nn.Conv2d(192, 3 * NUM_POINTS, 1)
        self.summary = nn.Linear(192, NUM_POINTS + 1)
        centres = (torch.arange(CELLS, dtype=torch.float32) + 0.5) / CELLS
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("centres", torch.stack([columns, rows]).reshape(2, -1), persistent=False)
        nn.init.zeros_(self.summary.weight)

    def forward(self, pictures: Tensor) -> LandmarkOutput:
        """Locate the landmarks in crops.

        Args:
            pictures: floating-point [B, 3, 128, 128], RGB, 0..1.
        """
        features = self.features(pictures * 4 - 2)
        votes = self.votes(features).float().unflatten(1, (3, NUM_POINTS)).flatten(3)
        weights = votes[:, 0].softmax(dim=-1)
        places = self.centres[:, None] + votes[:, 1:] * (1 / CELLS)
        points = (places * weights[:, None]).sum(dim=-1).permute(0, 2, 1)
        summary = self.summary(features.float().mean(dim=(2, 3)))
        return LandmarkOutput(points, summary[:, :NUM_POINTS] - 4.0, summary[:, NUM_POINTS])


class LandmarkRows(nn.Module):
    """The network with one output, as exported files and their runtimes have it.

    Args:
        network: of `prepare_for_inference` or `load_on_device`.
    """

    def __init__(self, network: LandmarkNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        """Locate the landmarks in crops [B, 3, 128, 128].

        Returns:
            float32 [B, 79, 3]: x, y and log scale of each of the 78 points; then presence, 0, 0.
        """
        points, log_scale, presence = self.network(pictures)
        last = F.pad(presence[:, None, None], (0, 2))
        return torch.cat([torch.cat([points, log_scale[..., None]], dim=2), last], dim=1)


def load_landmark_network(path: Path) -> LandmarkNetwork:
    """Return the network of a file that `save_network` wrote, for training or inference.

    Raises:
        TalkingheadError: the file is missing, damaged, or holds something else.
    """
    with torch.random.fork_rng(devices=[]):  # leave the caller's random state unchanged
        network = LandmarkNetwork()
    return load_weights(network, path, KIND)
