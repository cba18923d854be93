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
    load_model,
    load_person,
    save_model,
    save_person,
)
from talkinghead.config import preset
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.errors import TalkingheadError
from talkinghead.model import Person, fingerprint, random_model
from talkinghead.networks import ReferenceGuidedGenerator, References
from talkinghead.pipelines.finetune import finetune
from talkinghead.system.tensor_file import checksum
from talkinghead.weights import shipped_models

LATER = {
    "crop",
    "reference_guided",
    "network_size",
    "irises",
    "own_picture",
    "details",
    "far_targets",
    "camera_motion",
    "head_jitter",
}
"""Fields of the configuration that files of earlier versions lack."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a reference-guided model, loaded from its file."""
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


def nested_keys(value):
    """Return the keys of a dictionary and of nested ones."""
    return (
        set().union(*({key} | nested_keys(inner) for key, inner in value.items()))
        if isinstance(value, dict)
        else set()
    )


def test_guided_model_round_trip_is_exact(model):
    original = guided(3)
    assert type(model.generator) is ReferenceGuidedGenerator and model.config == guided_config()
    for name in ("embedder", "generator", "discriminator"):
        pairs = zip(
            getattr(original, name).state_dict().items(),
            getattr(model, name).state_dict().items(),
            strict=True,
        )
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_references_round_trip_is_exact(model, person, person_file):
    reloaded = load_person(person_file, model)
    assert np.array_equal(reloaded.references.images, person.references.images)
    assert np.array_equal(reloaded.references.landmarks, person.references.landmarks)
    assert reloaded.references.jpegs == person.references.jpegs and len(reloaded.references) == 4
    points = face_points((0, 0), (0.03, 0), (-0.02, 0.03))
    frames = TorchEngine(reloaded).run(points)
    assert np.array_equal(frames, TorchEngine(person).run(points)) and frames.std() > 20


def test_second_save_is_identical(model, person_file, tmp_path):
    save_person(load_person(person_file, model), tmp_path / "again.safetensors")
    with (
        safe_open(person_file, framework="pt") as original,
        safe_open(tmp_path / "again.safetensors", framework="pt") as reloaded,
    ):
        assert original.metadata() == reloaded.metadata()  # with the SHA-256 of all there is


def test_save_encodes_references_without_jpegs(model, person, tmp_path):
    """Check that references that never were JPEG are stored as such."""
    clip = face_clip(face_points((0, 0), (0.05, 0)))
    plain = References(clip.frames, clip.track.landmarks / 64)
    assert plain.jpegs == ()
    save_person(dataclasses.replace(person, references=plain), tmp_path / "person")
    reloaded = load_person(tmp_path / "person", model).references
    assert np.array_equal(reloaded.images, References.encode(clip.frames, plain.landmarks).images)


def test_fine_tuned_guided_person_needs_no_model(model, guided_clip, tmp_path):
    person = finetune(model, guided_clip[:2], steps=1, adversarial=False, perceptual=[])
    save_person(person, tmp_path / "person")
    reloaded = load_person(tmp_path / "person")
    assert type(reloaded.generator) is ReferenceGuidedGenerator and reloaded.generator.projection is None
    points = face_points((0.02, 0.02), (0.1, 0))
    assert np.array_equal(TorchEngine(reloaded).run(points), TorchEngine(person).run(points))


def test_eight_references_of_256_take_under_2_mb(tmp_path):
    config = guided_config()
    large = random_model(
        dataclasses.replace(config, networks=dataclasses.replace(config.networks, image_size=256))
    )
    save_model(large, tmp_path / "model")
    moves = [(0.02 * number, 0.01 * number) for number in range(8)]
    person = finetune(large, face_clip(face_points(*moves), 256), steps=0)
    save_person(person, tmp_path / "person")
    assert person.references.images.shape == (8, 256, 256, 3)
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


def remove_tensor(name):
    return lambda tensors: tensors.pop(f"references.{name}")


def truncate_jpegs(tensors):
    tensors["references.jpegs"] = tensors["references.jpegs"][:-1]


def append_bytes(tensors):
    tensors["references.jpegs"] = torch.cat([tensors["references.jpegs"], torch.zeros(5, dtype=torch.uint8)])


def corrupt_first_image(tensors):
    tensors["references.jpegs"][: int(tensors["references.lengths"][0])] = 7


def shift_image_boundary(tensors):
    """Move the border between two images."""
    tensors["references.lengths"][:2] += torch.tensor([-200, 200])


def claim_huge_image(tensors):
    """Change the header of the first JPEG to 65,500 x 65,500 pixels."""
    data = tensors["references.jpegs"].numpy()
    start = data.tobytes().index(b"\xff\xc0") + 5
    data[start : start + 4] = np.frombuffer(struct.pack(">HH", 65500, 65500), np.uint8)


def set_negative_length(tensors):
    lengths = tensors["references.lengths"]
    lengths[0], lengths[1] = -1, lengths[0] + lengths[1] + 1


def remove_images(tensors):
    tensors["references.jpegs"], tensors["references.lengths"] = (
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.int64),
    )
    tensors["references.landmarks"] = torch.zeros(0, 68, 2)


def too_many(tensors):
    lengths, count = tensors["references.lengths"], MAX_REFERENCES + 1
    tensors["references.jpegs"] = tensors["references.jpegs"][: int(lengths[0])].repeat(count)
    tensors["references.lengths"], tensors["references.landmarks"] = (
        lengths[:1].repeat(count),
        torch.rand(count, 68, 2),
    )


def table_of_lengths(tensors):
    tensors["references.lengths"] = tensors["references.lengths"][None]


def pictures_as_floats(tensors):
    tensors["references.jpegs"] = tensors["references.jpegs"].float()


def fewer_landmarks(tensors):
    tensors["references.landmarks"] = tensors["references.landmarks"][:-1]


def endless_landmark(tensors):
    tensors["references.landmarks"][1, 2, 0] = float("inf")


DAMAGES = [
    *(remove_tensor(name) for name in ("jpegs", "lengths", "landmarks")),
    truncate_jpegs,
    append_bytes,
    corrupt_first_image,
    shift_image_boundary,
    claim_huge_image,
    set_negative_length,
    remove_images,
    too_many,
    table_of_lengths,
    pictures_as_floats,
    fewer_landmarks,
    endless_landmark,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("<>"))
def test_load_rejects_damaged_references(person_file, model, tmp_path, damage):
    path = changed(person_file, tmp_path / "damaged.safetensors", damage)
    with pytest.raises(
        TalkingheadError,
        match="its reference images are missing or damaged; make the person again|values that are not "
        "finite; make it again",
    ) as error:
        load_person(path, model)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_load_reads_maximum_of_references(person_file, model, tmp_path):
    def change(tensors):
        too_many(tensors)
        for name in ("lengths", "landmarks"):
            tensors[f"references.{name}"] = tensors[f"references.{name}"][1:]
        tensors["references.jpegs"] = tensors["references.jpegs"][int(tensors["references.lengths"][0]) :]

    assert (
        len(load_person(changed(person_file, tmp_path / "many", change), model).references) == MAX_REFERENCES
    )


def test_load_rejects_guided_person_without_references(model, person, tmp_path):
    save_person(dataclasses.replace(person, references=None), tmp_path / "person")
    with pytest.raises(TalkingheadError, match="its reference images are missing"):
        load_person(tmp_path / "person", model)


@pytest.mark.parametrize("name", sorted({"tiny", "small"} & set(shipped_models())))
def test_models_of_earlier_versions_are_unchanged(name, tmp_path):
    """Load the shipped models, check their configuration, and save them byte for byte as they are."""
    path = shipped_models()[name]
    assert not LATER & nested_keys(header_of(path))
    model = load_model(name)
    assert (
        model.config.crop == 1 and not model.config.networks.reference_guided and model.config == preset(name)
    )
    assert type(model.generator) is not ReferenceGuidedGenerator
    digest = model.digest
    save_model(model, tmp_path / "again.safetensors", half=True)
    assert model.digest == digest and header_of(tmp_path / "again.safetensors") == header_of(path)


def test_header_of_guided_model_has_new_fields(model, tmp_path):
    save_model(model, tmp_path / "model")
    config = header_of(tmp_path / "model")["config"]
    assert (
        config["crop"] == 2
        and config["networks"]["reference_guided"]
        and config["networks"]["network_size"] == 32
    )


def test_fingerprint_of_earlier_person_is_unchanged():
    """Compute the fingerprint as earlier manifests contain it: without P and fields added since."""
    model = load_model("tiny")
    person = Person(
        model.config,
        model.generator,
        torch.zeros(1, model.generator.style_length),
        np.zeros((68, 2), np.float32),
        "",
        True,
    )
    fields = {
        name: value for name, value in dataclasses.asdict(model.config.networks).items() if name not in LATER
    }
    assert len(fields) == 16
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    tensors = {
        f"generator.{name}": tensor
        for name, tensor in model.generator.state_dict().items()
        if "projection" not in name
    }
    for name in sorted(tensors):
        digest.update(f"{name} torch.float32 {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    assert fingerprint(person) == digest.hexdigest()


def test_fingerprint_of_guided_person_covers_networks(person):
    before = fingerprint(person)
    without_references = copy.copy(person)
    without_references.references = None  # are no part of an engine
    assert fingerprint(without_references) == before
    networks = dataclasses.replace(person.config.networks, network_size=64)
    assert (
        fingerprint(dataclasses.replace(person, config=dataclasses.replace(person.config, networks=networks)))
        != before
    )


@pytest.mark.parametrize("one_scene", [True, False])
def test_file_keeps_one_scene_flag(person, model, tmp_path, one_scene):
    other = dataclasses.replace(
        person, references=dataclasses.replace(person.references, one_scene=one_scene)
    )
    save_person(other, tmp_path / "person.safetensors")
    assert load_person(tmp_path / "person.safetensors", model).references.one_scene is one_scene
