"""The folder of a training run: its state and the one before, its model, and how long it took. One process at a time works in it."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import Model, save_model
from ..files import check_writable, folder_lock, replacing
from .state import DamagedStateError, load_state, save_state

log = logging.getLogger(__name__)


@contextmanager
def run_folder(out: Path) -> Iterator["RunFolder"]:
    """Make the folder of a run where it is missing, and lock it.

    Raises:
        TalkingheadError: it cannot be written to, or another process works in it.
    """
    folder = RunFolder(out)
    check_writable(folder.state)
    with folder_lock(out, out):
        yield folder


class RunFolder:
    """Files of a run.

    Args:
        out: the folder.

    Attributes:
        state, previous, model: files.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.state, self.previous, self.model = out / "state.safetensors", out / "previous" / "state.safetensors", out / "model.safetensors"
        self._times = out / "times.json"
        self._good = self.state.exists()  # what is there is worth keeping when the next is saved
        self._newest: dict[str, Any] | None = None  # header of what is there

    def load(
        self,
        modules: dict[str, nn.Module],
        optimisers: dict[str, torch.optim.Optimizer],
        earlier: Mapping[str, str | None] | None = None,
    ) -> dict[str, Any] | None:
        """Fill modules and optimisers with the newest state that is whole, and return its header, None in a new folder.

        Args:
            modules, optimisers, earlier: as for `load_state`.

        Raises:
            TalkingheadError: the state is of another run, or damaged and there is none before it.
        """
        problem = f"{self.state}: is missing"
        damaged: DamagedStateError | None = None
        for path in (self.state, self.previous):
            if not path.exists():
                continue
            try:
                header = load_state(path, modules, optimisers, earlier)
                _check(path, header)
            except DamagedStateError as error:
                damaged = damaged or error
                problem, self._good = str(damaged).partition("; ")[0], False
                continue
            self._newest, self._good = header, path == self.state
            if path == self.previous:
                self._newest = None
                log.warning("%s; the run resumes from the state before it, of step %d, in %s", problem, header["step"], path)
            return header
        if damaged is not None:
            raise damaged
        return None

    def save(
        self, modules: dict[str, nn.Module], optimisers: dict[str, torch.optim.Optimizer], header: dict[str, Any], seconds: float
    ) -> None:
        """Write the state, keeping the one before, and how long the run took, which is no part of it: equal runs give equal files.

        Raises:
            TalkingheadError: it cannot be written; where it was written instead is said.
        """
        header = json.loads(json.dumps(header))
        if header != self._newest:
            save_state(self.state, modules, optimisers, header, self.previous if self._good else None)
        self._good, self._newest = True, header
        with replacing(self._times) as beside:
            beside.write_text(json.dumps({"seconds": round(seconds, 3)}) + "\n")

    def save_model(self, model: Model) -> None:
        """Write the model.

        Raises:
            TalkingheadError: it cannot be written; where it was written instead is said.
        """
        save_model(model, self.model)

    def seconds(self) -> float:
        """Return how long the steps so far took, 0 where that is not known."""
        try:
            seconds = json.loads(self._times.read_text())["seconds"]
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            seconds = (self._newest or {}).get("seconds")  # where earlier versions wrote it
        return float(seconds) if isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds >= 0 else 0.0


def _check(path: Path, header: dict[str, Any]) -> None:
    """Refuse a header whose values are not of their kind."""
    step, precision = header.get("step"), header.get("precision", "fp32")
    if type(step) is not int or step < 0 or precision not in ("fp32", "bf16"):
        raise DamagedStateError(f"{path}: is not a state of this run (its header is damaged); remove its folder to start again")
