"""The shared half steps give the gradients of the losses as the paper writes them, each computed by itself."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from talkinghead.config import LossWeights, preset
from talkinghead.losses import adversarial_loss, content_loss, discriminator_loss, feature_matching_loss
from talkinghead.networks import Discriminator
from talkinghead.perceptual import PerceptualNetwork
from talkinghead.training.adversarial import backward, discriminator_backward, generator_gradient, judge, take_step
from talkinghead.training.state import adam

WEIGHTS = LossWeights(content=2.0, pixel=20.0, adversarial=3.0, feature_matching=5.0)


class Edges(PerceptualNetwork):
    layers, weights = ("only",), (0.7,)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.freeze()

    def forward(self, images):
        return [F.relu(self.conv(images))]


@pytest.fixture(params=[False, True], ids=["plain", "spectral"])
def game(request):
    torch.manual_seed(0)
    config = dataclasses.replace(preset("tiny").networks, spectral_discriminator=request.param)
    discriminator = Discriminator(config)
    column = nn.Parameter(torch.randn(config.embedding))
    fake, real, drawn = (torch.rand(3, 2, 3, 64, 64) * 2 - 1).unbind()
    return [Edges()], discriminator, column, fake, real, drawn


@pytest.mark.parametrize("relative", [False, True])
def test_the_generators_gradient_is_that_of_the_sum_of_its_losses(game, relative):
    networks, discriminator, column, fake, real, drawn = game
    weights = dataclasses.replace(WEIGHTS, relative_feature_matching=relative)
    other = copy.deepcopy(discriminator)
    terms, gradient, _ = generator_gradient(weights, networks, discriminator, column, fake, real, drawn)
    shown = fake.clone().requires_grad_()
    score, maps, _ = other(shown, drawn, column)
    wanted = {
        "content": 2 * content_loss(networks, shown, real),
        "pixel": 20 * F.l1_loss(shown, real),
        "adversarial": 3 * adversarial_loss(score),
        "feature_matching": 5 * feature_matching_loss(maps, other(real, drawn, column)[1], relative),
    }
    torch.testing.assert_close(terms, {name: term.detach() for name, term in wanted.items()})
    torch.testing.assert_close(gradient, torch.autograd.grad(sum(wanted.values()), shown)[0])
    assert all(parameter.grad is None for parameter in (*discriminator.parameters(), column))


def test_the_discriminator_learns_from_the_same_verdicts_as_from_its_own(game):
    networks, discriminator, column, fake, real, drawn = game
    other, others_column = copy.deepcopy(discriminator), nn.Parameter(column.detach().clone())
    _, _, verdicts = generator_gradient(WEIGHTS, networks, discriminator, column, fake, real, drawn)
    parameters = [*discriminator.parameters(), column]
    discriminator_backward(adam([{"params": parameters}], preset("tiny").meta.discriminator), verdicts)
    loss = discriminator_loss(other(fake, drawn, others_column)[0], other(real, drawn, others_column)[0])
    loss.backward()
    for parameter, wanted in zip(parameters, [*other.parameters(), others_column], strict=True):
        if wanted.grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, wanted.grad, rtol=1e-4, atol=1e-6)


def test_a_step_makes_the_next_loss_smaller(game):
    _, discriminator, column, fake, real, drawn = game
    optimiser = adam([{"params": [*discriminator.parameters(), column]}], preset("tiny").meta.discriminator)

    def look():
        return judge(discriminator, column, fake, real, drawn)

    verdicts = look()
    first = discriminator_backward(optimiser, verdicts)
    take_step(optimiser, clip=5.0)
    assert discriminator_backward(optimiser, look())["discriminator"] < first["discriminator"]


def test_mixed_precision_sees_the_weights_of_now():
    """Autocast keeps weights in bfloat16 for as long as it is on."""
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        backward(optimiser, [before.sum()])
        take_step(optimiser, clip=0.0)
        with torch.no_grad():
            after = layer(x)
    assert (before - after).abs().max() > 1


def test_without_a_discriminator_there_are_no_verdicts(game):
    networks, discriminator, column, fake, real, drawn = game
    alone = LossWeights(pixel=20.0, adversarial=0.0, feature_matching=0.0)
    terms, gradient, verdicts = generator_gradient(alone, networks, discriminator, column, fake, real, drawn)
    assert set(terms) == {"content", "pixel"} and verdicts is None and gradient.abs().max() > 0
    nothing = dataclasses.replace(alone, pixel=0.0)
    assert generator_gradient(nothing, [], discriminator, column, fake, real, drawn)[1].abs().max() == 0
