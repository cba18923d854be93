import dataclasses

import pytest
import torch

from talkinghead.config import PRESETS, preset
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.networks import Discriminator, Embedder, Generator


@pytest.fixture(scope="module", params=PRESETS)
def networks(request):
    torch.manual_seed(0)
    config = preset(request.param).networks
    return config, Embedder(config).eval(), Generator(config).eval(), Discriminator(config).eval()


@pytest.fixture
def real(carphone_clip):
    """Return frames and landmark images of a real clip at a preset's size."""

    def make(size, count=2):
        frames = (
            torch.from_numpy(carphone_clip.frames[:: len(carphone_clip) // count][:count])
            .permute(0, 3, 1, 2)
            .float()
            / 127.5
            - 1
        )
        points = torch.from_numpy(carphone_clip.track.landmarks[:: len(carphone_clip) // count][:count] / 64)
        return torch.nn.functional.interpolate(frames, size=(size, size), mode="bilinear"), landmark_image(
            points, size
        )

    return make


def count_millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_networks_have_parameter_counts_of_paper():
    config = preset("paper").networks
    embedder, generator, discriminator = Embedder(config), Generator(config), Discriminator(config)
    assert round(count_millions(embedder), 2) == 14.91
    assert round(count_millions(generator), 2) == 38.07
    assert round(count_millions(generator.projection), 2) == 6.70
    assert round(count_millions(discriminator), 2) == 19.63
    assert generator.style_length == 13056
    assert [len(network.layers()) for network in (embedder, generator, discriminator)] == [22, 42, 24]


def test_networks_start_with_expected_outputs(networks, real):
    """Check that frames have contrast, styles differ, and D's scores are near 0."""
    config, embedder, generator, discriminator = networks
    image, landmark_images = real(config.layer_size)
    with torch.no_grad():
        embedding = embedder(image, landmark_images)
        styles = generator.project(embedding)
        fake = generator(landmark_images, styles)
        score, maps, pooled = discriminator(image, landmark_images, torch.zeros(config.embedding))
    assert embedding.shape == (2, config.embedding)
    assert styles.shape == (2, generator.style_length)
    assert fake.shape == image.shape and fake.abs().max() <= 1
    assert 0.2 < fake.std() < 0.6
    assert (styles - generator.projection.bias).std() > 0.1
    assert len(maps) == len(config.encoder) + 1 and pooled.shape == (2, config.embedding)
    assert score.abs().max() == 0


def test_projection_starts_at_scale_one_shift_zero(networks):
    generator = networks[2]
    start = 0
    for channels in generator.norm_channels:
        assert (generator.projection.bias[start : start + channels] == 1).all()
        assert (generator.projection.bias[start + channels : start + 2 * channels] == 0).all()
        start += 2 * channels
    assert start == generator.style_length


def test_generator_rows_may_have_different_styles(real):
    torch.manual_seed(0)
    generator = Generator(preset("tiny").networks)
    _, landmark_images = real(64)
    styles = torch.randn(2, generator.style_length)
    with torch.no_grad():
        batched = generator(landmark_images, styles)
        separate = torch.cat([generator(landmark_images[i : i + 1], styles[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(batched, separate, atol=1e-5, rtol=0)
    assert (batched[0] - batched[1]).abs().mean() > 0.01


def test_discriminator_score_is_projection(real):
    torch.manual_seed(0)
    discriminator = Discriminator(preset("tiny").networks)
    image, landmark_images = real(64)
    column = torch.randn(2, 192)
    with torch.no_grad():
        discriminator.b.fill_(0.25)
        score, _, pooled = discriminator(image, landmark_images, column)
    torch.testing.assert_close(score, torch.stack([torch.dot(pooled[i], column[i]) + 0.25 for i in range(2)]))


@pytest.mark.parametrize("activate_first", [True, False])
def test_encoder_activation_order_follows_config(activate_first, real):
    torch.manual_seed(0)
    embedder = Embedder(
        dataclasses.replace(preset("tiny").networks, activate_before_pool=activate_first, embedding_gain=1.0)
    )
    with torch.no_grad():
        pooled, maps = embedder.encode(*real(64))
    last = maps[-1]
    expected = last.relu().sum((2, 3)) if activate_first else last.sum((2, 3)).relu()
    torch.testing.assert_close(pooled, expected)


def test_forward_does_not_advance_power_iteration(real):
    torch.manual_seed(0)
    embedder = Embedder(dataclasses.replace(preset("tiny").networks, spectral_embedder=True))
    before = [layer.u.clone() for layer in embedder.layers()]
    embedder(*real(64))
    assert all(torch.equal(layer.u, u) for layer, u in zip(embedder.layers(), before, strict=True))
    embedder.power_iteration_()
    assert any(not torch.equal(layer.u, u) for layer, u in zip(embedder.layers(), before, strict=True))


def test_spectral_norm_of_each_layer_is_one():
    torch.manual_seed(0)
    generator = Generator(
        dataclasses.replace(preset("tiny").networks, spectral_generator=True, initialisation="uniform")
    )
    generator.power_iteration_(100)
    for layer, weight in generator.weights().items():
        assert abs(torch.linalg.matrix_norm(weight.flatten(1), 2).item() - 1) < 0.02, tuple(
            layer.weight.shape
        )


def test_attention_gate_starts_at_zero(real):
    torch.manual_seed(0)
    generator = Generator(preset("tiny").networks)
    _, landmark_images = real(64)
    styles = torch.randn(2, generator.style_length)
    with torch.no_grad():
        before = generator(landmark_images, styles)
        generator.down_attention.query.weight.mul_(2)
        assert torch.equal(generator(landmark_images, styles), before)
        generator.down_attention.gamma.fill_(0.5)
        assert not torch.equal(generator(landmark_images, styles), before)


def test_project_rejects_generator_without_projection():
    generator = Generator(preset("tiny").networks, projection=False)
    with pytest.raises(TalkingheadError, match="has no projection"):
        generator.project(torch.zeros(1, 192))
