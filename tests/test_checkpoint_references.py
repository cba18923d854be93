"""Files of persons that hold the pictures they show, and files of earlier versions, which hold none."""

import copy
import dataclasses
import hashlib
import json
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import face_clip, face_points, guided, guided_config
from talkinghead.checkpoint import (
    MAX_REFERENCES,
    Person,
    fingerprint,
    load_model,
    load_person,
    random_model,
    save_model,
    save_person,
    shipped_models,
)
from talkinghead.config import preset
from talkinghead.engines.eager import EagerEngine
from talkinghead.errors import TalkingheadError
from talkinghead.networks import ReferenceGuidedGenerator, References
from talkinghead.tensor_file import checksum
from talkinghead.training.finetune import finetune

LATER = {"crop", "reference_guided", "network_size", "own_picture", "details", "far_targets", "camera_motion", "head_jitter"}
"""Fields of the configuration that files of earlier versions lack."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A reference-guided model as its file gives it."""
    path = tmp_path_factory.mktemp("guided") / "model.safetensors"
    save_model(guided(3), path)
    return load_model(path)


@pytest.fixture(scope="module")
def person(model, guided_clip):
    return finetune(model, guided_clip, steps=0)


@pytest.fixture(scope="module")
def person_file(person, tmp_path_factory):
    path = tmp_path_factory.mktemp("person") / "person.safetensors"
    save_person(person, path)
    return path


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["talkinghead"])


def all_names(value):
    """Every key of a dictionary and of those in it."""
    return set().union(*({key} | all_names(inner) for key, inner in value.items())) if isinstance(value, dict) else set()


def test_guided_model_comes_back_the_same(model):
    ours = guided(3)
    assert type(model.generator) is ReferenceGuidedGenerator and model.config == guided_config()
    for name in ("embedder", "generator", "discriminator"):
        pairs = zip(getattr(ours, name).state_dict().items(), getattr(model, name).state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_references_come_back_byte_for_byte(model, person, person_file):
    again = load_person(person_file, model)
    assert np.array_equal(again.references.pictures, person.references.pictures)
    assert np.array_equal(again.references.landmarks, person.references.landmarks)
    assert again.references.jpegs == person.references.jpegs and len(again.references) == 4
    points = face_points((0, 0), (0.03, 0), (-0.02, 0.03))
    frames = EagerEngine(again).run(points)
    assert np.array_equal(frames, EagerEngine(person).run(points)) and frames.std() > 20


def test_saving_again_loses_nothing(model, person_file, tmp_path):
    save_person(load_person(person_file, model), tmp_path / "again.safetensors")
    with safe_open(person_file, framework="pt") as ours, safe_open(tmp_path / "again.safetensors", framework="pt") as again:
        assert ours.metadata() == again.metadata()  # with the SHA-256 of all there is


def test_references_never_stored_are_packed(model, person, tmp_path):
    """Of a person put together by hand the file holds the pictures all the same, once through JPEG."""
    clip = face_clip(face_points((0, 0), (0.05, 0)))
    plain = References(clip.frames, clip.track.landmarks / 64)
    assert plain.jpegs == ()
    save_person(dataclasses.replace(person, references=plain), tmp_path / "person")
    again = load_person(tmp_path / "person", model).references
    assert np.array_equal(again.pictures, References.stored(clip.frames, plain.landmarks).pictures)


def test_fine_tuned_guided_person_needs_no_model(model, guided_clip, tmp_path):
    person = finetune(model, guided_clip[:2], steps=1, adversarial=False, perceptual=[])
    save_person(person, tmp_path / "person")
    again = load_person(tmp_path / "person")
    assert type(again.generator) is ReferenceGuidedGenerator and again.generator.projection is None
    points = face_points((0.02, 0.02), (0.1, 0))
    assert np.array_equal(EagerEngine(again).run(points), EagerEngine(person).run(points))


def test_eight_pictures_of_256_take_less_than_2_mb(tmp_path):
    config = guided_config()
    large = random_model(dataclasses.replace(config, networks=dataclasses.replace(config.networks, image_size=256)))
    save_model(large, tmp_path / "model")
    moves = [(0.02 * number, 0.01 * number) for number in range(8)]
    person = finetune(large, face_clip(face_points(*moves), 256), steps=0)
    save_person(person, tmp_path / "person")
    assert person.references.pictures.shape == (8, 256, 256, 3)
    assert 20_000 < (tmp_path / "person").stat().st_size < 2e6


def changed(source, target, change):
    """Write a person again with its tensors changed and a checksum that fits, as no accident would."""
    with safe_open(source, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata["sha256"] = checksum(metadata["talkinghead"], tensors)
    save_file(tensors, target, metadata)
    return target


def without(name):
    return lambda tensors: tensors.pop(f"references.{name}")


def cut(tensors):
    tensors["references.jpegs"] = tensors["references.jpegs"][:-1]


def lengthen(tensors):
    tensors["references.jpegs"] = torch.cat([tensors["references.jpegs"], torch.zeros(5, dtype=torch.uint8)])


def spoil_a_picture(tensors):
    tensors["references.jpegs"][: int(tensors["references.lengths"][0])] = 7


def cut_inside_a_picture(tensors):
    """Two pictures' border at the wrong place."""
    tensors["references.lengths"][:2] += torch.tensor([-200, 200])


def huge_picture(tensors):
    """A header that says 65,500 x 65,500 pixels."""
    data = tensors["references.jpegs"].numpy()
    at = data.tobytes().index(b"\xff\xc0") + 5
    data[at : at + 4] = np.frombuffer(struct.pack(">HH", 65500, 65500), np.uint8)


def negative_length(tensors):
    lengths = tensors["references.lengths"]
    lengths[0], lengths[1] = -1, lengths[0] + lengths[1] + 1


def no_pictures(tensors):
    tensors["references.jpegs"], tensors["references.lengths"] = torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    tensors["references.landmarks"] = torch.zeros(0, 68, 2)


def too_many(tensors):
    lengths, count = tensors["references.lengths"], MAX_REFERENCES + 1
    tensors["references.jpegs"] = tensors["references.jpegs"][: int(lengths[0])].repeat(count)
    tensors["references.lengths"], tensors["references.landmarks"] = lengths[:1].repeat(count), torch.rand(count, 68, 2)


def table_of_lengths(tensors):
    tensors["references.lengths"] = tensors["references.lengths"][None]


def pictures_as_floats(tensors):
    tensors["references.jpegs"] = tensors["references.jpegs"].float()


def fewer_landmarks(tensors):
    tensors["references.landmarks"] = tensors["references.landmarks"][:-1]


def endless_landmark(tensors):
    tensors["references.landmarks"][1, 2, 0] = float("inf")


DAMAGES = [
    *(without(name) for name in ("jpegs", "lengths", "landmarks")),
    cut,
    lengthen,
    spoil_a_picture,
    cut_inside_a_picture,
    huge_picture,
    negative_length,
    no_pictures,
    too_many,
    table_of_lengths,
    pictures_as_floats,
    fewer_landmarks,
    endless_landmark,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("<>"))
def test_damaged_references_are_refused_in_one_line(person_file, model, tmp_path, damage):
    path = changed(person_file, tmp_path / "damaged.safetensors", damage)
    with pytest.raises(
        TalkingheadError,
        match="the pictures that it shows are missing or damaged; make the person again|values that are not finite; make it again",
    ) as error:
        load_person(path, model)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_as_many_references_as_allowed_are_read(person_file, model, tmp_path):
    def change(tensors):
        too_many(tensors)
        for name in ("lengths", "landmarks"):
            tensors[f"references.{name}"] = tensors[f"references.{name}"][1:]
        tensors["references.jpegs"] = tensors["references.jpegs"][int(tensors["references.lengths"][0]) :]

    assert len(load_person(changed(person_file, tmp_path / "many", change), model).references) == MAX_REFERENCES


def test_a_guided_person_without_references_is_refused(model, person, tmp_path):
    save_person(dataclasses.replace(person, references=None), tmp_path / "person")
    with pytest.raises(TalkingheadError, match="the pictures that it shows are missing"):
        load_person(tmp_path / "person", model)


@pytest.mark.parametrize("name", sorted({"tiny", "small"} & set(shipped_models())))
def test_models_of_earlier_versions_stay_as_they_are(name, tmp_path):
    """They load, mean what they meant, and are written again as the very file that ships."""
    path = shipped_models()[name]
    assert not LATER & all_names(header_of(path))
    model = load_model(name)
    assert model.config.crop == 1 and not model.config.networks.reference_guided and model.config == preset(name)
    assert type(model.generator) is not ReferenceGuidedGenerator
    digest = model.digest
    save_model(model, tmp_path / "again.safetensors", half=True)
    assert model.digest == digest and header_of(tmp_path / "again.safetensors") == header_of(path)


def test_header_of_a_guided_model_says_so(model, tmp_path):
    save_model(model, tmp_path / "model")
    config = header_of(tmp_path / "model")["config"]
    assert config["crop"] == 2 and config["networks"]["reference_guided"] and config["networks"]["network_size"] == 32


def test_fingerprints_of_earlier_persons_stay_the_same():
    """Engines that were made of them name it: SHA-256 of the networks' fields of then and the generator without P."""
    model = load_model("tiny")
    person = Person(model.config, model.generator, torch.zeros(1, model.generator.style_length), np.zeros((68, 2), np.float32), "", True)
    then = {name: value for name, value in dataclasses.asdict(model.config.networks).items() if name not in LATER}
    assert len(then) == 16
    digest = hashlib.sha256(json.dumps(then, sort_keys=True).encode())
    tensors = {f"generator.{name}": tensor for name, tensor in model.generator.state_dict().items() if "projection" not in name}
    for name in sorted(tensors):
        digest.update(f"{name} torch.float32 {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    assert fingerprint(person) == digest.hexdigest()


def test_fingerprint_of_guided_persons_is_of_the_networks(person):
    before = fingerprint(person)
    shown = copy.copy(person)
    shown.references = None  # are no part of an engine
    assert fingerprint(shown) == before
    networks = dataclasses.replace(person.config.networks, network_size=64)
    assert fingerprint(dataclasses.replace(person, config=dataclasses.replace(person.config, networks=networks))) != before


@pytest.mark.parametrize("one_scene", [True, False])
def test_file_says_whether_pictures_share_a_scene(person, model, tmp_path, one_scene):
    other = dataclasses.replace(person, references=dataclasses.replace(person.references, one_scene=one_scene))
    save_person(other, tmp_path / "person.safetensors")
    assert load_person(tmp_path / "person.safetensors", model).references.one_scene is one_scene
