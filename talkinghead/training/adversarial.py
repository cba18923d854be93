"""The two half steps that meta-learning and fine-tuning share: what the generator loses, and how the discriminator learns."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LossWeights
from ..losses import adversarial_loss, content_loss, discriminator_loss, feature_matching_loss
from ..networks import Discriminator
from ..perceptual import PerceptualNetwork


def uses_discriminator(weights: LossWeights) -> bool:
    """Whether any of these losses needs D."""
    return weights.adversarial != 0 or weights.feature_matching != 0


def generator_losses(
    weights: LossWeights,
    networks: Sequence[PerceptualNetwork],
    discriminator: Discriminator,
    fake: Tensor,
    real: Tensor,
    drawn: Tensor,
    column: Tensor,
) -> dict[str, Tensor]:
    """The weighted terms of the generator's loss (paper, section 3.2 "Meta-learning stage").

    Args:
        weights: of the terms; a term of weight 0 is not computed.
        networks: of the content loss.
        discriminator: D, a constant here.
        fake, real, drawn: generated frames, true frames, landmark images; [B, 3, size, size] in [-1, 1].
        column: [B, D] or [D], W_i + w0 or w'.
    """
    terms = {"content": weights.content * content_loss(networks, fake, real)}
    if weights.pixel:
        terms["pixel"] = weights.pixel * F.l1_loss(fake, real)
    if uses_discriminator(weights):
        with constant(discriminator):
            with torch.no_grad():
                real_maps = discriminator(real, drawn, column)[1]
            score, fake_maps, _ = discriminator(fake, drawn, column.detach())
        terms["adversarial"] = weights.adversarial * adversarial_loss(score)
        terms["feature_matching"] = weights.feature_matching * feature_matching_loss(
            fake_maps, real_maps, weights.relative_feature_matching
        )
    return terms


def discriminator_step(
    discriminator: Discriminator,
    optimiser: torch.optim.Optimizer,
    column: Callable[[], Tensor],
    fake: Tensor,
    real: Tensor,
    drawn: Tensor,
    clip: float,
) -> dict[str, Tensor]:
    """One optimiser step of D on the hinge loss.

    Args:
        column: gives W_i + w0 or w', with its gradient; called once.
        fake, real, drawn: as in `generator_losses`; `fake` is detached.
        clip: bound of the gradient's norm; 0 for none.

    Returns:
        figures: the loss, mean scores of real and fake and their gap, and the share of the pooled vector's units that are alive.
    """
    discriminator.power_iteration_()
    w = column()
    both = torch.cat([real, fake.detach()])
    scores, _, pooled = discriminator(both, torch.cat([drawn, drawn]), torch.cat([w, w]) if w.dim() == 2 else w)
    score_real, score_fake = scores.chunk(2)
    loss = discriminator_loss(score_fake, score_real)
    apply_step(optimiser, loss, clip)
    real_mean, fake_mean = score_real.detach().mean(), score_fake.detach().mean()
    return {
        "discriminator": loss.detach(),
        "score_real": real_mean,
        "score_fake": fake_mean,
        "score_gap": real_mean - fake_mean,
        "live_units": live_units(pooled.detach()),
    }


def live_units(pooled: Tensor) -> Tensor:
    """Share of the units of a pooled vector [B, D] that tell frames apart: their spread over the batch is not next to nothing."""
    spread = pooled.std(0)
    return (spread > 0.01 * spread.mean()).float().mean()


def apply_step(optimiser: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    """Backward, gradient clipping per parameter group, one optimiser step."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if clip:
        for group in optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], clip)
    optimiser.step()


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks run: "bf16" lets torch choose bfloat16 where that is safe, "fp32" does not.

    A CPU without bfloat16 instructions would only emulate them, several times slower: there it is float32 in either case.
    """
    fast = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" and fast)


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """The module's parameters take no gradient inside the block."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@torch.no_grad()
def update_average(average: Sequence[Tensor], current: Sequence[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * current, in place."""
    torch._foreach_lerp_(list(average), list(current), 1 - decay)
