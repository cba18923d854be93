"""The textbook networks that the bench compares with compute what ours compute, from the same weights."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.networks.baseline import BaselineDiscriminator, BaselineEncoder, BaselineGenerator
from talkinghead.config import preset
from talkinghead.networks import Discriminator, Embedder, Generator


@pytest.fixture(params=[False, True], ids=["plain", "spectral"])
def config(request):
    torch.manual_seed(0)
    spectral = {f"spectral_{name}": request.param for name in ("embedder", "generator", "discriminator")}
    return dataclasses.replace(preset("tiny").networks, **spectral)


def with_attention(network):
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return network


@pytest.mark.parametrize("learning", [False, True])
def test_pictures(config, learning):
    generator = with_attention(Generator(config))
    landmark_images, styles = torch.rand(2, 3, 64, 64), torch.randn(2, generator.style_length)
    baseline = BaselineGenerator(
        generator, learning
    ).eval()  # torch's parametrization iterates in training mode only
    with torch.no_grad():
        expected = generator(landmark_images, styles)
        torch.testing.assert_close(baseline(landmark_images, styles), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            baseline.to(memory_format=torch.channels_last)(landmark_images, styles),
            expected,
            atol=1e-4,
            rtol=0,
        )
    assert expected.std() > 0.1


@pytest.mark.parametrize("learning", [False, True])
def test_embeddings_scores_and_their_gradients(config, learning):
    embedder, discriminator = with_attention(Embedder(config)), with_attention(Discriminator(config))
    image, landmark_images = torch.rand(2, 2, 3, 64, 64)
    column = torch.randn(config.embedding)
    baseline = BaselineDiscriminator(discriminator, learning).eval()
    with torch.no_grad():
        discriminator.b.fill_(0.25)
        baseline.b.fill_(0.25)
        pooled, maps = BaselineEncoder(embedder, learning).eval()(image, landmark_images)
        torch.testing.assert_close(
            embedder.gain * pooled, embedder(image, landmark_images), rtol=1e-3, atol=1e-4
        )
        assert len(maps) == len(embedder.blocks)
    gradients = []
    for network in (discriminator, baseline):
        leaf = image.clone().requires_grad_()
        score, maps = network(leaf, landmark_images, column)[:2]
        gradients.append((score, *maps, torch.autograd.grad(score.sum(), leaf)[0]))
    for gradient, baseline_gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(
            baseline_gradient, gradient, rtol=2e-3, atol=2e-3 * float(gradient.detach().abs().max())
        )
