"""The five losses of the paper (section 3.2), as plain means over elements.

The weights of the terms belong to the trainer. Only the content loss has weights of its own: each perceptual
network brings one weight per layer, because two networks whose features differ in size must give losses of
the same size.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..pretrained.perceptual import PerceptualNetwork

Features = list[list[Tensor]]
"""Feature maps [B, C_l, H_l, W_l] of every layer of every perceptual network."""
_LARGE_SIZE = 128
"""Height of images in pixels above which the pixel loss also compares them at a reduced size."""
_REDUCTION = 8


@torch.no_grad()
def extract_features(networks: Sequence[PerceptualNetwork], images: Tensor) -> Features:
    """Return the networks' features of images float [B, 3, H, W] in [-1, 1], without a gradient."""
    return [network(images) for network in networks]


def content_loss(
    networks: Sequence[PerceptualNetwork],
    fake: Tensor,
    real: Tensor,
    target_features: Features | None = None,
) -> Tensor:
    """Return the weighted L1 between features of generated and real images, summed over the layers of all
    networks.

    Args:
        networks: from `open_perceptual`; each brings its weights.
        fake, real: float [B, 3, H, W] in [-1, 1]. The gradient flows to `fake` only.
        target_features: `extract_features` of `real`, where they are known.

    Returns:
        A scalar; 0 without networks.
    """
    if target_features is None:
        target_features = extract_features(networks, real)
    total = fake.new_zeros(())
    for network, real_layers in zip(networks, target_features, strict=True):
        for weight, fake_map, real_map in zip(network.weights, network(fake), real_layers, strict=True):
            total = total + weight * F.l1_loss(fake_map, real_map)
    return total


def pixel_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Return the L1 between images [B, 3, S, S]; above 128 pixels the mean of it and of the L1 at an eighth
    of their size.

    At the reduced size a detail that moved by a few pixels still overlaps its target, so the gradient says in
    which direction to move it.
    """
    full = F.l1_loss(fake, real)
    if fake.shape[-1] <= _LARGE_SIZE:
        return full
    return (full + F.l1_loss(F.avg_pool2d(fake, _REDUCTION), F.avg_pool2d(real, _REDUCTION))) / 2


def adversarial_loss(score_fake: Tensor) -> Tensor:
    """Return the generator's hinge loss: minus the mean realism score of its images, scores [B] of any
    range.
    """
    return -score_fake.mean()


def feature_matching_loss(
    fake_maps: Sequence[Tensor],
    real_maps: Sequence[Tensor],
    relative: bool = False,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the L1 between the discriminator's feature maps of generated and real images, averaged over its
    maps.

    Args:
        fake_maps, real_maps: one tensor [B, C_m, H_m, W_m] per residual block. `real_maps` are constants:
            detached here.
        relative: divide each map's L1 by the mean absolute value of its real map. Without spectral norm D's
            maps grow as it learns, and the plain term with them.
        average: returns the mean of these mean absolute values over the parts of a batch, of which the maps
            belong to one; None where they are of the whole batch.
    """
    terms = [F.l1_loss(fake, real.detach()) for fake, real in zip(fake_maps, real_maps, strict=True)]
    if relative:
        sizes = torch.stack([real.detach().abs().mean() for real in real_maps])
        sizes = sizes if average is None else average(sizes)
        terms = [term / size for term, size in zip(terms, sizes, strict=True)]
    return torch.stack(terms).mean()


def matching_loss(embeddings: Tensor, video_embeddings: Tensor) -> Tensor:
    """Return the L1 between the embedding of every source frame and the video embedding W_i of its video.

    Args:
        embeddings: [B, K, D], one per source frame, before their mean is taken.
        video_embeddings: [B, D], W_i. Constants: W learns from the discriminator's loss alone, so they are
            detached here.
    """
    targets = video_embeddings.detach().unsqueeze(1).expand_as(embeddings)
    return F.l1_loss(embeddings, targets)


def discriminator_loss(score_fake: Tensor, score_real: Tensor) -> Tensor:
    """Return the discriminator's hinge loss: mean of max(0, 1 + fake) plus mean of max(0, 1 - real), for
    scores [B] without a sigmoid.
    """
    return F.relu(1 + score_fake).mean() + F.relu(1 - score_real).mean()
