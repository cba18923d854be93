"""Models and persons in memory: their networks, their weights and what describes them."""

import copy
import importlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .config import Config, preset
from .data.crop import Crop
from .data.pictures import Driver
from .errors import TalkingheadError, quantity
from .landmarks.detector import Detector
from .networks import Discriminator, Embedder, Generator, References, build_generator
from .system.device import choose_device
from .system.progress import Progress, no_progress
from .system.tensor_file import checksum
from .system.torch_state import with_default_torch_state


@dataclass(eq=False, repr=False)
class Model:
    """A meta-learned model: the start of every person.

    Attributes:
        config: its configuration.
        embedder, generator, discriminator: E, G with P, and V with w0 and b; E and G are running averages.
        provenance: plain values that describe how it was trained; "variant" is "ft", or "ff" which cannot be
            fine-tuned.
        digest: SHA-256 of its file's content; empty when it was never saved.
        placed: where `to` has moved it, which "auto" takes then; None before.
    """

    config: Config
    embedder: Embedder
    generator: Generator
    discriminator: Discriminator
    provenance: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    placed: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.discriminator.w0.device

    @with_default_torch_state
    def to(self, device: str | torch.device) -> "Model":
        """Move the networks to a device ("cpu", "cuda", "auto") and return the model itself.

        Raises:
            TalkingheadError: torch has no such device.
        """
        self.placed = choose_device(device)
        for network in networks_of(self).values():
            network.to(self.placed)
        return self

    def on(self, device: torch.device) -> "Model":
        """Return the model itself where it is on that device, else a copy of it there."""
        if self.device.type == device.type and device.index in (None, self.device.index):
            return self
        return copy.deepcopy(self).to(device)

    def __repr__(self) -> str:
        networks = self.config.networks
        size = f"{networks.image_size}x{networks.image_size}"
        kind = "reference-guided" if networks.reference_guided else "the paper's networks"
        trained = self.provenance.get("trained") or f"{self.provenance.get('steps', 'unknown')} steps"
        return (
            f"Model({self.config.preset!r}, {size}, {kind}, {_millions(networks_of(self).values())} million "
            f"weights, on {self.device}, trained: {trained})"
        )


class Renderer(Protocol):
    """Renderer of a person in place of torch: `talkinghead.Engine`."""

    def set_person(self, person: "Person") -> None:
        """Set the inputs that come from a person."""


class ExportReport(Protocol):
    """Report of an exported engine: `talkinghead.export_person` describes its attributes."""

    @property
    def file(self) -> Path: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def psnr_db(self) -> float | None: ...
    @property
    def reason_not_run(self) -> str: ...
    @property
    def seconds(self) -> float: ...


@dataclass(eq=False, repr=False)
class Person:
    """One person, ready to be driven.

    Attributes:
        config: configuration of the model it came from.
        generator: G with this person's weights, or the model's own G for a feed-forward person.
        styles: [1, S], psi'.
        neutral_landmarks: float32 [68, 2], the person's neutral face as fractions of the crop, estimated from
            the landmarks of the reference images; a driver's motion is added to it.
        model_digest: digest of the model it came from.
        feed_forward: True when only the styles are the person's own; the file then holds no weights.
        video_embedding: w' [D] at the end of fine-tuning, from which learning goes on; None where the file is
            of a version before 0.3.
        discriminator: D at the end of fine-tuning, which a file holds only if it was asked to.
        provenance: plain values that describe how it was made.
        references: the person's reference images, where the generator is reference-guided: the file holds
            them, and every video shows them.
        placed: where `to` has moved it, which "auto" takes then; None before.
        file: path that it was loaded from or last saved to, None before; no part of the file. A copy by
            `dataclasses.replace` has none.
    """

    config: Config
    generator: Generator
    styles: Tensor
    neutral_landmarks: np.ndarray
    model_digest: str
    feed_forward: bool
    discriminator: Discriminator | None = None
    video_embedding: Tensor | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    references: References | None = None
    placed: torch.device | None = None
    file: Path | None = field(default=None, init=False)

    @property
    def device(self) -> torch.device:
        """Device of the generator."""
        return self.styles.device

    @with_default_torch_state
    def to(self, device: str | torch.device) -> "Person":
        """Move the person to a device ("cpu", "cuda", "auto") and return the person itself.

        Raises:
            TalkingheadError: torch has no such device.
        """
        self.placed = choose_device(device)
        self.generator.to(self.placed)
        self.styles = self.styles.to(self.placed)
        if self.discriminator is not None:
            self.discriminator.to(self.placed)
        if self.video_embedding is not None:
            self.video_embedding = self.video_embedding.to(self.placed)
        return self

    def animate(
        self,
        drive: Driver,
        crop: Crop | None = None,
        retarget: str = "auto",
        precision: str = "auto",
        device: str | torch.device = "auto",
        *,
        engine: Renderer | None = None,
        detector: Detector | str | None = None,
        face: int = 1,
        fast: bool = False,
        progress: Progress = no_progress,
    ) -> Iterator[np.ndarray]:
        """Yield the frames of the person doing what `drive` does; arguments as for `talkinghead.animate`."""
        frames: Iterator[np.ndarray] = _public_api().animate(
            self,
            drive,
            crop=crop,
            retarget=retarget,
            precision=precision,
            device=device,
            engine=engine,
            detector=detector,
            face=face,
            fast=fast,
            progress=progress,
        )
        return frames

    def points(
        self,
        drive: Driver,
        crop: Crop | None = None,
        retarget: str = "auto",
        *,
        detector: Detector | str | None = None,
        face: int = 1,
        progress: Progress = no_progress,
    ) -> np.ndarray:
        """Return the points that `animate` renders for a driver, smoothed and retargeted: what engines take.

        Args:
            drive, crop, retarget, detector, face, progress: as for `talkinghead.animate`.

        Returns:
            float32 [N, 68, 2] as fractions of the person's crop, a row for each frame of the driver;
            [N, 78, 2] with irises, where the model shows them and the driver has them.

        Raises:
            TalkingheadError: the driver is empty, none, or cannot be read; an argument is unknown.
        """
        points: np.ndarray = _public_api().points_of_driver(
            self, drive, crop, retarget, detector=detector, face=face, progress=progress
        )
        return points

    def save(self, path: str | os.PathLike[str], keep_discriminator: bool = False) -> None:
        """Write the person to a file: `talkinghead.save_person`."""
        _public_api().save_person(self, path, keep_discriminator=keep_discriminator)

    def export(
        self,
        out: str | os.PathLike[str],
        format: str,
        precision: str | None = None,
        batch: int | None = None,
        input: str | None = None,
        output: str | None = None,
        name: str = "",
        portable: bool = False,
        target: str | None = None,
        base: str | None = None,
        device: str = "auto",
    ) -> ExportReport:
        """Write an engine of the person; arguments as for `talkinghead.export_person`."""
        report: ExportReport = _public_api().export_person(
            self,
            out,
            format,
            precision=precision,
            batch=batch,
            input=input,
            output=output,
            name=name,
            portable=portable,
            target=target,
            base=base,
            device=device,
        )
        return report

    def __repr__(self) -> str:
        size = f"{self.config.networks.image_size}x{self.config.networks.image_size}"
        steps = quantity(self.provenance.get("steps", 0), "step")
        holds = "styles alone" if self.feed_forward else "styles and a generator"
        pictures = ""
        if self.references is not None:
            pictures = f", {quantity(len(self.references), 'picture')} in it"
        return f"Person(of {self.config.preset!r}, {size}, {steps}, {holds}{pictures}, on {self.device})"


def _public_api() -> Any:
    """Return the package with its public functions, which are of higher layers, when one is called."""
    return importlib.import_module(__package__)


def _millions(networks: Iterable[nn.Module]) -> str:
    """Return how many million weights networks have, as text."""
    count = sum(weight.numel() for network in networks for weight in network.parameters())
    return f"{count / 1e6:.3g}"


def networks_of(model: Model) -> dict[str, nn.Module]:
    """Return E, G and D by name."""
    return {"embedder": model.embedder, "generator": model.generator, "discriminator": model.discriminator}


@with_default_torch_state
def random_model(name: str | Config, seed: int = 0) -> Model:
    """Return an untrained model of a preset or a configuration, with freshly initialised weights.

    Raises:
        TalkingheadError: no such preset.
    """
    config = name if isinstance(name, Config) else preset(name)
    with torch.random.fork_rng(devices=[]):  # leave the caller's random state unchanged
        torch.manual_seed(seed)
        networks = Embedder(config.networks), build_generator(config.networks), Discriminator(config.networks)
    return Model(
        config, *networks, provenance={"variant": "ft", "trained": "nothing, random weights", "seed": seed}
    )


def check_model(model: Model) -> None:
    """Check that the weights of a model in memory are finite.

    Raises:
        TalkingheadError: a weight is not.
    """
    check_finite(state_tensors(networks_of(model)), "model")


def check_finite(tensors: Mapping[str, Tensor], name: str | os.PathLike[str]) -> None:
    """Check that weights are finite; others would render black frames.

    Raises:
        TalkingheadError: a value is not finite.
    """
    bad = next((key for key, tensor in tensors.items() if not _is_finite(tensor)), None)
    if bad is not None:
        raise TalkingheadError(f"{name}: tensor {bad} has values that are not finite; make it again")


def _is_finite(tensor: Tensor) -> bool:
    if tensor.is_floating_point() and tensor.itemsize == 1:  # torch has no isfinite for 8-bit floats
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())


def fingerprint(person: Person) -> str:
    """Return the SHA-256 of what an engine of the person holds.

    That is the configuration, the generator without P, and the styles of a fine-tuned person. All
    feed-forward persons of one model have the same fingerprint: their styles are inputs of the engine.
    """
    tensors = {
        name: tensor
        for name, tensor in state_tensors({"generator": person.generator}).items()
        if ".projection." not in name
    }
    if not person.feed_forward:
        tensors["styles"] = person.styles
    return checksum(json.dumps(person.config.to_dict()["networks"], sort_keys=True), tensors)


def state_tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the state of several networks as one dict, each key after its network's name and a dot."""
    return {
        f"{name}.{key}": tensor
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }
