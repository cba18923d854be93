"""Outputs and training of the networks with kernels compared with the reference."""

import copy
from dataclasses import replace

import pytest
import talkinghead_kernels as ops
import torch

from talkinghead.config import preset
from talkinghead.networks import Discriminator, Embedder, Generator

FAST = [name for name, reason in ops.backends().items() if reason is None and name != "reference"]


@pytest.fixture(
    params=FAST
    or [pytest.param("none", marks=pytest.mark.skip(reason=f"reference alone runs here: {ops.backends()}"))]
)
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


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_backends_generate_equal_frames(backend, config, memory_format, dtype):
    torch.manual_seed(0)
    generator = Generator(config).to(memory_format=memory_format)
    with torch.no_grad():
        for attention in (generator.down_attention, generator.up_attention):
            attention.gamma.fill_(0.5)
    landmark_images = torch.rand(2, 3, 64, 64) * 2 - 1
    embedding = 0.1 * torch.randn(
        2, config.embedding
    )  # at 1 the untrained attention's scores reach 40,000: a rounding picks the key

    def picture(name, generator, wide=torch.float32):
        with (
            torch.inference_mode(),
            ops.use_backend(name),
            torch.autocast("cpu", dtype, enabled=dtype != wide == torch.float32),
        ):
            return generator(landmark_images.to(wide), generator.project(embedding.to(wide))).double()

    true = picture("reference", copy.deepcopy(generator).double(), torch.float64)
    assert true.std() > 0.1
    errors = [(picture(name, generator) - true).square().mean().sqrt() for name in (backend, "reference")]
    assert 0 < errors[0] < 2 * errors[1], errors


def test_backends_train_equally_step_by_step(backend, config):
    torch.manual_seed(0)
    start = torch.nn.ModuleList([Embedder(config), Generator(config), Discriminator(config)])
    image, landmark_images = torch.rand(2, 2, 3, 64, 64) * 2 - 1

    def losses(name):
        networks = copy.deepcopy(start)
        embedder, generator, discriminator = networks
        optimiser = torch.optim.SGD(networks.parameters(), lr=1e-3)
        history = []
        with ops.use_backend(name):
            for _ in range(4):
                for network in networks:
                    network.power_iteration_()
                fake = generator(landmark_images, generator.project(embedder(image, landmark_images)))
                score, maps, _ = discriminator(fake, landmark_images, discriminator.w0)
                loss = (fake - image).abs().mean() + maps[-1].square().mean() - score.mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                history.append(loss.detach())
        return torch.stack(history), torch.cat([p.detach().flatten() for p in networks.parameters()])

    expected, expected_weights = losses("reference")
    actual, actual_weights = losses(backend)
    assert (expected[1:] != expected[:-1]).all()  # it moves
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    moved = (expected_weights - torch.cat([p.detach().flatten() for p in start.parameters()])).norm()
    assert (actual_weights - expected_weights).norm() < 1e-2 * moved
