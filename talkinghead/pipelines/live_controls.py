"""Controls of live driving by the keys of its window: mirror, centre, pause, record, next person."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..media.frame_sink import Sink, open_sink
from ..media.frame_source import SourceFrame
from ..media.microphone import Microphone
from .animate import SYNTHESISED
from .live_person import LiveCast

KEYS = {
    "q": "quit",
    "m": "mirror",
    "c": "centre: the face is at rest now",
    "space": "pause",
    "r": "record, and end the recording",
    "n": "next person",
}
"""Key -> what it does. The window itself quits, by Escape too."""


class LiveRecorder:
    """Recordings that are started and ended while frames are shown, each in a file of its own in the current
    folder.

    Args:
        fps: frames per second.
        size: (height, width) of the frames in pixels.
        listener: the microphone whose sound recordings get; None for silence.
        log: is called with a line of text.
    """

    def __init__(
        self, fps: Fraction, size: tuple[int, int], listener: Microphone | None, log: Callable[[str], None]
    ) -> None:
        self._fps, self._size, self._listener, self._log = fps, size, listener, log
        self._stack = ExitStack()
        self._sink: Sink | None = None
        self._path = Path()
        self._first: SourceFrame | None = None

    def toggle(self) -> None:
        """Start a recording, or end the one that runs.

        Raises:
            TalkingheadError: the file cannot be written.
        """
        if self._sink is not None:
            self.close()
            return
        self._path, self._first = _unused_path(), None
        sound = None if self._listener is None else self._listener.sound_from(self._start)
        self._sink = self._stack.enter_context(
            open_sink(self._path, self._fps, self._size, {"comment": SYNTHESISED}, sound=sound)
        )
        self._log(f"{self._path}: recording; r ends it")

    def record(self, image: np.ndarray, frame: SourceFrame) -> None:
        """Add what was shown for a frame of the source, while a recording runs."""
        if self._sink is None:
            return
        self._first = self._first or frame
        self._sink.show(image, frame.t - self._first.t)

    def close(self) -> None:
        """End the recording that runs, if one does; one without frames leaves no file.

        Raises:
            TalkingheadError: the file cannot be written.
        """
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if self._first is None:
            self._stack.pop_all().__exit__(_NoFramesError, _NoFramesError(), None)
            return
        self._stack.close()
        self._log(f"{self._path}: recorded")

    def _start(self) -> float:
        return 0.0 if self._first is None else self._first.captured_at


class _NoFramesError(Exception):
    """A recording ended before its first frame."""


class LiveControls:
    """Controls of live driving by the keys of a window.

    Args:
        cast: the people.
        recorder: of what is shown.
        log: is called with a line of text for every key that did something.
    """

    def __init__(self, cast: LiveCast, recorder: LiveRecorder, log: Callable[[str], None]) -> None:
        self._cast, self._recorder, self._log = cast, recorder, log
        self._actions: dict[str, Callable[[], None]] = {
            "m": self._mirror,
            "c": self._centre,
            " ": self._pause,
            "r": recorder.toggle,
            "n": self._next,
        }

    def press(self, keys: str) -> None:
        """Do what some keys do; those without a meaning do nothing."""
        for key in keys.lower():
            if key in self._actions:
                self._actions[key]()

    def record(self, image: np.ndarray, frame: SourceFrame) -> None:
        """Record what was shown for a frame of the source, while a recording runs."""
        self._recorder.record(image, frame)

    def _mirror(self) -> None:
        self._cast.mirror()
        self._log("mirrored" if self._cast.is_mirrored else "not mirrored")

    def _centre(self) -> None:
        self._cast.centre()
        self._log("centred: the face is at rest now")

    def _pause(self) -> None:
        self._cast.is_paused = not self._cast.is_paused
        self._log("paused; space goes on" if self._cast.is_paused else "going on")

    def _next(self) -> None:
        self._log(f"person {self._cast.show_next() + 1}")


def _unused_path() -> Path:
    """Return a name for a recording in the current folder, after the time."""
    stem = f"talkinghead_{datetime.now():%Y%m%d_%H%M%S}"
    number, path = 1, Path(f"{stem}.mp4")
    while path.exists():
        number += 1
        path = Path(f"{stem}_{number}.mp4")
    return path
