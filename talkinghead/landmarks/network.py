"""Landmark network: 68 points, two irises, how sure each is, and whether there is a face, from a crop.

An inverted-residual network (Sandler et al. 2018) reduces a picture of 128 x 128 to 8 x 8 cells. Each cell
votes for each point with a weight and an offset; a point is the mean of these votes (integral regression, Sun
et al. 2018, with offsets), so it is differentiable in the picture and jitters little.

An iris moves by two pixels when a person looks aside, too little for cells of 16. So the votes above say only
where it may be, and 32 x 32 cells near there vote again.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip import POINTS, POINTS_WITH_IRISES
from .network_blocks import InvertedResidual, MeanOfVotes, conv, has_weights, load_weights

SIZE = 128
"""Side of the pictures in pixels."""
CROP_SIDE = 3.8
"""Side of a crop in root-mean-square radii of the face's landmarks."""
CELLS = 8
"""Cells of the last feature map in a row."""
NUM_POINTS = POINTS_WITH_IRISES
_IRIS_CELLS = 32
"""Cells of the feature map that votes for irises, in a row."""
_FINE_LAYERS = 3
"""First layers of the network, whose feature map has 32 x 32 cells."""
_IRIS_VOTES = "iris_votes."
_IRIS_REACH = 0.05
"""Distance, in fractions of the crop, within which cells vote for an iris: about half the width of an eye."""
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


class IrisVotes(nn.Module):
    """Votes of small cells for the points of irises, near where they were found roughly."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*[InvertedResidual(24, 24, expand=3) for _ in range(2)])
        self.votes = nn.Conv2d(24, 3 * (NUM_POINTS - POINTS), 1)
        for parameter in self.votes.parameters():
            nn.init.zeros_(parameter)
        self.mean_of_votes = MeanOfVotes(_IRIS_CELLS, _IRIS_REACH)

    def forward(self, features: Tensor, rough: Tensor) -> Tensor:
        """Return the points of the irises, [B, 10, 2].

        Args:
            features: [B, 24, 32, 32].
            rough: [B, 10, 2], where they are roughly, as fractions of the crop.
        """
        middle = rough.unflatten(1, (2, -1)).mean(dim=2, keepdim=True).expand(-1, -1, 5, -1).flatten(1, 2)
        return self.mean_of_votes(self.votes(self.features(features)), middle)


class LandmarkNetwork(nn.Module):
    """Network from crops to landmarks, of 0.35 million parameters and 45 million multiplications.

    Args:
        has_iris_votes: False for weights without them, as those of 2026-11-30 and before.
    """

    def __init__(self, has_iris_votes: bool = True) -> None:
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
        self.mean_of_votes = MeanOfVotes(CELLS)
        nn.init.zeros_(self.summary.weight)
        self.iris_votes = IrisVotes() if has_iris_votes else None

    def forward(self, pictures: Tensor) -> LandmarkOutput:
        """Locate the landmarks in crops.

        Args:
            pictures: floating-point [B, 3, 128, 128], RGB, 0..1.
        """
        fine = self.features[:_FINE_LAYERS]((pictures * 4).sub_(2))
        features = self.features[_FINE_LAYERS:](fine)
        points = self.mean_of_votes(self.votes(features))
        if self.iris_votes is not None:
            irises = self.iris_votes(fine, points[:, POINTS:])
            points = torch.cat([points[:, :POINTS], irises], dim=1)
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
    # leave the caller's random state, and defaults of dtype and device, out of it
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        network = LandmarkNetwork(has_iris_votes=has_weights(path, _IRIS_VOTES)).float()
    return load_weights(network, path, KIND)


def load_initial_weights(network: LandmarkNetwork, path: Path) -> LandmarkNetwork:
    """Load the weights of a file into a new network, which keeps its own where the file has none.

    Raises:
        TalkingheadError: as for `load_landmark_network`.
    """
    votes = network.iris_votes
    if not has_weights(path, _IRIS_VOTES):
        network.iris_votes = None
    load_weights(network, path, KIND)
    network.iris_votes = votes
    return network
