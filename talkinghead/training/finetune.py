"""Few-shot fine-tuning: a model and a few pictures to one person (paper, section 3.3)."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoint import Model, Person, check_model
from ..clip import Clip
from ..config import FinetuneConfig, LossWeights
from ..data.variants import draw_jitter
from ..device import training_precision
from ..errors import TalkingheadError
from ..interrupt import stop_flag
from ..landmarks.draw import landmark_image
from ..landmarks.retarget import neutral_face
from ..losses import Activations, activations
from ..networks import Generator, References, resize_area
from ..perceptual import PerceptualNetwork, open_perceptual
from ..torch_state import with_default_torch_state
from .adversarial import (
    RunningAverage,
    backward,
    discriminator_backward,
    finite,
    generator_gradient,
    judge,
    mixed_precision,
    take_step,
    uses_discriminator,
)
from .graphs import GraphedSteps
from .pictures import MOST_PICTURES, Guide, guide_pictures, inputs, stored_references
from .state import adam

_CHECK_EVERY = 10  # steps


class Interrupted(KeyboardInterrupt):
    """Fine-tuning was interrupted; `person` is what it had made by then."""

    def __init__(self, person: Person | None = None) -> None:
        super().__init__()
        self.person = person


class Diverged(TalkingheadError):
    """A loss was not finite; `person` is the last whose losses were, None when there was none."""

    def __init__(self, message: str, person: Person | None = None) -> None:
        super().__init__(message)
        self.person = person


@with_default_torch_state
def embed(model: Model, clip: Clip) -> Tensor:
    """The mean embedding [1, D] of a square clip's frames (paper, section 3.3).

    Raises:
        TalkingheadError: no frames, or frames that are not square.
    """
    pictures = inputs(model, clip)
    with torch.no_grad():
        return model.embedder(pictures.small, pictures.drawn).mean(0, keepdim=True)


@with_default_torch_state
def finetune(
    model: Model,
    clip: Clip,
    steps: int | None = None,
    adversarial: bool = True,
    seed: int = 0,
    perceptual: Sequence[PerceptualNetwork] | None = None,
    perceptual_files: dict[str, str] | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Person:
    """Make a person.

    It runs where the model is, and so does the person.

    Args:
        model: from `load_model`.
        clip: 1 to 32 square frames of one person, as `read_clip` gives.
        steps: optimiser steps; default the preset's for this many frames. 0 gives a feed-forward person: styles alone.
        adversarial: False leaves D and its two losses out.
        seed: of the order of the frames.
        perceptual: networks of the content loss; default those of the model's configuration.
        perceptual_files: weights of those networks, by name.
        progress: called with (step, steps, figures) after every step; the figures are those of the last time they were looked at.

    Returns:
        the person; its generator is a running average.

    Raises:
        TalkingheadError: no or too many frames, frames that are not square, negative steps, or a model of variant FF, which has no
            discriminator columns that match its embeddings.
        Diverged: a loss is not finite.
        Interrupted: by Ctrl-C, between two steps.
    """
    steps = model.config.finetune.steps(len(clip)) if steps is None else steps
    (person,) = finetune_stages(model, clip, [steps], adversarial, seed, perceptual, perceptual_files, progress)
    return person


@with_default_torch_state
def finetune_stages(
    model: Model,
    clip: Clip,
    stages: Sequence[int],
    adversarial: bool = True,
    seed: int = 0,
    perceptual: Sequence[PerceptualNetwork] | None = None,
    perceptual_files: dict[str, str] | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Iterator[Person]:
    """The person after each of several numbers of steps, as `finetune` with that number would make it, in one run.

    Args:
        stages: rising numbers of steps.
        model, clip, adversarial, seed, perceptual, perceptual_files, progress: as for `finetune`.

    Yields:
        the person so far; the next stage goes on with its weights, so use it before.

    Raises:
        TalkingheadError: as for `finetune`, or the stages do not rise.
        Diverged, Interrupted: as for `finetune`.
    """
    if len(clip) > MOST_PICTURES:
        raise TalkingheadError(f"{clip.name}: {len(clip)} pictures, fine-tuning takes at most {MOST_PICTURES}; leave some out")
    if clip.convention not in (0, model.config.crop):
        raise TalkingheadError(
            f"{clip.name}: was cropped by convention {clip.convention}, the model learned from convention {model.config.crop}; "
            f"read it with convention={model.config.crop}"
        )
    config = model.config.finetune
    if any(steps < 0 for steps in stages):
        raise TalkingheadError(f"steps {min(stages)}: must be 0 or more")
    if list(stages) != sorted(set(stages)):
        raise TalkingheadError(f"steps {list(stages)}: rising numbers were expected")
    if any(stages) and model.provenance.get("variant") == "ff":
        raise TalkingheadError(
            "this model is of variant FF: it was trained without the matching loss, so its discriminator does not know what an embedding "
            "is; use it feed-forward with steps 0, or a model trained with --variant ft"
        )
    check_model(model)
    pictures = inputs(model, clip)
    learner = PersonLearner(model, embed(model, clip), config, adversarial)
    references = stored_references(pictures) if model.config.networks.reference_guided else None
    reference = neutral_face(pictures.points.cpu().numpy(), clip.track.confidence).points.astype(np.float32)
    if any(stages) and perceptual is None:
        perceptual = [network.to(model.device) for network in open_perceptual(model.config.perceptual, perceptual_files)]
    random = np.random.default_rng(seed)
    networks = perceptual or ()
    graphed = model.device.type == "cuda" and references is None
    step_of = GraphedSteps(learner, networks, model.device) if graphed else partial(learner.step, networks)
    targets = learner.targets(networks, pictures.small) if any(stages) and not (config.jitter and references is None) else []
    order: list[int] = []
    done = 0

    def person(steps: int) -> Person:
        provenance = {"pictures": len(clip), "source": clip.name, "steps": steps, "adversarial": adversarial, "seed": seed}
        provenance |= {"precision": learner.precision} if steps else {}
        return learner.person(model, reference, references, feed_forward=steps == 0, provenance=provenance)

    def check(figures: dict[str, Tensor], step: int) -> dict[str, float]:
        try:
            values = finite(figures, clip.name or "fine-tuning", step)
        except TalkingheadError as error:
            raise Diverged(str(error), person(good) if (good := learner.restore()) else None) from None
        learner.keep(step)
        return values

    for steps in stages:
        with stop_flag() as stopped:
            for step in range(done, steps):
                if not order:
                    order = random.permutation(len(clip)).tolist()
                chosen, order = order[: config.batch], order[config.batch :]
                if config.jitter and references is None:
                    figures = step_of(*jittered(pictures.images[chosen], pictures.points[chosen], config.jitter, random))
                else:
                    wanted = [[layer[chosen] for layer in layers] for layers in targets]
                    guide = () if references is None else (guide_pictures(pictures, chosen, config, random),)
                    figures = step_of(pictures.images[chosen], pictures.drawn[chosen], wanted, *guide)
                looked = step == done or (step + 1) % _CHECK_EVERY == 0 or step + 1 == steps  # in between a GPU waits for nobody
                if looked:
                    values = check(figures, step + 1)
                if progress:
                    progress(step + 1, stages[-1], values)
                if stopped():
                    if not looked:
                        check(figures, step + 1)
                    raise Interrupted(person(step + 1))
        done = steps
        yield person(steps)


class PersonLearner(nn.Module):
    """A person while being learned: G without P, psi', D and w', all parameters before the optimisers are made.

    Args:
        model: where everything starts.
        embedding: [1, D], the person's.
        config: of the fine-tuning.
        adversarial: whether D takes part.

    Attributes:
        precision: what it computes in, "bf16" or "fp32".
    """

    def __init__(self, model: Model, embedding: Tensor, config: FinetuneConfig, adversarial: bool) -> None:
        super().__init__()
        self.config, self.precision = config, training_precision(model.device, config.precision)
        weights = config.losses
        self.weights = weights if adversarial else _without_discriminator(weights)
        self.generator = _without_projection(model)
        self.discriminator = copy.deepcopy(model.discriminator)
        self.discriminator.w0.requires_grad_(False)
        with torch.no_grad():
            self.styles = nn.Parameter(model.generator.project(embedding))
            self.column = nn.Parameter(model.discriminator.w0 + embedding[0])
        self.average_generator = copy.deepcopy(self.generator).requires_grad_(False)
        self.average_styles = self.styles.detach().clone()
        self._running = RunningAverage(self._averages(), config.average)
        self._good, self._good_step = [average.clone() for average in self._averages()], 0
        rate = config.generator.learning_rate
        groups: list[dict[str, Any]] = [
            {"params": list(self.generator.parameters())},
            {"params": [self.styles], "lr": rate * config.styles_rate},
        ]
        self.generator_optimiser = adam(groups, config.generator)
        parameters = [*(p for p in self.discriminator.parameters() if p.requires_grad), self.column]
        self.discriminator_optimiser = adam([{"params": parameters}], config.discriminator)

    def targets(self, networks: Sequence[PerceptualNetwork], real: Tensor) -> Activations:
        """What the networks say of pictures [N, 3, size, size] that are shown as they are: the same at every step."""
        with mixed_precision(real.device, self.precision):
            batches = [activations(networks, batch) for batch in real.split(self.config.batch)]
        return [[torch.cat(parts) for parts in zip(*layers, strict=True)] for layers in zip(*batches, strict=True)]

    def step(
        self,
        networks: Sequence[PerceptualNetwork],
        real: Tensor,
        drawn: Tensor,
        wanted: Activations | None = None,
        guide: Guide | None = None,
    ) -> dict[str, Tensor]:
        """One step of G and psi', then those of D and w'.

        Args:
            networks: of the content loss.
            real, drawn: frames [B, 3, S, S] and landmark images [B, 3, size, size].
            wanted: rows of `targets`, where the frames are not changed from step to step.
            guide: what a reference-guided G is shown besides.
        """
        with mixed_precision(real.device, self.precision):
            return self._step(networks, real, drawn, wanted, guide)

    def _step(
        self, networks: Sequence[PerceptualNetwork], real: Tensor, drawn: Tensor, wanted: Activations | None, guide: Guide | None
    ) -> dict[str, Tensor]:
        config, styles = self.config, self.styles.expand(len(real), -1)
        self.generator.power_iteration_()
        self.discriminator.power_iteration_()
        more = () if guide is None else (guide.views, guide.own_alone)
        fake = self.generator(drawn, styles, *more)
        figures, gradient, verdicts = generator_gradient(
            self.weights,
            networks,
            self.discriminator,
            self.column,
            fake,
            real,
            drawn,
            wanted,
            valid=guide.valid if guide else None,
            details=(guide.boxes, config.details) if guide and config.details else None,
        )
        if verdicts:
            figures |= discriminator_backward(self.discriminator_optimiser, verdicts)
            del verdicts  # and with them the maps of D
        backward(self.generator_optimiser, [fake], [gradient])
        take_step(self.generator_optimiser, config.clip)
        self._update_averages()
        for number in range(config.discriminator_steps if uses_discriminator(self.weights) else 0):
            if number:
                self.discriminator.power_iteration_()
                with torch.no_grad():
                    shown = self.generator(drawn, styles, *more)
                size = drawn.shape[-1]
                again = judge(self.discriminator, self.column, resize_area(shown, size), resize_area(real, size), drawn)
                figures |= discriminator_backward(self.discriminator_optimiser, again)
            take_step(self.discriminator_optimiser, config.clip)
        return figures

    def keep(self, step: int) -> None:
        """Remember the person as of this step."""
        torch._foreach_copy_(self._good, self._averages())
        self._good_step = step

    def restore(self) -> int:
        """Make the person what was remembered last; gives the step of that, 0 when there was none."""
        with torch.no_grad():
            torch._foreach_copy_(self._averages(), self._good)
        return self._good_step

    def _averages(self) -> list[Tensor]:
        return [*self.average_generator.parameters(), self.average_styles]

    def _update_averages(self) -> None:
        self._running.update([*self.generator.parameters(), self.styles])
        self.average_generator.power_iteration_()

    def person(
        self, model: Model, reference: np.ndarray, references: References | None, feed_forward: bool, provenance: dict[str, object]
    ) -> Person:
        """The result, detached from this learner."""
        return Person(
            config=model.config,
            generator=model.generator if feed_forward else self.average_generator,
            styles=self.average_styles,
            reference=reference,
            model_digest=model.digest,
            feed_forward=feed_forward,
            discriminator=self.discriminator,
            column=self.column.detach(),
            provenance=provenance,
            references=references,
        )


def jittered(images: Tensor, points: Tensor, amount: float, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Frames [B, 3, size, size], each moved a little in its own way, and the landmark images that go with them."""
    pairs = [draw_jitter(random, amount).apply(images[i, None], points[i, None]) for i in range(len(images))]
    moved, where = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return moved, landmark_image(where, images.shape[-1])


def _without_projection(model: Model) -> Generator:
    generator = copy.deepcopy(model.generator).requires_grad_(True)  # those of a running average do not ask for it
    generator.projection = None
    return generator


def _without_discriminator(weights: LossWeights) -> LossWeights:
    return replace(weights, adversarial=0.0, feature_matching=0.0)
