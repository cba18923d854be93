"""A run's figures and pictures, for TensorBoard. The only module that imports it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import require


class Journal:
    """Writes to a folder that `tensorboard --logdir` shows.

    Args:
        folder: of this run.
        step: where the run stands; what an interrupted run wrote beyond it is hidden.

    Raises:
        TalkingheadError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        require("tensorboard", "train")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step)

    def figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def pictures(self, step: int, name: str, rows: list[Tensor]) -> None:
        """Write rows of images, each [B, 3, H, W] in [-1, 1], as one sheet with a column for each of the batch."""
        sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        self._writer.add_image(name, (sheet.clamp(-1, 1) + 1) / 2, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
