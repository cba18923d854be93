"""The two half steps that meta-learning and fine-tuning share: what the generator loses, and how the discriminator learns.

D looks at the generated frames once for both.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LossWeights
from ..errors import TalkingheadError
from ..losses import Activations, adversarial_loss, content_loss, discriminator_loss, feature_matching_loss, pixel_loss
from ..networks import Discriminator
from ..networks.reference_guided import resize_area
from ..perceptual import PerceptualNetwork
from .details import crop_boxes


def uses_discriminator(weights: LossWeights) -> bool:
    """Whether any of these losses needs D."""
    return weights.adversarial != 0 or weights.feature_matching != 0


Verdict = tuple[Tensor, list[Tensor], Tensor]
"""What D says of frames: scores [B], the activations after each block, the pooled vector [B, D]."""
Verdicts = tuple[Verdict, Verdict]
"""On true frames, and on generated ones."""


def judge(discriminator: Discriminator, column: Tensor, fake: Tensor, real: Tensor, drawn: Tensor) -> Verdicts:
    """Verdicts on true and on generated frames; D's power iteration is advanced before, once per optimiser step.

    Args:
        column: [B, D] or [D], W_i + w0 or w', with its gradient.
        fake, real, drawn: generated frames, true frames, landmark images; [B, 3, size, size] in [-1, 1].
    """
    return discriminator(real, drawn, column), discriminator(fake, drawn, column)


def generator_gradient(
    weights: LossWeights,
    networks: Sequence[PerceptualNetwork],
    discriminator: Discriminator,
    column: Tensor,
    fake: Tensor,
    real: Tensor,
    drawn: Tensor,
    wanted: Activations | None = None,
    valid: Tensor | None = None,
    details: tuple[Tensor, float] | None = None,
) -> tuple[dict[str, Tensor], Tensor, Verdicts | None]:
    """The weighted terms of the generator's loss (paper, section 3.2 "Meta-learning stage") and their gradient at the frames.

    The gradient stops at the frames: what a term kept for it is let go before the next is computed, and the verdicts, whose graph stays,
    serve D's own step as well.

    Args:
        weights: of the terms; a term of weight 0 is not computed.
        networks: of the content loss.
        discriminator, column, fake, real, drawn: as for `judge`; frames may be larger than landmark images, and are judged at their size.
        wanted: the networks' activations of `real` at that size, where they are known.
        valid: [B, 1, S, S], 0 where the frames lie outside their source, which costs no loss; None where nothing does.
        details: squares of the frames [B, 3] (`detail_boxes`) on which content and pixels count again, and their weight.

    Returns:
        the terms, the gradient of their sum [B, 3, size, size], and the verdicts; None where D takes no part.
    """
    shown = fake.detach().requires_grad_()
    counted = shown if valid is None else torch.lerp(real, shown, valid)
    size = drawn.shape[-1]
    small, small_real = resize_area(counted, size), resize_area(real, size)
    terms = {"content": weights.content * content_loss(networks, small, small_real, wanted)}
    if weights.pixel:
        terms["pixel"] = weights.pixel * pixel_loss(counted, real)
    if details is not None:
        boxes, weight = details
        crops, real_crops = crop_boxes(counted, boxes), crop_boxes(real, boxes)
        terms["details"] = weight * weights.content * content_loss(networks, crops, real_crops)
        terms["details_pixel"] = weight * weights.pixel * F.l1_loss(crops, real_crops)
    together = uses_discriminator(weights) and small is not shown
    gradient = _gradient(terms, shown, keep=together)  # D looks at the pictures that were made from the frames above
    if not uses_discriminator(weights):
        return _detached(terms), gradient, None
    of_real, of_fake = verdicts = judge(discriminator, column, small, small_real, drawn)
    played = {
        "adversarial": weights.adversarial * adversarial_loss(of_fake[0]),
        "feature_matching": weights.feature_matching * feature_matching_loss(of_fake[1], of_real[1], weights.relative_feature_matching),
    }
    return _detached(terms | played), gradient + _gradient(played, shown, keep=True), verdicts


def _gradient(terms: dict[str, Tensor], shown: Tensor, keep: bool = False) -> Tensor:
    total = torch.stack(list(terms.values())).sum()
    return torch.autograd.grad(total, shown, retain_graph=keep)[0] if total.requires_grad else torch.zeros_like(shown)


def _detached(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: term.detach() for name, term in terms.items()}


def discriminator_backward(
    optimisers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], verdicts: Verdicts, share: float = 1.0
) -> dict[str, Tensor]:
    """The gradient of D's hinge loss, added to what its parameters and the columns hold.

    Args:
        optimisers: of D and of the columns, one or several.
        verdicts: from `judge`, on true and on generated frames.
        share: of the optimiser step's pictures that these are.

    Returns:
        figures: the loss, mean scores of real and fake and their gap, and the share of the pooled vector's units that are alive.
    """
    (score_real, _, pooled_real), (score_fake, _, pooled_fake) = verdicts
    loss = discriminator_loss(score_fake, score_real)
    backward(optimisers, [share * loss])
    real_mean, fake_mean = score_real.detach().mean(), score_fake.detach().mean()
    return {
        "discriminator": loss.detach(),
        "score_real": real_mean,
        "score_fake": fake_mean,
        "score_gap": real_mean - fake_mean,
        "live_units": live_units(torch.cat([pooled_real, pooled_fake]).detach()),
    }


def live_units(pooled: Tensor) -> Tensor:
    """Share of the units of a pooled vector [B, D] that tell frames apart: their spread over the batch is not next to nothing."""
    spread = pooled.std(0)
    return (spread > 0.01 * spread.mean()).float().mean()


def backward(
    optimisers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
) -> None:
    """Add to the gradients of the optimisers' parameters, and of nothing else.

    Args:
        outputs: what the gradient starts from.
        gradients: at each of them; None where all are losses.
    """
    torch.autograd.backward(outputs, gradients, inputs=_parameters(optimisers))


def take_step(optimiser: torch.optim.Optimizer, clip: float) -> None:
    """Clip the gradients of each parameter group, step, and let them go; `clip` bounds their norm, 0 does not."""
    if clip:
        for group in optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    torch.clear_autocast_cache()  # of weights as they were before


def _parameters(optimisers: torch.optim.Optimizer | Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    several = [optimisers] if isinstance(optimisers, torch.optim.Optimizer) else optimisers
    return [parameter for optimiser in several for group in optimiser.param_groups for parameter in group["params"]]


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks run: "bf16" lets torch choose bfloat16 where that is safe, "fp32" does not."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def finite(figures: Mapping[str, Tensor], where: str, step: int) -> dict[str, float]:
    """The figures of a step as numbers.

    Raises:
        TalkingheadError: one is not finite.
    """
    values = {name: float(value) for name, value in figures.items()}
    if not all(map(math.isfinite, values.values())):
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise TalkingheadError(f"{where}: a loss is not finite at step {step} ({told}); lower the learning rate")
    return values


class RunningAverage:
    """A running average of weights without the lag of its start: after n steps each of them counts decay^(steps since), and the start not.

    Args:
        average: tensors that hold it; changed in place.
        decay: of a step's weight with each step after it.
        steps: taken before, in a run that is resumed.
    """

    def __init__(self, average: Sequence[Tensor], decay: float, steps: int = 0) -> None:
        self._average, self._decay = list(average), decay
        self._start_share = torch.full((), decay**steps, dtype=torch.float64, device=self._average[0].device)  # a tensor, for CUDA graphs

    @torch.no_grad()
    def update(self, current: Sequence[Tensor]) -> None:
        """Take in the weights after a step."""
        self._start_share.mul_(self._decay)
        weight = ((1 - self._decay) / (1 - self._start_share)).to(self._average[0].dtype)
        difference = torch._foreach_sub(list(current), self._average)
        torch._foreach_mul_(difference, weight)
        torch._foreach_add_(self._average, difference)
