"""Folder of a training run: its state and the one before, its model, and the duration. One process at a time
uses it.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import save_model
from ..model import Model
from ..system.atomic_file import atomic_write, check_writable
from ..system.folder_lock import folder_lock
from .resume import DamagedStateError, load_state, save_state

log = logging.getLogger(__name__)


@contextmanager
def run_folder(out: Path) -> Iterator["RunFolder"]:
    """Create the folder of a run where it is missing, and lock it.

    Raises:
        TalkingheadError: it cannot be written to, or another process uses it.
    """
    folder = RunFolder(out)
    check_writable(folder.state)
    with folder_lock(out, out):
        yield folder


class RunFolder:
    """The files of a run.

    Args:
        out: the folder.

    Attributes:
        state, previous, model: paths of the files.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.state = out / "state.safetensors"
        self.previous = out / "previous" / "state.safetensors"
        self.model = out / "model.safetensors"
        self._times = out / "times.json"
        self._state_is_intact = self.state.exists()
        """True if the next save moves the state to `previous` instead of replacing it."""
        self._saved_header: dict[str, Any] | None = None

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
            if not path.exists():
                continue
            try:
                header = load_state(path, modules, optimisers, earlier)
                _check_header(path, header)
            except DamagedStateError as error:
                first_error = first_error or error
                problem, self._state_is_intact = str(first_error).partition("; ")[0], False
                continue
            self._state_is_intact = path == self.state
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
            keep_at = self.previous if self._state_is_intact else None
            save_state(self.state, modules, optimisers, header, keep=keep_at)
        self._state_is_intact, self._saved_header = True, header
        with atomic_write(self._times) as temp_path:
            temp_path.write_text(json.dumps({"seconds": round(seconds, 3)}) + "\n")

    def save_model(self, model: Model) -> None:
        """Write the model.

        Raises:
            TalkingheadError: it cannot be written; the message says where it was written instead.
        """
        save_model(model, self.model)

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
