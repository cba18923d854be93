"""When to stop fine-tuning: before the pictures are learned by heart and the face no longer follows landmarks it has not seen.

What is watched is the perceptual distance of the person so far on evidence that is not learned from: one of four or more pictures, that
with the most unusual landmarks, is held out; of fewer, views of the pictures moved, turned and bent more than fine-tuning moves them.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Model, Person
from ..clip import Clip
from ..errors import TalkingheadError
from ..losses import Activations, activations, content_loss
from ..networks import ReferenceViews, resize_area
from ..networks.references import ReferenceViewer
from ..perceptual import PerceptualNetwork, open_perceptual
from ..torch_state import with_default_torch_state
from .finetune import finetune_stages, jittered
from .pictures import guide_pictures, inputs, stored_references

LEAST_TO_HOLD_OUT = 4
LOOK_EVERY, PATIENCE = 20, 60  # steps
_BETTER = 0.01  # share by which the distance must fall to count
_VIEWS, _MOVED = 8, 0.06  # of few pictures: how many views, and by what share of the frame they move


@with_default_torch_state
def finetune_until_settled(
    model: Model,
    clip: Clip,
    most: int | None = None,
    adversarial: bool = True,
    seed: int = 0,
    perceptual: Sequence[PerceptualNetwork] | None = None,
    perceptual_files: dict[str, str] | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Person:
    """Fine-tune until what is not learned from has stopped getting better for 60 steps.

    Args:
        model, clip, adversarial, seed, perceptual, perceptual_files, progress: as for `finetune`.
        most: steps at most; default four times the preset's for this many frames.

    Returns:
        the person where the distance was least; provenance["stopped"] has `by`, what was watched, and `distance`, at every step looked at.

    Raises:
        TalkingheadError: as for `finetune`, or `most` is less than 1.
        Diverged, Interrupted: as for `finetune`.
    """
    most = 4 * model.config.finetune.steps(len(clip)) if most is None else most
    if most < 1:
        raise TalkingheadError(f"steps {most}: to stop by itself, fine-tuning must be allowed 1 or more")
    if perceptual is None:
        perceptual = [network.to(model.device) for network in open_perceptual(model.config.perceptual, perceptual_files)]
    learned, watched = split(clip)
    watch = Watch(model, clip if watched is None else watched, perceptual, views=watched is None, seed=seed)
    distances: dict[int, float] = {}
    best: Person | None = None
    least, at = float("inf"), 0
    stages = sorted({*range(LOOK_EVERY, most, LOOK_EVERY), most})
    for person in finetune_stages(model, learned, stages, adversarial, seed, perceptual, progress=progress):
        step = person.provenance["steps"]
        distances[step] = watch.distance(person)
        if best is None or distances[step] < least * (1 - _BETTER):
            best, least, at = (
                replace(person, generator=copy.deepcopy(person.generator), styles=person.styles.clone()),
                distances[step],
                step,
            )
        if step - at >= PATIENCE:
            break
    assert best is not None  # there is a stage
    by = "views of the pictures" if watched is None else "a picture held out"
    told = {"by": by, "distance": {str(step): round(value, 4) for step, value in distances.items()}}
    if best.references is not None:
        best.references = stored_references(inputs(model, clip))  # what was held out shows the person as well as the others do
    best.provenance = {**best.provenance, "pictures": len(clip), "stopped": told}
    return best


def split(clip: Clip) -> tuple[Clip, Clip | None]:
    """The pictures that are learned from, and the one that is not; None where there are too few."""
    if len(clip) < LEAST_TO_HOLD_OUT:
        return clip, None
    points = clip.track.landmarks
    shapes = points - points.mean(1, keepdims=True)
    odd = int(np.square(shapes - np.median(shapes, axis=0)).sum((1, 2)).argmax())
    others = [index for index in range(len(clip)) if index != odd]
    return clip[others], clip[[odd]]


class Watch:
    """The perceptual distance between a person and pictures that are not learned from.

    Args:
        model: for the size of its pictures.
        clip: the pictures.
        networks: of the distance.
        views: whether to move the pictures first.
        seed: of how.
    """

    def __init__(self, model: Model, clip: Clip, networks: Sequence[PerceptualNetwork], views: bool, seed: int) -> None:
        self._networks = networks
        pictures = inputs(model, clip)
        self._real, self._drawn, self._points = pictures.small, pictures.drawn, pictures.points
        self._guide: ReferenceViews | None = None
        random = np.random.default_rng((seed, 1))
        chosen = [index % len(clip) for index in range(_VIEWS)]
        if views and model.config.networks.reference_guided:
            # a picture bent is what the generator is shown: the pictures themselves are the truth, seen by way of bent ones
            moved = replace(model.config.finetune, head_jitter=_MOVED)
            self._guide = guide_pictures(pictures, chosen, moved, random).views
            self._real, self._drawn = self._real[chosen], self._drawn[chosen]
        elif views:
            self._real, self._drawn = jittered(self._real[chosen], self._points[chosen], _MOVED, random)
        self._wanted: Activations = activations(networks, self._real)

    @torch.no_grad()
    def distance(self, person: Person) -> float:
        """Their mean distance, as the content loss has it."""
        views: tuple[ReferenceViews, ...] = ()
        if person.references is not None:
            views = (self._guide or ReferenceViewer(person.references, self._points.device)(self._points),)
        frames: Tensor = person.generator(self._drawn, person.styles.expand(len(self._drawn), -1), *views)
        small = resize_area(frames, self._drawn.shape[-1])
        return float(content_loss(self._networks, small, self._real, self._wanted))
