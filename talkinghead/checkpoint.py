"""Checkpoints: one safetensors file for a model, one for a person.

The header holds kind, version, configuration and provenance of the file, and the SHA-256 of these fields and
all tensors, so that an edited or damaged file is refused. Loading is strict: the file must hold every tensor
of the configuration, of its shape, and no other.
"""

import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .clip import POINTS
from .config import Config
from .constants import DEFAULT_MODEL
from .data.output_paths import check_ending
from .errors import TalkingheadError, check_path, shorten
from .model import Model, Person, check_finite, networks_of, random_model, state_tensors
from .networks import Discriminator, Embedder, References, build_generator
from .system.tensor_file import checksum, write_tensors
from .system.torch_state import from_numpy, with_default_torch_state
from .weights import model_path, shipped_models

VERSION = 2
MAX_REFERENCES = 64
MAX_BYTES = 1 << 30
"""Size limit of a file: three times a model of preset `paper`, the largest."""
_HEADER_TYPES: dict[str, dict[str, type]] = {
    "model": {"config": dict, "provenance": dict},
    "person": {"config": dict, "provenance": dict, "model": str, "feed_forward": bool},
}
"""Types of the header's fields, by kind of file."""
_OTHER_KIND = {
    "person": "name a {kind}, such as portrait, or its file; a person learns further by `talkinghead "
    "finetune PICTURES --from {path}`, in Python finetune(load_person('{path}'), pictures)",
    "model": "name the file of a {kind}, which `talkinghead finetune PICTURES --model {path}` makes of it",
}
"""Remedies for a file of another kind, by the kind that it is of."""
RANDOM_MODEL = "none"
"""Name of a model of random weights, of the preset `_RANDOM_PRESET`."""
_RANDOM_PRESET = "tiny"


@with_default_torch_state
def save_model(model: Model, path: str | os.PathLike[str], half: bool = False) -> None:
    """Write a model; `half` stores float16. Sets `model.digest` to the file's.

    Raises:
        TalkingheadError: the file cannot be written.
    """
    check_ending(path, "a model", (".safetensors",))
    tensors = state_tensors(networks_of(model))
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    header = {"kind": "model", "config": model.config.to_dict(), "provenance": model.provenance}
    model.digest = _save(path, header, tensors)


@with_default_torch_state
def load_model(
    source: str | os.PathLike[str] = DEFAULT_MODEL,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Model:
    """Read a model from a file, or one that comes with the package by its name. Weights become float32.

    Args:
        source: name or file; a folder that holds model.safetensors; "hf://OWNER/NAME" on the Hugging Face Hub
            (`talkinghead.system.hub.hub_file`); "none" is a model of random weights.
        seed: of these random weights.
        device: where `Model.to` moves it; by default it stays on the CPU.

    Raises:
        TalkingheadError: missing, cut, edited, foreign, or of another version; torch has no such device.
    """
    model = _read_model(source, seed)
    return model if device is None else model.to(device)


def _read_model(source: str | os.PathLike[str], seed: int) -> Model:
    """Read a model; arguments as for `load_model`."""
    if source == RANDOM_MODEL:
        return random_model(_RANDOM_PRESET, seed)
    if not isinstance(source, (str, os.PathLike)):
        raise TalkingheadError(
            f'load_model: got {type(source).__name__}; give a name or a file, such as "{DEFAULT_MODEL}"'
        )
    path = model_path(os.fspath(source))
    header, tensors = _load(path, "model")
    config = _config(path, header)
    with torch.device("meta"):
        model = Model(
            config,
            Embedder(config.networks),
            build_generator(config.networks),
            Discriminator(config.networks),
        )
    _fill(path, networks_of(model), tensors)
    model.provenance, model.digest = header["provenance"], header["digest"]
    return model


@with_default_torch_state
def save_person(person: Person, path: str | os.PathLike[str], keep_discriminator: bool = False) -> None:
    """Write a person: styles and, unless it is feed-forward, the generator and w'. Sets `person.file`.

    Args:
        person: to be written.
        path: of the file.
        keep_discriminator: write D too, as float16, from which further learning goes on: 2 bytes for each of
            its weights, 3 MB with the presets that ship.

    Raises:
        TalkingheadError: the file cannot be written, or the person's model was never saved.
    """
    check_ending(path, "a person", (".safetensors",))
    if person.feed_forward and not person.model_digest:
        raise TalkingheadError(
            f"{path}: a feed-forward person needs its model's file, and that model was never saved; "
            "save_model first"
        )
    tensors = {"styles": person.styles, "reference": from_numpy(person.neutral_landmarks)}
    if not person.feed_forward:
        tensors |= state_tensors({"generator": person.generator})
        if person.video_embedding is not None:
            tensors["video_embedding"] = person.video_embedding
        if keep_discriminator and person.discriminator is not None:
            discriminator = state_tensors({"discriminator": person.discriminator})
            tensors |= {name: tensor.half() for name, tensor in discriminator.items()}
    if person.references is not None:
        tensors |= _pack_references(person.references)
    header = {
        "kind": "person",
        "config": person.config.to_dict(),
        "provenance": person.provenance,
        "model": person.model_digest,
        "feed_forward": person.feed_forward,
    }
    _save(path, header, tensors)
    person.file = Path(path)


@with_default_torch_state
def load_person(
    path: str | os.PathLike[str],
    model: Model | str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
) -> Person:
    """Read a person.

    Args:
        path: what `save_person` wrote.
        model: for a feed-forward person its model, or the file or name of it; by default the shipped model of
            its preset.
        device: where `Person.to` moves them; by default they stay on the CPU.

    Raises:
        TalkingheadError: missing, cut, edited, foreign, of another version, or `model` is not the one it was
            made with; torch has no such device.
    """
    check_path("load_person", path, "anna.safetensors")
    path = Path(path)
    header, tensors = _load(path, "person")
    config = _config(path, header)
    styles, neutral_landmarks = tensors.pop("styles", None), tensors.pop("reference", None)
    video_embedding = tensors.pop("video_embedding", None)  # not in files of versions before 0.3
    discriminator = _pop_discriminator(path, config, tensors)
    references = None
    if config.networks.reference_guided:
        references = _unpack_references(path, tensors, config.networks.image_size)
    if header["feed_forward"]:
        generator = _model_of_person(path, header, config, model).generator
    else:
        with torch.device("meta"):
            generator = build_generator(config.networks, projection=False)
        _fill(path, {"generator": generator}, tensors)
    if (
        styles is None
        or neutral_landmarks is None
        or styles.shape != (1, generator.style_length)
        or neutral_landmarks.shape != (POINTS, 2)
        or (video_embedding is not None and video_embedding.shape != (config.networks.embedding,))
    ):
        raise TalkingheadError(
            f"{path}: its styles, reference or embedding do not fit its configuration; make the person again"
        )
    person = Person(
        config=config,
        generator=generator,
        styles=styles,
        neutral_landmarks=neutral_landmarks.numpy(),
        model_digest=header["model"],
        feed_forward=header["feed_forward"],
        discriminator=discriminator,
        video_embedding=video_embedding,
        provenance=header["provenance"],
        references=references,
    )
    person.file = path
    return person if device is None else person.to(device)


def _pop_discriminator(path: Path, config: Config, tensors: dict[str, Tensor]) -> Discriminator | None:
    """Remove the discriminator from a person's tensors; None where the file holds none."""
    names = [name for name in tensors if name.startswith("discriminator.")]
    if not names:
        return None
    with torch.device("meta"):
        discriminator = Discriminator(config.networks)
    _fill(path, {"discriminator": discriminator}, {name: tensors.pop(name) for name in names})
    return discriminator


def _model_of_person(
    path: Path, header: dict[str, Any], config: Config, model: Model | str | os.PathLike[str] | None
) -> Model:
    """Return the model of a feed-forward person's file, as `load_person` finds it."""
    if model is None and config.preset not in shipped_models():
        raise TalkingheadError(
            f"{path}: a feed-forward person needs the model it was made with; name it with --model"
        )
    if not isinstance(model, Model):
        model = load_model(config.preset if model is None else model)
    if model.digest != header["model"]:
        raise TalkingheadError(
            f"{path}: was made with model {config.preset} {header['model'][:12]}, got "
            f"{model.config.preset} {model.digest[:12] or 'that was never saved'}; "
            "name the right one with --model, or make the person again"
        )
    return model


def _fill(path: Path, networks: Mapping[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """Fill networks of the meta device with the tensors of a file.

    Memory is allocated only after the tensors were found to be complete and of the right shapes.
    """
    targets = state_tensors(networks)
    mismatches = sorted(set(targets) ^ set(tensors)) + [
        name for name in targets if name in tensors and tensors[name].shape != targets[name].shape
    ]
    if mismatches:
        raise TalkingheadError(
            f"{path}: tensor {mismatches[0]} does not fit its configuration; make the file again"
        )
    for network in networks.values():
        network.to_empty(device="cpu")
    with torch.no_grad():
        for name, target in state_tensors(networks).items():
            target.copy_(tensors[name])


def _pack_references(references: References) -> dict[str, Tensor]:
    """Return references as tensors of a file: concatenated JPEG bytes, the length of each JPEG, landmarks,
    and irises where the model shows them.
    """
    jpegs = references.jpegs or References.encode(references.images, references.landmarks).jpegs
    tensors = {
        "references.jpegs": torch.frombuffer(bytearray(b"".join(jpegs)), dtype=torch.uint8),
        "references.lengths": torch.tensor([len(data) for data in jpegs]),
        "references.landmarks": from_numpy(references.landmarks),
        "references.one_scene": torch.tensor([int(references.one_scene)]),
    }
    if references.irises is not None:
        tensors["references.irises"] = from_numpy(references.irises)
    return tensors


def _unpack_references(path: Path, tensors: dict[str, Tensor], size: int) -> References:
    """Remove the references from a file's tensors and decode them to images of `size` pixels."""
    names = ("jpegs", "lengths", "landmarks", "one_scene")
    jpegs, lengths, landmarks, one_scene = (tensors.pop(f"references.{name}", None) for name in names)
    irises = tensors.pop("references.irises", None)
    problem = f"{path}: its reference images are missing or damaged; make the person again"
    if (
        jpegs is None
        or lengths is None
        or landmarks is None
        or one_scene is None
        or one_scene.numel() != 1
        or lengths.dim() != 1
        or jpegs.dtype != torch.uint8
    ):
        raise TalkingheadError(problem)
    ends = lengths.cumsum(0).tolist()
    if not ends or bool((lengths < 1).any()) or ends[-1] != jpegs.numel() or len(ends) > MAX_REFERENCES:
        raise TalkingheadError(problem)
    data = jpegs.numpy().tobytes()
    try:
        return References.decode(
            [data[a:b] for a, b in pairwise([0, *ends])],
            landmarks.float().numpy(),
            bool(one_scene),
            size=size,
            irises=None if irises is None else irises.float().numpy(),
        )
    except Exception as error:  # Pillow does not document what it raises for damaged data
        raise TalkingheadError(f"{problem} ({error})") from error


def _config(path: Path, header: dict[str, Any]) -> Config:
    try:
        return Config.from_dict(header["config"])
    except TalkingheadError as error:
        raise TalkingheadError(f"{path}: {error}") from error


def _save(path: str | os.PathLike[str], header: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
    check_finite(tensors, path)
    return write_tensors(path, tensors, {"version": VERSION, **header})


def _load(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read and verify a file; return its header (with its "digest") and its tensors as float32."""
    metadata, tensors = _read_file(path, kind)
    header = _parse_header(path, kind, metadata)
    if checksum(metadata["talkinghead"], tensors) != metadata.get("sha256"):
        raise TalkingheadError(
            f"{path}: does not match its own checksum, it was edited or damaged; make or copy it again"
        )
    weights = [tensor for name, tensor in tensors.items() if not name.startswith("references.")]
    has_types = all(type(header.get(name)) is expected for name, expected in _HEADER_TYPES[kind].items())
    if not has_types or not all(map(torch.is_floating_point, weights)):
        raise TalkingheadError(f"{path}: lacks what a {kind} has, or has it of another kind; make it again")
    check_finite(tensors, path)
    header["digest"] = metadata["sha256"]
    return header, {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def _read_file(path: Path, kind: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return metadata and tensors of a safetensors file."""
    if not os.path.isfile(path):
        command = "train" if kind == "model" else "finetune"
        raise TalkingheadError(f"{path}: no such file; a {kind} is what `talkinghead {command}` writes")
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise SafetensorError(f"more than {MAX_BYTES >> 20} MB")
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        remedy = "make or copy it again"
        if kind == "model" and path.suffix != ".safetensors":
            remedy = f"name {', '.join(shipped_models())} or a file that `talkinghead train` wrote"
        if kind == "person" and path.suffix != ".safetensors":
            remedy = (
                f"of a picture or a video learn a person first: talkinghead finetune {path.name} --out "
                "person.safetensors"
            )
        raise TalkingheadError(
            f"{path}: is cut or not a {kind} file ({shorten(str(error))}); {remedy}"
        ) from error


def _parse_header(path: Path, kind: str, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the header of a file of this version and kind."""
    try:
        header = json.loads(metadata["talkinghead"])
        file_kind, version = header["kind"], header["version"]
    except (
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # ValueError: numbers of many digits too
        raise TalkingheadError(
            f"{path}: is a safetensors file of another program; give a {kind} made by talkinghead"
        ) from error
    if version != VERSION:
        raise TalkingheadError(
            f"{path}: is of version {shorten(version)}, this talkinghead reads {VERSION}; make it again or "
            "install the other version"
        )
    if file_kind != kind:
        raise TalkingheadError(
            f"{path}: is a {shorten(file_kind)}; "
            + _OTHER_KIND.get(str(file_kind), "name the file of a {kind}").format(kind=kind, path=path)
        )
    return header
