"""Spectral normalisation (Miyato et al. 2018) of all layers of a network at once.

Each weight W [out, ...] is seen as a matrix [out, in]. One power iteration advances the unit vectors u [out], v [in] towards its first
singular pair; the normalised weight is W / sigma with sigma = u . (W v). u and v are constants of the gradient, which is then

    dW = (dW_hat - <dW_hat, W_hat> u v^T) / sigma.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-4


@torch.no_grad()
def power_iteration_(weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], eps: float = EPS) -> None:
    """Advance u and v of every layer by one power iteration, in place. Once per optimiser step of the network that owns them.

    Args:
        weights: tensors [out, ...].
        us, vs: their vectors [out] and [in]; overwritten.
        eps: lower bound of a norm that is divided by.

    Raises:
        ValueError: the lists or a vector do not fit.
    """
    _check(weights, us, vs)
    for weight, u, v in zip(weights, us, vs, strict=True):
        with _full_precision(weight):
            matrix = weight.flatten(1)
            v.copy_(F.normalize(matrix.T @ u, dim=0, eps=eps))
            u.copy_(F.normalize(matrix @ v, dim=0, eps=eps))


def normalise(weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor], eps: float = EPS) -> list[Tensor]:
    """Each weight divided by its spectral norm; differentiable with respect to the weights.

    Args:
        weights: tensors [out, ...].
        us, vs: their vectors [out] and [in], constants of the gradient.
        eps: lower bound of sigma, so that a zero weight stays finite.

    Returns:
        tensors shaped like `weights`.

    Raises:
        ValueError: the lists or a vector do not fit.
    """
    _check(weights, us, vs)
    normalised = []
    for weight, u, v in zip(weights, us, vs, strict=True):
        with _full_precision(weight):
            # Cloned: power_iteration_ overwrites u and v in place while autograd may still need these values.
            sigma = torch.dot(u.clone(), weight.flatten(1) @ v.clone()).clamp_min(eps)
            normalised.append(weight / sigma)
    return normalised


def _full_precision(weight: Tensor) -> AbstractContextManager[object]:
    """Autocast would run the products in bfloat16: sigma would be off by a percent."""
    device = weight.device.type  # "meta" has no autocast
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _check(weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor]) -> None:
    if not len(weights) == len(us) == len(vs):
        raise ValueError(f"spectral norm: weights, us and vs must be of one length, got {len(weights)}, {len(us)}, {len(vs)}")
    for index, (weight, u, v) in enumerate(zip(weights, us, vs, strict=True)):
        expected = (weight.shape[0], weight[0].numel())
        if (u.numel(), v.numel()) != expected:
            raise ValueError(f"spectral norm: u and v of weight {index} must have {expected} elements, got ({u.numel()}, {v.numel()})")
