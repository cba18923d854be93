"""Checkpoints: one safetensors file for a model, one for a person.

The header holds what the file is (kind, version, configuration, provenance) and the SHA-256 of the header's other fields and all tensors,
so that an edited or damaged file is refused. Loading is strict: every tensor of the configuration, of its shape, and no other.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .clip import POINTS
from .config import Config, preset
from .errors import TalkingheadError, shorten
from .networks import Discriminator, Embedder, Generator, References, build_generator
from .tensor_file import checksum, write_tensors
from .torch_state import from_numpy, with_default_torch_state

VERSION = 2
MAX_REFERENCES = 64
MAX_BYTES = 1 << 30
"""Of a file: three times the models of preset `paper`, the largest."""
_HEADER = {"config": dict, "provenance": dict}
_HEADER_OF_PERSON = {"model": str, "feed_forward": bool}
SHIPPED = Path(__file__).parent / "models"
"""Models that come with the package, `<preset>.safetensors`."""
DEFAULT_MODEL = "portrait"
PAPER_FORM_MODEL = "small"
"""Where learning starts when a person's file is to hold no picture."""
RANDOM_PRESET = "tiny"
"""Preset of the random weights that the model "none" is."""


@dataclass
class Model:
    """What meta-learning gives: the start of every person.

    Attributes:
        config: its configuration.
        embedder, generator, discriminator: E, G with P, and V with w0 and b; E and G are running averages.
        provenance: plain values that say how it was made; "variant" is "ft", or "ff" which cannot be fine-tuned.
        digest: SHA-256 of its file's content; empty when it was never saved.
    """

    config: Config
    embedder: Embedder
    generator: Generator
    discriminator: Discriminator
    provenance: dict[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def device(self) -> torch.device:
        """Where its networks are."""
        return self.discriminator.w0.device

    @with_default_torch_state
    def to(self, device: str | torch.device) -> "Model":
        """Move its networks; gives the model itself."""
        for network in networks_of(self).values():
            network.to(device)
        return self


@dataclass
class Person:
    """One person, ready to be driven.

    Attributes:
        config: configuration of the model it came from.
        generator: G with this person's weights, or the model's own G for a feed-forward person.
        styles: [1, S], psi'.
        reference: float32 [68, 2], the person's face at rest as fractions of the crop, estimated from the pictures' landmarks; a driver's
            motion is put on it.
        model_digest: of the model it came from.
        feed_forward: True when only the styles are the person's own; the file then holds no weights.
        discriminator, column: D and w' [D] at the end of fine-tuning; not stored.
        provenance: plain values that say how it was made.
        references: the person's pictures, where the generator is reference-guided: its file holds them, and every video shows them.
    """

    config: Config
    generator: Generator
    styles: Tensor
    reference: np.ndarray
    model_digest: str
    feed_forward: bool
    discriminator: Discriminator | None = None
    column: Tensor | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    references: References | None = None


def networks_of(model: Model) -> dict[str, nn.Module]:
    """E, G and D by name."""
    return {"embedder": model.embedder, "generator": model.generator, "discriminator": model.discriminator}


def check_model(model: Model) -> None:
    """Refuse a model in memory whose weights are not finite.

    Raises:
        TalkingheadError: they are not.
    """
    check_finite(_gather(networks_of(model)), "model")


@with_default_torch_state
def random_model(name: str | Config, seed: int = 0) -> Model:
    """A model of a preset, or of a configuration, with freshly initialised weights, which has learned nothing.

    Raises:
        TalkingheadError: no such preset.
    """
    config = name if isinstance(name, Config) else preset(name)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay theirs
        torch.manual_seed(seed)
        networks = Embedder(config.networks), build_generator(config.networks), Discriminator(config.networks)
    return Model(config, *networks, provenance={"variant": "ft", "trained": "nothing, random weights", "seed": seed})


@with_default_torch_state
def save_model(model: Model, path: str | os.PathLike[str], half: bool = False) -> None:
    """Write a model; `half` stores float16. Sets `model.digest` to the file's.

    Raises:
        TalkingheadError: the file cannot be written.
    """
    tensors = _gather(networks_of(model))
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    header = {"kind": "model", "config": model.config.to_dict(), "provenance": model.provenance}
    model.digest = _save(path, header, tensors)


def shipped_models() -> dict[str, Path]:
    """The models that come with the package: name -> file."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def open_model(name: str, seed: int = 0) -> Model:
    """A model as the command line names it: one that ships, a file, or "none", random weights of preset tiny.

    Raises:
        TalkingheadError: as for `load_model`.
    """
    return random_model(RANDOM_PRESET, seed) if name == "none" else load_model(name)


@with_default_torch_state
def load_model(source: str | os.PathLike[str] = DEFAULT_MODEL) -> Model:
    """Read a model from a file, or one that comes with the package by its name. Weights become float32.

    Raises:
        TalkingheadError: missing, cut, edited, foreign, or of another version.
    """
    shipped = shipped_models()
    path = shipped.get(str(source), Path(source))
    if str(source) not in shipped and not os.path.isfile(path):
        raise TalkingheadError(
            f"{source}: no such file, and no model that comes with the package (there is: {', '.join(shipped) or 'none'}); "
            "name one of those, or a file that `talkinghead train` wrote"
        )
    header, tensors = _load(path, "model")
    config = _config(path, header)
    with torch.device("meta"):
        model = Model(config, Embedder(config.networks), build_generator(config.networks), Discriminator(config.networks))
    _fill(path, networks_of(model), tensors)
    model.provenance, model.digest = header["provenance"], header["digest"]
    return model


@with_default_torch_state
def save_person(person: Person, path: str | os.PathLike[str]) -> None:
    """Write a person: styles and, unless it is a feed-forward person, the generator.

    Raises:
        TalkingheadError: the file cannot be written, or the person's model was never saved.
    """
    if person.feed_forward and not person.model_digest:
        raise TalkingheadError(f"{path}: a feed-forward person needs its model's file, and that model was never saved; save_model first")
    tensors = {"styles": person.styles, "reference": from_numpy(person.reference)}
    if not person.feed_forward:
        tensors |= _gather({"generator": person.generator})
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


@with_default_torch_state
def load_person(path: str | os.PathLike[str], model: Model | str | os.PathLike[str] | None = None) -> Person:
    """Read a person.

    Args:
        path: what `save_person` wrote.
        model: for a feed-forward person its model, or the file or name of it; by default the shipped model of its preset.

    Raises:
        TalkingheadError: missing, cut, edited, foreign, of another version, or `model` is not the one it was made with.
    """
    path = Path(path)
    header, tensors = _load(path, "person")
    config = _config(path, header)
    styles, reference = tensors.pop("styles", None), tensors.pop("reference", None)
    references = _unpack_references(path, tensors, config.networks.image_size) if config.networks.reference_guided else None
    if header["feed_forward"]:
        if model is None and config.preset not in shipped_models():
            raise TalkingheadError(f"{path}: a feed-forward person needs the model it was made with; name it with --model")
        model = model if isinstance(model, Model) else load_model(config.preset if model is None else model)
        if model.digest != header["model"]:
            raise TalkingheadError(
                f"{path}: was made with model {header['model'][:12]}, got {model.digest[:12] or 'one that was never saved'}; "
                "name the right one with --model, or make the person again"
            )
        generator = model.generator
    else:
        with torch.device("meta"):
            generator = build_generator(config.networks, projection=False)
        _fill(path, {"generator": generator}, tensors)
    if styles is None or reference is None or styles.shape != (1, generator.style_length) or reference.shape != (POINTS, 2):
        raise TalkingheadError(f"{path}: its styles or reference do not fit its configuration; make the person again")
    return Person(
        config=config,
        generator=generator,
        styles=styles,
        reference=reference.numpy(),
        model_digest=header["model"],
        feed_forward=header["feed_forward"],
        provenance=header["provenance"],
        references=references,
    )


def fingerprint(person: Person) -> str:
    """SHA-256 of what an engine of the person holds: configuration and generator without P, and the styles of a fine-tuned one.

    Feed-forward persons of one model have the same: their styles are given to the engine.
    """
    tensors = {name: tensor for name, tensor in _gather({"generator": person.generator}).items() if ".projection." not in name}
    if not person.feed_forward:
        tensors["styles"] = person.styles
    return checksum(json.dumps(person.config.to_dict()["networks"], sort_keys=True), tensors)


def _gather(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor for name, network in networks.items() for key, tensor in network.state_dict().items()}


def _fill(path: Path, networks: Mapping[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """Give networks of the meta device the tensors of a file; memory is allocated once these are known to be all, and of their shapes."""
    targets = _gather(networks)
    odd = sorted(set(targets) ^ set(tensors)) + [name for name in targets if name in tensors and tensors[name].shape != targets[name].shape]
    if odd:
        raise TalkingheadError(f"{path}: tensor {odd[0]} does not fit its configuration; make the file again")
    for network in networks.values():
        network.to_empty(device="cpu")
    with torch.no_grad():
        for name, target in _gather(networks).items():
            target.copy_(tensors[name])


def _pack_references(references: References) -> dict[str, Tensor]:
    """Return references as tensors of a file: JPEG bytes one after the other, how many each has, and landmarks."""
    jpegs = references.jpegs or References.stored(references.pictures, references.landmarks).jpegs
    return {
        "references.jpegs": torch.frombuffer(bytearray(b"".join(jpegs)), dtype=torch.uint8),
        "references.lengths": torch.tensor([len(data) for data in jpegs]),
        "references.landmarks": from_numpy(references.landmarks),
        "references.one_scene": torch.tensor([int(references.one_scene)]),
    }


def _unpack_references(path: Path, tensors: dict[str, Tensor], size: int) -> References:
    """Take the references, pictures of this size, out of a file's tensors."""
    names = ("jpegs", "lengths", "landmarks", "one_scene")
    jpegs, lengths, landmarks, one_scene = (tensors.pop(f"references.{name}", None) for name in names)
    problem = f"{path}: the pictures that it shows are missing or damaged; make the person again"
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
        return References.decode([data[a:b] for a, b in pairwise([0, *ends])], landmarks.float().numpy(), bool(one_scene), size)
    except Exception as error:  # what Pillow raises for damaged data is not stated
        raise TalkingheadError(f"{problem} ({error})") from error


def _config(path: Path, header: dict[str, Any]) -> Config:
    try:
        return Config.from_dict(header["config"])
    except TalkingheadError as error:
        raise TalkingheadError(f"{path}: {error}") from error


def check_finite(tensors: Mapping[str, Tensor], name: str | os.PathLike[str]) -> None:
    """Refuse weights that show nothing but black.

    Raises:
        TalkingheadError: a value is not finite.
    """
    odd = next((key for key, tensor in tensors.items() if not _is_finite(tensor)), None)
    if odd is not None:
        raise TalkingheadError(f"{name}: tensor {odd} has values that are not finite; make it again")


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_floating_point() and tensor.itemsize == 1:  # torch has no isfinite for numbers of 8 bits
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())


def _save(path: str | os.PathLike[str], header: dict[str, Any], tensors: Mapping[str, Tensor]) -> str:
    check_finite(tensors, path)
    return write_tensors(path, tensors, {"version": VERSION, **header})


def _load(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header (with its "digest") and float32 tensors of a file, verified."""
    if not os.path.isfile(path):
        raise TalkingheadError(f"{path}: no such file; a {kind} is what `talkinghead {'train' if kind == 'model' else 'finetune'}` writes")
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise SafetensorError(f"more than {MAX_BYTES >> 20} MB")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        remedy = "make or copy it again"
        if kind == "person" and path.suffix != ".safetensors":
            remedy = f"of a picture or a video learn a person first: talkinghead finetune {path.name} --out person.safetensors"
        raise TalkingheadError(f"{path}: is cut or not a {kind} file ({shorten(str(error))}); {remedy}") from error
    try:
        header = json.loads(metadata["talkinghead"])
        found, version = header["kind"], header["version"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # numbers of too many digits among them
        raise TalkingheadError(f"{path}: is a safetensors file of another program; give a {kind} made by talkinghead") from error
    if version != VERSION:
        raise TalkingheadError(
            f"{path}: is of version {shorten(version)}, this talkinghead reads {VERSION}; make it again or install the other version"
        )
    if found != kind:
        raise TalkingheadError(f"{path}: is a {shorten(found)}, expected a {kind}")
    if checksum(metadata["talkinghead"], tensors) != metadata.get("sha256"):
        raise TalkingheadError(f"{path}: does not match its own checksum, it was edited or damaged; make or copy it again")
    kinds = {**_HEADER, **(_HEADER_OF_PERSON if kind == "person" else {})}
    plain = [tensor for name, tensor in tensors.items() if not name.startswith("references.")]
    if any(type(header.get(name)) is not wanted for name, wanted in kinds.items()) or not all(map(torch.is_floating_point, plain)):
        raise TalkingheadError(f"{path}: lacks what a {kind} has, or has it of another kind; make it again")
    check_finite(tensors, path)
    header["digest"] = metadata["sha256"]
    return header, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
