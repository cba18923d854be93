import pytest
import torch
from safetensors.torch import load_file

from talkinghead.checkpoint import load_model, random_model, save_model
from talkinghead.config import preset
from talkinghead.data.episodes import EpisodeSource
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.draw import landmark_image
from talkinghead.training.meta import train
from talkinghead.training.start import fill_columns, take_weights


def test_the_same_preset_makes_the_same_pictures():
    parent, model = random_model("tiny", 3), random_model("tiny", 4)
    take_weights(model, parent)
    drawn, image = torch.rand(2, 1, 3, 64, 64)
    a, b = (m.generator(drawn, m.generator.project(m.embedder(image, drawn))) for m in (parent, model))
    assert torch.equal(a, b)


def test_on_pictures_twice_as_large_embeddings_styles_and_scores_keep_their_size(face_shards):
    parent, model = random_model("tiny", 3), random_model("small", 4)
    take_weights(model, parent)
    with torch.no_grad():
        for network in (parent, model):  # styles beside their bias
            network.generator.projection.bias.zero_()
            network.discriminator.w0.fill_(1)
    found = []
    for network, size in ((parent, 64), (model, 128)):
        frames, points = EpisodeSource(face_shards, size, 3, 1, 1, seed=0).of_column(0)
        drawn = landmark_image(points, size)
        with torch.no_grad():
            embedding = network.embedder(frames, drawn)
            score = network.discriminator(frames, drawn, network.discriminator.w0)[0]
            found.append([each.abs().mean() for each in (embedding, network.generator.project(embedding), score)])
    for small, large in zip(*found, strict=True):
        assert 0.7 < large / small < 1.4


def test_other_channels_are_told():
    with pytest.raises(TalkingheadError, match="--start: the embedder of preset tiny does not fit that of preset paper"):
        take_weights(random_model("paper"), random_model("tiny"))


def test_columns_are_the_embeddings_of_their_videos(face_shards):
    source = EpisodeSource(face_shards, 64, 3, 1, 4, seed=0)
    embedder = random_model("tiny").embedder
    columns = torch.full((source.columns, 192), 9.0)
    fill_columns(columns, embedder, source)
    frames, points = source.of_column(3)
    with torch.no_grad():
        torch.testing.assert_close(columns[3], embedder(frames, landmark_image(points, 64)).mean(0))
    assert columns.max() < 9 and not torch.equal(columns[2], columns[3])


def test_a_run_starts_from_a_model_and_says_so(face_shards, tmp_path):
    parent = random_model("tiny", 7)
    parent.provenance = {"variant": "ft", "steps": 50, "seconds": 9, "people": ["zoe"]}
    save_model(parent, tmp_path / "parent.safetensors")
    start = str(tmp_path / "parent.safetensors")
    train(face_shards, tmp_path / "run", "tiny", steps=0, start=start)
    model = load_model(tmp_path / "run" / "model.safetensors")
    assert torch.equal(model.generator.out.weight, parent.generator.out.weight)
    assert model.provenance["start"] == {"digest": parent.digest, "steps": 50, "seconds": 9}
    assert model.provenance["people"] == ["first", "second", "zoe"]
    found = load_file(tmp_path / "run" / "state.safetensors")["columns.weight"]
    source = EpisodeSource(face_shards, 64, preset("tiny").meta.shots, 1, preset("tiny").meta.videos, seed=0)
    frames, points = source.of_column(7)
    with torch.no_grad():
        torch.testing.assert_close(found[7], parent.embedder(frames, landmark_image(points, 64)).mean(0))
    train(face_shards, tmp_path / "run", "tiny", steps=1, start=start)  # goes on
    with pytest.raises(TalkingheadError, match="another start"):
        train(face_shards, tmp_path / "run", "tiny", steps=2)
