"""A person driven while the driver moves: frames come, landmarks are found, the person is rendered and shown, each in a thread of its own.

Between two threads one frame waits at most; when a newer one comes first, it is dropped and counted, so what is shown is never older than
the stages are slow. What is measured goes into a histogram: nothing grows with time.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .animate import SYNTHESISED
from .checkpoint import Person
from .data.outputs import check_outputs
from .engines.engine import Engine
from .engines.line import Line
from .errors import TalkingheadError
from .interrupt import interruptible, stop_flag
from .landmarks.detect import open_detector
from .landmarks.face import Detector
from .landmarks.live_points import LivePoints
from .media.camera import Shot, Source, open_source
from .media.sinks import Sink, open_sink
from .torch_state import with_default_torch_state

_POLL = 0.05  # seconds after which a window is looked at, though no frame came
_GRACE = 5.0  # seconds that frames on their way are waited for after the end was asked for
_TELL = 1.0  # seconds between two lines
_LEAST, _STEP, _BINS = 1e-4, 1.02, 700  # seconds; up to 100 s, told apart to 2%


class Latencies:
    """Times of which percentiles are asked, in memory that does not grow: right to 1%, between 0.1 ms and 100 s."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)

    def add(self, seconds: float) -> None:
        """Take one in."""
        place = int(np.log(max(seconds, _LEAST) / _LEAST) / np.log(_STEP))
        self._counts[min(place, _BINS - 1)] += 1

    def percentile(self, share: float) -> float:
        """The seconds that so many percent do not exceed; 0 when there are none."""
        total = int(self._counts.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._counts), max(1.0, total * share / 100)))
        return float(_LEAST * _STEP ** (place + 0.5))


@dataclass(frozen=True)
class LiveReport:
    """What `run_live` did.

    Attributes:
        source, sink: their names.
        ended: why: "source" (no more frames), "seconds" (as many as asked for), "closed" (the window was), "interrupted" (Ctrl-C).
        captured: frames that came from the source.
        frames: how many were shown.
        without_face: frames looked at that show no face; the person stayed as before.
        dropped: by the stage they waited for when a newer frame came: "landmarks", "render", "sink".
        retargeted: whether the person's own proportions were kept.
        fps: frames shown per second.
        latency_p50, latency_p99: ms from when a frame was taken to when it was shown, of half and of 99% of the frames.
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
        """As JSON may hold it."""
        return asdict(self) | {name: round(getattr(self, name), 2) for name in ("fps", "latency_p50", "latency_p99", "seconds")}

    def lines(self) -> list[str]:
        """For people."""
        height, width = self.size
        lines = [
            f"{self.sink}: {self.frames} frames of {width}x{height} shown in {self.seconds:.1f} s, {self.fps:.1f} a second",
            f"from {self.source} to there: {self.latency_p50:.0f} ms (p50), {self.latency_p99:.0f} ms (p99)",
        ]
        if sum(self.dropped.values()):
            where = ", ".join(f"{count} before {name}" for name, count in self.dropped.items() if count)
            lines.append(f"{sum(self.dropped.values())} of {self.captured} frames came too soon after others and were dropped: {where}")
        if self.without_face:
            lines.append(f"{self.without_face} frames show no face; the person stayed as before")
        return lines + ["interrupted"] * (self.ended == "interrupted")


@dataclass
class _Meter:
    """What was shown so far, and since the last line."""

    tell: Callable[[str], None]
    start: float = field(default_factory=perf_counter)
    frames: int = 0
    all: Latencies = field(default_factory=Latencies)
    recent: Latencies = field(default_factory=Latencies)
    told: tuple[float, int] = (0.0, 0)

    def shown(self, latency: float) -> None:
        self.frames += 1
        self.all.add(latency)
        self.recent.add(latency)

    def line(self, line: Line, points: LivePoints) -> None:
        """Say how it goes, about once a second."""
        seconds = perf_counter() - self.start
        since, before = self.told
        if seconds - since < _TELL:
            return
        p50, p99 = (1000 * self.recent.percentile(share) for share in (50, 99))
        fps = (self.frames - before) / (seconds - since)
        self.tell(
            f"{seconds:.0f} s: {fps:.1f} frames a second, {p50:.0f} ms (p50), {p99:.0f} ms (p99); "
            f"{sum(line.dropped.values())} dropped, {points.without_face} without a face"
        )
        self.told, self.recent = (seconds, self.frames), Latencies()


@with_default_torch_state
def run_live(
    person: Person,
    engine: Engine,
    source: str | Path,
    sink: str | Path = "window",
    detector: Detector | None = None,
    retarget: bool = True,
    pace: bool = True,
    seconds: float | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> LiveReport:
    """Show `person` doing what the face that `source` sees does, until it ends, a window is closed, or Ctrl-C.

    To be called in the main thread, which shows the frames.

    Args:
        person: whom to show; of it the face at rest is used.
        engine: renders the person.
        source: "webcam", "webcam:1", "/dev/video1" or a video file.
        sink: "window", "v4l2", "v4l2:/dev/video2", or a file that ends in .mp4, which plays in real time, says that it is synthesised, and
            is there when the loop ends well, Ctrl-C included; until then it is NAME.part.mp4, which plays at any time.
        detector: finds the landmarks; by default the best that is installed.
        retarget: keep the person's own proportions; otherwise the driver's landmarks are scaled and shifted alone.
        pace: a video file plays in real time; otherwise as fast as it goes, and nothing is dropped.
        seconds: of the source, after which to end.
        tell: is given a line about once a second.

    Raises:
        TalkingheadError: a source or sink that is not there or goes away, or the sink is the source. Whatever else a stage raises ends the
            loop and is raised here.
    """
    check_outputs([sink], [source])
    detector = detector or open_detector()
    points = LivePoints(detector, person.reference, retarget)
    size = (engine.size, engine.size)
    engine.run(np.array(person.reference, dtype=np.float32)[None])  # what is only done once is done before the first frame comes

    def find(shot: Shot) -> tuple[Shot, np.ndarray]:
        return shot, points(shot.picture, shot.t)

    def render(found: tuple[Shot, np.ndarray]) -> tuple[Shot, np.ndarray]:
        return found[0], engine.run(found[1][None])[0]

    with stop_flag() as stopped, ExitStack() as stack:  # until the sink is closed: a video is then whole
        with interruptible():
            frames = stack.enter_context(closing(open_source(source, pace)))
            shown = stack.enter_context(open_sink(sink, frames.fps, size, {"comment": SYNTHESISED}))
        given = _UpTo(frames, seconds)
        line = stack.enter_context(Line(given, {"landmarks": find, "render": render}, "sink", frames.waits))
        stack.enter_context(closing(frames))  # before the line is left, or a thread may wait for the next frame
        meter = _Meter(tell)
        ended = _show(line, frames, shown, stopped, meter, points)
        lasted = perf_counter() - meter.start
    return LiveReport(
        source=frames.name,
        sink=str(sink),
        ended="seconds" if given.enough and ended == "source" else ended,
        captured=line.given,
        frames=meter.frames,
        without_face=points.without_face,
        dropped=line.dropped,
        retargeted=retarget,
        fps=meter.frames / lasted,
        latency_p50=1000 * meter.all.percentile(50),
        latency_p99=1000 * meter.all.percentile(99),
        size=size,
        seconds=lasted,
    )


def _show(line: Line, source: Source, sink: Sink, stopped: Callable[[], bool], meter: _Meter, points: LivePoints) -> str:
    """Show what comes out of the line until the end, and say what that was."""
    ended, until = "source", np.inf
    while not line.is_over() and perf_counter() < until:
        item = line.get(_POLL)
        if item is not None:
            shot, picture = item
            sink.show(picture, shot.t)
            meter.shown(perf_counter() - shot.taken)
        if not sink.is_open():
            return "closed"
        meter.line(line, points)
        if stopped() and ended == "source":
            ended, until = "interrupted", perf_counter() + _GRACE
            line.stop()
        elif ended == "source" and line.silent > source.patience:
            raise TalkingheadError(
                f"{source.name}: no frame came for {source.patience:g} seconds; look whether it is broken or used elsewhere"
            )
    return ended


class _UpTo:
    """The frames of a source, up to so many seconds."""

    def __init__(self, source: Source, seconds: float | None) -> None:
        self._source, self._seconds, self.enough = source, seconds, False

    def __iter__(self) -> Iterator[Shot]:
        for shot in self._source:
            if self._seconds is not None and shot.t >= self._seconds:
                self.enough = True
                return
            yield shot
