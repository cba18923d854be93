"""Training with irises: episodes, augmentation, meta-learning and fine-tuning."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import guided
from support.gaze_helpers import (
    SIDE,
    config_with_irises,
    gaze_clip,
    model_with_irises,
    without_irises,
    write_gaze_shards,
)
from support.minimal_training import minimal_config
from talkinghead import config as configuration
from talkinghead.checkpoint import load_model
from talkinghead.config import Config, preset
from talkinghead.config_file import read_preset
from talkinghead.dataset.augment import sample_augmentation, sample_jitter
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.face_points import HIDDEN_IRIS, fit_points, split_points
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import random_model
from talkinghead.training import meta
from talkinghead.training.finetune import embed, finetune_steps
from talkinghead.training.finetune_inputs import make_references, prepare_images
from talkinghead.training.meta import train
from talkinghead.training.warm_start import load_compatible_weights


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return data sets in which all, some or none of the clips have irises."""
    folder = tmp_path_factory.mktemp("shards")
    return {
        "all": write_gaze_shards(folder / "all", ann=True, bob=True),
        "some": write_gaze_shards(folder / "some", ann=True, bob=False),
        "none": write_gaze_shards(folder / "none", ann=False, bob=False),
    }


@pytest.fixture
def minimal(monkeypatch: pytest.MonkeyPatch) -> Config:
    """Let preset `tiny` be one of milliseconds a step."""
    config = minimal_config()
    monkeypatch.setitem(configuration._PRESETS, "tiny", config)
    monkeypatch.setattr(meta, "open_perceptual", lambda *_: [])
    monkeypatch.setattr(meta, "measure_peak_flops", lambda *_: 1.0)  # measuring it takes seconds
    return config


def test_preset_with_irises_differs_in_the_flag_alone() -> None:
    config = config_with_irises(preset("tiny"))
    assert not preset("tiny").networks.irises and preset("tiny").networks.num_points == 68
    assert config.networks.num_points == 78
    assert config.to_dict()["networks"] == {**preset("tiny").to_dict()["networks"], "irises": True}
    assert Config.from_dict(config.to_dict()) == config


def test_preset_file_turns_irises_on(tmp_path: Path) -> None:
    path = tmp_path / "gaze.toml"
    path.write_text('[preset]\nbase = "small"\n[preset.networks]\nirises = true\n')
    config = read_preset(path)
    assert config == dataclasses.replace(config_with_irises(preset("small")), preset="gaze")


def test_episodes_hold_irises_or_hide_unknown_ones(shards: dict[str, Path]) -> None:
    source = EpisodeSource(shards["some"], SIDE, 3, 8, 1, seed=0, num_points=78)
    episodes = source.draw(0)
    assert episodes.points.shape == (8, 4, 78, 2)
    plain = EpisodeSource(shards["some"], SIDE, 3, 8, 1, seed=0).draw(0)
    assert torch.equal(plain.points, episodes.points[..., :68, :]) and torch.equal(
        plain.frames, episodes.frames
    )
    hidden = (episodes.points[..., 68:, :] == HIDDEN_IRIS).all(3).all(2)
    known = [source.clips[column].irises is not None for column in episodes.columns.tolist()]
    assert 0 < sum(known) < 8 and hidden.all(1).tolist() == [not value for value in known]
    with_irises = [clip.irises is not None for clip in source.clips].index(True)
    clip, (_, irises) = source.clips[with_irises], split_points(source.clip_for_column(with_irises)[1])
    assert clip.irises is not None and irises is not None
    distance = (torch.from_numpy(clip.irises / SIDE)[:, None] - irises).abs().amax((2, 3, 4)).amin(0)
    assert distance.max() < 1e-6


def test_augmentation_moves_irises_with_the_picture() -> None:
    clip = gaze_clip(2)
    points = torch.from_numpy(clip.track.irises / SIDE).flatten(1, 2).float()
    landmarks = torch.from_numpy(clip.track.landmarks / SIDE).float()
    faces, hidden = torch.cat([landmarks, points], 1), fit_points(landmarks, 78)
    images = torch.zeros(2, 3, SIDE, SIDE)
    mirrored = 0
    for variant in range(1, 40):
        augmentation = sample_augmentation(0, 0, variant)
        assert augmentation is not None
        mirrored += augmentation.mirrored
        moved = augmentation.apply(images, faces)[1]
        assert torch.equal(moved[:, :68], augmentation.apply(images, landmarks)[1])
        # each iris is in its eye still, and the first edge is to the right
        eyes = torch.stack([moved[:, 36:42].mean(1), moved[:, 42:48].mean(1)], 1)
        irises = moved[:, 68:].unflatten(1, (2, 5))
        assert (irises[:, :, 0] - eyes).norm(dim=2).max() < 0.05
        assert (irises[:, :, 1, 0] > irises[:, :, 3, 0]).all() and (
            irises[:, :, 4, 1] > irises[:, :, 2, 1]
        ).all()
        unseen = augmentation.apply(images, hidden)[1]
        assert torch.equal(landmark_image(unseen, SIDE), landmark_image(unseen[:, :68], SIDE))
    assert 10 < mirrored < 30
    jitter = sample_jitter(np.random.default_rng(0), 0.06)
    unseen = jitter.apply(images, hidden)[1]
    assert torch.equal(landmark_image(unseen, SIDE), landmark_image(unseen[:, :68], SIDE))


def test_train_shows_irises_and_stores_the_flag(
    shards: dict[str, Path], tmp_path: Path, minimal: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counting(points: torch.Tensor, size: int) -> torch.Tensor:
        counts.append(points.shape[1])
        return landmark_image(points, size)

    monkeypatch.setattr("talkinghead.training.meta_learner.landmark_image", counting)
    assert not train(shards["all"], tmp_path / "plain", "tiny", steps=1).config.networks.irises
    assert set(counts) == {68}
    counts.clear()
    model = train([shards["some"], shards["none"]], tmp_path / "gaze", "tiny", steps=1, irises=True)
    assert set(counts) == {78} and model.config.networks.irises
    assert load_model(tmp_path / "gaze/model.safetensors").config == model.config


def test_training_sees_the_irises(shards: dict[str, Path], tmp_path: Path, minimal: Config) -> None:
    models = [
        train(shards["all"], tmp_path / str(irises), "tiny", steps=2, seed=1, irises=irises).generator
        for irises in (True, False)
    ]
    weights = [torch.cat([weight.flatten() for weight in model.parameters()]) for model in models]
    assert not torch.equal(*weights)


def test_train_from_model_without_irises_keeps_weights(
    shards: dict[str, Path], tmp_path: Path, minimal: Config
) -> None:
    parent = train(shards["all"], tmp_path / "parent", "tiny", steps=1)
    model = random_model(config_with_irises(minimal), 5)
    load_compatible_weights(model, parent)
    for name, tensor in parent.generator.state_dict().items():
        assert torch.equal(model.generator.state_dict()[name], tensor)
    path = str(tmp_path / "parent/model.safetensors")
    child = train(shards["all"], tmp_path / "child", "tiny", steps=1, init_from=path, irises=True)
    assert child.config.networks.irises and child.provenance["start"]["steps"] == 1


def test_train_refuses_data_without_any_irises(
    shards: dict[str, Path], tmp_path: Path, minimal: Config, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        TalkingheadError, match="irises: no clip of the data has them; prepare it into another folder"
    ):
        train(shards["none"], tmp_path / "run", "tiny", steps=1, irises=True)
    with caplog.at_level(logging.INFO, "talkinghead"):
        train(shards["some"], tmp_path / "run", "tiny", steps=0, irises=True)
    assert "1 of 2 clips have no irises" in caplog.text


def test_train_refuses_to_resume_with_other_irises(
    shards: dict[str, Path], tmp_path: Path, minimal: Config
) -> None:
    for irises, problem in (
        (False, "without irises; leave out --irises"),
        (True, "with irises; add --irises"),
    ):
        out = tmp_path / str(irises)
        train(shards["all"], out, "tiny", steps=1, irises=irises)
        with pytest.raises(TalkingheadError, match=f"holds a run {problem}, or choose another folder"):
            train(shards["all"], out, "tiny", steps=2, irises=not irises)


def test_prepared_images_show_irises_of_models_with_them() -> None:
    clip, plain = gaze_clip(), guided()
    model = model_with_irises(plain)
    images, hidden, unseen = (
        prepare_images(*pair) for pair in ((model, clip), (model, without_irises(clip)), (plain, clip))
    )
    assert images.points.shape == hidden.points.shape == unseen.points.shape == (4, 78, 2)
    assert torch.equal(images.landmarks, unseen.landmarks) and images.landmarks.shape == (4, 68, 2)
    assert torch.equal(hidden.landmark_images, unseen.landmark_images)
    assert not torch.equal(images.landmark_images, unseen.landmark_images)
    assert not torch.equal(embed(model, clip), embed(model, without_irises(clip)))
    for known in (images, unseen):
        irises = make_references(known).irises
        np.testing.assert_allclose(irises, clip.track.irises / SIDE, atol=1e-6)


def test_images_of_the_papers_form_without_irises_have_landmarks_alone() -> None:
    images = prepare_images(random_model(minimal_config(), 1), gaze_clip())
    assert images.points.shape == (4, 68, 2)
    assert make_references(prepare_images(guided(), without_irises(gaze_clip()))).irises is None


def test_model_without_irises_learns_as_before() -> None:
    """Learn from the same pictures with and without irises; a model that does not show them ignores them."""
    model = random_model(minimal_config(), 1)
    clip = gaze_clip()
    people = [
        finetune_steps(model, pictures, 2, perceptual=[], seed=3) for pictures in (clip, without_irises(clip))
    ]
    states = [person.generator.state_dict() for person in people]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(people[0].styles, people[1].styles)
    np.testing.assert_array_equal(people[0].neutral_landmarks, people[1].neutral_landmarks)


@pytest.mark.parametrize("kind", ["guided", "plain"])
def test_fine_tuning_sees_the_irises(kind: str) -> None:
    model = model_with_irises(guided() if kind == "guided" else random_model(minimal_config(), 1))
    if kind == "plain":  # images that are moved at random, with their points
        finetune = dataclasses.replace(model.config.finetune, jitter=0.03)
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, finetune=finetune))
    clip = gaze_clip()
    people = [
        finetune_steps(model, pictures, 2, perceptual=[], seed=3) for pictures in (clip, without_irises(clip))
    ]
    states = [person.generator.state_dict() for person in people]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert people[0].neutral_landmarks.shape == (68, 2)
