import dataclasses

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from conftest import face_points, guided, guided_config
from talkinghead.checkpoint import load_model, save_model
from talkinghead.config import preset
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import random_model
from talkinghead.networks import ReferenceViews
from talkinghead.training.meta import train
from talkinghead.training.warm_start import init_video_embeddings, load_compatible_weights


def test_weights_of_same_preset_give_same_frames():
    parent, model = random_model("tiny", 3), random_model("tiny", 4)
    load_compatible_weights(model, parent)
    landmark_images, image = torch.rand(2, 1, 3, 64, 64)
    a, b = (
        m.generator(landmark_images, m.generator.project(m.embedder(image, landmark_images)))
        for m in (parent, model)
    )
    assert torch.equal(a, b)


def test_weights_for_double_size_keep_magnitudes(face_shards):
    parent, model = random_model("tiny", 3), random_model("small", 4)
    load_compatible_weights(model, parent)
    with torch.no_grad():
        for network in (parent, model):  # styles beside their bias
            network.generator.projection.bias.zero_()
            network.discriminator.w0.fill_(1)
    sizes = []
    for network, size in ((parent, 64), (model, 128)):
        frames, points = EpisodeSource(face_shards, size, 3, 1, 1, seed=0).clip_for_column(0)
        landmark_images = landmark_image(points, size)
        with torch.no_grad():
            embedding = network.embedder(frames, landmark_images)
            score = network.discriminator(frames, landmark_images, network.discriminator.w0)[0]
            sizes.append(
                [tensor.abs().mean() for tensor in (embedding, network.generator.project(embedding), score)]
            )
    for small, large in zip(*sizes, strict=True):
        assert 0.7 < large / small < 1.4


def test_weights_for_other_gain_keep_styles():
    """Use a parent of preset paper that an earlier version trained."""
    config = preset("tiny")
    parent = random_model(
        dataclasses.replace(config, networks=dataclasses.replace(config.networks, embedding_gain=1.0)), 3
    )
    model = random_model("tiny", 4)
    load_compatible_weights(model, parent)
    landmark_images, image = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        embeddings = [source.embedder(image, landmark_images) for source in (parent, model)]
        styles = [source.generator.project(e) for source, e in zip((parent, model), embeddings, strict=True)]
    torch.testing.assert_close(embeddings[1], 0.01 * embeddings[0])
    torch.testing.assert_close(styles[1], styles[0])


def test_load_compatible_weights_rejects_other_channels():
    with pytest.raises(
        TalkingheadError, match="--init-from: the embedder of preset tiny does not fit that of preset paper"
    ):
        load_compatible_weights(random_model("paper"), random_model("tiny"))


def test_init_video_embeddings_uses_embedder(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 1, 4, seed=0)
    embedder = random_model("tiny").embedder
    video_embeddings = torch.full((source.columns, 192), 9.0)
    init_video_embeddings(video_embeddings, embedder, source, 64)
    frames, points = source.clip_for_column(3)
    with torch.no_grad():
        torch.testing.assert_close(video_embeddings[3], embedder(frames, landmark_image(points, 64)).mean(0))
    assert video_embeddings.max() < 9 and not torch.equal(video_embeddings[2], video_embeddings[3])


def test_init_video_embeddings_of_guided_uses_small_images(face_shards, guided_model):
    source = EpisodeSource(face_shards, 64, 3, 1, 1, seed=0)
    video_embeddings = torch.full((source.columns, 32), 9.0)
    init_video_embeddings(video_embeddings, guided_model.embedder, source, 32)
    frames, points = source.clip_for_column(1)
    with torch.no_grad():
        expected = guided_model.embedder(F.avg_pool2d(frames, 2), landmark_image(points, 32)).mean(0)
    torch.testing.assert_close(video_embeddings[1], expected)


def plain_config():
    """Return the configuration of a plain model whose channels are those of `guided_config`, at the size of
    its layers.
    """
    config = guided_config()
    networks = dataclasses.replace(config.networks, image_size=32, network_size=0, reference_guided=False)
    return dataclasses.replace(config, networks=networks)


def test_guided_weights_from_plain_keep_own_image(guided_clip):
    """Check that the own image is at first the plain model's for any references, and that their weights
    are equal.
    """
    parent, model = random_model(plain_config(), 3), random_model(guided_config(), 4)
    with torch.no_grad():
        for attention in (parent.generator.down_attention, parent.generator.up_attention):
            attention.gamma.fill_(0.5)
        parent.generator.out.bias.uniform_(-0.3, 0.3)
    load_compatible_weights(model, parent)
    landmark_images, image = (
        landmark_image(torch.from_numpy(face_points((0, 0), (0.1, 0.05))), 32),
        torch.rand(2, 3, 32, 32),
    )
    views = ReferenceViews(
        torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 4, 64, 64) * 2 - 1, torch.randn(2, 2, 64, 64) * 0.03
    )
    with torch.no_grad():
        styles = parent.generator.project(parent.embedder(image, landmark_images))
        torch.testing.assert_close(
            model.generator.project(model.embedder(image, landmark_images)), styles, atol=1e-5, rtol=1e-4
        )
        plain = parent.generator(landmark_images, styles)
        inputs = model.generator.gather(landmark_images, views)
        layers = model.generator.run_layers(inputs, styles)
        torch.testing.assert_close(torch.tanh(layers[:, :3]), plain, atol=1e-5, rtol=0)
        assert (layers[:, 3:] == 0).all() and plain.std() > 0.1
        own_frames = model.generator(landmark_images, styles, views, torch.ones(2, dtype=torch.bool))
        far = views._replace(motion=torch.full_like(views.motion, 10.0))  # the own image counts fully
        weights = model.generator.compose(layers, far)[1]
    # enlarged before tanh, so that the mean of its areas is the plain one but for what tanh bends
    assert (F.avg_pool2d(own_frames, 2) - plain).abs().mean() < 0.05
    enlarged = F.interpolate(layers[:, :3], scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(own_frames, torch.tanh(enlarged))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3), atol=1e-3, rtol=0)


def test_guided_weights_from_plain_can_learn():
    parent, model = random_model(plain_config(), 3), random_model(guided_config(), 4)
    load_compatible_weights(model, parent)
    views = ReferenceViews(
        torch.rand(1, 3, 64, 64), torch.rand(1, 4, 64, 64), torch.randn(1, 2, 64, 64) * 0.03
    )
    picture = model.generator(torch.rand(1, 3, 32, 32), torch.randn(1, model.generator.style_length), views)
    picture.square().sum().backward()
    assert model.generator.out.weight.grad.flatten(1).norm(dim=1).min() > 1e-4
    assert model.generator.down[0].conv1.weight.grad.flatten(2).norm(dim=2).amax(0).min() > 1e-6


def test_guided_weights_load_from_guided():
    parent, model = guided(3), random_model(guided_config(), 4)
    load_compatible_weights(model, parent)
    pairs = zip(model.generator.state_dict().values(), parent.generator.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_plain_rejects_weights_of_guided():
    with pytest.raises(TalkingheadError, match="--init-from: the generator of preset portrait does not fit"):
        load_compatible_weights(random_model(plain_config(), 3), guided(3))


def test_guided_rejects_other_channels():
    with pytest.raises(
        TalkingheadError,
        match="--init-from: the embedder of preset tiny does not fit that of preset portrait",
    ):
        load_compatible_weights(guided(3), random_model("tiny"))


@pytest.mark.slow
def test_train_init_from_is_in_provenance(face_shards, tmp_path):
    parent = random_model("tiny", 7)
    parent.provenance = {"variant": "ft", "steps": 50, "seconds": 9, "people": ["zoe"]}
    save_model(parent, tmp_path / "parent.safetensors")
    start = str(tmp_path / "parent.safetensors")
    train(face_shards, tmp_path / "run", "tiny", steps=0, init_from=start)
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert torch.equal(model.generator.out.weight, parent.generator.out.weight)
    assert model.provenance["start"] == {"digest": parent.digest, "steps": 50}
    assert model.provenance["people"] == ["first", "second", "zoe"]
    video_embeddings = load_file(tmp_path / "run" / "state.safetensors")["columns.weight"]
    source = EpisodeSource(face_shards, 64, preset("tiny").meta.shots, 1, preset("tiny").meta.videos, seed=0)
    frames, points = source.clip_for_column(7)
    with torch.no_grad():
        torch.testing.assert_close(
            video_embeddings[7], parent.embedder(frames, landmark_image(points, 64)).mean(0)
        )
    train(face_shards, tmp_path / "run", "tiny", steps=1, init_from=start)  # goes on
    with pytest.raises(TalkingheadError, match="its initial weights were of model"):
        train(face_shards, tmp_path / "run", "tiny", steps=2)
