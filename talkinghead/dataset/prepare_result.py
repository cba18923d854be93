"""The outcome of `prepare`: what became of the videos, and the cost."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import quantity
from .report import REPORT

_VOXCELEB2_VIDEOS = 145_000
_MIN_VIDEOS_TO_EXTRAPOLATE = 1000
"""Whoever processes fewer videos does not plan a data set of this size."""


@dataclass(frozen=True)
class Cost:
    """The cost of processing the videos.

    Attributes:
        videos: the number of videos processed.
        seconds: of one core, for all of them.
        workers: the number of processes.
        frames, bytes: of the clips written.
    """

    videos: int
    seconds: float
    workers: int
    frames: int
    bytes: int

    def lines(self) -> list[str]:
        """Describe the cost, of many videos extrapolated to VoxCeleb2; empty when no video was processed."""
        if not self.videos or not self.seconds:
            return []
        lines = [
            f"{3600 * self.videos / self.seconds:,.0f} videos an hour per core, "
            f"{self.seconds / self.videos:.2f} s each"
        ]
        if self.frames:
            bytes_per_frame = self.bytes / self.frames
            lines[0] += f"; {bytes_per_frame:,.0f} bytes a frame"
        if self.frames and self.videos >= _MIN_VIDEOS_TO_EXTRAPOLATE:
            frames_per_video = self.frames / self.videos
            hours = _VOXCELEB2_VIDEOS * self.seconds / self.videos / 3600 / self.workers
            gigabytes = _VOXCELEB2_VIDEOS * frames_per_video * bytes_per_frame / 1e9
            cores = "1 core" if self.workers == 1 else f"{self.workers} cores"
            lines.append(
                f"VoxCeleb2's {_VOXCELEB2_VIDEOS:,} videos, if they were like these, of "
                f"{frames_per_video:.0f} good frames: {hours:,.0f} hours on {cores}, {gigabytes:,.0f} GB"
            )
        return lines


@dataclass(frozen=True)
class PrepareResult:
    """The outcome of `prepare`.

    Attributes:
        out: the folder of the data set.
        added: the videos added by this run.
        present: those that an earlier run had added.
        rejected: the others, with the reason.
        layouts: layout that the person's name comes from -> number of videos.
        people: the number of people in the data set.
        cost: of the processing.
    """

    out: Path
    added: tuple[Path, ...]
    present: tuple[Path, ...]
    rejected: tuple[tuple[Path, str], ...]
    layouts: Mapping[str, int]
    people: int
    cost: Cost

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome for JSON."""
        return {
            "out": str(self.out),
            "taken": [str(path) for path in self.added],
            "present": [str(path) for path in self.present],
            "rejected": {str(path): reason for path, reason in self.rejected},
            "layouts": dict(self.layouts),
            "people": self.people,
            "cost": asdict(self.cost),
        }

    def lines(self) -> list[str]:
        """Return the outcome as lines of text."""
        first = (
            f"{self.out}: {quantity(len(self.added), 'video')} added, {len(self.present)} were there, "
            f"{len(self.rejected)} rejected"
        )
        if not self.layouts:  # of more parts than videos, some have none
            return [first]
        layouts = ", ".join(
            f"of {quantity(count, 'video')} by {name}" for name, count in self.layouts.items()
        )
        return [
            first,
            f"people: {self.people} (the person {layouts})",
            *self.cost.lines(),
            f"of each video: {self.out / REPORT}",
        ]
