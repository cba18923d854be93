"""Setup of meta-learning: configuration, data, initial weights, and what must be equal to resume."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import load_model
from ..clip import POINTS
from ..config import Config, FinetuneConfig
from ..config_file import resolve_preset
from ..constants import VARIANTS
from ..dataset.episodes import EpisodeSource
from ..dataset.shard_index import open_index
from ..dataset.shard_reader import MESH
from ..dataset.streamed_episodes import StreamedEpisodes
from ..errors import TalkingheadError, quantity
from ..model import Model, random_model
from ..pretrained.perceptual import PerceptualNetwork
from ..system import torchrun
from ..version import __version__
from .meta_learner import MetaLearner
from .ranks import Ranks
from .warm_start import load_compatible_weights

log = logging.getLogger(__name__)


def configuration(preset: str | Path | Config, variant: str, steps: int | None, *, irises: bool) -> Config:
    """Return the configuration of a run."""
    if variant not in VARIANTS:
        raise TalkingheadError(f"variant {variant!r}: is unknown; choose {' or '.join(VARIANTS)}")
    config = resolve_preset(preset)
    if irises:
        config = replace(config, networks=replace(config.networks, irises=True))
    meta = config.meta if steps is None else replace(config.meta, steps=steps)
    if variant == "ff":
        meta = replace(meta, losses=replace(meta.losses, matching=0.0))
    return replace(config, meta=meta)


@dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Attributes:
        folders: one or several, or their URLs.
        exclude_identities: people not to train on.
        streaming: read whole shards in sequence.
        keep_in: folder in which the index of shards behind a URL is kept.
    """

    folders: str | Path | Sequence[str | Path]
    exclude_identities: Sequence[str]
    streaming: bool
    keep_in: Path


def open_data(data: TrainingData, config: Config, seed: int, *, ranks: Ranks) -> tuple[EpisodeSource, Config]:
    """Open the prepared shards as a configuration samples them; return it with their crop convention.

    Raises:
        TalkingheadError: the data cannot be used, or the batch cannot be split among the ranks.
    """
    meta = config.meta
    if meta.batch % ranks.count:
        raise TalkingheadError(
            f"torchrun: {ranks.count} processes cannot share a batch of {meta.batch} episodes evenly; start "
            "as many as divide it, or set another meta.batch in the preset"
        )
    source = (StreamedEpisodes if data.streaming else EpisodeSource)(
        data.folders,
        size=config.networks.image_size,
        shots=meta.shots,
        batch=meta.batch,
        videos=meta.videos,
        seed=seed,
        exclude_identities=data.exclude_identities,
        far_targets=meta.far_targets,
        camera_motion=meta.camera_motion,
        num_points=config.networks.num_points,
        share=ranks.share,
        keep_in=data.keep_in,
    )
    _report_hidden_irises(source)
    return source, _with_crop_of_data(config, source)


def _with_crop_of_data(config: Config, source: EpisodeSource) -> Config:
    """Return a configuration with the crop convention of the data, whatever the preset says.

    Synthetic people have no frame whose border a convention could matter at.

    Raises:
        TalkingheadError: the data sets have different conventions.
    """
    all_conventions = {_convention(source, people) for people in source.sets}
    conventions = [convention for convention in all_conventions if convention is not None]
    if len(conventions) > 1:
        raise TalkingheadError(
            "train: the data sets were cropped by different conventions (1 mirrors the border of a frame, 2 "
            "moves the crop into the frame); prepare those of 1 again into other folders"
        )
    return replace(config, crop=conventions[0]) if conventions else config


def _convention(source: EpisodeSource, people: Sequence[Sequence[int]]) -> int | None:
    """Return the crop convention of a data set; None where it does not matter."""
    for numbers in people:
        with suppress(TalkingheadError):  # of a lost shard, which is counted when it is drawn from
            info = source.clips[numbers[0]].info
            return None if info.detector == MESH else info.crop.convention
    return None


def describe_data(source: EpisodeSource) -> str:
    """Return how many clips, people and frames a run learns from, as a text."""
    people, frames = len(set(source.clips.people)), int(source.clips.num_frames.sum())
    return (
        f"{quantity(len(source.clips), 'clip')} of {quantity(people, 'person')}, {quantity(frames, 'frame')}"
    )


def with_index(data: TrainingData, ranks: Ranks) -> TrainingData:
    """Return the data, of which one rank of a machine makes missing indexes while the others wait.

    Raises:
        TalkingheadError: the data cannot be read.
    """
    if ranks.count == 1:
        return data
    with ranks.agreement():
        if torchrun.local_rank() == 0:
            folders = data.folders
            for folder in [folders] if isinstance(folders, str | Path) else folders:
                open_index(folder, data.keep_in)
    return data


def _report_hidden_irises(source: EpisodeSource) -> None:
    """Say how many clips lack the irises that the model shows.

    Raises:
        TalkingheadError: all do.
    """
    without_irises = int((~source.clips.has_irises).sum())
    if source.num_points == POINTS or not without_irises:
        return
    if without_irises == len(source.clips):
        raise TalkingheadError(
            "irises: no clip of the data has them; prepare it into another folder with --landmarks network "
            "or a face_landmarker.task, or train without"
        )
    log.info("%d of %d clips have no irises; in theirs none are visible", without_irises, len(source.clips))


def initial_model(config: Config, seed: int, init_from: str | None) -> tuple[Model, Model | None]:
    """Return the model with the initial weights, and the model they come from; None where they are random."""
    model = random_model(config, seed)
    if init_from is None:
        return model, None
    parent = load_model(init_from)
    load_compatible_weights(model, parent)
    return model, parent


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let the random numbers on the CPU depend on the seed alone, and restore the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class LearnerFactory:
    """Builds the networks of a run as they are before its first step.

    Args:
        config, seed, init_from: of the run.
        networks: of the content loss.
        device: of the networks.
        parts: micro-batches of a step.

    Attributes:
        parent: model with the initial weights; None where they are random.

    Raises:
        TalkingheadError: the model of `init_from` has networks of another shape.
    """

    def __init__(
        self,
        config: Config,
        seed: int,
        init_from: str | None,
        networks: Sequence[PerceptualNetwork],
        *,
        device: torch.device,
        parts: int,
    ) -> None:
        self._config, self._seed, self._init_from = config, seed, init_from
        self._networks, self._device = networks, device
        self._parts = parts
        self._model: Model | None
        self._model, self.parent = initial_model(config, seed, init_from)

    def build(self, videos: int, ranks: Ranks) -> MetaLearner:
        """Return a learner of so many videos with the initial weights, the same at every call."""
        model = self._model or initial_model(self._config, self._seed, self._init_from)[0]
        self._model = None  # trained from now on
        with seeded(self._seed):
            return MetaLearner(model.to(self._device), videos, self._networks, self._parts, ranks=ranks)


def settings_of(
    config: Config, variant: str, seed: int, source: EpisodeSource, parent: Model | None
) -> dict[str, Any]:
    """Return the settings that must be equal for a run to resume."""
    # more steps may be added to a finished run, and the settings of fine-tuning have no effect
    meta = replace(config.meta, steps=0)
    return {
        "config": replace(config, meta=meta, finetune=FinetuneConfig()).to_dict(),
        "variant": variant,
        "seed": seed,
        "start": parent and parent.digest,
        "clips": source.clips.keys,
        "streaming": source.layout if isinstance(source, StreamedEpisodes) else None,
    }


def fingerprint(
    settings: dict[str, Any], source: EpisodeSource, out: str, grad_accum_steps: int
) -> dict[str, str]:
    """Return what must be equal on all ranks, as short texts."""
    clips = hashlib.sha256(
        json.dumps([source.clips.keys, source.clips.num_frames.tolist()]).encode()
    ).hexdigest()
    others = {name: value for name, value in settings.items() if name != "clips"}
    return {
        "the version": __version__,
        "the version of torch": torch.__version__,
        "--out": out,
        "the checksum of the data": _digest(clips),
        "the checksum of the options": _digest(json.dumps([others, grad_accum_steps])),
    }


def _digest(text: str) -> str:
    """Return a short checksum of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
