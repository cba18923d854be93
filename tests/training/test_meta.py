"""Meta-learning: runs, their states, and the training step."""

import dataclasses
import json
import multiprocessing
import os
import random
import re
import signal
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from talkinghead import config as configuration
from talkinghead.checkpoint import load_model
from talkinghead.config import preset
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.model import random_model
from talkinghead.training import meta, meta_learner
from talkinghead.training.interrupted import Interrupted
from talkinghead.training.losses import matching_loss
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.resume import load_state
from talkinghead.training.warm_start import init_video_embeddings

STEPS = 8
PROCESSES = multiprocessing.get_context(
    "forkserver"
)  # a server imports torch once; each run is forked from it
PROCESSES.set_forkserver_preload(["talkinghead.training.meta", "torch.utils.tensorboard"])


def start(data, out, steps=STEPS):
    process = PROCESSES.Process(
        target=train, args=(data, out, "tiny"), kwargs={"steps": steps, "seed": 1, "save_seconds": 0.0}
    )
    process.start()
    return process


@pytest.mark.slow  # robustness/test_kills.py kills runs of smaller networks
def test_killed_run_resumes_bit_for_bit(face_shards, tmp_path):
    uninterrupted = start(face_shards, tmp_path / "whole")
    uninterrupted.join()
    assert uninterrupted.exitcode == 0
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
    expected, resumed = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "killed"))
    assert expected.keys() == resumed.keys()
    assert [name for name in expected if not torch.equal(expected[name], resumed[name])] == []
    a, b = (load_model(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert torch.equal(a.generator.out.weight, b.generator.out.weight)
    assert a.provenance["steps"] == STEPS


def test_resumed_run_keeps_precision(face_shards, tmp_path, monkeypatch):
    for faster, steps in (("fp32", 1), ("bf16", 2)):
        monkeypatch.setattr(
            meta_learner, "training_precision", lambda device, expected, faster=faster: faster
        )
        assert train(face_shards, tmp_path, "tiny", steps=steps, seed=1).provenance["precision"] == "fp32"


def test_sigterm_saves_last_step(face_shards, tmp_path):
    run = start(face_shards, tmp_path, steps=10_000)
    while not (tmp_path / "model.safetensors").exists():
        time.sleep(0.05)
        assert run.is_alive()
    os.kill(run.pid, signal.SIGTERM)
    run.join(60)
    assert run.exitcode not in (0, None)
    assert load_model(tmp_path / "model.safetensors").provenance["steps"] >= 1


def test_step_updates_every_network_as_in_paper(face_shards):
    model = random_model("tiny")
    source = EpisodeSource(face_shards, 64, 2, 2, 1, seed=0)
    learner = MetaLearner(model, source.columns, [])
    before = {
        name: {key: t.clone() for key, t in module.state_dict().items()}
        for name, module in learner.modules.items()
    }
    metrics, rows = learner.step(source.draw(0))
    for name, module in learner.modules.items():
        moved = [key for key, t in module.state_dict().items() if not torch.equal(t, before[name][key])]
        assert moved, name
    columns = source.draw(0).columns
    untouched = torch.ones(source.columns, dtype=torch.bool)
    untouched[columns] = False
    assert torch.equal(learner.video_embeddings.weight[untouched], before["columns"]["weight"][untouched])
    expected = {
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
        "grad_norm_embedder",
        "grad_norm_generator",
        "grad_norm_discriminator",
    }
    assert set(metrics) == expected
    assert [tuple(row.shape) for row in rows] == [(2, 3, 64, 64)] * 4
    decay, key = preset("tiny").meta.average, "out.weight"
    first = learner.generator.state_dict()[key].clone()
    torch.testing.assert_close(learner.average_generator.state_dict()[key], first)  # the start counts nothing
    learner.step(source.draw(1))
    expected = (decay * first + learner.generator.state_dict()[key]) / (1 + decay)
    torch.testing.assert_close(learner.average_generator.state_dict()[key], expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_gradient_accumulation_equals_full_batch(face_shards, monkeypatch, steps):
    """Compare up to rounding, without the loss that is relative to the maps of its part."""
    source = EpisodeSource(face_shards, 64, 2, 4, 1, seed=0)
    config = preset("tiny")
    losses = dataclasses.replace(config.meta.losses, relative_feature_matching=False)
    config = dataclasses.replace(
        config,
        meta=dataclasses.replace(config.meta, precision="fp32", losses=losses, discriminator_steps=steps),
    )
    seen, metrics = [], []

    def record(optimiser, clip):
        seen.append(
            [
                p.grad.to_dense()
                for group in optimiser.param_groups
                for p in group["params"]
                if p.grad is not None
            ]
        )
        optimiser.zero_grad()

    monkeypatch.setattr(meta_learner, "take_step", record)
    for accumulate in (1, 3):
        torch.manual_seed(0)
        model = random_model("tiny", seed=0)
        model.config = config
        learner = MetaLearner(model, source.columns, [], accumulate)
        metrics.append(learner.step(source.draw(0))[0])
    half = len(seen) // 2
    assert half == 1 + 2 * steps and set(metrics[0]) == set(metrics[1])
    for full_grads, split_grads in zip(seen[:half], seen[half:], strict=True):
        largest = max(float(grad.abs().max()) for grad in full_grads)
        assert largest > 1e-4
        torch.testing.assert_close(split_grads, full_grads, rtol=1e-3, atol=1e-3 * largest)


def test_matching_loss_never_changes_video_embeddings(face_shards):
    model = random_model("tiny")
    source = EpisodeSource(face_shards, 64, 2, 2, 1, seed=0)
    learner = MetaLearner(model, source.columns, [])
    embeddings = torch.randn(2, 2, 192, requires_grad=True)
    matching_loss(embeddings, learner.video_embeddings.weight[:2]).backward()
    assert embeddings.grad.abs().sum() > 0 and learner.video_embeddings.weight.grad is None


def test_video_embedding_after_pause_moves_one_learning_rate(face_shards):
    """Check against D's own Adam, which moved it 1 / sqrt(1 - beta2) rates, 32 with the paper's beta2."""
    config = preset("tiny")
    rates = dataclasses.replace(config.meta.discriminator, beta2=0.999)
    model = random_model(
        dataclasses.replace(config, meta=dataclasses.replace(config.meta, discriminator=rates))
    )
    source = EpisodeSource(face_shards, 64, 2, 2, 1, seed=0)
    learner = MetaLearner(model, 2, [])
    episodes = dataclasses.replace(source.draw(0), columns=torch.tensor([0, 0]))
    for _ in range(3):
        learner.step(episodes)
    before = learner.video_embeddings.weight.detach().clone()
    learner.step(dataclasses.replace(episodes, columns=torch.tensor([1, 1])))
    moved = (learner.video_embeddings.weight - before).abs()
    assert (moved[0] == 0).all() and rates.learning_rate / 2 < moved[1].max() < 1.01 * rates.learning_rate


def state_of_adam(path, count):
    """Rewrite a state as an earlier version had it, W in D's Adam after `count` parameters of D."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["talkinghead"])["run"]
    tensors = {
        key: value for key, value in load_file(path).items() if not key.startswith("columns_optimiser")
    }
    for key, value in load_file(path).items():
        if key.startswith("columns_optimiser.0.") and key.split(".")[-1] in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"discriminator_optimiser.{count}.{key.split('.')[-1]}"] = value.float()
    save_file(tensors, path, {"header": json.dumps(header)})  # without a checksum
    return tensors


def test_run_with_one_adam_of_earlier_version_resumes(face_shards, tmp_path):
    train(face_shards, tmp_path, "tiny", steps=2, seed=1)
    state, count = tmp_path / "state.safetensors", len(list(random_model("tiny").discriminator.parameters()))
    older = state_of_adam(state, count)
    learner = MetaLearner(
        random_model("tiny"), EpisodeSource(face_shards, 64, 2, 4, preset("tiny").meta.videos, 1).columns, []
    )
    load_state(state, learner.modules, learner.optimisers, learner.earlier_names)
    learner.video_embeddings_optimiser.fill_missing_state()
    resumed = {
        f"columns_optimiser.0.{key}": value
        for key, value in learner.video_embeddings_optimiser.state[learner.video_embeddings.weight].items()
    }
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(
            resumed[f"columns_optimiser.0.{key}"], older[f"discriminator_optimiser.{count}.{key}"]
        )
    beta2 = preset("tiny").meta.discriminator.beta2
    torch.testing.assert_close(
        resumed["columns_optimiser.0.weight_sum_sq"],
        torch.full_like(resumed["columns_optimiser.0.weight_sum_sq"], 1 - beta2**2),
    )
    assert (resumed["columns_optimiser.0.last_step"] == 2).all() and resumed["columns_optimiser.0.step"] == 2
    assert train(face_shards, tmp_path, "tiny", steps=3, seed=1).provenance["steps"] == 3


def test_train_rejects_run_with_earlier_preset_values(face_shards, tmp_path):
    train(face_shards, tmp_path, "tiny", steps=1)
    state = tmp_path / "state.safetensors"
    with safe_open(state, "pt") as file:
        header = json.loads(file.metadata()["talkinghead"])["run"]
    header["config"]["meta"]["losses"]["matching"] = 7.0
    save_file(load_file(state), state, {"header": json.dumps(header)})
    with pytest.raises(
        TalkingheadError,
        match="a run of an earlier version, whose preset tiny had other values .meta.losses.matching was "
        "7.0, now 10.0.; .* --init-from "
        ".*model.safetensors",
    ):
        train(face_shards, tmp_path, "tiny", steps=2)


@pytest.mark.parametrize("filled", [True, False])
def test_video_embeddings_start_as_preset_says(face_shards, tmp_path, monkeypatch, filled):
    config = preset("tiny")
    config = dataclasses.replace(
        config, meta=dataclasses.replace(config.meta, videos=1, columns_from_embeddings=filled)
    )
    monkeypatch.setitem(configuration._PRESETS, "tiny", config)
    monkeypatch.setattr(meta, "open_perceptual", lambda *_: [])
    train(face_shards, tmp_path, "tiny", steps=0, seed=1)
    columns = load_file(tmp_path / "state.safetensors")["columns.weight"]
    source = EpisodeSource(face_shards, 64, config.meta.shots, 1, 1, seed=1)
    frames, points = source.clip_for_column(1)
    with torch.no_grad():
        embedding = random_model("tiny", seed=1).embedder(frames, landmark_image(points, 64)).mean(0)
    assert torch.allclose(columns[1], embedding, rtol=1e-4, atol=1e-6) == filled
    assert filled or columns.abs().max() <= 0.01


def test_matching_loss_of_paper_preset_starts_small(face_shards):
    """Check the size: without a gain and with random W it was 31, five times the other terms together, and
    E shrank to zero.
    """
    config = preset("paper")
    model = random_model("paper", seed=0)
    source = EpisodeSource(face_shards, 256, 2, 1, 1, seed=0)
    columns = torch.empty(source.columns, config.networks.embedding)
    init_video_embeddings(columns, model.embedder, source, 256)
    frames, points = source.clip_for_column(0)
    with torch.no_grad():
        embeddings = model.embedder(frames, landmark_image(points, 256))
        loss = config.meta.losses.matching * matching_loss(embeddings[None], columns[:1])
    assert loss < 0.1
    assert 0.1 < embeddings.norm(dim=1).mean() < 2 and torch.equal(columns[0], embeddings.mean(0))


def test_train_variant_ff_has_no_matching_loss(face_shards, tmp_path):
    seen = []
    train(
        face_shards,
        tmp_path,
        "tiny",
        variant="ff",
        steps=1,
        on_step=lambda step, steps, metrics: seen.append(metrics),
    )
    assert "matching" not in seen[0] and "content" in seen[0]
    assert load_model(tmp_path / "model.safetensors").provenance["variant"] == "ff"


def test_train_rejects_folder_of_other_run(face_shards, tmp_path):
    train(face_shards, tmp_path, "tiny", steps=1)
    with pytest.raises(TalkingheadError, match="holds a run with other settings: seed was 0, now 9; choose"):
        train(face_shards, tmp_path, "tiny", steps=2, seed=9)
    with pytest.raises(
        TalkingheadError, match=r"meta.losses.matching was .*, now 0.0; variant was ft, now ff; choose"
    ):
        train(face_shards, tmp_path, "tiny", steps=2, variant="ff")


def test_train_writes_metrics_and_images_to_tensorboard(face_shards, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("talkinghead.training.meta.IMAGES_EVERY_STEPS", 1)
    train(face_shards, tmp_path, "tiny", steps=1)
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert {"score_gap", "live_units", "content", "episodes_per_second"} <= set(events.Tags()["scalars"])
    assert len(events.Tags()["images"]) == 1


def test_train_writes_samples_at_the_end_of_a_short_run(face_shards, tmp_path):
    train(face_shards, tmp_path, "tiny", steps=2)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-0000002.png"]


@pytest.mark.parametrize("name", ["shard-000000.tar", "report.jsonl", "part.json", "part-1-of-2/part.json"])
def test_train_refuses_folder_of_data(name, face_shards, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(TalkingheadError, match=r"holds prepared data, not a run; name another folder by --o"):
        train(face_shards, tmp_path, "tiny", steps=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


@pytest.mark.parametrize("lost", ["", "state.safetensors"])
def test_train_resumes_run_in_folder_of_data(lost, face_shards, tmp_path, caplog):
    for steps in (1, 2):
        train(face_shards, tmp_path, "tiny", steps=steps)
    (tmp_path / "report.jsonl").write_text("{}")
    if lost:
        (tmp_path / lost).unlink()
    assert train(face_shards, tmp_path, "tiny", steps=3).provenance["steps"] == 3
    assert ("the run resumes from the state before it, of step 1" in caplog.text) == bool(lost)


def test_train_rejects_other_data_and_names_counts(face_shards, tmp_path):
    train(face_shards, tmp_path, "tiny", steps=1)
    with pytest.raises(TalkingheadError, match="other settings: its data had 2 clips, now 1; choose another"):
        train(face_shards, tmp_path, "tiny", steps=2, exclude_identities=["first"])


def test_train_reports_data_and_every_step(face_shards, tmp_path, caplog):
    caplog.set_level("INFO", logger="talkinghead")
    calls = []

    class Bar:
        def start(self, step, steps):
            calls.append(("start", step, steps))

        def __call__(self, step, steps, metrics):
            calls.append((step, steps, "content" in metrics))

    train(face_shards, tmp_path, "tiny", steps=2, on_step=Bar())
    train(face_shards, tmp_path, "tiny", steps=3, on_step=Bar())
    assert calls == [("start", 0, 2), (1, 2, True), (2, 2, True), ("start", 2, 3), (3, 3, True)]
    assert re.search(r"learning from 2 clips of 2 people, \d+ frames", caplog.text)


def test_interrupted_training_keeps_its_model(face_shards, tmp_path):
    def interrupt(step, steps, metrics):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        train(face_shards, tmp_path, "tiny", steps=3, on_step=interrupt)
    assert caught.value.model.provenance["steps"] == 1 and caught.value.person is None
