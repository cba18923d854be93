import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from talkinghead.checkpoint import load_model, load_person, save_model, save_person
from talkinghead.config import preset
from talkinghead.constants import DEFAULT_MODEL
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.model import Model, Person, random_model
from talkinghead.networks import Discriminator, Embedder, Generator
from talkinghead.pipelines.finetune import finetune
from talkinghead.weights import shipped_models


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(random_model("tiny", seed=3), path)
    return path


def rewrite(source, target, change):
    """Write a checkpoint with changed header fields or tensors and its old checksum."""
    with safe_open(source, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fields = json.loads(metadata["talkinghead"])
    change(fields, tensors)
    metadata["talkinghead"] = json.dumps(fields, sort_keys=True)
    save_file(tensors, target, metadata)
    return target


def test_model_round_trip_is_exact(model_file):
    original, reloaded = random_model("tiny", seed=3), load_model(model_file)
    assert reloaded.config == original.config and reloaded.provenance == original.provenance
    for name in ("embedder", "generator", "discriminator"):
        for a, b in zip(
            getattr(original, name).state_dict().values(),
            getattr(reloaded, name).state_dict().values(),
            strict=True,
        ):
            assert torch.equal(a, b)


def test_model_file_holds_spectral_vectors(tmp_path):
    config = preset("tiny")
    networks = dataclasses.replace(
        config.networks, spectral_embedder=True, spectral_generator=True, spectral_discriminator=True
    )
    built = Embedder(networks), Generator(networks), Discriminator(networks)
    model = Model(dataclasses.replace(config, networks=networks), *built)
    save_model(model, tmp_path / "spectral.safetensors")
    reloaded = load_model(tmp_path / "spectral.safetensors")
    assert torch.equal(model.generator.out.u, reloaded.generator.out.u)


def test_half_precision_loads_as_float32(tmp_path, model_file):
    save_model(load_model(model_file), tmp_path / "half.safetensors", half=True)
    reloaded = load_model(tmp_path / "half.safetensors")
    assert reloaded.generator.out.weight.dtype == torch.float32
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * model_file.stat().st_size
    assert (tmp_path / "half.safetensors").stat().st_size < 12e6


def test_feed_forward_person_holds_styles_and_model_digest(tmp_path, model_file, carphone_clip):
    model = load_model(model_file)
    person = finetune(model, carphone_clip[:4], steps=0)
    path = tmp_path / "person.safetensors"
    save_person(person, path)
    assert (
        path.stat().st_size < 4 * model.generator.style_length + 8000
    )  # a paper person: 4 x 13,056 bytes of styles
    reloaded = load_person(path, model_file)
    points = carphone_clip.track.landmarks[:2] / 64
    assert np.array_equal(TorchEngine(person).run(points), TorchEngine(reloaded).run(points))
    other = tmp_path / "other.safetensors"
    save_model(random_model("tiny", seed=4), other)
    with pytest.raises(TalkingheadError, match="was made with model"):
        load_person(path, other)


def test_fine_tuned_person_needs_no_model(tmp_path, model_file, carphone_clip):
    person = finetune(load_model(model_file), carphone_clip[:2], steps=1, adversarial=False)
    save_person(person, tmp_path / "person.safetensors")
    reloaded = load_person(tmp_path / "person.safetensors")
    points = carphone_clip.track.landmarks[:2] / 64
    assert np.array_equal(TorchEngine(person).run(points), TorchEngine(reloaded).run(points))
    assert (
        np.array_equal(reloaded.neutral_landmarks, person.neutral_landmarks)
        and reloaded.provenance == person.provenance
    )


def test_person_of_unsaved_model_is_refused(tmp_path, carphone_clip):
    person = finetune(random_model("tiny"), carphone_clip[:1], steps=0)
    with pytest.raises(TalkingheadError, match="save_model first"):
        save_person(person, tmp_path / "person.safetensors")
    assert list(tmp_path.iterdir()) == []


def set_version(fields, tensors):
    fields["version"] = 99


def set_preset(fields, tensors):
    fields["config"] = json.loads(json.dumps(fields["config"]))
    fields["config"]["networks"]["up"] = [1, 2, 3]


def set_provenance(fields, tensors):
    fields["provenance"]["steps"] = 10**9


def change_weight(fields, tensors):
    tensors["generator.out.weight"][0, 0, 0, 0] += 1


def add_field(fields, tensors):
    fields["config"]["hat"] = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_version, "is of version 99"),
        (set_preset, "edited or damaged"),
        (set_provenance, "edited or damaged"),
        (change_weight, "edited or damaged"),
        (add_field, "edited or damaged"),
    ],
)
def test_load_rejects_edited_files(tmp_path, model_file, change, message):
    path = rewrite(model_file, tmp_path / "edited.safetensors", change)
    with pytest.raises(TalkingheadError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_load_rejects_missing_cut_foreign_files(tmp_path, model_file):
    cut, empty, text, foreign = (tmp_path / name for name in ("cut", "empty", "text", "foreign"))
    cut.write_bytes(model_file.read_bytes()[:100_000])
    empty.touch()
    text.write_text("hello, this is not a checkpoint at all")
    save_file({"x": torch.zeros(1)}, foreign)
    person = tmp_path / "person.safetensors"
    model = load_model(model_file)
    stored_person = Person(
        model.config,
        model.generator,
        torch.zeros(1, model.generator.style_length),
        np.zeros((68, 2), np.float32),
        "x",
        True,
    )
    save_person(stored_person, person)
    for path, message in (
        (tmp_path / "nowhere", "no such file"),
        (cut, "is cut or not"),
        (empty, "is cut or not"),
        (text, "is cut or not"),
        (foreign, "of another program"),
        (person, "is a person; name a model"),
    ):
        with pytest.raises(TalkingheadError, match=message) as error:
            load_model(path)
        assert path.name in str(error.value) and "\n" not in str(error.value)


def test_save_reports_unwritable_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TalkingheadError, match="cannot write here"):
        save_model(random_model("tiny"), tmp_path / "file" / "model.safetensors")


def test_files_are_readable_by_others_as_usual(tmp_path):
    save_model(random_model("tiny"), tmp_path / "model.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


LEFT_OUT = {"p03", "p10", "p13", "p17", "p23", "p24", "p28", "p29", "p30", "p31"}
"""People on whom the published figures of the shipped models are measured."""


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_model_is_small_and_unseen_by_benchmarks(name):
    path = shipped_models()[name]
    model = load_model(name)
    now = preset(name)  # whose meta-learning may have changed since
    assert path.stat().st_size <= 12e6 and dataclasses.replace(model.config, meta=now.meta) == now
    assert model.config.crop == (2 if name == "portrait" else 1)
    assert model.provenance["variant"] == "ft" and model.provenance["steps"] >= 1000
    assert len(model.provenance["people"]) > 100 and not LEFT_OUT & set(model.provenance["people"])


def test_default_model_ships():
    assert load_model().digest == load_model(DEFAULT_MODEL).digest and DEFAULT_MODEL in shipped_models()


def test_load_person_of_video_names_finetune(tmp_path):
    video = tmp_path / "anna.mp4"
    video.write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(1000))
    with pytest.raises(
        TalkingheadError, match="learn a person first: talkinghead finetune anna.mp4 --out person.safetensors"
    ):
        load_person(video)
