"""The textbook networks that the bench compares with compute what ours compute, from the same weights."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.networks.stock import StockDiscriminator, StockEncoder, StockGenerator
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
    drawn, styles = torch.rand(2, 3, 64, 64), torch.randn(2, generator.style_length)
    stock = StockGenerator(generator, learning).eval()  # torch's parametrization iterates in training mode only
    with torch.no_grad():
        wanted = generator(drawn, styles)
        torch.testing.assert_close(stock(drawn, styles), wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(stock.to(memory_format=torch.channels_last)(drawn, styles), wanted, atol=1e-4, rtol=0)
    assert wanted.std() > 0.1


@pytest.mark.parametrize("learning", [False, True])
def test_embeddings_scores_and_their_gradients(config, learning):
    embedder, discriminator = with_attention(Embedder(config)), with_attention(Discriminator(config))
    image, drawn = torch.rand(2, 2, 3, 64, 64)
    column = torch.randn(config.embedding)
    stock = StockDiscriminator(discriminator, learning).eval()
    with torch.no_grad():
        discriminator.b.fill_(0.25)
        stock.b.fill_(0.25)
        pooled, maps = StockEncoder(embedder, learning).eval()(image, drawn)
        torch.testing.assert_close(embedder.gain * pooled, embedder(image, drawn), rtol=1e-3, atol=1e-4)
        assert len(maps) == len(embedder.blocks)
    gradients = []
    for network in (discriminator, stock):
        shown = image.clone().requires_grad_()
        score, maps = network(shown, drawn, column)[:2]
        gradients.append((score, *maps, torch.autograd.grad(score.sum(), shown)[0]))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=2e-3, atol=2e-3 * float(ours.detach().abs().max()))
