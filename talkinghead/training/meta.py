"""Meta-learning of E, G with P, and D on videos of many people (paper, section 3.2)."""

import logging
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..data.output_paths import check_outputs, files_in
from ..dataset.episodes import Episodes, EpisodeSource
from ..errors import quantity
from ..model import Model
from ..pretrained.perceptual import PerceptualNetwork, open_perceptual
from ..system.device import choose_device, ops_on
from ..system.progress import OnStep, check_callbacks, start_steps
from ..system.signals import graceful_shutdown
from ..system.torch_state import with_default_torch_state
from .adversarial import require_finite
from .episode_loader import load_episodes, share_lost_shards
from .interrupted import Interrupted
from .meta_learner import MetaLearner
from .meta_setup import (
    TrainingData,
    configuration,
    episode_source,
    fingerprint,
    initial_model,
    seeded,
    settings_of,
    with_index,
)
from .ranks import Ranks, joined_ranks
from .run_folder import RunFolder, run_folder
from .run_settings import check_same_run
from .tensorboard import TensorBoardLog
from .throughput import count_flops, measure_peak_flops
from .warm_start import init_video_embeddings

log = logging.getLogger(__name__)

FILES = ("model.safetensors", "state.safetensors", "previous/state.safetensors", "times.json")
"""Files that a run writes into its folder, besides TensorBoard's and those of several ranks' rows."""
LOG_EVERY_STEPS = 20
IMAGES_EVERY_STEPS = 500


@with_default_torch_state
def train(
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    preset: str | Path | Config = "tiny",
    variant: str = "ft",
    steps: int | None = None,
    seed: int = 0,
    exclude_identities: Sequence[str] = (),
    init_from: str | None = None,
    device: str | torch.device = "auto",
    perceptual_files: dict[str, str] | None = None,
    grad_accum_steps: int = 1,
    save_seconds: float = 120.0,
    on_step: OnStep | None = None,
    fast: bool = False,
    irises: bool = False,
    workers: int | None = None,
    streaming: bool = False,
) -> Model:
    """Meta-learn on prepared shards; a run that was interrupted resumes, on a CPU bit for bit.

    Args:
        data: folder that `prepare` wrote, or its URL, or several, which are sampled equally often.
        out: folder of the run: model, state and the one before it in previous/, TensorBoard's files in log/.
        preset: its name, a configuration, or a TOML file with a table [preset] (`talkinghead.config_file`).
        variant: "ft", or "ff": without the matching loss, for feed-forward use only.
        steps: in all; default the preset's. More than those of a finished run extend it.
        seed: of the initialisation and of the episodes.
        exclude_identities: people not to train on.
        init_from: name or file of a model with the initial weights; default random weights.
        device: "cpu", "cuda" or "auto", a GPU where torch sees one.
        perceptual_files: weights of the content loss's networks, by name.
        grad_accum_steps: micro-batches per step: less memory, the same step except for rounding.
        save_seconds: time between two saves.
        on_step: called with (step, steps, metrics) after every step, the metrics of the last measured one.
        fast: on a GPU, use this package's kernels, which have no measurement yet.
        irises: teach gaze, whatever the preset says; the model of `init_from` need not show irises.
        workers: processes that read the data; None is 0 on a CPU and 4 on a GPU.
        streaming: read whole shards one after the other instead of single frames.

    Raises:
        TalkingheadError: bad input, or an `out` that cannot be written to, is in use, or holds another run.
        talkinghead.Interrupted: by SIGINT, SIGTERM or SIGHUP, after the step and a save; has the model.
    """
    check_callbacks(on_step=on_step)
    with joined_ranks() as ranks:
        training_data = with_index(TrainingData(data, exclude_identities, streaming, Path(out)), ranks)
        with ranks.agreement():
            config = configuration(preset, variant, steps, irises=irises)
            target = ranks.local_device(choose_device(device, fast))
            check_outputs(files_in(Path(out), FILES), [init_from, *(perceptual_files or {}).values()])
            source = episode_source(training_data, config, seed, ranks=ranks)
            networks = open_perceptual(config.perceptual, perceptual_files, target)
            model, parent = initial_model(config, seed, init_from)
        settings = settings_of(config, variant, seed, source, parent=parent)
        ranks.check_equal(fingerprint(settings, source, str(Path(out).absolute()), grad_accum_steps))
        learner = _new_learner(model.to(target), source, networks, seed, parts=grad_accum_steps, ranks=ranks)
        with run_folder(Path(out), ranks, learner.sharded) as folder, ops_on(target, fast):
            run = _Run(learner, source, folder, settings, parent=parent, ranks=ranks)
            return run.train(config.meta.steps, save_seconds, on_step, workers)


def _new_learner(
    model: Model,
    source: EpisodeSource,
    networks: Sequence[PerceptualNetwork],
    seed: int,
    *,
    parts: int,
    ranks: Ranks,
) -> MetaLearner:
    """Return a learner whose initial W depends on the seed alone."""
    with seeded(seed):
        return MetaLearner(model, source.columns, networks, parts, ranks=ranks)


def _describe_data(source: EpisodeSource) -> str:
    people, frames = len(set(source.clips.people)), int(source.clips.num_frames.sum())
    return (
        f"{quantity(len(source.clips), 'clip')} of {quantity(people, 'person')}, {quantity(frames, 'frame')}"
    )


class _Run:
    """A training run and its files.

    Args:
        learner, source, folder: of the run.
        settings: that its state file stores.
        parent: model with the initial weights, None for random ones.
        ranks: of the run.
    """

    def __init__(
        self,
        learner: MetaLearner,
        source: EpisodeSource,
        folder: RunFolder,
        settings: dict[str, Any],
        *,
        parent: Model | None,
        ranks: Ranks,
    ) -> None:
        self._learner, self._source, self._folder = learner, source, folder
        self._settings, self._parent, self._ranks = settings, parent, ranks
        self._device = learner.video_embeddings.weight.device
        self._step, self._seconds = 0, 0.0

    def train(self, steps: int, save_seconds: float, on_step: OnStep | None, workers: int | None) -> Model:
        """Resume the run of the folder, or start one, take its steps, and return the model."""
        self._load_or_initialise()
        batches = load_episodes(self._source, range(self._step, steps), self._device, workers)
        with closing(batches):
            self._advance(batches, steps, save_seconds, on_step)
        return self.model()

    def _load_or_initialise(self) -> None:
        """Load the state that the folder holds, or initialise the video embeddings of a new run.

        Raises:
            TalkingheadError: the state is damaged or of a run with other settings.
        """
        learner, meta = self._learner, self._learner.config.meta
        header = self._folder.load(learner.modules, learner.optimisers, learner.earlier_names)
        if header is not None:
            learner.video_embeddings_optimiser.fill_missing_state()
            with self._ranks.agreement():
                check_same_run(self._folder.out, header, self._settings)
            self._step = int(header["step"])
            learner.set_steps(self._step)
            # a run keeps its precision, even where another would be faster now
            learner.precision = header.get("precision", meta.precision)
        else:
            # machines may round the same initialisation differently, and measure another precision as faster
            self._ranks.broadcast_(learner.replicated_tensors)
            learner.precision = self._ranks.gather(learner.precision)[0]
            if self._parent is not None or meta.columns_from_embeddings:
                size = learner.config.networks.layer_size
                with self._ranks.agreement():
                    init_video_embeddings(
                        learner.video_embeddings.weight, learner.embedder, self._source, size
                    )
        self._settings["precision"] = learner.precision
        self._deal(header)
        self._seconds = self._folder.seconds()

    def _deal(self, header: dict[str, Any] | None) -> None:
        """Deal the columns among the episodes of a batch, in a run that torchrun starts or several ranks go
        on with.

        Raises:
            TalkingheadError: there are fewer columns than episodes in a batch.
        """
        was_dealt = self._ranks.launched if header is None else header.get("dealt", False)
        if self._settings["streaming"] or (not was_dealt and self._ranks.count == 1):
            return
        if not was_dealt:
            log.info(
                "%s: from step %d on, each episode of a batch draws from videos of its own, so that several "
                "processes can share them",
                self._folder.out,
                self._step,
            )
        with self._ranks.agreement():
            self._source.deal()
        self._settings["dealt"] = True

    def _advance(
        self, batches: Iterator[Episodes], steps: int, save_seconds: float, on_step: OnStep | None
    ) -> None:
        """Take steps until there are as many as `steps`, or a signal arrives, and save.

        Raises:
            TalkingheadError: a loss is not finite, or a file cannot be written.
            Interrupted: by a signal.
        """
        name, batch, ranks = str(self._folder.out), self._learner.config.meta.batch, self._ranks
        if 0 < self._step < steps:
            log.info("%s: resuming at step %d of %d", name, self._step, steps)
        if self._step < steps:
            log.info("%s: learning from %s", name, _describe_data(self._source))
        tensorboard = TensorBoardLog(self._folder.out / "log", self._step, active=ranks.is_first)
        dtype = torch.bfloat16 if self._learner.precision == "bf16" else torch.float32
        peak = measure_peak_flops(self._device, dtype)
        flops, metrics, values = 0, dict[str, Tensor](), dict[str, float]()
        on_step = on_step if ranks.is_first else None
        start_steps(on_step, self._step, steps)
        last = saved = time.monotonic()
        with graceful_shutdown() as stopped:
            (stop,) = ranks.any(stopped())
            while self._step < steps and not stop:
                with ranks.agreement():
                    take_step = partial(self._learner.step, next(batches))
                if flops:
                    metrics, image_rows = take_step()
                else:  # counted once, since every step has as many
                    (metrics, image_rows), flops = count_flops(take_step)
                self._step += 1
                now = time.monotonic()
                self._seconds += now - last
                rate, last = batch / (now - last), now
                # between two measured steps the CPU does not wait for the GPU
                if self._step % LOG_EVERY_STEPS == 0 or self._step == steps:
                    values = self._measure(metrics) | {"episodes_per_second": rate}
                    values["percent_of_peak"] = 100 * flops * rate / batch / peak
                    tensorboard.write_scalars(self._step, values)
                elif not values:
                    values = self._measure(metrics)
                if on_step:
                    on_step(self._step, steps, values)
                if self._step % IMAGES_EVERY_STEPS == 0:
                    tensorboard.write_images(self._step, "source, landmarks, generated, true", image_rows)
                lost = self._source.lost
                stop, is_due, has_lost = ranks.any(stopped(), now - saved > save_seconds, lost.changed)
                if has_lost:
                    share_lost_shards(lost, ranks)
                if is_due:
                    self._save(metrics)
                    saved = time.monotonic()
                    (stop,) = ranks.any(stopped())
            self._save(metrics)
            tensorboard.close()
            if ranks.any(stopped())[0]:
                log.info("%s: stopped at step %d of %d, and saved", name, self._step, steps)
                raise Interrupted(model=self.model())
        self._log_next_command()

    def _measure(self, metrics: dict[str, Tensor]) -> dict[str, float]:
        """Return the means of metrics over the ranks as numbers.

        Raises:
            TalkingheadError: one is not finite.
        """
        if metrics and self._ranks.count > 1:
            means = self._ranks.mean(torch.stack([value.float() for value in metrics.values()]))
            metrics = dict(zip(metrics, means, strict=True))
        with self._ranks.agreement():
            return require_finite(metrics, str(self._folder.out), self._step)

    def _log_next_command(self) -> None:
        """Log what to do with the model of a finished run."""
        options = f"--model {shlex.quote(str(self._folder.model))} --out person.safetensors"
        if self._settings["variant"] == "ff":
            options += " --steps 0"
        log.info(
            "%s: finished; learn a person from it: talkinghead finetune PICTURES %s",
            self._folder.out,
            options,
        )

    def model(self) -> Model:
        """Return the model so far."""
        source, parent = self._source, self._parent
        people = set(source.clips.people)
        provenance: dict[str, Any] = {name: self._settings[name] for name in ("variant", "seed", "precision")}
        provenance["steps"] = self._step
        if parent is not None:
            people |= set(parent.provenance.get("people", ()))
            provenance["start"] = {"digest": parent.digest, "steps": parent.provenance.get("steps")}
        return self._learner.model(provenance | {"people": sorted(people)})

    def _save(self, metrics: dict[str, Tensor]) -> None:
        """Write the state and the model, unless the metrics of the last step are not finite.

        Raises:
            TalkingheadError: they are not, or a file cannot be written.
        """
        self._measure(metrics)
        header = {**self._settings, "step": self._step}
        self._folder.save(self._learner.modules, self._learner.optimisers, header, self._seconds)
        self._folder.save_model(self.model())
