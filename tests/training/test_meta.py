import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import face_clip, face_points, guided_config
from talkinghead import config as configuration
from talkinghead.checkpoint import load_model, random_model
from talkinghead.config import preset
from talkinghead.data.episodes import Episodes, EpisodeSource
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.draw import landmark_image
from talkinghead.losses import matching_loss
from talkinghead.networks import ReferenceGuidedGenerator
from talkinghead.networks.references import view_episodes
from talkinghead.training import meta, meta_learner
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.start import fill_columns
from talkinghead.training.state import load_state

STEPS = 8
PROCESSES = multiprocessing.get_context("forkserver")  # a server imports torch once; each run is forked from it
PROCESSES.set_forkserver_preload(["talkinghead.training.meta", "torch.utils.tensorboard"])


def start(data, out, steps=STEPS):
    process = PROCESSES.Process(target=train, args=(data, out, "tiny"), kwargs={"steps": steps, "seed": 1, "save_seconds": 0.0})
    process.start()
    return process


@pytest.mark.slow  # robustness/test_kills.py kills runs of smaller networks
def test_a_run_killed_at_random_points_goes_on_bit_for_bit(face_shards, tmp_path):
    whole = start(face_shards, tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0
    chance, killed = random.Random(0), 0
    state = tmp_path / "killed" / "state.safetensors"
    while killed < 3:
        run = start(face_shards, tmp_path / "killed")
        before = state.stat().st_mtime_ns if state.exists() else 0
        while run.is_alive() and (state.stat().st_mtime_ns if state.exists() else 0) == before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))  # in a step, in a save, or between
        if not run.is_alive():  # a fast machine
            break
        run.kill()
        run.join()
        killed += 1
    assert killed >= 2, "the run ended before it could be killed twice; give it more steps"
    last = start(face_shards, tmp_path / "killed")
    last.join()
    assert last.exitcode == 0
    wanted, got = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "killed"))
    assert wanted.keys() == got.keys()
    assert [name for name in wanted if not torch.equal(wanted[name], got[name])] == []
    a, b = (load_model(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert torch.equal(a.generator.out.weight, b.generator.out.weight)
    assert a.provenance["steps"] == STEPS


def test_a_run_goes_on_in_the_precision_it_began_with(face_shards, tmp_path, monkeypatch):
    for faster, steps in (("fp32", 1), ("bf16", 2)):
        monkeypatch.setattr(meta_learner, "training_precision", lambda device, wanted, faster=faster: faster)
        assert train(face_shards, tmp_path, "tiny", steps=steps, seed=1).provenance["precision"] == "fp32"


def test_interrupting_politely_saves_the_last_step(face_shards, tmp_path):
    run = start(face_shards, tmp_path, steps=10_000)
    while not (tmp_path / "model.safetensors").exists():
        time.sleep(0.05)
        assert run.is_alive()
    os.kill(run.pid, signal.SIGTERM)
    run.join(60)
    assert run.exitcode not in (0, None)
    assert load_model(tmp_path / "model.safetensors").provenance["steps"] >= 1


def test_every_network_learns_and_only_as_the_paper_says(face_shards):
    model = random_model("tiny")
    source = EpisodeSource(face_shards, 64, 2, 2, 1, seed=0)
    learner = MetaLearner(model, source.columns, [])
    before = {name: {key: t.clone() for key, t in module.state_dict().items()} for name, module in learner.modules.items()}
    figures, rows = learner.step(source.draw(0))
    for name, module in learner.modules.items():
        moved = [key for key, t in module.state_dict().items() if not torch.equal(t, before[name][key])]
        assert moved, name
    columns = source.draw(0).columns
    untouched = torch.ones(source.columns, dtype=torch.bool)
    untouched[columns] = False
    assert torch.equal(learner.columns.weight[untouched], before["columns"]["weight"][untouched])
    wanted = {
        "content",
        "pixel",
        "adversarial",
        "feature_matching",
        "matching",
        "discriminator",
        "score_real",
        "score_fake",
        "score_gap",
        "live_units",
    }
    assert set(figures) == wanted
    assert [tuple(row.shape) for row in rows] == [(2, 3, 64, 64)] * 4
    decay, key = preset("tiny").meta.average, "out.weight"
    first = learner.generator.state_dict()[key].clone()
    torch.testing.assert_close(learner.average_generator.state_dict()[key], first)  # the start counts nothing
    learner.step(source.draw(1))
    expected = (decay * first + learner.generator.state_dict()[key]) / (1 + decay)
    torch.testing.assert_close(learner.average_generator.state_dict()[key], expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_in_parts_is_the_same_step(face_shards, monkeypatch, steps):
    """Up to rounding, and to a loss that is relative to the maps of its own part."""
    source = EpisodeSource(face_shards, 64, 2, 4, 1, seed=0)
    config = preset("tiny")
    losses = dataclasses.replace(config.meta.losses, relative_feature_matching=False)
    config = dataclasses.replace(config, meta=dataclasses.replace(config.meta, precision="fp32", losses=losses, discriminator_steps=steps))
    seen, figures = [], []

    def look(optimiser, clip):
        seen.append([p.grad.to_dense() for group in optimiser.param_groups for p in group["params"] if p.grad is not None])
        optimiser.zero_grad()

    monkeypatch.setattr(meta_learner, "take_step", look)
    for accumulate in (1, 3):
        torch.manual_seed(0)
        model = random_model("tiny", seed=0)
        model.config = config
        learner = MetaLearner(model, source.columns, [], accumulate)
        figures.append(learner.step(source.draw(0))[0])
    half = len(seen) // 2
    assert half == 1 + 2 * steps and set(figures[0]) == set(figures[1])
    for whole, parts in zip(seen[:half], seen[half:], strict=True):
        largest = max(float(grad.abs().max()) for grad in whole)
        assert largest > 1e-4
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-3 * largest)


def test_matching_moves_the_embedder_and_never_the_columns(face_shards):
    model = random_model("tiny")
    source = EpisodeSource(face_shards, 64, 2, 2, 1, seed=0)
    learner = MetaLearner(model, source.columns, [])
    embeddings = torch.randn(2, 2, 192, requires_grad=True)
    matching_loss(embeddings, learner.columns.weight[:2]).backward()
    assert embeddings.grad.abs().sum() > 0 and learner.columns.weight.grad is None


def test_column_drawn_again_after_a_pause_moves_one_rate(face_shards):
    """In D's own Adam it took 1 / sqrt(1 - beta2) of them, 32 with the paper's beta2."""
    config = preset("tiny")
    rates = dataclasses.replace(config.meta.discriminator, beta2=0.999)
    model = random_model(dataclasses.replace(config, meta=dataclasses.replace(config.meta, discriminator=rates)))
    source = EpisodeSource(face_shards, 64, 2, 2, 1, seed=0)
    learner = MetaLearner(model, 2, [])
    episodes = dataclasses.replace(source.draw(0), columns=torch.tensor([0, 0]))
    for _ in range(3):
        learner.step(episodes)
    before = learner.columns.weight.detach().clone()
    learner.step(dataclasses.replace(episodes, columns=torch.tensor([1, 1])))
    moved = (learner.columns.weight - before).abs()
    assert (moved[0] == 0).all() and rates.learning_rate / 2 < moved[1].max() < 1.01 * rates.learning_rate


def state_of_adam(path, count):
    """Rewrite a state as an earlier version had it, W in D's Adam beside `count` parameters of D."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["talkinghead"])["run"]
    tensors = {key: value for key, value in load_file(path).items() if not key.startswith("columns_optimiser")}
    for key, value in load_file(path).items():
        if key.startswith("columns_optimiser.0.") and key.split(".")[-1] in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"discriminator_optimiser.{count}.{key.split('.')[-1]}"] = value.float()
    save_file(tensors, path, {"header": json.dumps(header)})  # without a checksum
    return tensors


def test_run_of_a_version_with_one_adam_for_all_goes_on(face_shards, tmp_path):
    train(face_shards, tmp_path, "tiny", steps=2, seed=1)
    state, count = tmp_path / "state.safetensors", len(list(random_model("tiny").discriminator.parameters()))
    older = state_of_adam(state, count)
    learner = MetaLearner(random_model("tiny"), EpisodeSource(face_shards, 64, 2, 4, preset("tiny").meta.videos, 1).columns, [])
    load_state(state, learner.modules, learner.optimisers, learner.earlier_names)
    learner.columns_optimiser.complete()
    resumed = {f"columns_optimiser.0.{key}": value for key, value in learner.columns_optimiser.state[learner.columns.weight].items()}
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(resumed[f"columns_optimiser.0.{key}"], older[f"discriminator_optimiser.{count}.{key}"])
    beta2 = preset("tiny").meta.discriminator.beta2
    torch.testing.assert_close(
        resumed["columns_optimiser.0.weight_sum_sq"], torch.full_like(resumed["columns_optimiser.0.weight_sum_sq"], 1 - beta2**2)
    )
    assert (resumed["columns_optimiser.0.last_step"] == 2).all() and resumed["columns_optimiser.0.step"] == 2
    assert train(face_shards, tmp_path, "tiny", steps=3, seed=1).provenance["steps"] == 3


def test_run_of_a_version_with_other_preset_values_is_refused(face_shards, tmp_path):
    train(face_shards, tmp_path, "tiny", steps=1)
    state = tmp_path / "state.safetensors"
    with safe_open(state, "pt") as file:
        header = json.loads(file.metadata()["talkinghead"])["run"]
    header["config"]["meta"]["losses"]["matching"] = 7.0
    save_file(load_file(state), state, {"header": json.dumps(header)})
    with pytest.raises(
        TalkingheadError, match="a run of an earlier version, whose preset tiny had other values; .* --start .*model.safetensors"
    ):
        train(face_shards, tmp_path, "tiny", steps=2)


@pytest.mark.parametrize("filled", [True, False])
def test_columns_start_where_the_preset_says(face_shards, tmp_path, monkeypatch, filled):
    config = preset("tiny")
    config = dataclasses.replace(config, meta=dataclasses.replace(config.meta, videos=1, columns_from_embeddings=filled))
    monkeypatch.setitem(configuration._PRESETS, "tiny", config)
    monkeypatch.setattr(meta, "open_perceptual", lambda *_: [])
    train(face_shards, tmp_path, "tiny", steps=0, seed=1)
    columns = load_file(tmp_path / "state.safetensors")["columns.weight"]
    source = EpisodeSource(face_shards, 64, config.meta.shots, 1, 1, seed=1)
    frames, points = source.of_column(1)
    with torch.no_grad():
        embedding = random_model("tiny", seed=1).embedder(frames, landmark_image(points, 64)).mean(0)
    assert torch.allclose(columns[1], embedding, rtol=1e-4, atol=1e-6) == filled
    assert filled or columns.abs().max() <= 0.01


def test_matching_loss_of_paper_starts_below_the_adversarial(face_shards):
    """Without a gain and with columns of noise it was 31, five times the others together, and E shrank to nothing."""
    config = preset("paper")
    model = random_model("paper", seed=0)
    source = EpisodeSource(face_shards, 256, 2, 1, 1, seed=0)
    columns = torch.empty(source.columns, config.networks.embedding)
    fill_columns(columns, model.embedder, source, 256)
    frames, points = source.of_column(0)
    with torch.no_grad():
        embeddings = model.embedder(frames, landmark_image(points, 256))
        loss = config.meta.losses.matching * matching_loss(embeddings[None], columns[:1])
    assert loss < 0.1
    assert 0.1 < embeddings.norm(dim=1).mean() < 2 and torch.equal(columns[0], embeddings.mean(0))


def test_variant_ff_has_no_matching_loss_and_says_so_in_its_model(face_shards, tmp_path):
    seen = []
    train(face_shards, tmp_path, "tiny", variant="ff", steps=1, progress=lambda step, steps, figures: seen.append(figures))
    assert "matching" not in seen[0] and "content" in seen[0]
    assert load_model(tmp_path / "model.safetensors").provenance["variant"] == "ff"


def test_a_folder_with_another_run_is_refused(face_shards, tmp_path):
    train(face_shards, tmp_path, "tiny", steps=1)
    with pytest.raises(TalkingheadError, match="another seed"):
        train(face_shards, tmp_path, "tiny", steps=2, seed=9)
    with pytest.raises(TalkingheadError, match="another config and variant"):
        train(face_shards, tmp_path, "tiny", steps=2, variant="ff")


def test_figures_and_pictures_reach_tensorboard(face_shards, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("talkinghead.training.meta.PICTURES_EVERY", 1)
    train(face_shards, tmp_path, "tiny", steps=1)
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert {"score_gap", "live_units", "content", "episodes_per_second"} <= set(events.Tags()["scalars"])
    assert len(events.Tags()["images"]) == 1


def episode(people=2):
    """One fixed batch: of each drawn person a target and two others, float32 [people, 3, 3, 64, 64]."""
    clips = [face_clip(face_points((0, 0), (0.05, 0.02), (-0.04, 0.03)), seed=number) for number in range(people)]
    frames = torch.stack([torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1 for clip in clips])
    points = torch.stack([torch.from_numpy(clip.track.landmarks / 64) for clip in clips])
    return Episodes(frames, points, torch.arange(people))


def guided_learner(seed=0, **changes):
    config = guided_config()
    model = random_model(dataclasses.replace(config, meta=dataclasses.replace(config.meta, **changes)), seed)
    torch.manual_seed(seed)
    return MetaLearner(model, 2, [])


def test_guided_steps_make_the_loss_smaller():
    learner, episodes = guided_learner(), episode()
    seen = [learner.step(episodes) for _ in range(12)]
    pixel = [float(figures["pixel"]) for figures, _ in seen]
    assert sum(pixel[-3:]) < 0.8 * sum(pixel[:3])
    figures, rows = seen[0]
    assert {"content", "pixel", "details", "details_pixel", "adversarial", "feature_matching", "matching"} <= set(figures)
    assert [tuple(row.shape) for row in rows] == [(2, 3, 32, 32)] * 4


def test_guided_steps_move_every_network_and_output():
    learner = guided_learner()
    before = {name: {key: t.clone() for key, t in module.state_dict().items()} for name, module in learner.modules.items()}
    for _ in range(2):
        learner.step(episode())
    for name, module in learner.modules.items():
        assert any(not torch.equal(t, before[name][key]) for key, t in module.state_dict().items()), name
    rows = (learner.generator.out.weight - before["generator"]["out.weight"]).flatten(1).abs().amax(1)
    assert (rows > 1e-5).all()  # own picture and weights


def test_guided_target_is_never_shown(monkeypatch):
    """Views are of the other frames at the target's landmarks; half of the steps show the first of them alone."""
    learner, episodes, seen = guided_learner(), episode(), []

    def look(frames, points, target):
        seen.append(frames.shape[1])
        assert torch.equal(frames, episodes.frames[:, 1 : 1 + seen[-1]]) and torch.equal(points, episodes.points[:, 1 : 1 + seen[-1]])
        assert torch.equal(target, episodes.points[:, 0])
        return view_episodes(frames, points, target)

    monkeypatch.setattr(meta_learner, "view_episodes", look)
    for _ in range(16):
        learner.step(episodes)
    assert set(seen) == {1, 2} and 3 < seen.count(1) < 13


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_guided_own_picture_stands_alone_as_told(share, monkeypatch):
    learner, seen = guided_learner(own_picture=share), []
    real = ReferenceGuidedGenerator.forward

    def look(self, drawn, styles, views, own_alone):
        seen.append(own_alone)
        return real(self, drawn, styles, views, own_alone)

    monkeypatch.setattr(ReferenceGuidedGenerator, "forward", look)
    learner.step(episode())
    assert seen[0].tolist() == [share == 1.0] * 2


def test_guided_pixels_beyond_the_source_cost_nothing():
    """What the target has there changes no figure of G's, and no weight."""
    episodes = episode()
    valid = torch.ones(2, 1, 64, 64)
    valid[:, :, :20] = 0
    other = episodes.frames.clone()
    other[:, 0, :, :20] = 1 - other[:, 0, :, :20].roll(7, 3)
    pairs = [(episodes.frames, valid), (other, valid), (other, None)]
    alone = {"adversarial": 0.0, "feature_matching": 0.0}
    losses = dataclasses.replace(guided_config().meta.losses, **alone)
    made = []
    for frames, mask in pairs:
        learner = guided_learner(losses=losses, precision="fp32", details=0.0)
        figures, _ = learner.step(dataclasses.replace(episodes, frames=frames, valid=mask))
        made.append((figures, learner.generator.out.weight.detach().clone()))
    assert torch.equal(made[0][1], made[1][1]) and torch.equal(made[0][0]["pixel"], made[1][0]["pixel"])
    assert not torch.equal(made[0][1], made[2][1]) and made[2][0]["pixel"] > made[1][0]["pixel"]


def test_guided_run_goes_on_bit_for_bit(face_shards, tmp_path, monkeypatch):
    """Which references are shown, who sees none and where details lie depend on the step alone."""
    monkeypatch.setitem(configuration._PRESETS, "portrait", guided_config())
    monkeypatch.setattr(meta, "open_perceptual", lambda *_: [])
    train(face_shards, tmp_path / "whole", "portrait", steps=5, seed=2)
    for steps in (2, 5):
        train(face_shards, tmp_path / "parted", "portrait", steps=steps, seed=2)
    whole, parted = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parted"))
    assert whole.keys() == parted.keys()
    assert [name for name in whole if not torch.equal(whole[name], parted[name])] == []
    model = load_model(tmp_path / "parted" / "model.safetensors")
    assert isinstance(model.generator, ReferenceGuidedGenerator) and model.provenance["steps"] == 5
    assert model.config.networks == guided_config().networks
