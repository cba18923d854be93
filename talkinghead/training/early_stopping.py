"""Fine-tuning with early stopping: it ends before the network overfits the reference images and the face no
longer follows landmarks that are not among them.

The hold-out loss is the perceptual distance between the person so far and images that fine-tuning does not
see: of four or more reference images, the one with the most unusual landmarks is held out; of fewer, warped
views of the images are used, with larger warps than fine-tuning's augmentation.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..clip import Clip
from ..constants import MIN_IMAGES_TO_HOLD_OUT
from ..errors import TalkingheadError, check_whole_number
from ..model import Model, Person
from ..networks import ReferenceViews, resize_area
from ..networks.references import ReferenceViewer
from ..pretrained.perceptual import PerceptualNetwork, open_perceptual
from ..system.progress import OnStep
from ..system.torch_state import with_default_torch_state
from .finetune import finetune_at_steps
from .finetune_inputs import make_references, prepare_images, sample_guidance
from .finetune_trainer import jitter_images
from .losses import Features, content_loss, extract_features

CHECK_EVERY_STEPS = 20
PATIENCE_STEPS = 60
_MIN_IMPROVEMENT = 0.01
"""Share by which the loss must fall to count as better."""
_VIEWS = 8
"""Number of warped views of few images."""
_VIEW_JITTER = 0.06
"""Size of their warps, as a share of the frame."""


@with_default_torch_state
def finetune_with_early_stopping(
    model: Model,
    clip: Clip,
    max_steps: int | None = None,
    adversarial: bool = True,
    seed: int = 0,
    perceptual: Sequence[PerceptualNetwork] | None = None,
    perceptual_files: dict[str, str] | None = None,
    on_step: OnStep | None = None,
    person: Person | None = None,
    fast: bool = False,
) -> Person:
    """Fine-tune until the hold-out loss has not improved for 60 steps.

    Args:
        model, clip, adversarial, seed, perceptual, perceptual_files, on_step, person, fast: as for
            `finetune_at_steps`.
        max_steps: largest number of steps; default four times the preset's for this many frames.

    Returns:
        the person with the least hold-out loss; provenance["stopped"] has `by`, the kind of images, and
        `distance`, the loss at every step checked.

    Raises:
        TalkingheadError: as for `finetune_at_steps`, or `max_steps` is less than 1.
        Diverged, Interrupted: as for `finetune_at_steps`.
    """
    max_steps = _limit(model, clip, max_steps)
    if perceptual is None:
        perceptual = open_perceptual(model.config.perceptual, perceptual_files, model.device)
    training_clip, held_out = split(clip)
    hold_out_loss = HoldOutLoss(model, held_out or clip, perceptual, views=held_out is None, seed=seed)
    losses: dict[int, float] = {}
    best: Person | None = None
    best_step = 0
    stages = sorted({*range(CHECK_EVERY_STEPS, max_steps, CHECK_EVERY_STEPS), max_steps})
    people = finetune_at_steps(
        model,
        training_clip,
        stages,
        adversarial=adversarial,
        seed=seed,
        perceptual=perceptual,
        on_step=on_step,
        person=person,
        fast=fast,
    )
    for step, person in zip(stages, people, strict=False):
        losses[step] = hold_out_loss.distance(person)
        if best is None or losses[step] < losses[best_step] * (1 - _MIN_IMPROVEMENT):
            generator = copy.deepcopy(person.generator)  # the next stage changes the weights
            best, best_step = replace(person, generator=generator, styles=person.styles.clone()), step
        if step - best_step >= PATIENCE_STEPS:
            break
    assert best is not None  # there is at least one stage
    if best.references is not None:
        best.references = make_references(prepare_images(model, clip))  # the held-out image included
    stopped = _stop_provenance(held_out, losses)
    best.provenance = {**best.provenance, "pictures": len(clip), "stopped": stopped}
    return best


def _limit(model: Model, clip: Clip, max_steps: int | None) -> int:
    """Return the largest number of steps."""
    if max_steps is None:
        return 4 * model.config.finetune.steps(len(clip))
    check_whole_number("steps", max_steps, minimum=0, example=160)
    if max_steps < 1:
        raise TalkingheadError(f"steps {max_steps}: expected 1 or more with early stopping; raise --steps")
    return max_steps


def _stop_provenance(held_out: Clip | None, losses: dict[int, float]) -> dict[str, Any]:
    """Return the provenance of a stop: the kind of images, and the loss at every step checked."""
    return {
        "by": "views of the pictures" if held_out is None else "a picture held out",
        "distance": {str(step): round(value, 4) for step, value in losses.items()},
    }


def split(clip: Clip) -> tuple[Clip, Clip | None]:
    """Return the images to train on and the image to hold out; None where there are too few."""
    if len(clip) < MIN_IMAGES_TO_HOLD_OUT:
        return clip, None
    points = clip.track.landmarks
    shapes = points - points.mean(1, keepdims=True)
    unusual = int(np.square(shapes - np.median(shapes, axis=0)).sum((1, 2)).argmax())
    others = [index for index in range(len(clip)) if index != unusual]
    return clip[others], clip[[unusual]]


class HoldOutLoss:
    """Perceptual distance between a person and images that fine-tuning does not see.

    Args:
        model: for the size of its images.
        clip: the images.
        networks: of the distance.
        views: whether to compare with warped views of the images instead of the images.
        seed: of the warps.
    """

    def __init__(
        self, model: Model, clip: Clip, networks: Sequence[PerceptualNetwork], views: bool, seed: int
    ) -> None:
        self._networks = networks
        images = prepare_images(model, clip)
        self._real, self._landmark_images = images.small_images, images.landmark_images
        self._points = images.points
        self._views: ReferenceViews | None = None
        random = np.random.default_rng((seed, 1))
        chosen = [index % len(clip) for index in range(_VIEWS)]
        if views and model.config.networks.reference_guided:
            # The generator sees warped images as its references; the target is the image itself.
            config = replace(model.config.finetune, head_jitter=_VIEW_JITTER)
            self._views = sample_guidance(images, chosen, config, random).views
            self._real, self._landmark_images = self._real[chosen], self._landmark_images[chosen]
        elif views:
            self._real, self._landmark_images = jitter_images(
                self._real[chosen], self._points[chosen], _VIEW_JITTER, random
            )
        self._target_features: Features = extract_features(networks, self._real)

    @torch.no_grad()
    def distance(self, person: Person) -> float:
        """Return the mean distance, computed as the content loss."""
        views: tuple[ReferenceViews, ...] = ()
        if person.references is not None:
            views = (self._views or ReferenceViewer(person.references, self._points.device)(self._points),)
        landmark_images = self._landmark_images
        styles = person.styles.expand(len(landmark_images), -1)
        frames: Tensor = person.generator(landmark_images, styles, *views)
        small = resize_area(frames, landmark_images.shape[-1])
        return float(content_loss(self._networks, small, self._real, self._target_features))
