"""Live driving of a person: capture, detection of landmarks, rendering and display, each in its own thread.

At most one frame waits between two threads; when a newer frame arrives, the waiting one is dropped and
counted, so that latency is bounded by the time of the stages. Latencies go into a histogram, in constant
memory.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

import numpy as np
import torch

from ..checkpoint import load_person
from ..data.output_paths import check_outputs
from ..engines.base import Engine
from ..errors import TalkingheadError, check_whole_number
from ..landmarks.detector import Detector
from ..landmarks.open_detector import resolve_detector
from ..media.audio import SoundTrack
from ..media.frame_sink import Sink, open_sink
from ..media.frame_source import FrameSource, SourceFrame, open_source
from ..media.microphone import Microphone
from ..media.recording import SoundSource
from ..model import Person
from ..system.signals import graceful_shutdown, interruptible
from ..system.stage_pipeline import StagePipeline
from ..system.torch_state import with_default_torch_state
from .animate import SYNTHESISED, check_retarget
from .live_controls import LiveControls, LiveRecorder
from .live_person import LiveCast, LivePerson
from .live_report import LiveReport, LiveStats

LivePeople: TypeAlias = "Person | str | os.PathLike[str] | Sequence[Person | str | os.PathLike[str]]"
"""One person or several, or their files."""
_POLL_S = 0.05  # after which a window is polled, though no frame came
_GRACE_S = 5.0  # for frames on their way after the end was asked for


def _ignore_line(text: str) -> None:
    """Do nothing with a line of the log."""


@with_default_torch_state
def live(
    person: LivePeople,
    source: str | Path = "webcam",
    sink: str | Path = "window",
    *,
    engine: Engine | None = None,
    detector: Detector | str | None = None,
    retarget: str = "auto",
    face: int = 1,
    realtime: bool = True,
    seconds: float | None = None,
    microphone: str | None = None,
    precision: str = "auto",
    device: str | torch.device = "auto",
    fast: bool = False,
    log: Callable[[str], None] | None = None,
) -> LiveReport:
    """Show `person` doing what the face in `source` does, until it ends, a window is closed, or Ctrl-C.

    Call it in the main thread. Keys of a window: `talkinghead.pipelines.live_controls.KEYS`.

    Args:
        person: whom to show, or the person's file; several take turns by a key.
        source: "webcam", "webcam:1", "/dev/video1" or a video file.
        sink: "window", "v4l2", "v4l2:/dev/video2", or a file that ends in .mp4, which plays in real time,
            says that it is synthesised, has the sound of a video source or of the microphone, and is there
            when the loop ends well, Ctrl-C included; until then it is NAME.part.mp4, which plays at any time.
        engine: renders the person, from `talkinghead.open_engine`; by default torch does.
        detector: finds the landmarks, or its name; by default the networks that ship.
        retarget: "on" keeps the person's own proportions; "off" takes the driver's landmarks as they are,
            scaled and shifted; "auto" is on, since nobody is compared while the time runs.
        face: which of several faces drives, 1 being the largest when it is found.
        realtime: a video file plays in real time; otherwise as fast as it goes, and nothing is dropped.
        seconds: of the source, after which to end.
        microphone: name of the one whose sound videos get, such as "default"; by default they have none.
        precision, device, fast: as for `talkinghead.animate`, without an engine.
        log: is called with a line about once a second, such as `print`; by default nothing is.

    Raises:
        TalkingheadError: an argument is unknown; a source, sink or microphone is not there or goes away, or
            the sink is the source. Whatever else a stage raises ends the loop and is raised here.
    """
    check_outputs([sink], [source])
    check_retarget(retarget)
    check_whole_number("face", face, minimum=1, example=1)
    people = _load_people(person)
    if engine is not None and len(people) > 1:
        raise TalkingheadError("engine: renders one person, and several were given; give one, or no engine")
    prepare = partial(
        LivePerson,
        engine=engine,
        detector=resolve_detector(detector),
        retarget=retarget,
        face=face,
        precision=precision,
        device=device,
        fast=fast,
    )
    run = partial(_run, realtime=realtime, seconds=seconds, microphone=microphone, log=log or _ignore_line)
    return run(LiveCast([prepare(one) for one in people]), source, sink)


def _load_people(person: LivePeople) -> list[Person]:
    """Return one or several people, loaded.

    Raises:
        TalkingheadError: there are none, or one cannot be loaded.
    """
    several = [person] if isinstance(person, (Person, str, os.PathLike)) else list(person)
    if not several:
        raise TalkingheadError("person: none was given; give at least one")
    return [one if isinstance(one, Person) else load_person(one) for one in several]


def _run(
    cast: LiveCast,
    source: str | Path,
    sink: str | Path,
    *,
    realtime: bool,
    seconds: float | None,
    microphone: str | None,
    log: Callable[[str], None],
) -> LiveReport:
    """Run the stages until the end; arguments as for `live`."""
    size = (cast.size, cast.size)
    stats = LiveStats(log, cast)
    with graceful_shutdown() as stopped, ExitStack() as stack:  # until the sink is closed: a complete video
        with interruptible():
            frames = stack.enter_context(closing(open_source(source, realtime)))
            listener = None if microphone is None else stack.enter_context(Microphone(microphone))
            sound = _sound_of_sink(frames, listener, stats)
            metadata = {"comment": SYNTHESISED}
            opened_sink = stack.enter_context(open_sink(sink, frames.fps, size, metadata, sound=sound))
        recorder = LiveRecorder(frames.fps, size, listener, log)
        stack.enter_context(closing(recorder))
        controls = LiveControls(cast, recorder, log)
        limited = TimeLimitedSource(frames, seconds)
        pipeline = stack.enter_context(StagePipeline(limited, cast.stages, "sink", frames.is_blocking))
        # Close the source before the pipeline, or a thread may wait for the next frame.
        stack.enter_context(closing(frames))
        stats.restart()
        ended = _show(pipeline, frames, opened_sink, stopped=stopped, stats=stats, controls=controls)
        duration = perf_counter() - stats.start
    return LiveReport(
        source=frames.name,
        sink=str(sink),
        ended="seconds" if limited.reached_limit and ended == "source" else ended,
        captured=pipeline.input_count,
        dropped=pipeline.dropped,
        retargeted=cast.keeps_proportions,
        size=size,
        seconds=duration,
        **stats.summary(duration),
    )


def _sound_of_sink(frames: FrameSource, listener: Microphone | None, stats: LiveStats) -> SoundSource | None:
    """Return the sound of the sink: of the microphone, else of the source's file, else none."""
    if listener is not None:
        return listener.sound_from(stats.source_start)
    return None if frames.sound_file is None else partial(SoundTrack.open, frames.sound_file)


def _show(
    pipeline: StagePipeline,
    source: FrameSource,
    sink: Sink,
    *,
    stopped: Callable[[], bool],
    stats: LiveStats,
    controls: LiveControls,
) -> str:
    """Show frames as they come out of the pipeline; return why it ended."""
    ended, deadline = "source", np.inf
    while not pipeline.is_over() and perf_counter() < deadline:
        item = pipeline.get(_POLL_S)
        if item is not None:
            source_frame, frame = item
            stats.see(source_frame)
            sink.show(frame, source_frame.t)
            stats.add(perf_counter() - source_frame.captured_at)
            controls.record(frame, source_frame)
        if not sink.is_open():
            return "closed"
        controls.press(sink.read_keys())
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
