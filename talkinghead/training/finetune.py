"""Few-shot fine-tuning of a model to one person's reference images (paper, section 3.3)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..clip import Clip
from ..constants import MAX_REFERENCE_IMAGES
from ..errors import TalkingheadError, check_whole_number
from ..landmarks.retarget import neutral_face
from ..model import Model, Person, check_model
from ..pretrained.perceptual import PerceptualNetwork, open_perceptual
from ..system.device import ops_on
from ..system.progress import OnStep
from ..system.signals import graceful_shutdown
from ..system.torch_state import with_default_torch_state
from .adversarial import require_finite
from .cuda_graphs import GraphedSteps
from .finetune_inputs import (
    PersonImages,
    make_references,
    prepare_images,
    sample_guidance,
)
from .finetune_trainer import FinetuneTrainer, jitter_images
from .interrupted import Interrupted
from .losses import Features

_CHECK_EVERY_STEPS = 10
"""Steps between two checks of the losses; a check waits for the GPU."""
_MAX_TIMED_STEPS = 3
_MAX_TIMED_S = 2.5
"""Seconds after which no further step is timed for an estimate."""


class Diverged(TalkingheadError):
    """A loss is not finite; `person` is the last one with finite losses, None where there is none."""

    def __init__(self, message: str, person: Person | None = None) -> None:
        super().__init__(message)
        self.person = person


@with_default_torch_state
def embed(model: Model, clip: Clip) -> Tensor:
    """Return the mean embedding [1, D] of a square clip's frames (paper, section 3.3).

    Raises:
        TalkingheadError: no frames, or frames that are not square.
    """
    images = prepare_images(model, clip)
    with torch.no_grad():
        return model.embedder(images.small_images, images.landmark_images).mean(0, keepdim=True)


@with_default_torch_state
def finetune_at_steps(
    model: Model,
    clip: Clip,
    stages: Sequence[int],
    adversarial: bool = True,
    seed: int = 0,
    perceptual: Sequence[PerceptualNetwork] | None = None,
    perceptual_files: dict[str, str] | None = None,
    on_step: OnStep | None = None,
    person: Person | None = None,
    fast: bool = False,
) -> Iterator[Person]:
    """Yield the person after each of several numbers of steps of one run, on the model's device; each equals
    what a run of that number of steps alone gives.

    Args:
        model: from `load_model`.
        clip: 1 to 32 square frames of one person, as `read_clip` returns them.
        stages: increasing numbers of optimiser steps. 0 gives a feed-forward person: styles alone.
        adversarial: False leaves D and its two losses out.
        seed: of the order of the frames.
        perceptual: networks of the content loss; default those of the model's configuration.
        perceptual_files: weights of those networks, by name.
        on_step: called with (step, steps, metrics) after every step; the metrics are those of the last
            check.
        person: of that model, who learns further; by default a new one.
        fast: as for `TorchEngine`.

    Yields:
        the person so far, whose generator is a running average; the next stage changes its weights, so use
        it before.

    Raises:
        TalkingheadError: no or too many frames, frames that are not square, negative steps, stages that do
            not increase, or a model of variant FF, whose discriminator does not match its embeddings.
        Diverged: a loss is not finite.
        Interrupted: by Ctrl-C, between two steps.
    """
    _check_inputs(model, clip, stages)
    images = prepare_images(model, clip)
    if not any(stages):
        perceptual = ()
    elif perceptual is None:
        perceptual = open_perceptual(model.config.perceptual, perceptual_files, model.device)
    with ops_on(model.device, fast):
        run = FinetuneRun(
            model, clip, images, perceptual, adversarial=adversarial, seed=seed, person=person, fast=fast
        )
    for steps in stages:
        with graceful_shutdown() as stopped, ops_on(model.device, fast):
            run.advance(steps, stages[-1], on_step, stopped)
        yield run.person(steps)


def finetune_steps(
    model: Model, clip: Clip, steps: int | None, adversarial: bool = True, **settings: Any
) -> Person:
    """Return the person after a number of steps, by default the preset's for this many frames; other
    arguments as for `finetune_at_steps`.
    """
    steps = model.config.finetune.steps(len(clip)) if steps is None else steps
    (person,) = finetune_at_steps(model, clip, [steps], adversarial, **settings)
    return person


def _check_inputs(model: Model, clip: Clip, stages: Sequence[int]) -> None:
    """Check the arguments of `finetune_at_steps`.

    Raises:
        TalkingheadError: as for `finetune_at_steps`.
    """
    if len(clip) > MAX_REFERENCE_IMAGES:
        raise TalkingheadError(
            f"{clip.name}: {len(clip)} pictures, fine-tuning takes at most "
            f"{MAX_REFERENCE_IMAGES}; leave some out"
        )
    if clip.convention not in (0, model.config.crop):
        raise TalkingheadError(
            f"{clip.name}: was cropped by convention {clip.convention}, the model learned from convention "
            f"{model.config.crop}; read it with convention={model.config.crop}"
        )
    for steps in stages:
        check_whole_number("steps", steps, minimum=0, example=40)
    if list(stages) != sorted(set(stages)):
        raise TalkingheadError(f"steps {list(stages)}: do not increase; sort them and leave out duplicates")
    if any(stages) and model.provenance.get("variant") == "ff":
        raise TalkingheadError(
            "the model is of variant FF: it was trained without the matching loss, so its discriminator does "
            "not know what an embedding is; use it feed-forward with steps 0, or a model trained with "
            "--variant ft"
        )
    check_model(model)


class FinetuneRun:
    """One run of fine-tuning that can be advanced in stages.

    Args:
        model, clip, adversarial, seed, person, fast: as for `finetune_at_steps`.
        images: the clip's frames, from `prepare_images`.
        networks: of the content loss.
    """

    def __init__(
        self,
        model: Model,
        clip: Clip,
        images: PersonImages,
        networks: Sequence[PerceptualNetwork],
        adversarial: bool,
        seed: int,
        person: Person | None = None,
        fast: bool = False,
    ) -> None:
        self._model, self._clip, self._images = model, clip, images
        self._adversarial, self._seed = adversarial, seed
        self._config = model.config.finetune
        self._trainer = FinetuneTrainer(model, embed(model, clip), self._config, adversarial, person=person)
        self._steps_before = 0 if person is None else int(person.provenance.get("steps", 0))
        guided = model.config.networks.reference_guided
        self._references = make_references(images) if guided else None
        neutral = neutral_face(images.landmarks.cpu().numpy(), clip.track.confidence)
        self._neutral_landmarks = neutral.points.astype(np.float32)
        self._random = np.random.default_rng(seed)
        self._order: list[int] = []
        self._done = 0
        self._step: Callable[..., dict[str, Tensor]] = partial(self._trainer.step, networks)
        if model.device.type == "cuda" and fast and not guided:
            self._step = GraphedSteps(self._trainer, networks, model.device)
        self._jitters = bool(self._config.jitter) and not guided
        self._target_features: Features = []
        if not self._jitters:
            self._target_features = self._trainer.target_features(networks, images.small_images)

    def advance(
        self, steps: int, last_step: int, on_step: OnStep | None, stopped: Callable[[], bool]
    ) -> None:
        """Take steps until there are as many as `steps`.

        Args:
            steps: in all.
            last_step: of the last stage, for `on_step`.
            on_step: as for `finetune_at_steps`.
            stopped: whether a signal asks to stop.

        Raises:
            Diverged, Interrupted: as for `finetune_at_steps`.
        """
        for step in range(self._done, steps):
            metrics = self._train_step()
            # between two checks the CPU does not wait for the GPU
            is_check = step == self._done or (step + 1) % _CHECK_EVERY_STEPS == 0 or step + 1 == steps
            if is_check:
                values = self._check(metrics, step + 1)
            if on_step:
                on_step(step + 1, last_step, values)
            if stopped():
                if not is_check:
                    self._check(metrics, step + 1)
                raise Interrupted(self.person(step + 1))
        self._done = steps

    def measure_step_seconds(self) -> float:
        """Return the seconds of a whole step, the fastest of some; the run is of no use afterwards.

        A step of one image comes first, and loads what every step needs. The first whole step then still
        prepares kernels for its shapes: where a step is short, further ones are timed.
        """
        self._order = [0]
        self._train_step()
        durations: list[float] = []
        while len(durations) < _MAX_TIMED_STEPS and sum(durations) < _MAX_TIMED_S:
            start = perf_counter()
            self._train_step()
            durations.append(perf_counter() - start)
        return min(durations)

    def _train_step(self) -> dict[str, Tensor]:
        """Take one step on the next images of a random order, and return its metrics."""
        config, images = self._config, self._images
        if not self._order:
            self._order = self._random.permutation(len(self._clip)).tolist()
        chosen, self._order = self._order[: config.batch], self._order[config.batch :]
        if self._jitters:
            return self._step(
                *jitter_images(images.images[chosen], images.points[chosen], config.jitter, self._random)
            )
        target_features = [[layer[chosen] for layer in layers] for layers in self._target_features]
        guidance = (
            () if self._references is None else (sample_guidance(images, chosen, config, self._random),)
        )
        return self._step(images.images[chosen], images.landmark_images[chosen], target_features, *guidance)

    def _check(self, metrics: dict[str, Tensor], step: int) -> dict[str, float]:
        """Return the metrics of a step as numbers and keep its weights.

        Raises:
            Diverged: one is not finite.
        """
        try:
            values = require_finite(metrics, self._clip.name or "fine-tuning", step)
        except TalkingheadError as error:
            last_finite_step = self._trainer.rollback()
            person = self.person(last_finite_step) if last_finite_step else None
            raise Diverged(str(error), person) from None
        self._trainer.snapshot(step)
        return values

    def person(self, steps: int) -> Person:
        """Return the person after so many steps."""
        provenance: dict[str, object] = {
            "pictures": len(self._clip),
            "source": self._clip.name,
            "steps": self._steps_before + steps,
            "adversarial": self._adversarial,
            "seed": self._seed,
        }
        if self._steps_before:
            provenance["steps_before"] = self._steps_before
        if steps:
            provenance["precision"] = self._trainer.precision
        return self._trainer.person(
            self._model,
            self._neutral_landmarks,
            self._references,
            feed_forward=steps == 0,
            provenance=provenance,
        )
