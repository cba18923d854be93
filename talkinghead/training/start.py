"""Meta-learning that starts from a model: its own preset's on other people, or a smaller picture's network on larger pictures."""

import torch
from torch import Tensor

from ..checkpoint import Model, networks_of
from ..data.episodes import EpisodeSource
from ..errors import TalkingheadError
from ..landmarks.draw import landmark_image
from ..networks import Embedder, ReferenceGuidedGenerator, resize_area


def take_weights(model: Model, parent: Model) -> None:
    """Give a model the weights of another, whose pictures may have another size.

    E and V sum over space: what they find on pictures twice as large is four times as much. P reads what E finds, without the gain, so its
    weights become a quarter. A reference-guided G takes those of a plain one; the weights of the channels
    that it has besides start at 0.

    Raises:
        TalkingheadError: their networks have other shapes.
    """
    names = zip(networks_of(model).items(), networks_of(parent).values(), strict=True)
    for (name, ours), theirs in names:
        given = theirs.state_dict()
        if name == "generator" and isinstance(ours, ReferenceGuidedGenerator) and not isinstance(theirs, ReferenceGuidedGenerator):
            given = _with_channels(given, ours.state_dict())
        odd = sorted(key for key, tensor in ours.state_dict().items() if key not in given or given[key].shape != tensor.shape)
        if odd or len(given) != len(ours.state_dict()):
            where = odd[0] if odd else "its layers"
            raise TalkingheadError(
                f"--start: the {name} of preset {parent.config.preset} does not fit that of preset {model.config.preset} ({where}); "
                "start from a model of the same channels, or from random weights"
            )
        ours.load_state_dict(given)
    if model.generator.projection is not None:
        with torch.no_grad():
            model.generator.projection.weight.mul_((parent.config.networks.layer_size / model.config.networks.layer_size) ** 2)


def _with_channels(given: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a plain G with zeros for the further input and output channels of a reference-guided one."""
    grown = dict(given)
    for key in ("down.0.conv1.weight", "down.0.shortcut.weight", "out.weight", "out.bias"):
        if key in given and given[key].dim() == ours[key].dim() and given[key].shape[2:] == ours[key].shape[2:]:
            grown[key] = torch.zeros_like(ours[key])
            grown[key][tuple(slice(length) for length in given[key].shape)] = given[key]
    return grown


@torch.no_grad()
def fill_columns(columns: Tensor, embedder: Embedder, source: EpisodeSource, size: int) -> None:
    """Make each column of W [N, D] what E says of its video at `size` pixels: what the matching loss pulls E to must not be noise."""
    for number, column in enumerate(columns):
        frames, points = (each.to(columns.device) for each in source.of_column(number))
        column.copy_(embedder(resize_area(frames, size), landmark_image(points, size)).mean(0))
