"""Meta-learning of E, G with P, and D on videos of many people (paper, section 3.2)."""

import gc
import logging
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
from ..model import Model
from ..pretrained.perceptual import open_perceptual
from ..system.device import choose_device, ops_on
from ..system.progress import OnStep, check_callbacks, start_steps
from ..system.signals import graceful_shutdown
from ..system.torch_state import with_default_torch_state
from .episode_loader import load_episodes, share_lost_shards
from .health import Health, NotFiniteError
from .held_out import TABLE, HeldOutEvaluation
from .interrupted import Interrupted
from .meta_learner import MetaLearner
from .meta_setup import (
    LearnerFactory,
    TrainingData,
    configuration,
    describe_data,
    fingerprint,
    open_data,
    settings_of,
    with_index,
)
from .ranks import Ranks, joined_ranks
from .run_folder import RunFolder, run_folder
from .run_monitor import Monitoring, ResolvedMonitoring, RunMonitor
from .run_settings import check_same_run
from .throughput import measure_peak_flops
from .warm_start import init_video_embeddings

log = logging.getLogger(__name__)

FILES = ("model.safetensors", "state.safetensors", "previous/state.safetensors", "times.json", TABLE)
"""Files that a run writes into its folder, besides those of trackers, samples and several ranks' rows."""
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
    monitoring: Monitoring | None = None,
) -> Model:
    """Meta-learn on prepared shards; a run that was interrupted resumes, on a CPU bit for bit.

    Args:
        data: folder that `prepare` wrote, or its URL, or several, which are sampled equally often.
        out: folder of the run: model, state and the one before it in previous/, log/, samples/, evaluations/.
        preset: its name, a configuration, or a TOML file with a table [preset] (`talkinghead.config_file`).
        variant: "ft", or "ff": without the matching loss, for feed-forward use only.
        steps: in all; default the preset's. More than those of a finished run extend it.
        seed: of the initialisation and of the episodes.
        exclude_identities: people not to train on.
        init_from: name or file of a model with the initial weights; default random weights.
        device, fast: "cpu", "cuda" or "auto", a GPU where torch sees one; there, our kernels, unmeasured.
        perceptual_files: weights of the content loss's networks, by name.
        grad_accum_steps, save_seconds: micro-batches per step, which save memory; time between two saves.
        on_step: called with (step, steps, metrics) after every step, the metrics of the last measured one.
        irises: teach gaze, whatever the preset says; the model of `init_from` need not show irises.
        workers: processes that read the data; None is 0 on a CPU and 4 on a GPU.
        streaming: read whole shards one after the other instead of single frames.
        monitoring: trackers, and evaluation while training goes on; by default TensorBoard alone.

    Raises:
        TalkingheadError: bad data or settings, an `out` in use or of another run, or losses not finite twice.
        talkinghead.Interrupted: by SIGINT, SIGTERM or SIGHUP, after the step and a save; has the model.
    """
    check_callbacks(on_step=on_step)
    with joined_ranks() as ranks:
        training_data = with_index(TrainingData(data, exclude_identities, streaming, Path(out)), ranks)
        with ranks.agreement():
            config = configuration(preset, variant, steps, irises=irises)
            target = ranks.local_device(choose_device(device, fast))
            check_outputs(files_in(Path(out), FILES), [init_from, *(perceptual_files or {}).values()])
            source, config = open_data(training_data, config, seed, ranks=ranks)
            content = open_perceptual(config.perceptual, perceptual_files, target)
            learners = LearnerFactory(config, seed, init_from, content, device=target, parts=grad_accum_steps)
            watch = (monitoring or Monitoring()).resolve(exclude_identities, variant)
        settings = settings_of(config, variant, seed, source, parent=learners.parent)
        ranks.check_equal(fingerprint(settings, source, str(Path(out).absolute()), grad_accum_steps))
        with run_folder(Path(out), ranks, MetaLearner.sharded) as folder, ops_on(target, fast):
            run = _Run(learners, source, folder, settings, ranks=ranks, monitoring=watch)
            return run.train(config.meta.steps, save_seconds, on_step, workers)


class _Run:
    """A training run and its files.

    Args:
        learners: builds the networks as they are before the first step.
        source, folder: of the run.
        settings: that must be equal for it to resume.
        ranks: of the run.
        monitoring: how it is watched.
    """

    _learner: MetaLearner

    def __init__(
        self,
        learners: LearnerFactory,
        source: EpisodeSource,
        folder: RunFolder,
        settings: dict[str, Any],
        *,
        ranks: Ranks,
        monitoring: ResolvedMonitoring,
    ) -> None:
        self._learners, self._source, self._folder = learners, source, folder
        self._equal_settings, self._settings = settings, dict(settings)  # the latter are those of the state
        self._parent, self._ranks = learners.parent, ranks
        self._step, self._seconds, self._health = 0, 0.0, Health()
        self._evaluation: HeldOutEvaluation | None = None
        self._went_back = False
        self._trackers = monitoring.trackers
        if monitoring.held_out is not None and ranks.is_first:
            self._evaluation = HeldOutEvaluation(folder.out, monitoring.held_out)
        self._start()

    def _start(self) -> None:
        """Build the networks, and resume the run of the folder, or start one.

        Raises:
            TalkingheadError: the state is damaged or of a run with other settings.
        """
        self._step = 0
        self._learner = self._learners.build(self._source.columns, self._ranks)
        self._device = self._learner.video_embeddings.weight.device
        self._load_or_initialise()

    def train(self, steps: int, save_seconds: float, on_step: OnStep | None, workers: int | None) -> Model:
        """Take the run's steps, and return the model.

        Where a loss or gradient is not finite, the run goes back to its last state with lower learning rates,
        once.

        Raises:
            NotFiniteError: it happened again.
            TalkingheadError: a file cannot be written, or a tracker cannot start.
            Interrupted: by a signal.
        """
        with graceful_shutdown() as stopped:
            try:
                while True:
                    batches = load_episodes(self._source, range(self._step, steps), self._device, workers)
                    try:
                        with self._open_monitor() as monitor, closing(batches):
                            self._advance(batches, steps, save_seconds, on_step=on_step, monitor=monitor)
                            monitor.finish_evaluation(stopped)
                        self._folder.log_next_command(self._settings["variant"])
                        return self.model()
                    except NotFiniteError as error:
                        self._go_back(error)
            finally:
                if self._evaluation is not None:
                    self._evaluation.stop()

    def _open_monitor(self) -> RunMonitor:
        """Start the trackers, on the first rank."""
        return RunMonitor(
            self._folder.out,
            self._step,
            self._ranks,
            self._device,
            trackers=self._trackers,
            evaluation=self._evaluation,
            health=self._health,
            settings=self._settings,
            restarts=self._went_back,
        )

    def _go_back(self, error: NotFiniteError) -> None:
        """Go back to the last state, or to the start where none was saved, with lower learning rates.

        Raises:
            NotFiniteError: they were lowered before.
        """
        if self._health.lowered_at is not None:
            model = self._folder.model
            source = f", from {model} by --init-from" if model.exists() else ""
            final = NotFiniteError(
                f"{error}, although the learning rates were lowered at step {self._health.lowered_at}; start "
                f"another run with lower ones in a preset of your own{source}"
            )
            final.reported = not self._ranks.is_first
            raise final from None
        self._went_back = True
        del self._learner
        gc.collect()  # hooks on its parameters refer to each other, and a GPU may not hold it twice
        self._start()
        self._health.lower_rate(self._step)
        self._learner.scale_learning_rates(self._health.rate)
        log.warning(
            "%s; going back to step %d, with learning rates times %g from there on",
            error,
            self._step,
            self._health.rate,
        )
        self._write_state()

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
                check_same_run(self._folder.out, header, self._equal_settings)
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
        self._health = Health.from_header(header)
        learner.scale_learning_rates(self._health.rate)
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
        if not was_dealt and "dealt" not in self._settings:  # not once more in a run that goes back
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
        self,
        batches: Iterator[Episodes],
        steps: int,
        save_seconds: float,
        on_step: OnStep | None,
        monitor: RunMonitor,
    ) -> None:
        """Take steps until there are as many as `steps`, or a signal arrives, and save.

        Raises:
            NotFiniteError: a loss or gradient is not finite.
            TalkingheadError: a file cannot be written.
            Interrupted: by a signal.
        """
        name, ranks = str(self._folder.out), self._ranks
        if 0 < self._step < steps:
            log.info("%s: resuming at step %d of %d", name, self._step, steps)
        if self._step < steps:
            log.info("%s: learning from %s", name, describe_data(self._source))
        dtype = torch.bfloat16 if self._learner.precision == "bf16" else torch.float32
        monitor.start(self._learner.config.meta.batch, measure_peak_flops(self._device, dtype))
        metrics, values = dict[str, Tensor](), dict[str, float]()
        on_step = on_step if ranks.is_first else None
        start_steps(on_step, self._step, steps)
        last = saved = time.monotonic()
        with graceful_shutdown() as stopped:
            self._evaluate_loaded(steps, monitor)
            (stop,) = ranks.any(stopped())
            while self._step < steps and not stop:
                with ranks.agreement(), monitor.waiting_for_data():
                    episodes = next(batches)
                metrics, image_rows = monitor.run_step(partial(self._learner.step, episodes))
                self._step += 1
                now = time.monotonic()
                self._seconds += now - last
                last = now
                # between two measured steps the CPU does not wait for the GPU
                is_logged = self._step % LOG_EVERY_STEPS == 0
                if is_logged or self._step == steps:
                    values = monitor.report(self._step, metrics, with_alarms=is_logged)
                elif not values:
                    values = monitor.measure(self._step, metrics)
                if on_step:
                    on_step(self._step, steps, values)
                if self._step % IMAGES_EVERY_STEPS == 0 or self._step == steps:
                    monitor.write_samples(self._step, image_rows)
                evaluates = monitor.must_evaluate(self._step, steps)
                stop, is_due = self._agree(stopped(), evaluates or now - saved > save_seconds)
                if is_due:
                    self._save(metrics, monitor)
                    saved = time.monotonic()
                    (stop,) = ranks.any(stopped())
                if evaluates:
                    monitor.begin_evaluation(self._step)
            self._save(metrics, monitor)
            if ranks.any(stopped())[0]:
                log.info("%s: stopped at step %d of %d, and saved", name, self._step, steps)
                raise Interrupted(model=self.model())

    def _evaluate_loaded(self, steps: int, monitor: RunMonitor) -> None:
        """Begin to evaluate the loaded model, if that was interrupted, or not asked for before."""
        evaluates = monitor.must_evaluate_loaded(self._step, steps)
        if self._ranks.any(evaluates)[0]:
            self._save({}, monitor)  # the model in the folder may be of another step than the state
        if evaluates:
            monitor.begin_evaluation(self._step)

    def _agree(self, stopped: bool, due: bool) -> tuple[bool, bool]:
        """Return whether any rank was stopped, and whether any must save; tell all what shards are lost."""
        lost = self._source.lost
        stop, is_due, has_lost = self._ranks.any(stopped, due, lost.changed)
        if has_lost:
            share_lost_shards(lost, self._ranks)
        return stop, is_due

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

    def _save(self, metrics: dict[str, Tensor], monitor: RunMonitor) -> None:
        """Write the state and the model, unless the metrics of a step are not finite.

        Raises:
            NotFiniteError: they are not.
            TalkingheadError: a file cannot be written.
        """
        monitor.measure(self._step, metrics)
        with monitor.saving():
            self._write_state()
            self._folder.save_model(self.model())

    def _write_state(self) -> None:
        """Write the state.

        Raises:
            TalkingheadError: it cannot be written.
        """
        header = {**self._settings, "step": self._step, **self._health.to_header()}
        self._folder.save(self._learner.modules, self._learner.optimisers, header, self._seconds)
