"""Loss of the landmark network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip import POINTS, POINTS_WITH_IRISES
from .network import LandmarkOutput

_LINEAR_BEYOND = 0.02  # fractions of the crop: errors above weigh linearly, below like their logarithm
_CURVATURE = 0.003
_IRIS_WEIGHT = 3.0  # of a point of an iris: its way within the eye is short, and shows where the person looks
_SCALE_WEIGHT, _PRESENCE_WEIGHT = 0.05, 0.3


def landmark_loss(
    output: LandmarkOutput, points: Tensor, known: Tensor, presence: Tensor
) -> dict[str, Tensor]:
    """Return the loss and its parts.

    The points' loss is the wing loss (Feng et al. 2018). Their scales learn the size of the errors by the
    likelihood of a Laplace distribution, without changing the points.

    Args:
        output: of the network, for B crops.
        points: [B, 78, 2], the truth in fractions of the crop.
        known: [B, 78], 1 where it is known, 0 elsewhere.
        presence: [B], 1 where the crop shows a face.

    Returns:
        Scalars "loss", "error" (mean distance in fractions of the crop), "scale" and "presence".
    """
    importance = known.new_ones(POINTS_WITH_IRISES)
    importance[POINTS:] = _IRIS_WEIGHT
    weight = known * importance
    count = known.sum().clamp(min=1)
    distance = (output.points - points).square().sum(dim=-1).add(1e-12).sqrt()
    wing = torch.where(
        distance < _LINEAR_BEYOND,
        _LINEAR_BEYOND * torch.log1p(distance / _CURVATURE),
        distance - _LINEAR_BEYOND + _LINEAR_BEYOND * torch.log1p(torch.tensor(_LINEAR_BEYOND / _CURVATURE)),
    )
    error = (distance.detach() * known).sum() / count
    log_scale = output.log_scale.clamp(-9, 1)
    likelihood = (log_scale + distance.detach() * torch.exp(-log_scale)) * known
    parts = {
        "points": 100 * (wing * weight).sum() / weight.sum().clamp(min=1),
        "scale": _SCALE_WEIGHT * likelihood.sum() / count,
        "presence": _PRESENCE_WEIGHT * F.binary_cross_entropy_with_logits(output.presence, presence),
    }
    return {"loss": parts["points"] + parts["scale"] + parts["presence"], "error": error, **parts}
