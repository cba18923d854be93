"""The five losses of the paper (section 3.2), as plain means over elements.

The weights between the terms belong to the trainer. Only the content loss carries its own: each perceptual network brings one weight per
layer, because two networks whose activations differ in size must give losses of the same size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .perceptual import PerceptualNetwork

Activations = list[list[Tensor]]
"""Of each perceptual network, of each of its layers, [B, C_l, H_l, W_l]."""


@torch.no_grad()
def activations(networks: Sequence[PerceptualNetwork], real: Tensor) -> Activations:
    """Of pictures float [B, 3, H, W] in [-1, 1]; no gradient flows through them."""
    return [network(real) for network in networks]


def content_loss(networks: Sequence[PerceptualNetwork], fake: Tensor, real: Tensor, wanted: Activations | None = None) -> Tensor:
    """Weighted L1 between the activations of generated and real pictures, summed over the layers of all networks.

    Args:
        networks: from `open_perceptual`; each brings its weights.
        fake, real: float [B, 3, H, W] in [-1, 1]. The gradient flows to `fake` only.
        wanted: `activations` of `real`, where they are known.

    Returns:
        A scalar; 0 without networks.
    """
    total = fake.new_zeros(())
    for network, of_real in zip(networks, activations(networks, real) if wanted is None else wanted, strict=True):
        for weight, ours, theirs in zip(network.weights, network(fake), of_real, strict=True):
            total = total + weight * F.l1_loss(ours, theirs)
    return total


def pixel_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Return the L1 between pictures [B, 3, S, S]; of those above 128 pixels the mean with that of an eighth of their size.

    There what moves by some pixels is still compared with itself, which tells a flow where to go.
    """
    full = F.l1_loss(fake, real)
    return full if fake.shape[-1] <= 128 else (full + F.l1_loss(F.avg_pool2d(fake, 8), F.avg_pool2d(real, 8))) / 2


def adversarial_loss(score_fake: Tensor) -> Tensor:
    """The generator's part of the hinge game: minus the mean realism score of its pictures, scores [B] of any range."""
    return -score_fake.mean()


def feature_matching_loss(fake_maps: Sequence[Tensor], real_maps: Sequence[Tensor], relative: bool = False) -> Tensor:
    """L1 between the discriminator's activations for generated and real pictures, averaged over its maps.

    Args:
        fake_maps, real_maps: one tensor [B, C_m, H_m, W_m] per residual block. `real_maps` are constants: detached here.
        relative: divide each map's L1 by the mean absolute activation of its real map. Without spectral norm D's activations grow as it
            learns, and the plain term with them.
    """
    terms = [
        F.l1_loss(fake, real.detach()) / (real.detach().abs().mean() if relative else 1)
        for fake, real in zip(fake_maps, real_maps, strict=True)
    ]
    return torch.stack(terms).mean()


def matching_loss(embeddings: Tensor, columns: Tensor) -> Tensor:
    """L1 between the embedding of every source frame and its video's column of W.

    Args:
        embeddings: [B, K, D], one per source frame, before their mean is taken.
        columns: [B, D], the columns W_i. Constants: W learns from the discriminator's loss alone, so they are detached here.
    """
    wanted = columns.detach().unsqueeze(1).expand_as(embeddings)
    return F.l1_loss(embeddings, wanted)


def discriminator_loss(score_fake: Tensor, score_real: Tensor) -> Tensor:
    """The discriminator's hinge loss: mean of max(0, 1 + fake) plus mean of max(0, 1 - real), for scores [B] without a sigmoid."""
    return F.relu(1 + score_fake).mean() + F.relu(1 - score_real).mean()
