"""Tests of learning further: what a person's file keeps for it, and from what it goes on."""

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from talkinghead.checkpoint import load_model, load_person, save_model, save_person
from talkinghead.cli import main
from talkinghead.cli.finetune import _summary
from talkinghead.clip import Clip
from talkinghead.errors import TalkingheadError
from talkinghead.model import Model, Person
from talkinghead.networks import Discriminator
from talkinghead.pipelines.finetune import finetune
from talkinghead.training.interrupted import Interrupted


@pytest.fixture(scope="module")
def model(guided_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a model that has a file, so that its persons know its digest."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(guided_model, path)
    return load_model(path)


@pytest.fixture(scope="module")
def person(model: Model, guided_clip: Clip) -> Person:
    """Return a person of three steps from two pictures."""
    return finetune(model, guided_clip[:2], steps=3, perceptual=[])


def reload(person: Person, path: Path, keep_discriminator: bool = False) -> Person:
    """Write a person and read the file."""
    save_person(person, path, keep_discriminator)
    return load_person(path)


def first_step_gap(person: Person, model: Model, clip: Clip) -> float:
    """Return the difference of D's scores in the first step of learning further."""
    values: list[float] = []

    def stop(step: int, steps: int, metrics: dict[str, float]) -> None:
        values.append(metrics["score_gap"])

    finetune(person, clip, steps=1, perceptual=[], model=model, on_step=stop)
    return values[0]


def test_person_file_holds_embedding_and_discriminator_only_on_request(
    person: Person, tmp_path: Path
) -> None:
    plain, full = tmp_path / "plain.safetensors", tmp_path / "full.safetensors"
    without, kept = reload(person, plain), reload(person, full, keep_discriminator=True)
    assert without.discriminator is None and isinstance(kept.discriminator, Discriminator)
    for loaded in (without, kept):
        assert loaded.video_embedding is not None and person.video_embedding is not None
        assert torch.equal(loaded.video_embedding, person.video_embedding)
    assert person.discriminator is not None
    for name, tensor in person.discriminator.state_dict().items():
        torch.testing.assert_close(kept.discriminator.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    with safe_open(full, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys() if name.startswith("discriminator.")}  # noqa: SIM118
    assert kinds == {torch.float16}
    weights = sum(tensor.numel() for tensor in person.discriminator.state_dict().values())
    assert 2 * weights <= full.stat().st_size - plain.stat().st_size < 2 * weights + 10_000


def test_person_file_without_embedding_loads(person: Person, tmp_path: Path) -> None:
    old = reload(replace(person, video_embedding=None), tmp_path / "old.safetensors")
    assert old.video_embedding is None and torch.equal(old.styles, person.styles)


def test_learning_further_starts_from_the_person(
    person: Person, model: Model, guided_clip: Clip, tmp_path: Path
) -> None:
    start = reload(person, tmp_path / "a.safetensors", keep_discriminator=True)
    config = model.config.finetune
    still = replace(config, generator=replace(config.generator, learning_rate=0.0))
    unmoved = replace(model, config=replace(model.config, finetune=still))
    further = finetune(start, guided_clip[2:], steps=1, perceptual=[], model=unmoved)
    for weight, expected in zip(further.generator.parameters(), person.generator.parameters(), strict=True):
        torch.testing.assert_close(weight, expected)
    torch.testing.assert_close(further.styles, person.styles)
    assert further.provenance["steps"] == 4 and further.provenance["steps_before"] == 3
    moved = finetune(start, guided_clip[2:], steps=1, perceptual=[], model=model)
    assert not torch.equal(moved.styles, person.styles) and torch.equal(start.styles, person.styles)


def test_learning_further_adds_the_pictures_that_the_person_holds(
    person: Person, model: Model, guided_clip: Clip
) -> None:
    further = finetune(person, guided_clip[2:], steps=1, perceptual=[], model=model)
    assert further.references is not None and person.references is not None
    assert len(further.references) == 4 and not further.references.one_scene
    held = further.references.images[2:].astype(int)
    assert np.abs(held - person.references.images).max() <= 2
    assert further.provenance["pictures"] == 4


def test_learning_further_without_discriminator_takes_the_model_s_and_says_so(
    person: Person, model: Model, guided_clip: Clip, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="talkinghead")
    clip = guided_clip[2:]
    kept = reload(person, tmp_path / "kept.safetensors", keep_discriminator=True)
    with_own = first_step_gap(kept, model, clip)
    assert "discriminator" not in caplog.text
    without = first_step_gap(reload(person, tmp_path / "without.safetensors"), model, clip)
    assert "the person's file holds no discriminator: learning goes on with the model's" in caplog.text
    assert with_own != without
    old = replace(person, video_embedding=None)
    finetune(old, clip, steps=1, perceptual=[], model=model)
    assert "the person's file holds no embedding w'" in caplog.text


def test_feed_forward_person_learns_further(model: Model, guided_clip: Clip) -> None:
    start = finetune(model, guided_clip[:2], steps=0)
    further = finetune(start, guided_clip[2:], steps=2, perceptual=[], model=model)
    assert not further.feed_forward and further.provenance["steps"] == 2
    assert further.generator.projection is None and model.generator.projection is not None


def test_learning_further_of_another_model_is_refused(
    person: Person, model: Model, guided_clip: Clip, tmp_path: Path
) -> None:
    other = load_model("tiny")
    with pytest.raises(TalkingheadError, match="the person is of model .*, not of .*; give the right"):
        finetune(person, guided_clip, model=other)
    with pytest.raises(TalkingheadError, match="model of preset .* does not ship; give it as model"):
        finetune(replace(person, config=replace(person.config, preset="mine")), guided_clip)
    with pytest.raises(TalkingheadError, match="steps 0: a person learns further by 1 or more"):
        finetune(person, guided_clip, steps=0, model=model)
    with pytest.raises(TalkingheadError, match="model is of a person who learns further; leave it out"):
        finetune(model, guided_clip, model=model)


def test_interrupted_learning_further_keeps_its_person(
    person: Person, model: Model, guided_clip: Clip
) -> None:
    def interrupt(step: int, steps: int, metrics: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        finetune(person, guided_clip[2:], steps=5, perceptual=[], model=model, on_step=interrupt)
    assert caught.value.person is not None and caught.value.person.provenance["steps"] == 4


def test_person_learns_further_summary_counts_new_and_known() -> None:
    provenance = {"pictures": 3, "steps": 41, "steps_before": 40}
    text = _summary("anna.safetensors", 1, provenance, False)
    assert text == "anna.safetensors: a person from 1 new and 2 known pictures, 1 step more, 41 in all"
    assert _summary("a", 1, {"pictures": 1, "steps": 1}, False) == "a: a person from 1 picture, 1 step"


def test_person_learns_further_by_no_step_fails_before_pictures_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "anna.safetensors").write_bytes(b"no person")
    command = ["finetune", tmp_path / "a.jpg", "--from", tmp_path / "anna.safetensors", "--steps", "0"]
    assert main([*map(str, command), "--out", str(tmp_path / "b.safetensors")]) == 2
    assert "steps 0: a person learns further by 1 or more; raise it" in capsys.readouterr().err
