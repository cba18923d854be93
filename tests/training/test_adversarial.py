"""The shared half steps give the gradients of the losses as the paper writes them, each computed by itself."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from talkinghead.config import LossWeights, preset
from talkinghead.losses import adversarial_loss, content_loss, discriminator_loss, feature_matching_loss, pixel_loss
from talkinghead.networks import Discriminator
from talkinghead.perceptual import PerceptualNetwork
from talkinghead.training.adversarial import (
    RunningAverage,
    backward,
    discriminator_backward,
    generator_gradient,
    judge,
    take_step,
)
from talkinghead.training.details import crop_boxes
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


@pytest.fixture
def large(game):
    """The same game with frames twice as large as landmark images, smooth enough for a mean of areas to keep something."""
    networks, discriminator, column, fake, real, drawn = game
    fake, real = (F.interpolate(frames, scale_factor=2, mode="bicubic", align_corners=False) for frames in (fake, real))
    return networks, discriminator, column, fake + 0.05 * torch.randn_like(fake), real, drawn


def losses_of(game, shown, relative=False):
    """The terms of `WEIGHTS` of frames [2, 3, 128, 128], written out: pixels at their size, all others at D's."""
    networks, discriminator, column, _, real, drawn = game
    small, small_real = F.avg_pool2d(shown, 2), F.avg_pool2d(real, 2)
    score, maps, _ = discriminator(small, drawn, column)
    return {
        "content": 2 * content_loss(networks, small, small_real),
        "pixel": 20 * F.l1_loss(shown, real),
        "adversarial": 3 * adversarial_loss(score),
        "feature_matching": 5 * feature_matching_loss(maps, discriminator(small_real, drawn, column)[1], relative),
    }


def test_frames_of_twice_the_size_are_judged_small(large):
    networks, discriminator, column, fake, real, drawn = large
    shown = fake.clone().requires_grad_()
    expected = losses_of(copy.deepcopy(large), shown)
    terms, gradient, verdicts = generator_gradient(WEIGHTS, networks, discriminator, column, fake, real, drawn)
    torch.testing.assert_close(terms, {name: term.detach() for name, term in expected.items()})
    torch.testing.assert_close(gradient, torch.autograd.grad(sum(expected.values()), shown)[0])
    with torch.no_grad():
        of_real, of_fake = judge(discriminator, column, F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2), drawn)
    for ours, theirs in zip(verdicts, (of_real, of_fake), strict=True):
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-4, rtol=1e-4)
    optimiser = adam([{"params": [*discriminator.parameters(), column]}], preset("tiny").meta.discriminator)
    assert discriminator_backward(optimiser, verdicts)["discriminator"] > 0 and column.grad.abs().max() > 0  # its graph is still there


def test_large_pictures_are_compared_small_too():
    """Above 128 pixels what moved by a few counts as near."""
    real = torch.zeros(1, 3, 256, 256)
    real[..., 64:72, 64:72] = 1
    near, far = real.roll(8, 3), real.roll(64, 3)
    for fake in (near, far):
        small = F.l1_loss(F.avg_pool2d(fake, 8), F.avg_pool2d(real, 8))
        torch.testing.assert_close(pixel_loss(fake, real), (F.l1_loss(fake, real) + small) / 2)
    shifted = real.roll(4, 3)
    assert pixel_loss(shifted, real) < pixel_loss(far, real)
    torch.testing.assert_close(pixel_loss(near[..., :128, :128], real[..., :128, :128]), F.l1_loss(near, real) * 4)


def test_known_activations_are_those_of_small_frames(large):
    networks, discriminator, column, fake, real, drawn = large
    known = [network(F.avg_pool2d(real, 2)) for network in networks]
    pairs = [generator_gradient(WEIGHTS, networks, discriminator, column, fake, real, drawn, wanted) for wanted in (None, known)]
    assert torch.equal(pairs[0][1], pairs[1][1])


@pytest.mark.parametrize("size", [64, 128])
def test_pixels_beyond_the_source_cost_nothing(game, large, size):
    """Gradients there are 0, of every term, and the rest is as if the true frames had been made there."""
    networks, discriminator, column, fake, real, drawn = game if size == 64 else large
    valid = torch.ones(2, 1, size, size)
    valid[0, :, :, : size // 2] = 0
    details = torch.tensor([[0.5, 0.5, 0.6], [0.4, 0.4, 0.5]]), 0.5
    arguments = (WEIGHTS, networks, discriminator, column)
    terms, gradient, _ = generator_gradient(*arguments, fake, real, drawn, valid=valid, details=details)
    assert (gradient.masked_select(valid == 0) == 0).all()
    mixed = torch.where(valid > 0, fake, real)
    expected, of_mixed, _ = generator_gradient(*arguments, mixed, real, drawn, details=details)
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(gradient, of_mixed * valid)
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() > 0
    unhidden, _, _ = generator_gradient(*arguments, fake, real, drawn, details=details)
    assert all(terms[name] < unhidden[name] for name in ("content", "pixel", "details", "details_pixel"))


def test_everything_valid_changes_nothing(large):
    networks, discriminator, column, fake, real, drawn = large
    valid = torch.ones(2, 1, 128, 128)
    first, second = (generator_gradient(WEIGHTS, networks, discriminator, column, fake, real, drawn, valid=v) for v in (None, valid))
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[1], second[1])


@pytest.mark.parametrize("adversarial", [True, False])
def test_details_count_again_on_their_crops(large, adversarial):
    networks, discriminator, column, fake, real, drawn = large
    weights = WEIGHTS if adversarial else dataclasses.replace(WEIGHTS, adversarial=0.0, feature_matching=0.0)
    boxes = torch.tensor([[0.5, 0.4, 0.3], [0.4, 0.7, 0.2]])
    arguments = (weights, networks, discriminator, column, fake, real, drawn)
    without, gradient_without, _ = generator_gradient(*arguments)
    terms, gradient, _ = generator_gradient(*arguments, details=(boxes, 0.5))
    shown = fake.clone().requires_grad_()
    crops, crops_of_real = crop_boxes(shown, boxes), crop_boxes(real, boxes)
    added = {"details": 0.5 * 2 * content_loss(networks, crops, crops_of_real), "details_pixel": 0.5 * 20 * F.l1_loss(crops, crops_of_real)}
    torch.testing.assert_close(terms, without | {name: term.detach() for name, term in added.items()})
    torch.testing.assert_close(gradient - gradient_without, torch.autograd.grad(sum(added.values()), shown)[0], atol=1e-6, rtol=1e-3)


def weights_after(steps, seed=0):
    """What a network's two tensors might be after each of so many steps."""
    random = torch.Generator().manual_seed(seed)
    return [[torch.randn(3, 2, generator=random), torch.randn(4, generator=random)] for _ in range(steps)]


@pytest.mark.parametrize("decay, steps", [(0.97, 1), (0.97, 5), (0.97, 80), (0.999, 3)])
def test_running_average_is_the_weighted_mean(decay, steps):
    """Of the weights after each step, each counting decay to the power of the steps since; the start counts nothing."""
    seen = weights_after(steps)
    average = [torch.full((3, 2), 1e3), torch.full((4,), -1e3)]
    running = RunningAverage(average, decay)
    for current in seen:
        running.update(current)
    counts = torch.tensor([decay ** (steps - 1 - number) for number in range(steps)], dtype=torch.float64)
    for place, ours in enumerate(average):
        rows = torch.stack([current[place].double() for current in seen]).flatten(1)
        expected = (counts[:, None] * rows).sum(0) / counts.sum()
        torch.testing.assert_close(ours.flatten().double(), expected, atol=2e-4, rtol=0)
    if steps == 1:
        assert all(torch.allclose(ours, current, atol=1e-4) for ours, current in zip(average, seen[0], strict=True))


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_resumed_running_average_goes_on_the_same(steps):
    seen = weights_after(60)
    whole, parted = [[torch.zeros(3, 2), torch.zeros(4)] for _ in range(2)]
    running = RunningAverage(whole, 0.97)
    for current in seen:
        running.update(current)
    first = RunningAverage(parted, 0.97)
    for current in seen[:steps]:
        first.update(current)
    again = [each.clone() for each in parted]
    second = RunningAverage(again, 0.97, steps)
    for current in seen[steps:]:
        second.update(current)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
