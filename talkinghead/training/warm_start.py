"""Initial weights of meta-learning from another model: of the same preset, or of one with smaller images."""

import torch
from torch import Tensor

from ..dataset.episodes import EpisodeSource
from ..errors import TalkingheadError
from ..landmarks.landmark_image import landmark_image
from ..model import Model, networks_of
from ..networks import Embedder, ReferenceGuidedGenerator, resize_area


def load_compatible_weights(model: Model, parent: Model) -> None:
    """Load the weights of another model, whose images may have another size.

    E and V sum over space, so on images twice as large their sums are four times as large. P reads E's sum
    without the gain, so its weights are divided by four. A reference-guided G takes the weights of a plain
    one; the weights of its additional channels start at 0.

    Raises:
        TalkingheadError: their networks have other shapes.
    """
    pairs = zip(networks_of(model).items(), networks_of(parent).values(), strict=True)
    for (name, network), parent_network in pairs:
        own, weights = network.state_dict(), parent_network.state_dict()
        becomes_guided = isinstance(network, ReferenceGuidedGenerator) and not isinstance(
            parent_network, ReferenceGuidedGenerator
        )
        if becomes_guided:
            weights = _with_zero_channels(weights, own)
        unequal = sorted(
            key for key, tensor in own.items() if key not in weights or weights[key].shape != tensor.shape
        )
        if unequal or len(weights) != len(own):
            where = unequal[0] if unequal else "its layers"
            raise TalkingheadError(
                f"--init-from: the {name} of preset {parent.config.preset} does not fit that of preset "
                f"{model.config.preset} ({where}); start from a model of the same channels, or from random "
                "weights"
            )
        network.load_state_dict(weights)
    if model.generator.projection is not None:
        ratio = parent.config.networks.layer_size / model.config.networks.layer_size
        with torch.no_grad():
            model.generator.projection.weight.mul_(ratio**2)


def _with_zero_channels(weights: dict[str, Tensor], guided: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a plain G with zeros for the additional input and output channels of a
    reference-guided one.
    """
    padded = dict(weights)
    for key in ("down.0.conv1.weight", "down.0.shortcut.weight", "out.weight", "out.bias"):
        if (
            key in weights
            and weights[key].dim() == guided[key].dim()
            and weights[key].shape[2:] == guided[key].shape[2:]
        ):
            padded[key] = torch.zeros_like(guided[key])
            padded[key][tuple(slice(length) for length in weights[key].shape)] = weights[key]
    return padded


@torch.no_grad()
def init_video_embeddings(
    video_embeddings: Tensor, embedder: Embedder, source: EpisodeSource, size: int
) -> None:
    """Set each video embedding in W [N, D], or in this rank's rows of W, to E's embedding of its video at
    `size` pixels.

    With random values instead, the matching loss would pull E towards noise.
    """
    for column, video_embedding in zip(source.own_columns, video_embeddings, strict=True):
        frames, points = (tensor.to(video_embeddings.device) for tensor in source.clip_for_column(column))
        landmark_images = landmark_image(points, size)
        video_embedding.copy_(embedder(resize_area(frames, size), landmark_images).mean(0))
