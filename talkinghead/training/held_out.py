"""Evaluation of a run on held-out clips while it goes on: `talkinghead evaluate` in a process of its own, at
low priority, one at a time.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..constants import DEFAULT_METHODS, FINE_TUNED_METHODS
from ..errors import TalkingheadError, check_whole_number, quantity
from ..system.atomic_file import atomic_write
from ..system.toml_file import read_toml

log = logging.getLogger(__name__)

FOLDER = "evaluations"
"""Name of the folder in that of the run."""
TABLE = f"{FOLDER}/table.tsv"
"""Name of the table of all evaluations of a run."""
PRIORITY = 19
"""Niceness of the process: the lowest priority."""
GROUP = "all"
"""Name of the group of all people in the results of `evaluate`."""
DEFAULT_OPTIONS = ("--shots", "8", "--clips-each", "1", "--workers", "1")
_GRACE_S = 10.0
_POLL_S = 0.2
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")

Scalars = dict[str, float]


@dataclass(frozen=True)
class HeldOutClips:
    """Clips that a run is evaluated on, and how often.

    Attributes:
        clips: videos, folders of videos or prepared data.
        every: steps between two evaluations.
        only: people to measure on; empty for all.
        config: TOML file of options of `evaluate`; None for those of this module.
        feed_forward: whether the model is used without fine-tuning alone.
    """

    clips: tuple[str, ...]
    every: int
    only: tuple[str, ...] = ()
    config: str | None = None
    feed_forward: bool = False

    def options(self) -> list[str]:
        """Return the options of `evaluate`; those that the run requires replace others of the file."""
        only = ["--only", *self.only] if self.only else []
        if self.config is not None:
            return ["--config", self.config, *self._allowed_methods(self.config), *only]
        methods = ["feed-forward"] if self.feed_forward else ["feed-forward", "fine-tuned"]
        return [*DEFAULT_OPTIONS, "--methods", *methods, *only]

    def _allowed_methods(self, config: str) -> list[str]:
        """Return the option that leaves out the file's methods that fine-tune, where the model cannot."""
        if not self.feed_forward:
            return []
        values: dict[str, Any] = {}
        with suppress(TalkingheadError):  # a damaged file is an error of `evaluate`
            values = read_toml(config)
        table = values.get("evaluate", values)
        chosen = table.get("methods", DEFAULT_METHODS) if isinstance(table, dict) else DEFAULT_METHODS
        names = [str(name) for name in chosen] if isinstance(chosen, (list, tuple)) else [str(chosen)]
        return [
            "--methods",
            *([name for name in names if name not in FINE_TUNED_METHODS] or ["feed-forward"]),
        ]


def held_out_clips(
    clips: str | Path | Sequence[str | Path], every: int, config: str | Path | None, **options: Any
) -> HeldOutClips | None:
    """Return what a run is evaluated on, or None without clips.

    Args:
        clips, every, config, **options: as of `HeldOutClips`; one path or several.

    Raises:
        TalkingheadError: `every` is no whole number above 0, or a path does not exist.
    """
    paths = [clips] if isinstance(clips, (str, Path)) else list(clips)
    if not paths:
        if config is not None:
            raise TalkingheadError("evaluate_config: there is nothing to evaluate on; name clips by evaluate")
        return None
    check_whole_number("evaluate_every", every, 1, example=1000)
    for path in [*paths, *([] if config is None else [config])]:
        if not os.path.exists(path):
            raise TalkingheadError(f"{path}: does not exist; correct what to evaluate on")
    texts = tuple(os.path.abspath(path) for path in paths)
    return HeldOutClips(texts, every, config=None if config is None else os.path.abspath(config), **options)


class HeldOutEvaluation:
    """Evaluations of the saved models of a run.

    Args:
        out: folder of the run.
        held_out: clips, and how often.
    """

    def __init__(self, out: Path, held_out: HeldOutClips) -> None:
        self._out, self._held_out = out, held_out
        self._process: subprocess.Popen[bytes] | None = None
        self._skipped: int | None = None
        self._step, self._start = 0, 0.0

    def is_due(self, step: int, steps: int) -> bool:
        """Return whether the model of a step is evaluated, which has to be saved for that."""
        return step % self._held_out.every == 0 or step >= steps

    def is_missing(self, step: int, steps: int) -> bool:
        """Return whether a loaded model is due but not in the table, such as after an interruption."""
        if step == 0 or self._process is not None or not self.is_due(step, steps):
            return False
        return all(row["step"] != str(step) for row in read_table(self._out / TABLE))

    def begin(self, step: int) -> None:
        """Start to evaluate the saved model, which is of this step, unless an evaluation still runs."""
        if self._process is not None:
            self._skipped = step
            log.warning(
                "%s: the model of step %d is not evaluated, since the evaluation of step %d still runs; a "
                "larger --evaluate-every fits",
                self._out,
                step,
                self._step,
            )
            return
        self._step, self._skipped, self._start = step, None, time.monotonic()
        try:
            self._process = self._start_process()
        except OSError as error:
            self._warn(str(error.strerror or error))

    def _start_process(self) -> "subprocess.Popen[bytes]":
        """Start `talkinghead evaluate` on a copy of the model, which training soon replaces."""
        folder = self.folder(self._step)
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "model.safetensors"
        model.unlink(missing_ok=True)
        try:
            os.link(self._out / "model.safetensors", model)
        except OSError:  # a file system without links
            shutil.copyfile(self._out / "model.safetensors", model)
        command = [sys.executable, "-m", "talkinghead", "evaluate", str(model.absolute())]
        command += [*self._held_out.clips, "--out", str(folder.absolute()), *self._held_out.options()]
        environment = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
        with open(folder / "evaluate.log", "wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C ends training first, which ends this
            )
        with suppress(OSError, AttributeError):  # a system without priorities
            os.setpriority(os.PRIO_PROCESS, process.pid, PRIORITY)
        return process

    def folder(self, step: int) -> Path:
        """Return the folder of the evaluation of a step."""
        return self._out / FOLDER / f"step-{step:07d}"

    def poll(self) -> tuple[int, Scalars] | None:
        """Return step and results of an evaluation that has ended; None while it runs, or where it failed."""
        if self._process is None or self._process.poll() is None:
            return None
        code, self._process = self._process.returncode, None
        folder = self.folder(self._step)
        (folder / "model.safetensors").unlink(missing_ok=True)
        try:
            if code:
                raise TalkingheadError(_last_line(folder / "evaluate.log") or f"exit code {code}")
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            rows = [{"step": self._step, **row} for row in table_rows(results)]
            self._write_table(rows)
        except (TalkingheadError, OSError, ValueError, LookupError) as error:
            self._warn(str(error))
            return None
        duration = f"{time.monotonic() - self._start:.0f} s"
        log.info("%s: held out at step %d: %s", self._out, self._step, f"{_describe(rows)}, {duration}")
        return self._step, scalars_of(rows)

    def _write_table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the table of the run with these rows in place of others of the same step."""
        path = self._out / TABLE
        kept = [row for row in read_table(path) if row["step"] != str(self._step)]
        lines = [*kept, *({name: str(value) for name, value in row.items()} for row in rows)]
        lines.sort(key=lambda row: int(row["step"]))
        names = list(dict.fromkeys(name for row in lines for name in row))
        text = "".join("\t".join(row.get(name, "") for name in names) + "\n" for row in lines)
        with atomic_write(path) as temp_path:
            temp_path.write_text("\t".join(names) + "\n" + text, encoding="utf-8")

    def _warn(self, reason: str) -> None:
        """Log that an evaluation failed."""
        log.warning(
            "%s: the model of step %d was not evaluated (%s); training goes on", self._out, self._step, reason
        )

    def finish(self, is_stopped: Callable[[], bool]) -> list[tuple[int, Scalars]]:
        """Wait for the evaluation that runs, then evaluate the last model if that was skipped.

        Args:
            is_stopped: returns whether to stop waiting.

        Returns:
            steps and results.
        """
        finished = []
        while self._process is not None and not is_stopped():
            log.info("%s: waiting for the evaluation of step %d", self._out, self._step)
            while self._process.poll() is None and not is_stopped():
                time.sleep(_POLL_S)
            if (result := self.poll()) is not None:
                finished.append(result)
            if self._process is None and self._skipped is not None:
                self.begin(self._skipped)
        self.stop()
        return finished

    def stop(self) -> None:
        """End the evaluation that runs; what it measured is used when that step is evaluated again."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
                break
        (self.folder(self._step) / "model.safetensors").unlink(missing_ok=True)


def table_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each T and method of the results of `evaluate`: means over all people."""
    rows = []
    for shots, methods in results["summary"][GROUP].items():
        for method, metrics in methods.items():
            means = {name: value["mean"] for name, value in metrics.items() if value["mean"] is not None}
            rows.append({"shots": int(shots), "method": method, "people": len(results["people"]), **means})
    return rows


def scalars_of(rows: Sequence[Mapping[str, Any]]) -> Scalars:
    """Return the metrics of rows by names for trackers, such as held_out/T8/fine-tuned/ssim."""
    return {
        f"held_out/T{row['shots']}/{row['method']}/{name}": float(value)
        for row in rows
        for name, value in row.items()
        if name not in ("step", "shots", "method", "people")
    }


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a run's table of evaluations; none where there is no such file."""
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    names = header.split("\t")
    rows = [dict(zip(names, line.split("\t"), strict=False)) for line in lines]
    return [row for row in rows if row.get("step", "").isdecimal()]


def _describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return SSIM of each row and how many people it is of, as a text."""
    texts = [
        f"T = {row['shots']} {row['method']} SSIM {row['ssim']:.3f}" if "ssim" in row else row["method"]
        for row in rows
    ]
    return f"{', '.join(texts)} of {quantity(rows[0]['people'], 'person')}" if rows else "no results"


def _last_line(path: Path) -> str:
    """Return the last line of a log that has text, without the name of the program."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    texts = [line.strip() for line in lines if line.strip()]
    return texts[-1].removeprefix("talkinghead: error: ") if texts else ""
