"""A run's figures and pictures, for TensorBoard. The only module that imports it."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import require

log = logging.getLogger(__name__)


class Journal:
    """Writes to a folder that `tensorboard --logdir` shows.

    A full disk or a folder that cannot be written to ends the log, which a line says, but not the run.

    Args:
        folder: of this run.
        step: where the run stands; what an interrupted run wrote beyond it is hidden.

    Raises:
        TalkingheadError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        require("tensorboard", "train")
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._ended = folder, False
        self._writer: Any = None

        def begin() -> None:
            self._writer = SummaryWriter(str(folder), purge_step=step)

        self._attempt(begin)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Write scalars."""

        def write() -> None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

        self._attempt(write)

    def pictures(self, step: int, name: str, rows: list[Tensor]) -> None:
        """Write rows of images, each [B, 3, H, W] in [-1, 1], as one sheet with a column for each of the batch."""
        sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        self._attempt(lambda: self._writer.add_image(name, (sheet.clamp(-1, 1) + 1) / 2, step))

    def close(self) -> None:
        """Flush and close."""
        self._attempt(lambda: self._writer.close())

    def _attempt(self, write: Callable[[], object]) -> None:
        if self._ended:
            return
        try:
            write()
        except OSError as error:
            self._ended = True
            log.warning("%s: cannot be written to (%s); the run goes on without its log", self._folder, error.strerror or error)
