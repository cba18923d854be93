"""Meta-learning: E, G with P, and D on videos of many people (paper, section 3.2)."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import Model, load_model, random_model
from ..config import Config, FinetuneConfig
from ..config import preset as preset_named
from ..data.episodes import Episodes, EpisodeSource
from ..data.outputs import check_outputs, files_in
from ..device import choose_device, training_precision
from ..errors import TalkingheadError
from ..interrupt import stop_flag
from ..landmarks.draw import landmark_image
from ..losses import matching_loss
from ..networks.reference_guided import ReferenceGuidedGenerator, ReferenceViews, resize_area
from ..networks.references import view_episodes
from ..perceptual import PerceptualNetwork, open_perceptual
from ..torch_state import with_default_torch_state
from .adversarial import (
    RunningAverage,
    Verdicts,
    backward,
    discriminator_backward,
    finite,
    generator_gradient,
    judge,
    mixed_precision,
    take_step,
    uses_discriminator,
)
from .details import detail_boxes
from .journal import Journal
from .rate import count_operations, peak_rate
from .row_adam import RowAdam
from .run_folder import RunFolder, run_folder
from .start import fill_columns, take_weights
from .state import adam

VARIANTS = ("ft", "ff")
FILES = ("model.safetensors", "state.safetensors")
"""What a run writes into its folder, besides TensorBoard's files."""
LOG_EVERY, PICTURES_EVERY = 20, 500


class Columns(nn.Module):
    """W: one column of length D per training video, uniform in +-0.01 (small scores at the start let D learn) unless it is filled."""

    def __init__(self, videos: int, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(videos, length).uniform_(-0.01, 0.01))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the columns [B, D] of videos [B]; their gradient holds the rows that were drawn and no other."""
        return F.embedding(numbers, self.weight, sparse=True)


@dataclass(frozen=True)
class _Played:
    """What is needed again of a part of a step: its episodes, landmark images, styles, what guides G besides, share of the step, figures
    and pictures to show."""

    episodes: Episodes
    target: Tensor
    styles: Tensor
    guide: "tuple[ReferenceViews, Tensor] | tuple[()]"
    share: float
    figures: dict[str, Tensor]
    rows: list[Tensor]


class MetaLearner:
    """The networks, running averages and optimisers of a run, and its one step.

    Args:
        model: freshly initialised networks.
        videos: columns of W.
        networks: of the content loss.
        accumulate: parts that a step's episodes are taken in, one after the other, so that only one is in memory.

    Attributes:
        precision: what it computes in, "bf16" or "fp32".
    """

    def __init__(self, model: Model, videos: int, networks: Sequence[PerceptualNetwork], accumulate: int = 1) -> None:
        self.config, self.networks, self.accumulate = model.config, networks, accumulate
        self.embedder, self.generator, self.discriminator = model.embedder, model.generator, model.discriminator
        self.columns = Columns(videos, self.config.networks.embedding).to(model.device)
        self.average_embedder = copy.deepcopy(self.embedder).requires_grad_(False)
        self.average_generator = copy.deepcopy(self.generator).requires_grad_(False)
        meta = self.config.meta
        self.set_steps(0)
        self.precision = training_precision(model.device, meta.precision)
        groups = [{"params": list(network.parameters())} for network in (self.embedder, self.generator)]
        self.generator_optimiser = adam(groups, meta.generator)
        self.discriminator_optimiser = adam([{"params": list(self.discriminator.parameters())}], meta.discriminator)
        self.columns_optimiser = RowAdam(self.columns.weight, meta.discriminator)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Everything with parameters or buffers, by name."""
        return {
            "embedder": self.embedder,
            "generator": self.generator,
            "discriminator": self.discriminator,
            "columns": self.columns,
            "average_embedder": self.average_embedder,
            "average_generator": self.average_generator,
        }

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers of E and G, of D and of W, by name."""
        return {
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
            "columns_optimiser": self.columns_optimiser,
        }

    @property
    def earlier_names(self) -> dict[str, str | None]:
        """Where a state of a version that had W in D's Adam holds what RowAdam needs; None where it does not."""
        last = f"discriminator_optimiser.{len(list(self.discriminator.parameters()))}"
        names = {f"columns_optimiser.0.{key}": f"{last}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
        return names | {f"columns_optimiser.0.{key}": None for key in ("last_step", "weight_sum", "weight_sum_sq")}

    def set_steps(self, steps: int) -> None:
        """Say how many steps the run has taken."""
        self._steps = steps
        averages = [*self.average_embedder.parameters(), *self.average_generator.parameters()]
        self._averages = RunningAverage(averages, self.config.meta.average, steps)

    def step(self, episodes: Episodes) -> tuple[dict[str, Tensor], list[Tensor]]:
        """One step of E and G, then the steps of D.

        Returns:
            figures (scalars on the device), and the source, landmark, generated and true images [B, 3, size, size].
        """
        with mixed_precision(episodes.frames.device, self.precision):
            return self._step(episodes)

    def _step(self, episodes: Episodes) -> tuple[dict[str, Tensor], list[Tensor]]:
        meta = self.config.meta
        self._random = torch.Generator().manual_seed(self._steps)
        self._steps += 1
        for network in (self.embedder, self.generator, self.discriminator):
            network.power_iteration_()
        parts = [self._play(part, len(part.columns) / len(episodes.columns)) for part in episodes.split(self.accumulate)]
        take_step(self.generator_optimiser, meta.clip)
        self._update_averages()
        figures = [part.figures for part in parts]
        for number in range(meta.discriminator_steps if uses_discriminator(meta.losses) else 0):
            if number:
                self.discriminator.power_iteration_()
                figures = [old | self._play_again(part) for old, part in zip(figures, parts, strict=True)]
            take_step(self.discriminator_optimiser, meta.clip)
            take_step(self.columns_optimiser, clip=0)  # RowAdam bounds what a row moves by
        sheet = [torch.cat(rows) for rows in zip(*(part.rows for part in parts), strict=True)]
        return {name: torch.stack([each[name] for each in figures]).mean() for name in figures[0]}, sheet

    def _play(self, episodes: Episodes, share: float) -> "_Played":
        """Add the gradients of some episodes to E, G and D."""
        meta, networks = self.config.meta, self.config.networks
        batch, count = episodes.frames.shape[:2]
        small = resize_area(episodes.frames.flatten(0, 1), networks.layer_size).unflatten(0, (batch, count))
        drawn = landmark_image(episodes.points.flatten(0, 1), networks.layer_size).unflatten(0, (batch, count))
        real, target = episodes.frames[:, 0], drawn[:, 0]
        embeddings = self.embedder(small[:, 1:].flatten(0, 1), drawn[:, 1:].flatten(0, 1)).unflatten(0, (batch, count - 1))
        styles = self.generator.project(embeddings.mean(1))
        guide = self._guide(episodes)
        fake = self.generator(target, styles, *guide)
        details = (detail_boxes(episodes.points[:, 0], self._chance(batch, 3)), meta.details) if meta.details else None
        figures, gradient, verdicts = generator_gradient(
            meta.losses,
            self.networks,
            self.discriminator,
            self._column(episodes),
            fake,
            real,
            target,
            valid=episodes.valid,
            details=details,
        )
        if verdicts:
            figures |= self._discriminator_backward(verdicts, share)
            del verdicts  # and with them the maps of D
        outputs, gradients = [fake], [share * gradient]
        if meta.losses.matching:
            matching = meta.losses.matching * matching_loss(embeddings, self.columns(episodes.columns))
            figures["matching"] = matching.detach()
            outputs, gradients = [fake, matching], [*gradients, torch.full_like(matching, share)]
        backward(self.generator_optimiser, outputs, gradients)
        rows = [small[:, 1], target, resize_area(fake.detach().float(), networks.layer_size), small[:, 0]]
        return _Played(episodes, target, styles.detach(), guide, share, figures, rows)

    def _guide(self, episodes: Episodes) -> "tuple[ReferenceViews, Tensor] | tuple[()]":
        """Return what a reference-guided G is shown besides: the other frames, in half of the steps only the first, and who sees none."""
        if not isinstance(self.generator, ReferenceGuidedGenerator):
            return ()
        frames, points = episodes.frames, episodes.points
        count = 2 if self._chance(1) < 0.5 else frames.shape[1]
        with torch.no_grad():
            views = view_episodes(frames[:, 1:count], points[:, 1:count], points[:, 0])
        return views, self._chance(len(frames)) < self.config.meta.own_picture

    def _chance(self, *shape: int) -> Tensor:
        """Return numbers of 0..1 that depend on the step alone, so that a resumed run draws the same."""
        return torch.rand(shape, generator=self._random).to(self.columns.weight.device)

    def _play_again(self, played: "_Played") -> dict[str, Tensor]:
        """D's gradient once more, on what G makes of the same styles now."""
        real = played.episodes.frames[:, 0]
        size = played.target.shape[-1]
        with torch.no_grad():
            shown = self.generator(played.target, played.styles, *played.guide)
        verdicts = judge(
            self.discriminator, self._column(played.episodes), resize_area(shown, size), resize_area(real, size), played.target
        )
        return self._discriminator_backward(verdicts, played.share)

    def _discriminator_backward(self, verdicts: Verdicts, share: float) -> dict[str, Tensor]:
        return discriminator_backward([self.discriminator_optimiser, self.columns_optimiser], verdicts, share)

    def _column(self, episodes: Episodes) -> Tensor:
        return self.columns(episodes.columns) + self.discriminator.w0

    def model(self, provenance: dict[str, Any]) -> Model:
        """What the run has learned so far: running averages of E and G, and D."""
        return Model(self.config, self.average_embedder, self.average_generator, self.discriminator, provenance)

    def _update_averages(self) -> None:
        self._averages.update([*self.embedder.parameters(), *self.generator.parameters()])
        self.average_embedder.power_iteration_()
        self.average_generator.power_iteration_()


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
        run.go_on(meta.steps, save_seconds, progress)
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

    def go_on(self, steps: int, save_seconds: float, progress: Callable[[int, int, dict[str, float]], None] | None) -> None:
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
            told["start"] = {"digest": parent.digest} | {name: parent.provenance.get(name) for name in ("steps", "seconds")}
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
