"""Meta-learning that starts from a model: its own preset's on other people, or a smaller picture's network on larger pictures."""

import torch
from torch import Tensor

from ..checkpoint import Model, networks_of
from ..data.episodes import EpisodeSource
from ..errors import TalkingheadError
from ..landmarks.draw import landmark_image
from ..networks import Embedder


def take_weights(model: Model, parent: Model) -> None:
    """Give a model the weights of another, whose pictures may have another size.

    E and V sum over space: what they find on pictures twice as large is four times as much, and their gains a quarter. P reads the
    embedding divided by the gain, so its weights follow.

    Raises:
        TalkingheadError: their networks have other shapes.
    """
    names = zip(networks_of(model).items(), networks_of(parent).values(), strict=True)
    for (name, ours), theirs in names:
        given = theirs.state_dict()
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
            model.generator.projection.weight.mul_(model.generator.embedding_gain / parent.generator.embedding_gain)


@torch.no_grad()
def fill_columns(columns: Tensor, embedder: Embedder, source: EpisodeSource) -> None:
    """Make each column of W [N, D] what E says of its video: what the matching loss pulls E to must not be noise."""
    for number, column in enumerate(columns):
        frames, points = (each.to(columns.device) for each in source.of_column(number))
        column.copy_(embedder(frames, landmark_image(points, source.size)).mean(0))
