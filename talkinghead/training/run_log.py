"""A run's metrics and sample images: written to the trackers that were chosen, and to its folder samples."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..constants import TRACKERS
from ..dataset.remote import display
from ..errors import TalkingheadError, did_you_mean
from ..media.images import write_image
from .mlflow_tracker import MlflowTracker
from .tensorboard import TensorBoardTracker
from .tracked_runs import TrackedRuns
from .wandb_tracker import WandbTracker

log = logging.getLogger(__name__)

SAMPLES = "source, landmarks, generated, true"
"""Name of the sample images: the rows of a sheet, from the top."""


class Tracker(Protocol):
    """Experiment tracker of a run.

    Attributes:
        place: where it writes to, for messages.
        errors: exceptions that end the tracker and not the run.
    """

    place: str
    errors: tuple[type[Exception], ...]

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by name."""

    def write_image(self, step: int, name: str, image: Tensor, path: Path | None) -> None:
        """Write an image, uint8 [H, W, 3], which is also a file, unless that could not be written."""

    def close(self, *, failed: bool = False) -> None:
        """End it, and say there whether the run failed."""


class RunLog:
    """The trackers of a run.

    A tracker that fails, such as on a full disk, ends with a warning; the run continues.

    Args:
        out: folder of the run.
        step: steps of the run so far; TensorBoard hides what an interrupted run wrote of later steps.
        names: of trackers, of `talkinghead.constants.TRACKERS`.
        settings: of the run, for trackers that show them.
        active: False writes nothing.
        restarts: whether trackers of this run ended before in this process; one that then cannot start is
            left out, with a warning.

    Raises:
        TalkingheadError: a tracker is not installed or cannot start; those that did are closed.
    """

    def __init__(
        self,
        out: Path,
        step: int,
        names: Sequence[str],
        *,
        settings: Mapping[str, Any],
        active: bool = True,
        restarts: bool = False,
    ) -> None:
        self._out, self._active = out, active
        self._trackers: list[Tracker] = []
        runs = TrackedRuns(out)
        openers: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoardTracker(out / "log", step),
            "wandb": lambda: WandbTracker(out, settings, runs),
            "mlflow": lambda: MlflowTracker(out, settings, runs),
        }
        chosen = [openers[name] for name in dict.fromkeys(names)] if active else []
        try:
            for open_tracker in chosen:
                self._open(open_tracker, restarts)
        except BaseException:
            self.close(failed=True)
            raise

    def _open(self, open_tracker: Callable[[], Tracker], restarts: bool) -> None:
        """Start a tracker, or warn where the run continues without it.

        Raises:
            TalkingheadError: it cannot start, and has to.
        """
        try:
            self._trackers.append(open_tracker())
        except OSError as error:
            _warn(str(self._out / "log"), error)
        except TalkingheadError as error:
            if not restarts:
                raise
            log.warning("%s; the run continues without its log", str(error).rpartition("; ")[0] or error)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars by name."""
        self._attempt(lambda tracker: tracker.write_scalars(step, values))

    def write_samples(self, step: int, rows: Sequence[Tensor]) -> None:
        """Write rows of images, each [B, 3, H, W] in [-1, 1], as one sheet with B columns: to the trackers,
        and to samples/ in the folder of the run.
        """
        if not self._active:
            return
        sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        image = ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu()
        path: Path | None = self._out / "samples" / f"step-{step:07d}.png"
        try:
            assert path is not None
            path.parent.mkdir(exist_ok=True)
            write_image(path, image.numpy())
        except (OSError, TalkingheadError) as error:
            log.warning("%s; the run continues without sample sheets", error)
            path = None
        self._attempt(lambda tracker: tracker.write_image(step, SAMPLES, image, path))

    def close(self, *, failed: bool = False) -> None:
        """Flush and close; `failed` says whether the run ends by an error."""
        self._attempt(lambda tracker: tracker.close(failed=failed))

    def _attempt(self, write: Callable[[Tracker], object]) -> None:
        """Call `write` with every tracker, and remove those that fail."""
        for tracker in list(self._trackers):
            try:
                write(tracker)
            except tracker.errors as error:
                self._trackers.remove(tracker)
                _warn(tracker.place, error)


def _warn(place: str, error: Exception) -> None:
    """Log that a tracker ended."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    log.warning("%s: cannot be written to (%s); the run continues without its log", place, display(reason))


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of trackers, "none" left out.

    Raises:
        TalkingheadError: one is unknown, or there are others beside "none".
    """
    several = (names,) if isinstance(names, str) else tuple(names)
    for name in several:
        if name not in (*TRACKERS, "none"):
            raise TalkingheadError(
                f"track: {name!r} is unknown; choose of {', '.join(TRACKERS)} or none"
                f"{did_you_mean(str(name), TRACKERS)}"
            )
    if "none" in several and len(several) > 1:
        raise TalkingheadError("track: none stands beside other trackers; leave one of them out")
    return () if "none" in several else several
