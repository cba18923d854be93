"""Tests of all losses against formulas, computed by hand or in plain numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from talkinghead.pretrained.perceptual import PerceptualNetwork
from talkinghead.training.losses import (
    adversarial_loss,
    content_loss,
    discriminator_loss,
    feature_matching_loss,
    matching_loss,
)


class TwoLayers(PerceptualNetwork):
    """Network with simple features: three times the image, and its square."""

    layers = ("triple", "square")
    weights = (0.5, 2.0)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [3 * images, images**2]


def random_tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_content_loss_sums_weighted_layer_means() -> None:
    fake, real = (
        torch.tensor([[1.0, 2.0]]).reshape(1, 1, 1, 2),
        torch.tensor([[0.0, 4.0]]).reshape(1, 1, 1, 2),
    )
    # 3x: |3 - 0|, |6 - 12| -> mean 4.5; x^2: |1 - 0|, |4 - 16| -> mean 6.5
    first_value = 0.5 * 4.5 + 2.0 * 6.5
    assert content_loss([TwoLayers()], fake, real).item() == pytest.approx(first_value)
    assert content_loss([TwoLayers(), TwoLayers()], fake, real).item() == pytest.approx(2 * first_value)
    assert content_loss([], fake, real).item() == 0


def test_content_loss_gradient_reaches_fake_only() -> None:
    fake, real = random_tensor(2, 3, 4, 4).requires_grad_(), random_tensor(3, 3, 4, 4)[:2].requires_grad_()
    content_loss([TwoLayers()], fake, real).backward()
    assert fake.grad is not None and fake.grad.abs().max() > 0
    assert real.grad is None


def test_content_loss_rejects_missing_layer_weight() -> None:
    network = TwoLayers()
    network.weights = (1.0,)
    with pytest.raises(ValueError, match="zip"):
        content_loss([network], random_tensor(1, 3, 2, 2), random_tensor(1, 3, 2, 2))


def test_adversarial_loss_is_minus_mean_score() -> None:
    scores = torch.tensor([3.0, -1.0, 4.0], requires_grad=True)
    loss = adversarial_loss(scores)
    assert loss.item() == -2.0
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-1 / 3] * 3)  # the same for every score: no sigmoid


def test_feature_matching_averages_over_maps() -> None:
    fake = [random_tensor(2, 4, 8, 8).requires_grad_(), random_tensor(2, 8, 2, 2).requires_grad_()]
    real = [random_tensor(3, 4, 8, 8)[:2].requires_grad_(), random_tensor(3, 8, 2, 2)[:2].requires_grad_()]
    by_hand = np.mean(
        [np.abs(a.detach().numpy() - b.detach().numpy()).mean() for a, b in zip(fake, real, strict=True)]
    )
    loss = feature_matching_loss(fake, real)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    assert all(item.grad is not None for item in fake)
    assert all(item.grad is None for item in real)


def test_feature_matching_rejects_unequal_map_counts() -> None:
    with pytest.raises(ValueError, match="zip"):
        feature_matching_loss([random_tensor(1, 2, 2, 2)], [])


def test_matching_loss_compares_with_own_video_embedding() -> None:
    embeddings, video_embeddings = (
        random_tensor(3, 5, 7).requires_grad_(),
        random_tensor(3, 7).requires_grad_(),
    )
    e, w = embeddings.detach().numpy(), video_embeddings.detach().numpy()
    by_hand = np.mean([abs(e[b, k, d] - w[b, d]) for b in range(3) for k in range(5) for d in range(7)])
    loss = matching_loss(embeddings, video_embeddings)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert loss.item() != pytest.approx(
        (embeddings.mean(1) - video_embeddings).abs().mean().item(), rel=1e-3
    )  # each, not their mean
    loss.backward()
    assert embeddings.grad is not None and embeddings.grad.abs().min() > 0
    assert video_embeddings.grad is None  # W learns from the discriminator's loss alone


@pytest.mark.parametrize(
    ("fake", "real", "expected"),
    [
        ([0.0], [0.0], 2.0),  # where it starts
        ([-1.0], [1.0], 0.0),  # both margins kept
        ([-5.0], [7.0], 0.0),  # beyond them nothing is gained
        ([1.0], [-1.0], 4.0),  # the wrong way round
        ([-3.0, 0.5], [2.0, -0.5], (0 + 1.5) / 2 + (0 + 1.5) / 2),
    ],
)
def test_discriminator_loss_is_hinge(fake: list[float], real: list[float], expected: float) -> None:
    assert discriminator_loss(torch.tensor(fake), torch.tensor(real)).item() == pytest.approx(expected)
