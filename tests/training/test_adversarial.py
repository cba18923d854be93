"""Half steps of adversarial training against gradients of the losses as the paper writes them."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from talkinghead.config import LossWeights, preset
from talkinghead.networks import Discriminator
from talkinghead.pretrained.perceptual import PerceptualNetwork
from talkinghead.training.adversarial import (
    RunningAverage,
    backward,
    discriminator_backward,
    generator_gradient,
    score_real_and_fake,
    take_step,
)
from talkinghead.training.detail_crops import crop_boxes
from talkinghead.training.losses import (
    adversarial_loss,
    content_loss,
    discriminator_loss,
    feature_matching_loss,
    pixel_loss,
)
from talkinghead.training.resume import adam

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
def adversarial_inputs(request):
    torch.manual_seed(0)
    config = dataclasses.replace(preset("tiny").networks, spectral_discriminator=request.param)
    discriminator = Discriminator(config)
    video_embedding = nn.Parameter(torch.randn(config.embedding))
    fake, real, landmark_images = (torch.rand(3, 2, 3, 64, 64) * 2 - 1).unbind()
    return [Edges()], discriminator, video_embedding, fake, real, landmark_images


@pytest.mark.parametrize("relative", [False, True])
def test_generator_gradient_equals_sum_of_losses(adversarial_inputs, relative):
    networks, discriminator, video_embedding, fake, real, landmark_images = adversarial_inputs
    weights = dataclasses.replace(WEIGHTS, relative_feature_matching=relative)
    other = copy.deepcopy(discriminator)
    terms, gradient, _ = generator_gradient(
        weights, networks, discriminator, video_embedding, fake, real, landmark_images
    )
    leaf = fake.clone().requires_grad_()
    score, maps, _ = other(leaf, landmark_images, video_embedding)
    expected = {
        "content": 2 * content_loss(networks, leaf, real),
        "pixel": 20 * F.l1_loss(leaf, real),
        "adversarial": 3 * adversarial_loss(score),
        "feature_matching": 5
        * feature_matching_loss(maps, other(real, landmark_images, video_embedding)[1], relative),
    }
    torch.testing.assert_close(terms, {name: term.detach() for name, term in expected.items()})
    torch.testing.assert_close(gradient, torch.autograd.grad(sum(expected.values()), leaf)[0])
    assert all(parameter.grad is None for parameter in (*discriminator.parameters(), video_embedding))


def test_discriminator_gradient_equals_separate_forward(adversarial_inputs):
    networks, discriminator, video_embedding, fake, real, landmark_images = adversarial_inputs
    other, other_video_embedding = (
        copy.deepcopy(discriminator),
        nn.Parameter(video_embedding.detach().clone()),
    )
    _, _, outputs = generator_gradient(
        WEIGHTS, networks, discriminator, video_embedding, fake, real, landmark_images
    )
    parameters = [*discriminator.parameters(), video_embedding]
    discriminator_backward(adam([{"params": parameters}], preset("tiny").meta.discriminator), outputs)
    loss = discriminator_loss(
        other(fake, landmark_images, other_video_embedding)[0],
        other(real, landmark_images, other_video_embedding)[0],
    )
    loss.backward()
    for parameter, expected in zip(parameters, [*other.parameters(), other_video_embedding], strict=True):
        if expected.grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_discriminator_step_reduces_loss(adversarial_inputs):
    _, discriminator, video_embedding, fake, real, landmark_images = adversarial_inputs
    optimiser = adam(
        [{"params": [*discriminator.parameters(), video_embedding]}], preset("tiny").meta.discriminator
    )

    def score():
        return score_real_and_fake(discriminator, video_embedding, fake, real, landmark_images)

    outputs = score()
    first = discriminator_backward(optimiser, outputs)
    take_step(optimiser, clip=5.0)
    assert discriminator_backward(optimiser, score())["discriminator"] < first["discriminator"]


def test_mixed_precision_uses_updated_weights():
    """Step inside autocast, which caches casts of weights for as long as it is on."""
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        backward(optimiser, [before.sum()])
        take_step(optimiser, clip=0.0)
        with torch.no_grad():
            after = layer(x)
    assert (before - after).abs().max() > 1


def test_generator_gradient_without_discriminator_has_no_outputs(adversarial_inputs):
    networks, discriminator, video_embedding, fake, real, landmark_images = adversarial_inputs
    content_and_pixel = LossWeights(pixel=20.0, adversarial=0.0, feature_matching=0.0)
    terms, gradient, outputs = generator_gradient(
        content_and_pixel, networks, discriminator, video_embedding, fake, real, landmark_images
    )
    assert set(terms) == {"content", "pixel"} and outputs is None and gradient.abs().max() > 0
    no_weights = dataclasses.replace(content_and_pixel, pixel=0.0)
    assert (
        generator_gradient(no_weights, [], discriminator, video_embedding, fake, real, landmark_images)[1]
        .abs()
        .max()
        == 0
    )


@pytest.fixture
def large(adversarial_inputs):
    """Return the same inputs with frames twice as large as landmark images, smooth enough for a mean of areas
    to keep something.
    """
    networks, discriminator, video_embedding, fake, real, landmark_images = adversarial_inputs
    fake, real = (
        F.interpolate(frames, scale_factor=2, mode="bicubic", align_corners=False) for frames in (fake, real)
    )
    return (
        networks,
        discriminator,
        video_embedding,
        fake + 0.05 * torch.randn_like(fake),
        real,
        landmark_images,
    )


def losses_of(adversarial_inputs, leaf, relative=False):
    """Return the terms of `WEIGHTS` of frames [2, 3, 128, 128], written out: pixels at their size, all others
    at D's.
    """
    networks, discriminator, video_embedding, _, real, landmark_images = adversarial_inputs
    small, small_real = F.avg_pool2d(leaf, 2), F.avg_pool2d(real, 2)
    score, maps, _ = discriminator(small, landmark_images, video_embedding)
    return {
        "content": 2 * content_loss(networks, small, small_real),
        "pixel": 20 * F.l1_loss(leaf, real),
        "adversarial": 3 * adversarial_loss(score),
        "feature_matching": 5
        * feature_matching_loss(
            maps, discriminator(small_real, landmark_images, video_embedding)[1], relative
        ),
    }


def test_large_frames_are_scored_at_landmark_size(large):
    networks, discriminator, video_embedding, fake, real, landmark_images = large
    leaf = fake.clone().requires_grad_()
    expected = losses_of(copy.deepcopy(large), leaf)
    terms, gradient, outputs = generator_gradient(
        WEIGHTS, networks, discriminator, video_embedding, fake, real, landmark_images
    )
    torch.testing.assert_close(terms, {name: term.detach() for name, term in expected.items()})
    torch.testing.assert_close(gradient, torch.autograd.grad(sum(expected.values()), leaf)[0])
    with torch.no_grad():
        of_real, of_fake = score_real_and_fake(
            discriminator, video_embedding, F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2), landmark_images
        )
    for actual, expected in zip(outputs, (of_real, of_fake), strict=True):
        torch.testing.assert_close(actual[0], expected[0], atol=1e-4, rtol=1e-4)
    optimiser = adam(
        [{"params": [*discriminator.parameters(), video_embedding]}], preset("tiny").meta.discriminator
    )
    assert (
        discriminator_backward(optimiser, outputs)["discriminator"] > 0
        and video_embedding.grad.abs().max() > 0
    )  # its graph is still there


def test_pixel_loss_above_128_pixels_averages_two_sizes():
    """Compare shifts: above 128 pixels a small shift costs less than a large one."""
    real = torch.zeros(1, 3, 256, 256)
    real[..., 64:72, 64:72] = 1
    near, far = real.roll(8, 3), real.roll(64, 3)
    for fake in (near, far):
        small = F.l1_loss(F.avg_pool2d(fake, 8), F.avg_pool2d(real, 8))
        torch.testing.assert_close(pixel_loss(fake, real), (F.l1_loss(fake, real) + small) / 2)
    shifted = real.roll(4, 3)
    assert pixel_loss(shifted, real) < pixel_loss(far, real)
    torch.testing.assert_close(
        pixel_loss(near[..., :128, :128], real[..., :128, :128]), F.l1_loss(near, real) * 4
    )


def test_target_features_give_the_same_gradient(large):
    networks, discriminator, video_embedding, fake, real, landmark_images = large
    target_features = [network(F.avg_pool2d(real, 2)) for network in networks]
    pairs = [
        generator_gradient(
            WEIGHTS, networks, discriminator, video_embedding, fake, real, landmark_images, features
        )
        for features in (None, target_features)
    ]
    assert torch.equal(pairs[0][1], pairs[1][1])


@pytest.mark.parametrize("size", [64, 128])
def test_invalid_pixels_have_no_loss_and_gradient(adversarial_inputs, large, size):
    """Check that gradients there are 0 and the rest is as if the true frame were there."""
    networks, discriminator, video_embedding, fake, real, landmark_images = (
        adversarial_inputs if size == 64 else large
    )
    valid = torch.ones(2, 1, size, size)
    valid[0, :, :, : size // 2] = 0
    details = torch.tensor([[0.5, 0.5, 0.6], [0.4, 0.4, 0.5]]), 0.5
    arguments = (WEIGHTS, networks, discriminator, video_embedding)
    terms, gradient, _ = generator_gradient(
        *arguments, fake, real, landmark_images, valid=valid, details=details
    )
    assert (gradient.masked_select(valid == 0) == 0).all()
    mixed = torch.where(valid > 0, fake, real)
    expected, of_mixed, _ = generator_gradient(*arguments, mixed, real, landmark_images, details=details)
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(gradient, of_mixed * valid)
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() > 0
    unhidden, _, _ = generator_gradient(*arguments, fake, real, landmark_images, details=details)
    assert all(terms[name] < unhidden[name] for name in ("content", "pixel", "details", "details_pixel"))


def test_all_valid_mask_equals_no_mask(large):
    networks, discriminator, video_embedding, fake, real, landmark_images = large
    valid = torch.ones(2, 1, 128, 128)
    first, second = (
        generator_gradient(
            WEIGHTS, networks, discriminator, video_embedding, fake, real, landmark_images, valid=v
        )
        for v in (None, valid)
    )
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[1], second[1])


@pytest.mark.parametrize("adversarial", [True, False])
def test_details_add_losses_of_crops(large, adversarial):
    networks, discriminator, video_embedding, fake, real, landmark_images = large
    weights = WEIGHTS if adversarial else dataclasses.replace(WEIGHTS, adversarial=0.0, feature_matching=0.0)
    boxes = torch.tensor([[0.5, 0.4, 0.3], [0.4, 0.7, 0.2]])
    arguments = (weights, networks, discriminator, video_embedding, fake, real, landmark_images)
    without, gradient_without, _ = generator_gradient(*arguments)
    terms, gradient, _ = generator_gradient(*arguments, details=(boxes, 0.5))
    leaf = fake.clone().requires_grad_()
    crops, crops_of_real = crop_boxes(leaf, boxes), crop_boxes(real, boxes)
    added = {
        "details": 0.5 * 2 * content_loss(networks, crops, crops_of_real),
        "details_pixel": 0.5 * 20 * F.l1_loss(crops, crops_of_real),
    }
    torch.testing.assert_close(terms, without | {name: term.detach() for name, term in added.items()})
    torch.testing.assert_close(
        gradient - gradient_without, torch.autograd.grad(sum(added.values()), leaf)[0], atol=1e-6, rtol=1e-3
    )


def weights_after(steps, seed=0):
    """Return what a network's two tensors might be after each of so many steps."""
    random = torch.Generator().manual_seed(seed)
    return [[torch.randn(3, 2, generator=random), torch.randn(4, generator=random)] for _ in range(steps)]


@pytest.mark.parametrize("decay, steps", [(0.97, 1), (0.97, 5), (0.97, 80), (0.999, 3)])
def test_running_average_equals_weighted_mean(decay, steps):
    """Weight each step by decay to the power of the steps since, and the start by 0."""
    seen = weights_after(steps)
    average = [torch.full((3, 2), 1e3), torch.full((4,), -1e3)]
    running = RunningAverage(average, decay)
    for current in seen:
        running.update(current)
    counts = torch.tensor([decay ** (steps - 1 - number) for number in range(steps)], dtype=torch.float64)
    for place, averaged in enumerate(average):
        rows = torch.stack([current[place].double() for current in seen]).flatten(1)
        expected = (counts[:, None] * rows).sum(0) / counts.sum()
        torch.testing.assert_close(averaged.flatten().double(), expected, atol=2e-4, rtol=0)
    if steps == 1:
        assert all(
            torch.allclose(averaged, current, atol=1e-4)
            for averaged, current in zip(average, seen[0], strict=True)
        )


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_resumed_running_average_equals_uninterrupted(steps):
    seen = weights_after(60)
    uninterrupted, interrupted = [[torch.zeros(3, 2), torch.zeros(4)] for _ in range(2)]
    running = RunningAverage(uninterrupted, 0.97)
    for current in seen:
        running.update(current)
    first = RunningAverage(interrupted, 0.97)
    for current in seen[:steps]:
        first.update(current)
    resumed = [tensor.clone() for tensor in interrupted]
    second = RunningAverage(resumed, 0.97, steps)
    for current in seen[steps:]:
        second.update(current)
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted, resumed, strict=True))
