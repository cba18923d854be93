"""A run's metrics and images for Weights & Biases, which no other module imports."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..dataset.remote import display
from ..errors import TalkingheadError, require
from ..system.quiet import suppress_warnings
from .tracked_runs import TrackedRuns

PROJECT = "talkinghead"
"""Name of the project, unless WANDB_PROJECT has another."""


class WandbTracker:
    """Writer to a run of Weights & Biases; variables such as WANDB_MODE=offline choose where that is.

    A resumed run goes on under the same id. Steps are a metric of their own, so that a run may go back.

    Args:
        out: folder of the run; files of W&B are in its folder wandb.
        settings: of the run, shown as its configuration.
        runs: ids of the run.

    Attributes:
        place, errors: as of `TensorBoardTracker`.

    Raises:
        TalkingheadError: wandb is not installed, or no run can be started.
    """

    place = "wandb"
    errors: tuple[type[Exception], ...] = (Exception,)  # of its own, of requests, of its process

    def __init__(self, out: Path, settings: Mapping[str, Any], runs: TrackedRuns) -> None:
        self._wandb = wandb = require("wandb", "wandb")
        run_id = runs.get("wandb") or uuid.uuid4().hex[:8]
        try:
            with suppress_warnings("wandb"):
                self._run = wandb.init(
                    project=None if "WANDB_PROJECT" in runs.environment else PROJECT,
                    name=None if "WANDB_NAME" in runs.environment else out.absolute().name,
                    dir=str(out),
                    id=run_id,
                    resume="allow",
                    config=dict(settings),
                    settings=wandb.Settings(silent=True, console="off"),
                )
        except Exception as error:
            reason = display((str(error).splitlines() or [type(error).__name__])[0])
            raise TalkingheadError(
                f"wandb: no run can be started ({reason}); run `wandb login`, set WANDB_MODE=offline, or "
                "leave wandb out of --track"
            ) from error
        runs.set("wandb", run_id)
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by name."""
        self._run.log({"step": step, **values})

    def write_image(self, step: int, name: str, image: torch.Tensor, path: Path | None) -> None:
        """Write an image, uint8 [H, W, 3], which is also the file `path`."""
        if path is not None:
            self._run.log({"step": step, name: self._wandb.Image(str(path))})

    def close(self, *, failed: bool = False) -> None:
        """Send what is left, and end the run and W&B's process, which loses the data of a run that starts
        again soon after under the same id.
        """
        self._run.finish(exit_code=int(failed))
        self._wandb.teardown()
