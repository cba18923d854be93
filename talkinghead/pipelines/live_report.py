"""Counts and latencies of live driving."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from ..errors import quantity
from ..media.frame_source import SourceFrame
from ..system.stage_pipeline import StagePipeline
from .live_person import LiveCast

_LOG_INTERVAL_S = 1.0
_MIN_LATENCY_S = 1e-4
_BIN_RATIO = 1.02  # of the latencies of neighbouring bins
_BINS = 700  # up to 100 s


class LatencyHistogram:
    """Histogram of latencies in constant memory; percentiles are right to 1%, between 0.1 ms and 100 s."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)

    def add(self, seconds: float) -> None:
        """Add a latency."""
        place = int(np.log(max(seconds, _MIN_LATENCY_S) / _MIN_LATENCY_S) / np.log(_BIN_RATIO))
        self._counts[min(place, _BINS - 1)] += 1

    def percentile(self, share: float) -> float:
        """Return the seconds that so many percent do not exceed; 0 when there are none."""
        total = int(self._counts.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._counts), max(1.0, total * share / 100)))
        return float(_MIN_LATENCY_S * _BIN_RATIO ** (place + 0.5))


@dataclass(frozen=True)
class LiveReport:
    """Result of `live`.

    Attributes:
        source, sink: their names.
        ended: reason of the end: "source" (no more frames), "seconds" (time limit), "closed" (window closed),
            "interrupted" (Ctrl-C).
        captured: frames that came from the source.
        frames: how many were shown.
        without_face: processed frames that show no face; the person stayed as before.
        dropped: frames by the stage that they waited for when a newer frame came: "landmarks", "render",
            "sink".
        retargeted: whether the person's own proportions were kept.
        fps: frames shown per second.
        latency_p50, latency_p99: ms from when a frame was taken to when it was shown, of half and of 99% of
            the frames.
        size: (height, width) of what was shown, in pixels.
        seconds: time taken.
    """

    source: str
    sink: str
    ended: str
    captured: int
    frames: int
    without_face: int
    dropped: dict[str, int]
    retargeted: bool
    fps: float
    latency_p50: float
    latency_p99: float
    size: tuple[int, int]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, rounded."""
        return asdict(self) | {
            name: round(getattr(self, name), 2) for name in ("fps", "latency_p50", "latency_p99", "seconds")
        }

    def lines(self) -> list[str]:
        """Return lines of text for the user."""
        height, width = self.size
        lines = [
            f"{self.sink}: {quantity(self.frames, 'frame')} of {width}x{height} shown in "
            f"{self.seconds:.1f} s, {self.fps:.1f} a second",
            f"latency from capture to {self.sink}: {_format_latency(self.latency_p50, self.latency_p99)}",
        ]
        if sum(self.dropped.values()):
            where = ", ".join(f"{count} before {name}" for name, count in self.dropped.items() if count)
            lines.append(
                f"{sum(self.dropped.values())} of {self.captured} frames came too soon after others and "
                f"were dropped: {where}"
            )
        if self.without_face:
            lines.append(
                f"{quantity(self.without_face, 'frame')} without a face; the person stayed as before"
            )
        if self.ended == "interrupted":
            lines.append("interrupted")
        return lines


def _format_latency(p50: float, p99: float) -> str:
    """Format milliseconds that half and 99% of the frames do not exceed."""
    return f"{p50:.0f} ms (median), {p99:.0f} ms (99% of the frames)"


@dataclass
class LiveStats:
    """Counts and latencies of the frames shown since the start and since the last line of the log.

    Attributes:
        log: is called with a line of text.
        cast: counts the frames without a face.
        start: `perf_counter` at the start.
        frames: how many were shown.
        all, recent: latencies since the start, since the last line.
        last_line: seconds since the start and frames shown when the last line was logged.
    """

    log: Callable[[str], None]
    cast: LiveCast
    start: float = field(default_factory=perf_counter)
    frames: int = 0
    all: LatencyHistogram = field(default_factory=LatencyHistogram)
    recent: LatencyHistogram = field(default_factory=LatencyHistogram)
    last_line: tuple[float, int] = (0.0, 0)
    _source_start: float | None = None

    def restart(self) -> None:
        """Count the time from now on."""
        self.start = perf_counter()

    def see(self, frame: SourceFrame) -> None:
        """Take the time at which the source started from one of its frames, if it is not known yet."""
        if self._source_start is None:
            self._source_start = frame.captured_at - frame.t

    def source_start(self) -> float:
        """Return the time of `perf_counter` at which the source's time was 0; after its first frame."""
        return self.start if self._source_start is None else self._source_start

    def add(self, latency: float) -> None:
        """Count a frame that was shown `latency` seconds after it was taken."""
        self.frames += 1
        self.all.add(latency)
        self.recent.add(latency)

    def log_progress(self, pipeline: StagePipeline) -> None:
        """Log a line about once a second."""
        seconds = perf_counter() - self.start
        last_seconds, last_frames = self.last_line
        if seconds - last_seconds < _LOG_INTERVAL_S:
            return
        latency = _format_latency(*(1000 * self.recent.percentile(share) for share in (50, 99)))
        fps = (self.frames - last_frames) / (seconds - last_seconds)
        self.log(
            f"{seconds:.0f} s: {fps:.1f} frames a second, latency {latency}; "
            f"{sum(pipeline.dropped.values())} dropped, {self.cast.without_face} without a face"
        )
        self.last_line, self.recent = (seconds, self.frames), LatencyHistogram()

    def summary(self, duration: float) -> dict[str, Any]:
        """Return fields of a `LiveReport` for a run of `duration` seconds."""
        return {
            "frames": self.frames,
            "without_face": self.cast.without_face,
            "fps": self.frames / duration,
            "latency_p50": 1000 * self.all.percentile(50),
            "latency_p99": 1000 * self.all.percentile(99),
        }
