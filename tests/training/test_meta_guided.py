"""Meta-learning of the reference-guided generator."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from conftest import face_clip, face_points, guided_config
from talkinghead import config as configuration
from talkinghead.checkpoint import load_model
from talkinghead.dataset.episodes import Episodes
from talkinghead.model import random_model
from talkinghead.networks import ReferenceGuidedGenerator
from talkinghead.networks.references import view_episodes
from talkinghead.training import meta, meta_learner
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner


def episode(people=2):
    """Return a fixed batch: for each synthetic person a target and two others, float32 [people, 3, 3, 64,
    64].
    """
    clips = [
        face_clip(face_points((0, 0), (0.05, 0.02), (-0.04, 0.03)), seed=number) for number in range(people)
    ]
    frames = torch.stack(
        [torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1 for clip in clips]
    )
    points = torch.stack([torch.from_numpy(clip.track.landmarks / 64) for clip in clips])
    return Episodes(frames, points, torch.arange(people))


def guided_learner(seed=0, **changes):
    config = guided_config()
    model = random_model(dataclasses.replace(config, meta=dataclasses.replace(config.meta, **changes)), seed)
    torch.manual_seed(seed)
    return MetaLearner(model, 2, [])


def test_guided_steps_reduce_loss():
    learner, episodes = guided_learner(), episode()
    seen = [learner.step(episodes) for _ in range(12)]
    pixel = [float(metrics["pixel"]) for metrics, _ in seen]
    assert sum(pixel[-3:]) < 0.8 * sum(pixel[:3])
    metrics, rows = seen[0]
    assert {
        "content",
        "pixel",
        "details",
        "details_pixel",
        "adversarial",
        "feature_matching",
        "matching",
    } <= set(metrics)
    assert [tuple(row.shape) for row in rows] == [(2, 3, 32, 32)] * 4


def test_guided_steps_change_every_network():
    learner = guided_learner()
    before = {
        name: {key: t.clone() for key, t in module.state_dict().items()}
        for name, module in learner.modules.items()
    }
    for _ in range(2):
        learner.step(episode())
    for name, module in learner.modules.items():
        assert any(not torch.equal(t, before[name][key]) for key, t in module.state_dict().items()), name
    rows = (learner.generator.out.weight - before["generator"]["out.weight"]).flatten(1).abs().amax(1)
    assert (rows > 1e-5).all()  # own picture and weights


def test_guided_references_exclude_target(monkeypatch):
    """Check that views are of the other frames at the target's landmarks; half of the steps use the first
    alone.
    """
    learner, episodes, seen = guided_learner(), episode(), []

    def record(frames, points, target):
        seen.append(frames.shape[1])
        assert torch.equal(frames, episodes.frames[:, 1 : 1 + seen[-1]]) and torch.equal(
            points, episodes.points[:, 1 : 1 + seen[-1]]
        )
        assert torch.equal(target, episodes.points[:, 0])
        return view_episodes(frames, points, target)

    monkeypatch.setattr(meta_learner, "view_episodes", record)
    for _ in range(16):
        learner.step(episodes)
    assert set(seen) == {1, 2} and 3 < seen.count(1) < 13


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_guided_steps_use_own_image_only_as_configured(share, monkeypatch):
    learner, seen = guided_learner(own_picture=share), []
    real = ReferenceGuidedGenerator.forward

    def record(self, landmark_images, styles, views, own_image_only):
        seen.append(own_image_only)
        return real(self, landmark_images, styles, views, own_image_only)

    monkeypatch.setattr(ReferenceGuidedGenerator, "forward", record)
    learner.step(episode())
    assert seen[0].tolist() == [share == 1.0] * 2


def test_guided_invalid_pixels_have_no_loss():
    """Check that the target's invalid pixels change no metric of G and no weight."""
    episodes = episode()
    valid = torch.ones(2, 1, 64, 64)
    valid[:, :, :20] = 0
    other = episodes.frames.clone()
    other[:, 0, :, :20] = 1 - other[:, 0, :, :20].roll(7, 3)
    pairs = [(episodes.frames, valid), (other, valid), (other, None)]
    no_adversarial = {"adversarial": 0.0, "feature_matching": 0.0}
    losses = dataclasses.replace(guided_config().meta.losses, **no_adversarial)
    results = []
    for frames, mask in pairs:
        learner = guided_learner(losses=losses, precision="fp32", details=0.0)
        metrics, _ = learner.step(dataclasses.replace(episodes, frames=frames, valid=mask))
        results.append((metrics, learner.generator.out.weight.detach().clone()))
    assert torch.equal(results[0][1], results[1][1]) and torch.equal(
        results[0][0]["pixel"], results[1][0]["pixel"]
    )
    assert not torch.equal(results[0][1], results[2][1]) and results[2][0]["pixel"] > results[1][0]["pixel"]


def test_guided_run_resumes_bit_for_bit(face_shards, tmp_path, monkeypatch):
    """Check that references, own-image rows and detail boxes depend on the step alone."""
    monkeypatch.setitem(configuration._PRESETS, "portrait", guided_config())
    monkeypatch.setattr(meta, "open_perceptual", lambda *_: [])
    train(face_shards, tmp_path / "whole", "portrait", steps=5, seed=2)
    for steps in (2, 5):
        train(face_shards, tmp_path / "parted", "portrait", steps=steps, seed=2)
    uninterrupted, resumed = (
        load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parted")
    )
    assert uninterrupted.keys() == resumed.keys()
    assert [name for name in uninterrupted if not torch.equal(uninterrupted[name], resumed[name])] == []
    model = load_model(tmp_path / "parted" / "model.safetensors")
    assert isinstance(model.generator, ReferenceGuidedGenerator) and model.provenance["steps"] == 5
    assert model.config.networks == guided_config().networks
