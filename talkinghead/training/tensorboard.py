"""A run's metrics and images for TensorBoard, which no other module imports."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import require


class TensorBoardTracker:
    """Writer to a folder that `tensorboard --logdir` shows.

    Args:
        folder: of this run.
        step: steps of the run so far; what an interrupted run wrote of later steps is hidden.

    Attributes:
        place: where it writes to, for messages.
        errors: exceptions of a full disk and the like, which end the tracker and not the run.

    Raises:
        TalkingheadError: TensorBoard is not installed.
        OSError: the folder cannot be written to.
    """

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, folder: Path, step: int) -> None:
        self.place = str(folder)
        require("tensorboard", "train")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def write_image(self, step: int, name: str, image: torch.Tensor, path: Path | None) -> None:
        """Write an image, uint8 [H, W, 3], which is also the file `path`."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self, *, failed: bool = False) -> None:
        """Flush and close."""
        self._writer.close()
