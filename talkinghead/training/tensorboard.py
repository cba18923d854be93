"""A run's metrics and images for TensorBoard, which no other module imports."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import require

log = logging.getLogger(__name__)


class TensorBoardLog:
    """Writer to a folder that `tensorboard --logdir` shows.

    Where the disk is full or the folder cannot be written to, a warning is logged and the log ends; the run
    continues.

    Args:
        folder: of this run.
        step: steps of the run so far; what an interrupted run wrote of later steps is hidden.
        active: False writes nothing.

    Raises:
        TalkingheadError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int, active: bool = True) -> None:
        self._folder, self._ended = folder, not active
        self._writer: Any = None
        if not active:
            return
        require("tensorboard", "train")
        from torch.utils.tensorboard import SummaryWriter

        def open_writer() -> None:
            self._writer = SummaryWriter(str(folder), purge_step=step)

        self._attempt(open_writer)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by name."""

        def write() -> None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

        self._attempt(write)

    def write_images(self, step: int, name: str, rows: list[Tensor]) -> None:
        """Write rows of images, each [B, 3, H, W] in [-1, 1], as one grid with B columns."""
        grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        self._attempt(lambda: self._writer.add_image(name, (grid.clamp(-1, 1) + 1) / 2, step))

    def close(self) -> None:
        """Flush and close."""
        self._attempt(lambda: self._writer.close())

    def _attempt(self, write: Callable[[], object]) -> None:
        """Call `write`, unless an earlier call failed."""
        if self._ended:
            return
        try:
            write()
        except OSError as error:
            self._ended = True
            log.warning(
                "%s: cannot be written to (%s); the run continues without its log",
                self._folder,
                error.strerror or error,
            )
