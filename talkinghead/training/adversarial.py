"""The two half steps that meta-learning and fine-tuning share: the generator's gradient and the
discriminator's.

D scores the generated frames once for both.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LossWeights
from ..errors import TalkingheadError
from ..networks import Discriminator, DiscriminatorOutput
from ..networks.reference_guided import resize_area
from ..pretrained.perceptual import PerceptualNetwork
from .detail_crops import crop_boxes
from .losses import (
    Features,
    adversarial_loss,
    content_loss,
    discriminator_loss,
    feature_matching_loss,
    pixel_loss,
)


def uses_discriminator(weights: LossWeights) -> bool:
    """Return whether any of these losses needs D."""
    return weights.adversarial != 0 or weights.feature_matching != 0


DiscriminatorOutputs = tuple[DiscriminatorOutput, DiscriminatorOutput]
"""Outputs for real frames and for generated frames, in this order."""


def score_real_and_fake(
    discriminator: Discriminator,
    video_embedding: Tensor,
    fake: Tensor,
    real: Tensor,
    landmark_images: Tensor,
) -> DiscriminatorOutputs:
    """Run D on real and on generated frames.

    The caller advances D's power iteration before, once per optimiser step.

    Args:
        discriminator: D.
        video_embedding: [B, D] or [D], W_i + w0 or w', with its gradient.
        fake, real, landmark_images: [B, 3, size, size] in [-1, 1].
    """
    return (
        discriminator(real, landmark_images, video_embedding),
        discriminator(fake, landmark_images, video_embedding),
    )


def generator_gradient(
    weights: LossWeights,
    networks: Sequence[PerceptualNetwork],
    discriminator: Discriminator,
    video_embedding: Tensor,
    fake: Tensor,
    real: Tensor,
    landmark_images: Tensor,
    target_features: Features | None = None,
    valid: Tensor | None = None,
    details: tuple[Tensor, float] | None = None,
    average: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor, DiscriminatorOutputs | None]:
    """Compute the weighted terms of the generator's loss (paper, section 3.2 "Meta-learning stage") and their
    gradient with respect to the generated frames.

    The gradient stops at the frames: the graph of a term is freed before the next term is computed. The graph
    of D's outputs stays, because D's own step uses it too.

    Args:
        weights: of the terms; a term of weight 0 is not computed.
        networks: of the content loss.
        discriminator, video_embedding, fake, real, landmark_images: as for `score_real_and_fake`; frames may
            be larger than landmark images, and D scores them at the landmark images' size.
        target_features: the networks' features of `real` at that size, where they are known.
        valid: [B, 1, S, S], 0 where the frames lie outside their source, which costs no loss; None where
            nothing does.
        details: squares of the frames [B, 3] (`detail_boxes`) on which content and pixels count again, and
            the weight of these terms.
        average: as for `feature_matching_loss`.

    Returns:
        the terms, the gradient of their sum [B, 3, S, S], and D's outputs; None where no loss uses D.
    """
    leaf = fake.detach().requires_grad_()
    masked = leaf if valid is None else torch.lerp(real, leaf, valid)
    size = landmark_images.shape[-1]
    small, small_real = resize_area(masked, size), resize_area(real, size)
    terms = {"content": weights.content * content_loss(networks, small, small_real, target_features)}
    if weights.pixel:
        terms["pixel"] = weights.pixel * pixel_loss(masked, real)
    if details is not None:
        boxes, weight = details
        crops, real_crops = crop_boxes(masked, boxes), crop_boxes(real, boxes)
        terms["details"] = weight * weights.content * content_loss(networks, crops, real_crops)
        terms["details_pixel"] = weight * weights.pixel * F.l1_loss(crops, real_crops)
    # D reads `small`, so the graph from the frames to it must stay
    graph_is_shared = uses_discriminator(weights) and small is not leaf
    gradient = _gradient(terms, leaf, retain_graph=graph_is_shared)
    if not uses_discriminator(weights):
        return _detach_terms(terms), gradient, None
    outputs = score_real_and_fake(
        discriminator, video_embedding, fake=small, real=small_real, landmark_images=landmark_images
    )
    adversarial_terms = _adversarial_terms(weights, outputs, average)
    gradient = gradient + _gradient(adversarial_terms, leaf, retain_graph=True)
    return _detach_terms(terms | adversarial_terms), gradient, outputs


def _adversarial_terms(
    weights: LossWeights,
    outputs: DiscriminatorOutputs,
    average: Callable[[Tensor], Tensor] | None,
) -> dict[str, Tensor]:
    """Return the weighted terms of the generator's loss that need D."""
    of_real, of_fake = outputs
    matching = feature_matching_loss(
        of_fake.feature_maps, of_real.feature_maps, weights.relative_feature_matching, average
    )
    return {
        "adversarial": weights.adversarial * adversarial_loss(of_fake.scores),
        "feature_matching": weights.feature_matching * matching,
    }


def _gradient(terms: dict[str, Tensor], leaf: Tensor, retain_graph: bool = False) -> Tensor:
    """Return the gradient of the sum of terms with respect to a leaf, zeros where no term depends on it."""
    total = torch.stack(list(terms.values())).sum()
    if not total.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(total, leaf, retain_graph=retain_graph)[0]


def _detach_terms(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the terms without their graphs."""
    return {name: term.detach() for name, term in terms.items()}


def discriminator_backward(
    optimisers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    outputs: DiscriminatorOutputs,
    share: float = 1.0,
) -> dict[str, Tensor]:
    """Add the gradient of D's hinge loss to the gradients of D and of the video embeddings.

    Args:
        optimisers: of D and of the video embeddings, one or several.
        outputs: from `score_real_and_fake`.
        share: of the optimiser step's frames that these are.

    Returns:
        metrics: the loss, mean scores of real and fake and their gap, and the share of active units in the
            pooled vector.
    """
    of_real, of_fake = outputs
    loss = discriminator_loss(of_fake.scores, of_real.scores)
    backward(optimisers, [share * loss])
    real_mean, fake_mean = of_real.scores.detach().mean(), of_fake.scores.detach().mean()
    return {
        "discriminator": loss.detach(),
        "score_real": real_mean,
        "score_fake": fake_mean,
        "score_gap": real_mean - fake_mean,
        "live_units": active_unit_fraction(torch.cat([of_real.pooled, of_fake.pooled]).detach()),
    }


def active_unit_fraction(pooled: Tensor) -> Tensor:
    """Return the share of units of a pooled vector [B, D] whose standard deviation over the batch is not
    close to 0.
    """
    deviation = pooled.std(0)
    return (deviation > 0.01 * deviation.mean()).float().mean()


def backward(
    optimisers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
) -> None:
    """Add to the gradients of the optimisers' parameters, and to no other gradients.

    Args:
        optimisers: one or several.
        outputs: tensors from which the gradient is propagated.
        gradients: with respect to each of them; None where all are losses.
    """
    torch.autograd.backward(outputs, gradients, inputs=_parameters(optimisers))


def gradient_norms(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """Return the norm of the gradient of each parameter group, on the device."""
    return [
        nn.utils.get_total_norm(
            [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        )
        for group in optimiser.param_groups
    ]


def take_step(optimiser: torch.optim.Optimizer, clip: float) -> None:
    """Clip the gradients of each parameter group, step, and free the gradients.

    Args:
        optimiser: whose gradients are computed.
        clip: largest norm of a group's gradient; 0 does not clip.
    """
    if clip:
        for group in optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    torch.clear_autocast_cache()  # it holds casts of the weights before this step


def _parameters(optimisers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """Return the parameters of one or several optimisers."""
    several = [optimisers] if isinstance(optimisers, torch.optim.Optimizer) else optimisers
    return [
        parameter
        for optimiser in several
        for group in optimiser.param_groups
        for parameter in group["params"]
    ]


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision: "bf16" computes in bfloat16 where torch considers that
    safe, "fp32" never.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def require_finite(metrics: Mapping[str, Tensor], where: str, step: int) -> dict[str, float]:
    """Return the metrics of a step as numbers.

    Args:
        metrics: scalars.
        where: start of the error message, such as the folder of the run.
        step: for the error message.

    Raises:
        TalkingheadError: one is not finite.
    """
    values = {name: float(value) for name, value in metrics.items()}
    if not all(map(math.isfinite, values.values())):
        listing = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise TalkingheadError(
            f"{where}: a loss is not finite at step {step} ({listing}); lower the learning rate"
        )
    return values


class RunningAverage:
    """Exponential moving average of weights that is not biased towards the initial weights.

    After n steps the weights of each step count in proportion to decay^(steps since), and the initial weights
    not at all.

    Args:
        average: tensors that hold it; changed in place.
        decay: of a step's weight with each step after it.
        steps: taken before, in a run that is resumed.
    """

    def __init__(self, average: Sequence[Tensor], decay: float, steps: int = 0) -> None:
        self._average, self._decay = list(average), decay
        # a tensor, so that a CUDA graph updates it
        self._initial_share = torch.full(
            (), decay**steps, dtype=torch.float64, device=self._average[0].device
        )

    @torch.no_grad()
    def update(self, current: Sequence[Tensor]) -> None:
        """Add the weights after a step to the average."""
        self._initial_share.mul_(self._decay)
        weight = ((1 - self._decay) / (1 - self._initial_share)).to(self._average[0].dtype)
        difference = torch._foreach_sub(list(current), self._average)
        torch._foreach_mul_(difference, weight)
        torch._foreach_add_(self._average, difference)
