"""A person from pictures: fine-tuned from a model, or further from what the person has learned."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..checkpoint import load_model
from ..clip import Clip, Track
from ..constants import DEFAULT_SHOTS, MAX_REFERENCE_IMAGES, TRAINING_PRECISIONS
from ..data.few_shot import evenly_spaced_indices, read_shots
from ..data.load import join_clips
from ..data.pictures import Pictures
from ..errors import TalkingheadError
from ..landmarks.detector import Detector
from ..landmarks.open_detector import resolve_detector
from ..model import Model, Person
from ..networks import References
from ..pretrained.face_similarity import warn_if_two_people
from ..pretrained.perceptual import PerceptualNetwork
from ..system.device import choose_device
from ..system.progress import OnStep, Progress, check_callbacks, no_progress
from ..system.torch_state import with_default_torch_state
from ..training.early_stopping import finetune_with_early_stopping
from ..training.finetune import finetune_steps
from ..weights import shipped_models

log = logging.getLogger(__name__)


@with_default_torch_state
def finetune(
    start: Model | Person | str | os.PathLike[str],
    pictures: "Clip | Pictures",
    steps: int | None = None,
    adversarial: bool = True,
    seed: int = 0,
    perceptual: Sequence[PerceptualNetwork] | None = None,
    perceptual_files: dict[str, str] | None = None,
    *,
    early_stopping: bool = False,
    model: Model | str | os.PathLike[str] | None = None,
    shots: int = DEFAULT_SHOTS,
    face: int = 1,
    detector: Detector | str | None = None,
    precision: str = "auto",
    device: str | torch.device = "auto",
    fast: bool = False,
    on_step: OnStep | None = None,
    progress: Progress = no_progress,
) -> Person:
    """Fine-tune a model to one person, or a person further; the result's generator is a running average.

    Args:
        start: a model, its name or file; or a person, who learns further.
        pictures: 1 to 32 pictures of one person, of any type that `read_clip` takes, a video, or a Clip.
        steps: of the optimiser, by default the preset's. 0 gives a feed-forward person: styles alone.
        adversarial: False leaves D and its two losses out.
        seed: of the order of the pictures.
        perceptual, perceptual_files: networks of the content loss, or their weights by name; by default the
            model's.
        early_stopping: stop when pictures held out no longer improve; `steps` is then the limit.
        model: of a person who learns further; by default the shipped one of its preset.
        shots, face: of a video, the number of frames to learn from, and which face.
        detector, progress: as for `read_clip`.
        precision: "fp32", "bf16" or "auto", the preset's where the machine is fast in it.
        device, fast: as for `animate`; "auto" is where the model was moved to, if it was.
        on_step: called with (step, steps, metrics) after every step, the metrics of the last check.

    Raises:
        TalkingheadError: what was given cannot be learned from; the message says why.
        talkinghead.training.finetune.Diverged: a loss is not finite.
        talkinghead.Interrupted: by Ctrl-C, between two steps; its attribute is the person so far.
    """
    check_callbacks(progress, on_step)
    base, person = _resolve_start(start, model, steps, precision=precision, device=device, fast=fast)
    if not isinstance(pictures, Clip):
        pictures = read_pictures(base, pictures, shots=shots, face=face, detector=detector, progress=progress)
    learn = finetune_with_early_stopping if early_stopping else finetune_steps
    return learn(
        base,
        add_known_pictures(pictures, person),
        steps,
        adversarial,
        seed=seed,
        perceptual=perceptual,
        perceptual_files=perceptual_files,
        on_step=on_step,
        person=person,
        fast=fast,
    )


def read_pictures(
    model: Model,
    pictures: Pictures,
    *,
    shots: int = DEFAULT_SHOTS,
    face: int = 1,
    detector: Detector | str | None = None,
    progress: Progress = no_progress,
) -> Clip:
    """Read pictures as a model is fine-tuned on them, and warn of those of two people.

    Args:
        model: for its image size and crop.
        pictures: of any type that `read_clip` takes.
        shots: of a video, the number of evenly spaced frames to learn from.
        face: of a video, which face: 1 is the largest times longest.
        detector: finds the landmarks, or its name; by default the networks that ship.
        progress: shows the advance.

    Raises:
        TalkingheadError: no pictures, or one cannot be read or shows no face.
    """
    config = model.config
    clip = read_shots(
        pictures,
        config.networks.image_size,
        shots,
        resolve_detector(detector),
        face=face,
        progress=progress,
        convention=config.crop,
    )
    warn_if_two_people(clip)
    return clip


def _resolve_start(
    start: Model | Person | str | os.PathLike[str],
    model: Model | str | os.PathLike[str] | None,
    steps: int | None,
    *,
    precision: str,
    device: str | torch.device,
    fast: bool,
) -> tuple[Model, Person | None]:
    """Return the model to learn from on its device, and the person who learns further, if one does."""
    person = None
    if isinstance(start, Person):
        check_further_steps(steps)
        person, base = start, model_of(start, model)
    else:
        base = _open_model(start, model)
    placed = base.placed if person is None else person.placed
    return _with_precision(base, precision).on(choose_device(device, fast, placed=placed)), person


def check_further_steps(steps: int | None) -> None:
    """Check the number of steps by which a person learns further.

    Raises:
        TalkingheadError: it is 0.
    """
    if steps == 0:
        raise TalkingheadError("steps 0: a person learns further by 1 or more; raise it")


def _open_model(start: Model | str | os.PathLike[str], model: object) -> Model:
    """Return the model to start from.

    Raises:
        TalkingheadError: it is none, or the argument `model` is given too.
    """
    if model is not None:
        raise TalkingheadError("finetune: model is of a person who learns further; leave it out")
    if isinstance(start, Model):
        return start
    if isinstance(start, (str, os.PathLike)):
        return load_model(start)
    raise TalkingheadError(
        f"finetune: got {type(start).__name__} to start from; "
        'give a Model, its name or file, or a Person, such as finetune("portrait", ["a.jpg"])'
    )


def model_of(person: Person, model: Model | str | os.PathLike[str] | None) -> Model:
    """Return the model that a person came from.

    Raises:
        TalkingheadError: it is not there, or is another model.
    """
    preset = person.config.preset
    if model is None and preset not in shipped_models():
        raise TalkingheadError(
            f"finetune: the person is of a model of preset {preset}, which does not ship; give it as model"
        )
    if not isinstance(model, Model):
        model = load_model(preset if model is None else model)
    if model.digest != person.model_digest:
        raise TalkingheadError(
            f"finetune: the person is of model {preset} {_short_digest(person.model_digest)}, not of "
            f"{model.config.preset} {_short_digest(model.digest)}; give the right one as model"
        )
    if person.video_embedding is None:
        log.info("the person's file holds no embedding w', so that learning goes on from the pictures' own")
    if person.discriminator is None:
        log.info("the person's file holds no discriminator: learning goes on with the model's")
    return model


def _short_digest(digest: str) -> str:
    return digest[:12] or "that was never saved"


def _with_precision(model: Model, precision: str) -> Model:
    """Return the model with its fine-tuning in a precision; its networks are the same objects."""
    if precision not in ("auto", *TRAINING_PRECISIONS):
        raise TalkingheadError(
            f"precision {precision!r}: fine-tuning runs in {' or '.join(TRAINING_PRECISIONS)}; choose one of "
            "them, or auto"
        )
    if precision == "auto":
        return model
    config = replace(model.config, finetune=replace(model.config.finetune, precision=precision))
    return replace(model, config=config)


def add_known_pictures(clip: Clip, start: Model | Person | None) -> Clip:
    """Return the new pictures, then as many of those that the person holds as there is room for.

    Args:
        clip: the new pictures.
        start: what learning starts from; without a person there are no others.
    """
    room = MAX_REFERENCE_IMAGES - len(clip)
    person = start
    if not isinstance(person, Person) or person.references is None or room < 1:
        return clip
    known = _clip_of_references(person.references)
    kept = known[evenly_spaced_indices(len(known), room)]
    if len(kept) < len(known):
        log.info("%d of the person's %d pictures are kept beside the new ones", len(kept), len(known))
    size = kept.track.size[0]
    if clip.track.size != kept.track.size:
        raise TalkingheadError(
            f"{clip.name}: its frames are {clip.track.size[1]} pixels wide, the person's {size}; read them "
            f"with size={size}"
        )
    return join_clips([clip, kept], clip.name)


def _clip_of_references(references: References) -> Clip:
    """Return a person's reference images as a Clip."""
    size = references.images.shape[1]
    irises = None if references.irises is None else references.irises * size
    track = Track(np.asarray(references.landmarks) * size, (size, size), irises=irises)
    return Clip(track, references.images, "pictures of the person")
