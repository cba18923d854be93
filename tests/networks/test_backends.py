"""The networks give the same, and learn the same, on the kernels as on the reference."""

import copy
from dataclasses import replace

import pytest
import talkinghead_kernels as ops
import torch

from talkinghead.config import preset
from talkinghead.networks import Discriminator, Embedder, Generator

FAST = [name for name, reason in ops.backends().items() if reason is None and name != "reference"]


@pytest.fixture(params=FAST or [pytest.param("none", marks=pytest.mark.skip(reason=f"reference alone runs here: {ops.backends()}"))])
def backend(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "spectral"])
def config(request):
    return replace(
        preset("tiny").networks,
        spectral_embedder=request.param,
        spectral_generator=request.param,
        spectral_discriminator=request.param,
        initialisation="orthogonal",
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_picture_is_the_same(backend, config, memory_format, dtype):
    torch.manual_seed(0)
    generator = Generator(config).to(memory_format=memory_format)
    with torch.no_grad():
        for attention in (generator.down_attention, generator.up_attention):
            attention.gamma.fill_(0.5)
    drawn = torch.rand(2, 3, 64, 64) * 2 - 1
    embedding = 0.1 * torch.randn(2, config.embedding)  # at 1 the untrained attention's scores reach 40,000: a rounding picks the key

    def picture(name, generator, wide=torch.float32):
        with torch.inference_mode(), ops.use_backend(name), torch.autocast("cpu", dtype, enabled=dtype != wide == torch.float32):
            return generator(drawn.to(wide), generator.project(embedding.to(wide))).double()

    true = picture("reference", copy.deepcopy(generator).double(), torch.float64)
    assert true.std() > 0.1
    errors = [(picture(name, generator) - true).square().mean().sqrt() for name in (backend, "reference")]
    assert 0 < errors[0] < 2 * errors[1], errors


def test_training_goes_the_same_way_step_by_step(backend, config):
    torch.manual_seed(0)
    start = torch.nn.ModuleList([Embedder(config), Generator(config), Discriminator(config)])
    image, drawn = torch.rand(2, 2, 3, 64, 64) * 2 - 1

    def losses(name):
        networks = copy.deepcopy(start)
        embedder, generator, discriminator = networks
        optimiser = torch.optim.SGD(networks.parameters(), lr=1e-3)
        found = []
        with ops.use_backend(name):
            for _ in range(4):
                for network in networks:
                    network.power_iteration_()
                fake = generator(drawn, generator.project(embedder(image, drawn)))
                score, maps, _ = discriminator(fake, drawn, discriminator.w0)
                loss = (fake - image).abs().mean() + maps[-1].square().mean() - score.mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                found.append(loss.detach())
        return torch.stack(found), torch.cat([p.detach().flatten() for p in networks.parameters()])

    wanted, wanted_weights = losses("reference")
    got, got_weights = losses(backend)
    assert (wanted[1:] != wanted[:-1]).all()  # it moves
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    moved = (wanted_weights - torch.cat([p.detach().flatten() for p in start.parameters()])).norm()
    assert (got_weights - wanted_weights).norm() < 1e-2 * moved
