"""Live driving of a person: capture, detection of landmarks, rendering and display, each in its own thread.

At most one frame waits between two threads; when a newer frame arrives, the waiting one is dropped and
counted, so that latency is bounded by the time of the stages. Latencies go into a histogram, in constant
memory.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ..checkpoint import load_person
from ..data.output_paths import check_outputs
from ..engines.base import Engine
from ..errors import TalkingheadError, quantity
from ..landmarks.detector import Detector
from ..landmarks.online import OnlineRetargeter
from ..media.frame_sink import Sink, open_sink
from ..media.frame_source import FrameSource, SourceFrame, open_source
from ..model import Person
from ..system.signals import graceful_shutdown, interruptible
from ..system.stage_pipeline import StagePipeline
from ..system.torch_state import with_default_torch_state
from .animate import SYNTHESISED, check_retarget
from .live_person import LivePerson

_POLL_S = 0.05  # after which a window is polled, though no frame came
_GRACE_S = 5.0  # for frames on their way after the end was asked for
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


def _ignore_line(text: str) -> None:
    """Do nothing with a line of the log."""


def _format_latency(p50: float, p99: float) -> str:
    """Format milliseconds that half and 99% of the frames do not exceed."""
    return f"{p50:.0f} ms (median), {p99:.0f} ms (99% of the frames)"


@dataclass
class LiveStats:
    """Counts and latencies of the frames shown since the start and since the last line of the log.

    Attributes:
        log: is called with a line of text.
        retargeter: counts the frames without a face.
        start: `perf_counter` at the start.
        frames: how many were shown.
        all, recent: latencies since the start, since the last line.
        last_line: seconds since the start and frames shown when the last line was logged.
    """

    log: Callable[[str], None]
    retargeter: OnlineRetargeter
    start: float = field(default_factory=perf_counter)
    frames: int = 0
    all: LatencyHistogram = field(default_factory=LatencyHistogram)
    recent: LatencyHistogram = field(default_factory=LatencyHistogram)
    last_line: tuple[float, int] = (0.0, 0)

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
            f"{sum(pipeline.dropped.values())} dropped, {self.retargeter.without_face} without a face"
        )
        self.last_line, self.recent = (seconds, self.frames), LatencyHistogram()

    def summary(self, duration: float) -> dict[str, Any]:
        """Return fields of a `LiveReport` for a run of `duration` seconds."""
        return {
            "frames": self.frames,
            "without_face": self.retargeter.without_face,
            "fps": self.frames / duration,
            "latency_p50": 1000 * self.all.percentile(50),
            "latency_p99": 1000 * self.all.percentile(99),
        }


@with_default_torch_state
def live(
    person: Person | str | os.PathLike[str],
    source: str | Path = "webcam",
    sink: str | Path = "window",
    *,
    engine: Engine | None = None,
    detector: Detector | str | None = None,
    retarget: str = "auto",
    realtime: bool = True,
    seconds: float | None = None,
    precision: str = "auto",
    device: str | torch.device = "auto",
    fast: bool = False,
    log: Callable[[str], None] | None = None,
) -> LiveReport:
    """Show `person` doing what the face in `source` does, until it ends, a window is closed, or Ctrl-C.

    Call it in the main thread, which shows the frames.

    Args:
        person: whom to show, or the person's file.
        source: "webcam", "webcam:1", "/dev/video1" or a video file.
        sink: "window", "v4l2", "v4l2:/dev/video2", or a file that ends in .mp4, which plays in real time,
            says that it is synthesised, and is there when the loop ends well, Ctrl-C included; until then it
            is NAME.part.mp4, which plays at any time.
        engine: renders the person, from `talkinghead.open_engine`; by default torch does.
        detector: finds the landmarks, or its name; by default the networks that ship.
        retarget: "on" keeps the person's own proportions; "off" takes the driver's landmarks as they are,
            scaled and shifted; "auto" is on, since nobody is compared while the time runs.
        realtime: a video file plays in real time; otherwise as fast as it goes, and nothing is dropped.
        seconds: of the source, after which to end.
        precision, device, fast: as for `talkinghead.animate`, without an engine.
        log: is called with a line about once a second, such as `print`; by default nothing is.

    Raises:
        TalkingheadError: an argument is unknown; a source or sink is not there or goes away, or the sink is
            the source. Whatever else a stage raises ends the loop and is raised here.
    """
    check_outputs([sink], [source])
    check_retarget(retarget)
    if not isinstance(person, Person):
        person = load_person(person)
    live_person = LivePerson(
        person,
        engine=engine,
        detector=detector,
        retarget=retarget,
        precision=precision,
        device=device,
        fast=fast,
    )
    return _run(live_person, source, sink, realtime=realtime, seconds=seconds, log=log or _ignore_line)


def _run(
    live_person: LivePerson,
    source: str | Path,
    sink: str | Path,
    *,
    realtime: bool,
    seconds: float | None,
    log: Callable[[str], None],
) -> LiveReport:
    """Run the stages until the end; arguments as for `live`."""
    size, retargeter = (live_person.size, live_person.size), live_person.retargeter
    with graceful_shutdown() as stopped, ExitStack() as stack:  # until the sink is closed: a complete video
        with interruptible():
            frames = stack.enter_context(closing(open_source(source, realtime)))
            opened_sink = stack.enter_context(open_sink(sink, frames.fps, size, {"comment": SYNTHESISED}))
        limited = TimeLimitedSource(frames, seconds)
        pipeline = stack.enter_context(StagePipeline(limited, live_person.stages, "sink", frames.is_blocking))
        # Close the source before the pipeline, or a thread may wait for the next frame.
        stack.enter_context(closing(frames))
        stats = LiveStats(log, retargeter)
        ended = _show(pipeline, frames, opened_sink, stopped=stopped, stats=stats)
        duration = perf_counter() - stats.start
    return LiveReport(
        source=frames.name,
        sink=str(sink),
        ended="seconds" if limited.reached_limit and ended == "source" else ended,
        captured=pipeline.input_count,
        dropped=pipeline.dropped,
        retargeted=retargeter.keeps_proportions,
        size=size,
        seconds=duration,
        **stats.summary(duration),
    )


def _show(
    pipeline: StagePipeline, source: FrameSource, sink: Sink, *, stopped: Callable[[], bool], stats: LiveStats
) -> str:
    """Show frames as they come out of the pipeline; return why it ended."""
    ended, deadline = "source", np.inf
    while not pipeline.is_over() and perf_counter() < deadline:
        item = pipeline.get(_POLL_S)
        if item is not None:
            source_frame, frame = item
            sink.show(frame, source_frame.t)
            stats.add(perf_counter() - source_frame.captured_at)
        if not sink.is_open():
            return "closed"
        stats.log_progress(pipeline)
        if stopped() and ended == "source":
            ended, deadline = "interrupted", perf_counter() + _GRACE_S
            pipeline.stop()
        elif ended == "source" and pipeline.seconds_since_input > source.timeout_s:
            raise TalkingheadError(
                f"{source.name}: no frame came for {source.timeout_s:g} seconds; look whether it is broken "
                "or used elsewhere"
            )
    return ended


class TimeLimitedSource:
    """Frames of a source up to a number of seconds.

    Attributes:
        reached_limit: whether it ended because of the limit.
    """

    def __init__(self, source: FrameSource, seconds: float | None) -> None:
        self._source, self._seconds, self.reached_limit = source, seconds, False

    def __iter__(self) -> Iterator[SourceFrame]:
        for source_frame in self._source:
            if self._seconds is not None and source_frame.t >= self._seconds:
                self.reached_limit = True
                return
            yield source_frame
