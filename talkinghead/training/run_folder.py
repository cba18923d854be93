"""Folder of a training run: its state and the one before, its model, and the duration. One run at a time uses
it.
"""

import json
import logging
import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import save_model
from ..data.output_paths import files_in
from ..dataset.parts import PART_FILE
from ..dataset.report import REPORT
from ..dataset.shard_file import SHARDS
from ..errors import TalkingheadError
from ..model import Model
from ..system.atomic_file import atomic_write, check_writable
from ..system.folder_lock import folder_lock
from .ranks import ONE_RANK, Ranks
from .resume import DamagedStateError, load_state, save_state, state_tensors
from .row_shares import RowShares

log = logging.getLogger(__name__)


@contextmanager
def run_folder(out: Path, ranks: Ranks = ONE_RANK, sharded: tuple[str, ...] = ()) -> Iterator["RunFolder"]:
    """Create the folder of a run where it is missing, and lock it for its ranks.

    Args:
        out, ranks, sharded: as for `RunFolder`.

    Raises:
        TalkingheadError: it cannot be written to, is that of a data set, or another run uses it.
    """
    folder = RunFolder(out, ranks, sharded)
    with ExitStack() as stack:
        with ranks.agreement():
            if ranks.is_first:
                _check_no_data_set(out)
                check_writable(folder.state)
                stack.enter_context(folder_lock(out, out))
        yield folder


def _check_no_data_set(out: Path) -> None:
    """Refuse to start a run in the folder of a data set, or of its parts; one that is there resumes."""
    has_data = files_in(out, (SHARDS, REPORT, PART_FILE, f"*/{PART_FILE}"))
    if has_data and not files_in(out, ("state.safetensors", "previous/state.safetensors")):
        raise TalkingheadError(f"{out}: holds prepared data, not a run; name another folder by --out")


class RunFolder:
    """The files of a run.

    Args:
        out: the folder, which all ranks see.
        ranks: that write and read it together.
        sharded: names of modules and optimisers of which every rank holds other rows.

    Attributes:
        state, previous, model: paths of the files.
    """

    def __init__(self, out: Path, ranks: Ranks = ONE_RANK, sharded: tuple[str, ...] = ()) -> None:
        self.out, self._ranks = out, ranks
        self._shares = RowShares(out / "shares", ranks, sharded)
        self.state = out / "state.safetensors"
        self.previous = out / "previous" / "state.safetensors"
        self.model = out / "model.safetensors"
        self._times = out / "times.json"
        self._state_is_intact = self.state.exists()
        """True if the next save moves the state to `previous` instead of replacing it."""
        self._saved_header: dict[str, Any] | None = None
        self._used_shares: list[set[str]] = []
        """Files of rows of the state before and of the state."""

    def load(
        self,
        modules: dict[str, nn.Module],
        optimisers: dict[str, torch.optim.Optimizer],
        earlier: Mapping[str, str | None] | None = None,
    ) -> dict[str, Any] | None:
        """Load the newest intact state into modules and optimisers, and return its header; None in a new
        folder.

        Args:
            modules, optimisers, earlier: as for `load_state`.

        Raises:
            TalkingheadError: the state is of another run, or damaged and there is none before it.
        """
        problem = f"{self.state}: is missing"
        first_error: DamagedStateError | None = None
        for path in (self.state, self.previous):
            if not any(self._ranks.gather(path.exists())):
                continue
            try:
                with self._ranks.agreement():
                    header = load_state(path, modules, optimisers, earlier, shares=self._shares)
                    _check_header(path, header)
            except DamagedStateError as error:
                first_error = first_error or error
                problem, self._state_is_intact = str(first_error).partition("; ")[0], False
                continue
            self._state_is_intact = path == self.state
            self._used_shares = [set(header.pop("shares", ()))]
            self._saved_header = header if self._state_is_intact else None
            if not self._state_is_intact:
                log.warning(
                    "%s; the run resumes from the state before it, of step %d, in %s",
                    problem,
                    header["step"],
                    path,
                )
            return header
        if first_error is not None:
            raise first_error
        return None

    def save(
        self,
        modules: dict[str, nn.Module],
        optimisers: dict[str, torch.optim.Optimizer],
        header: dict[str, Any],
        seconds: float,
    ) -> None:
        """Write the state, keep the one before, and write the duration to a file of its own, so that equal
        runs write equal states.

        Raises:
            TalkingheadError: it cannot be written; the message says where it was written instead.
        """
        header = json.loads(json.dumps(header))
        if header != self._saved_header:
            self._write_state(modules, optimisers, header)
        self._state_is_intact, self._saved_header = True, header
        with self._ranks.agreement():
            if self._ranks.is_first:
                with atomic_write(self._times) as temp_path:
                    temp_path.write_text(json.dumps({"seconds": round(seconds, 3)}) + "\n")

    def _write_state(
        self,
        modules: dict[str, nn.Module],
        optimisers: dict[str, torch.optim.Optimizer],
        header: dict[str, Any],
    ) -> None:
        """Write the rows of all ranks where there are several, then the state, and remove unused rows."""
        files = dict[str, str]()
        if self._ranks.count > 1:
            modules, own_modules = self._split(modules)
            optimisers, own_optimisers = self._split(optimisers)
            files = self._shares.write(state_tensors(own_modules, own_optimisers), header["step"])
            header = header | {"shares": files}
        try:
            with self._ranks.agreement():
                if self._ranks.is_first:
                    keep_at = self.previous if self._state_is_intact else None
                    save_state(self.state, modules, optimisers, header, keep=keep_at)
            self._used_shares = [*self._used_shares[-1:], set(files)]
        finally:
            if self._ranks.is_first:
                self._shares.remove_others(set().union(*self._used_shares))

    def _split(self, parts: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split modules or optimisers into replicated and sharded ones."""
        sharded = {name: part for name, part in parts.items() if self._shares.holds(name)}
        return {name: part for name, part in parts.items() if name not in sharded}, sharded

    def save_model(self, model: Model) -> None:
        """Write the model.

        Raises:
            TalkingheadError: it cannot be written; the message says where it was written instead.
        """
        with self._ranks.agreement():
            if self._ranks.is_first:
                save_model(model, self.model)

    def log_next_command(self, variant: str) -> None:
        """Log what to do with the model of a finished run of a variant."""
        options = f"--model {shlex.quote(str(self.model))} --out person.safetensors"
        if variant == "ff":
            options += " --steps 0"
        log.info("%s: finished; learn a person from it: talkinghead finetune PICTURES %s", self.out, options)

    def seconds(self) -> float:
        """Return the duration of the steps so far, 0 where it is not known."""
        try:
            seconds = json.loads(self._times.read_text())["seconds"]
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            seconds = (self._saved_header or {}).get("seconds")  # earlier versions wrote it there
        is_duration = isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds >= 0
        return float(seconds) if is_duration else 0.0


def _check_header(path: Path, header: dict[str, Any]) -> None:
    """Check the types of a header's values.

    Raises:
        DamagedStateError: one has another type.
    """
    step, precision = header.get("step"), header.get("precision", "fp32")
    if type(step) is not int or step < 0 or precision not in ("fp32", "bf16"):
        raise DamagedStateError(
            f"{path}: is not a state of this run (its header is damaged); remove its folder to start again"
        )
