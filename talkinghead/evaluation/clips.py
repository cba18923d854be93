"""All rows of one clip: what is learned or copied for each T, shown its held-out landmarks, and judged."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Model, Person, open_model, random_model
from ..clip import Clip
from ..data.shots import spread
from ..engines.eager import EagerEngine
from ..errors import TalkingheadError
from ..landmarks.detect import open_detector
from ..landmarks.face import Detector
from ..metrics import nearest_frames, warp_to_landmarks
from ..perceptual import PerceptualNetwork, open_perceptual
from ..training.finetune import finetune_stages
from .judge import Judge, Truth, mean_descriptor
from .material import Subject, read_material

LEARNED = {
    "fine-tuned": "fine-tuned",
    "no-adversarial": "fine-tuned without adversarial",
    "random-weights": "the same steps from random weights",
}
ROWS = {"feed-forward": "feed-forward", **LEARNED, "nearest": "nearest frame", "warped": "nearest frame, warped to the landmarks"}
"""What can be measured: names on the command line -> in tables. All but no-adversarial by default."""
DEFAULT_ROWS = tuple(row for row in ROWS if row != "no-adversarial")
_BATCH = 16


@dataclass(frozen=True)
class Protocol:
    """What is measured, and how.

    Attributes:
        shots: every T, rising.
        held_out: frames held out of each clip.
        rows: of `ROWS`.
        steps: of fine-tuning; the model's own for each T by default.
        curve: further numbers of steps at which the learned rows are measured.
        seed: of the random weights, the order of pictures, and the bootstrap.
    """

    shots: tuple[int, ...] = (1, 8, 32)
    held_out: int = 32
    rows: tuple[str, ...] = DEFAULT_ROWS
    steps: int | None = None
    curve: tuple[int, ...] = ()
    seed: int = 0


@dataclass
class Measure:
    """Measures clips; may be handed to another process, where it opens its networks again.

    Attributes:
        model: as `open_model` takes it.
        protocol: what is measured.
        detector: of landmarks: its name, or one that can be pickled.
        device: of a detector by name.
        identity, fid: the user's networks, or None; see `Judge`.
        perceptual: files of the networks that fine-tuning needs, by name.
        shown: how many held-out frames of a clip are kept to be looked at.
    """

    model: str
    protocol: Protocol
    detector: str | Detector = "auto"
    device: str = "cpu"
    identity: str | None = None
    fid: str | None = None
    perceptual: dict[str, str] | None = None
    shown: int = 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}

    @cached_property
    def judge(self) -> Judge:
        detector = open_detector(self.detector, self.device) if isinstance(self.detector, str) else self.detector
        return Judge(detector, self.identity, self.fid)

    @cached_property
    def loaded(self) -> Model:
        return open_model(self.model, self.protocol.seed)

    @cached_property
    def untrained(self) -> Model:
        return random_model(self.loaded.config, self.protocol.seed)

    @cached_property
    def networks(self) -> list[PerceptualNetwork]:
        return open_perceptual(self.loaded.config.perceptual, self.perceptual)

    def steps(self, shots: int) -> int:
        """Of fine-tuning on so many pictures."""
        return self.loaded.config.finetune.steps(shots) if self.protocol.steps is None else self.protocol.steps

    def prepare(self) -> "Measure":
        """Open everything now, so that what is lacking is told before the work.

        Raises:
            TalkingheadError: the model, a network or a package is missing, or the model cannot be fine-tuned.
        """
        learned = [row for row in self.protocol.rows if row in LEARNED]
        if learned and self.loaded.provenance.get("variant") == "ff":
            raise TalkingheadError(
                f"{self.model}: is of variant FF, which cannot be fine-tuned; leave {', '.join(learned)} out with --rows, "
                "or name a model of variant ft"
            )
        for part in ("judge", "networks")[: 2 if learned else 1]:
            getattr(self, part)
        return self

    def __call__(self, subject: Subject, alive: Callable[[], None]) -> dict[str, Any]:
        """Plain values and tensors of a clip; only "left_out", a text, when it cannot be used.

        Keys: person, name, frames, held_out; figures {T: {row: {metric: value}}}, curve {T: {row: {steps: {metric: value}}}},
        seconds {T: {row: s}}; features and descriptors {T: {row: ...}}, truth_features, truth_descriptor; shown {what: frames}.
        """
        try:
            return self._measure(subject, alive)
        except TalkingheadError as error:
            return {"person": subject.person, "name": subject.name, "left_out": str(error)}

    def _measure(self, subject: Subject, alive: Callable[[], None]) -> dict[str, Any]:
        protocol, judge = self.protocol, self.judge

        def heard(iterable: Any, *_: Any) -> Iterator[Any]:
            for each in iterable:
                alive()
                yield each

        size, crop = self.loaded.config.networks.image_size, self.loaded.config.crop
        material = read_material(subject, size, protocol.shots, protocol.held_out, judge.detector, heard, crop)
        truth = judge.truth(material.held)
        shown = spread(len(material.held), self.shown)
        found: dict[str, Any] = {
            "person": subject.person,
            "name": subject.name,
            "frames": material.frames,
            "held_out": len(material.held),
            "truth_features": truth.features,
            "truth_descriptor": mean_descriptor(truth.descriptors),
            "shown": {"truth": _kept(material.held.frames[shown]), "landmarks": _kept(material.held.track.landmarks[shown] / size)},
            **{what: {shots: {} for shots in protocol.shots} for what in ("figures", "curve", "seconds", "features", "descriptors")},
        }
        for shots, pictures in material.pictures.items():
            found["shown"][f"{shots} pictures"] = _kept(pictures.frames[spread(shots, 1)])
            for row in protocol.rows:
                for steps, seconds, frames, again in self._made(row, shots, pictures, truth, alive):
                    alive()
                    verdict = judge.verdict(frames, truth)
                    if row in LEARNED and protocol.curve:
                        learned = {f"learned_{key}": value for key, value in judge.likeness(again, pictures.frames).items()}
                        found["curve"][shots].setdefault(row, {})[steps] = verdict.figures | learned
                    if row not in LEARNED or steps == self.steps(shots):
                        found["figures"][shots][row] = verdict.figures
                        found["features"][shots][row] = verdict.features
                        found["descriptors"][shots][row] = verdict.descriptor
                        found["seconds"][shots][row] = round(seconds, 2)
                        found["shown"][f"{shots} {row}"] = _kept(frames[shown])
        return found

    def _made(
        self, row: str, shots: int, pictures: Clip, truth: Truth, alive: Callable[[], None]
    ) -> Iterator[tuple[int, float, np.ndarray, np.ndarray]]:
        """(steps, seconds of learning, held-out frames, the learned frames again) for each number of steps of a row."""
        clip = truth.clip
        if row in ("nearest", "warped"):
            nearest = nearest_frames(pictures, clip.track)
            frames = pictures.frames[nearest]
            if row == "warped":
                pairs = zip(nearest, clip.track.landmarks, strict=True)
                frames = np.stack([warp_to_landmarks(pictures.frames[i], pictures.track.landmarks[i], to) for i, to in pairs])
            yield 0, 0.0, frames, pictures.frames
            return
        model = self.untrained if row == "random-weights" else self.loaded
        stages = sorted({self.steps(shots), *self.protocol.curve}) if row in LEARNED else [0]
        networks = self.networks if row in LEARNED else ()
        people = finetune_stages(
            model, pictures, stages, row != "no-adversarial", self.protocol.seed, networks, progress=lambda *_: alive()
        )
        seconds, began = 0.0, perf_counter()
        for steps, person in zip(stages, people, strict=True):
            seconds += perf_counter() - began
            yield steps, seconds, render(person, clip), render(person, pictures)
            began = perf_counter()


def render(person: Person, clip: Clip) -> np.ndarray:
    """The person at a clip's own landmarks: uint8 [N, size, size, 3]."""
    points, engine = clip.track.landmarks / clip.track.size[0], EagerEngine(person)
    return np.concatenate([engine.run(points[start : start + _BATCH]) for start in range(0, len(points), _BATCH)])


def _kept(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))
