"""Meta-learning: E, G with P, and D on videos of many people (paper, section 3.2)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Model, load_model, random_model
from ..config import Config, FinetuneConfig
from ..config import preset as preset_named
from ..data.episodes import EpisodeSource
from ..data.outputs import check_outputs, files_in
from ..device import choose_device
from ..errors import TalkingheadError
from ..interrupt import stop_flag
from ..perceptual import open_perceptual
from ..torch_state import with_default_torch_state
from .adversarial import finite
from .journal import Journal
from .meta_learner import MetaLearner
from .rate import count_operations, peak_rate
from .run_folder import RunFolder, run_folder
from .start import fill_columns, take_weights

VARIANTS = ("ft", "ff")
FILES = ("model.safetensors", "state.safetensors", "previous/state.safetensors", "times.json")
"""What a run writes into its folder, besides TensorBoard's files."""
LOG_EVERY, PICTURES_EVERY = 20, 500


@with_default_torch_state
def train(
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    preset: str = "tiny",
    variant: str = "ft",
    steps: int | None = None,
    seed: int = 0,
    leave_out: Sequence[str] = (),
    start: str | None = None,
    device: str = "cpu",
    perceptual_files: dict[str, str] | None = None,
    accumulate: int = 1,
    save_seconds: float = 120.0,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Model:
    """Meta-learn on prepared shards; goes on where an interrupted run stopped, on a CPU bit for bit.

    Args:
        data: folder that `prepare` wrote, or several: each is drawn from alike often.
        out: folder of the run: `state.safetensors` and the one before it in `previous`, `model.safetensors`, `times.json`, TensorBoard's
            files in `log`.
        preset: "paper", "small" or "tiny".
        variant: "ft", or "ff": without the matching loss, for feed-forward use only.
        steps: in all; default the preset's.
        seed: of the initialisation and of the episodes.
        leave_out: people not to learn from.
        start: a model that ships or a file, whose weights the run starts from; default random ones.
        device: where it runs: "cpu", "cuda" or "auto".
        perceptual_files: weights of the content loss's networks, by name.
        accumulate: parts that each step's episodes are taken in, one after the other: less memory, the same step but for rounding.
        save_seconds: time between two saves.
        progress: called with (step, steps, figures) every few steps.

    Raises:
        TalkingheadError: bad data or settings, networks of another shape in `start`, `out` cannot be written to (what was learned is then
            written elsewhere, and where is said), another process works in it, or it holds `start` or a run with other settings.
        KeyboardInterrupt: by SIGINT, SIGTERM or SIGHUP, after the step under way and a save that further ones do not disturb.
    """
    if variant not in VARIANTS:
        raise TalkingheadError(f"variant {variant!r}: there is none of this name; choose {' or '.join(VARIANTS)}")
    config, out, place = _configuration(preset, variant, steps), Path(out), choose_device(device)
    check_outputs(files_in(out, FILES), [start, *(perceptual_files or {}).values()])
    meta = config.meta
    source = EpisodeSource(
        data,
        size=config.networks.image_size,
        shots=meta.shots,
        batch=meta.batch,
        videos=meta.videos,
        seed=seed,
        leave_out=leave_out,
        far_targets=meta.far_targets,
        camera_motion=meta.camera_motion,
    )
    networks = [network.to(place) for network in open_perceptual(config.perceptual, perceptual_files)]
    model = random_model(preset, seed)
    model.config = config
    parent = None if start is None else load_model(start)
    if parent is not None:
        take_weights(model, parent)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = MetaLearner(model.to(place), source.columns, networks, accumulate)
    settings = {
        # a finished run may be given more steps, and what fine-tuning will do does not matter here
        "config": replace(config, meta=replace(meta, steps=0), finetune=FinetuneConfig()).to_dict(),
        "variant": variant,
        "seed": seed,
        "start": parent and parent.digest,
        "clips": [clip.key for clip in source.clips],
    }
    with run_folder(out) as folder:
        step = _resume(learner, folder, settings)
        if step is None:
            step = 0
            if parent is not None or meta.columns_from_embeddings:
                fill_columns(learner.columns.weight, learner.embedder, source, config.networks.layer_size)
        run = _Run(learner, source, folder, settings | {"precision": learner.precision}, parent, step, place)
        run.resume(meta.steps, save_seconds, progress)
    return run.model()


def _resume(learner: MetaLearner, folder: RunFolder, settings: dict[str, Any]) -> int | None:
    """Fill the learner with what the folder holds and return the steps of that, None where it holds nothing."""
    header = folder.load(learner.modules, learner.optimisers, learner.earlier_names)
    if header is None:
        return None
    learner.columns_optimiser.complete()
    _check_same_run(folder.out, header, settings)
    learner.set_steps(header["step"])
    # whatever is faster here now, a run goes on as it began
    learner.precision = header.get("precision", learner.config.meta.precision)
    return int(header["step"])


class _Run:
    """The steps of a run, and what is written of them.

    Args:
        learner, source, folder: of the run.
        settings: of the run, for its state.
        parent: the model that it started from.
        step: how many steps it has taken.
        place: where it runs.
    """

    def __init__(
        self,
        learner: MetaLearner,
        source: EpisodeSource,
        folder: RunFolder,
        settings: dict[str, Any],
        parent: Model | None,
        step: int,
        place: torch.device,
    ) -> None:
        self._learner, self._source, self._folder, self._settings, self._parent = learner, source, folder, settings, parent
        self._step, self._place = step, place
        self._seconds = folder.seconds()

    def resume(self, steps: int, save_seconds: float, progress: Callable[[int, int, dict[str, float]], None] | None) -> None:
        """Take steps until there are as many as `steps`, or a signal comes, and save."""
        name, batch = str(self._folder.out), self._learner.config.meta.batch
        journal = Journal(self._folder.out / "log", self._step)
        peak = peak_rate(self._place, torch.bfloat16 if self._learner.precision == "bf16" else torch.float32)
        operations, figures = 0, dict[str, Tensor]()
        last = saved = time.monotonic()
        with stop_flag() as stopped:
            while self._step < steps and not stopped():
                run = partial(self._learner.step, self._source.draw(self._step).to(self._place))
                if operations:
                    figures, rows = run()
                else:  # every step has as many
                    (figures, rows), operations = count_operations(run)
                self._step += 1
                now = time.monotonic()
                self._seconds += now - last
                rate, last = batch / (now - last), now
                if self._step % LOG_EVERY == 0 or self._step == steps:
                    values = finite(figures, name, self._step) | {"episodes_per_second": rate}
                    values["percent_of_peak"] = 100 * operations * rate / batch / peak
                    journal.figures(self._step, values)
                    if progress:
                        progress(self._step, steps, values)
                if self._step % PICTURES_EVERY == 0:
                    journal.pictures(self._step, "source, landmarks, generated, true", rows)
                if now - saved > save_seconds:
                    finite(figures, name, self._step)  # what is saved must be worth going on from
                    self._save()
                    saved = time.monotonic()
            finite(figures, name, self._step)
            self._save()
            journal.close()
            if stopped():
                raise KeyboardInterrupt

    def model(self) -> Model:
        """Return what the run has learned so far."""
        source, parent = self._source, self._parent
        people = {clip.person for clip in source.clips}
        told: dict[str, Any] = {name: self._settings[name] for name in ("variant", "seed", "precision")} | {"steps": self._step}
        if parent is not None:
            people |= set(parent.provenance.get("people", ()))
            told["start"] = {"digest": parent.digest, "steps": parent.provenance.get("steps")}
        return self._learner.model(told | {"people": sorted(people)})

    def _save(self) -> None:
        learner = self._learner
        self._folder.save(learner.modules, learner.optimisers, {**self._settings, "step": self._step}, self._seconds)
        self._folder.save_model(self.model())


def _check_same_run(out: Path, header: dict[str, Any], settings: dict[str, Any]) -> None:
    """Compare what a state says of its run with what is asked for.

    Raises:
        TalkingheadError: the run has other settings, or was begun by a version whose preset had other values.
    """
    differing = [name for name, value in settings.items() if header.get(name) != _plain(value)]
    begun, preset = header.get("config"), settings["config"]["preset"]
    if differing == ["config"] and isinstance(begun, dict) and begun.get("preset") == preset:
        raise TalkingheadError(
            f"{out}: holds a run of an earlier version, whose preset {preset} had other values; "
            f"name another folder, and go on from its weights with --start {out / 'model.safetensors'}"
        )
    if differing:
        raise TalkingheadError(f"{out}: holds a run with another {' and '.join(differing)}; name another folder, or the same settings")


def _configuration(preset: str, variant: str, steps: int | None) -> Config:
    config = preset_named(preset)
    meta = config.meta if steps is None else replace(config.meta, steps=steps)
    if variant == "ff":
        meta = replace(meta, losses=replace(meta.losses, matching=0.0))
    return replace(config, meta=meta)


def _plain(value: object) -> object:
    """As JSON gives it back: tuples are lists."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
