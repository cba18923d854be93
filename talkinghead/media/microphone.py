"""Sound of a microphone, kept for some seconds and written to a recording in step with its frames."""

import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from fractions import Fraction
from time import perf_counter
from typing import Any

import numpy as np

from ..errors import TalkingheadError
from .pyav import av
from .recording import SoundSource
from .video import SoundWriter

RATE = 48_000
"""Samples a second that are kept, of one channel."""
_KEPT_S = 10  # of sound in memory
_MAX_GAP_S = 1.0  # between the clocks, above which sound is missing and not merely late
_SMOOTHING = 0.02  # share of a piece in the mean difference between the clocks, which hides how late it was
_DRIFT_GAIN = 0.002  # share of that difference that a piece of sound makes up for
_MAX_STRETCH = 0.005  # of a piece, which nobody hears
_FINISH_S = 0.5  # that the last sound may take to arrive
_INPUTS = {
    "linux": ("alsa", "{}", "default"),
    "darwin": ("avfoundation", ":{}", "0"),
    "win32": ("dshow", "audio={}", "default"),
}
"""Platform -> libav's input format, its name of a microphone, and the default one."""


class SoundBuffer:
    """The last seconds of sound, placed on the clock of `time.perf_counter`.

    A sound card counts its samples by a clock of its own, and they arrive in pieces with some delay. Each
    piece is placed after the one before, and stretched a little where the two clocks drift apart.
    """

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, np.ndarray]] = deque()  # position of the first sample, samples
        self._end = 0  # position after the last sample
        self._difference = self._owed = 0.0  # samples by which the clocks differ, and to be made up for
        self._lock = threading.Lock()

    @property
    def end(self) -> float:
        """Return the time up to which there is sound; 0 before the first piece."""
        return self._end / RATE

    def add(self, samples: np.ndarray, arrived_at: float) -> None:
        """Add a piece of sound, float32 [n], whose last sample arrived at a time."""
        arrived = round(arrived_at * RATE)
        difference = arrived - (self._end + len(samples))
        with self._lock:
            if not self._pieces or abs(difference) > _MAX_GAP_S * RATE:
                # never before what is there: the sound that overlaps it is left out
                start = max(arrived - len(samples), self._end)
                samples = samples[max(0, start - (arrived - len(samples))) :]
                self._difference = self._owed = 0.0
            else:
                start = self._end
                samples = self._follow_clock(samples, difference)
            if not len(samples):
                return
            self._pieces.append((start, samples))
            self._end = start + len(samples)
            while self._pieces[0][0] + len(self._pieces[0][1]) < self._end - _KEPT_S * RATE:
                self._pieces.popleft()

    def _follow_clock(self, samples: np.ndarray, difference: int) -> np.ndarray:
        """Return a piece stretched by what is owed to the clock, which it was late by a difference."""
        self._difference += _SMOOTHING * (difference - self._difference)
        self._owed += _DRIFT_GAIN * self._difference
        limit = int(_MAX_STRETCH * len(samples))
        change = int(np.clip(int(self._owed), -limit, limit))
        self._owed -= change
        return _resample(samples, len(samples) + change)

    def read(self, start: int, end: int) -> np.ndarray:
        """Return the samples of these positions, float32 [end - start]; those not kept are silent."""
        sound = np.zeros(max(0, end - start), np.float32)
        with self._lock:
            pieces = list(self._pieces)
        for position, samples in pieces:
            low, high = max(position, start), min(position + len(samples), end)
            if low < high:
                sound[low - start : high - start] = samples[low - position : high - position]
        return sound


def _resample(samples: np.ndarray, count: int) -> np.ndarray:
    """Return a piece of sound with another number of samples."""
    if count == len(samples):
        return samples
    places = np.linspace(0, len(samples) - 1, count)
    return np.interp(places, np.arange(len(samples)), samples).astype(np.float32)


class Microphone:
    """A microphone that is listened to in a thread, within a `with` block.

    Args:
        name: of the device: of ALSA, such as "default" or "hw:1", on Linux; a number on macOS; a name on
            Windows.

    Raises:
        TalkingheadError: it cannot be opened.
    """

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self._container = _open_microphone(name)
        self._buffer = SoundBuffer()
        self._stopped = threading.Event()
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._listen, name="live microphone", daemon=True)

    def __enter__(self) -> "Microphone":
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stopped.set()
        self._thread.join(2.0)  # a driver that hangs is abandoned
        if not self._thread.is_alive():
            self._container.close()

    def sound_from(self, zero: Callable[[], float]) -> SoundSource:
        """Return the sound for a recording whose time 0 lies at `zero()` of `time.perf_counter`, which is
        asked when the first frame was written.
        """

        def open_track(target: Any, stack: ExitStack) -> SoundWriter:
            return MicrophoneTrack(self, target, zero)

        return open_track

    def sound_until(self, time: float) -> float:
        """Return the time of `time.perf_counter`, at most `time`, up to which the sound is known.

        Raises:
            TalkingheadError: the microphone went away.
        """
        if self._problem is not None:
            raise TalkingheadError(
                f"microphone {self.name}: stopped giving sound ({self._problem}); plug it in again"
            ) from self._problem
        return min(time, self._buffer.end)

    def read(self, start: int, end: int) -> np.ndarray:
        """Return samples float32 [end - start]; positions count RATE a second of `time.perf_counter`."""
        return self._buffer.read(start, end)

    def _listen(self) -> None:
        resampler = av().AudioResampler(format="flt", layout="mono", rate=RATE)
        try:
            for frame in self._container.decode(audio=0):
                if self._stopped.is_set():
                    return
                arrived_at = perf_counter()
                frame.pts = None  # the time follows from the arrival
                for piece in resampler.resample(frame):
                    self._buffer.add(piece.to_ndarray()[0], arrived_at)
        except (av().error.FFmpegError, OSError, ValueError) as error:
            self._problem = error


class MicrophoneTrack:
    """Writer of a microphone's sound to a recording.

    Args:
        microphone: whose sound it is.
        target: the container that receives it, still empty.
        zero: as for `Microphone.sound_from`.
    """

    def __init__(self, microphone: Microphone, target: Any, zero: Callable[[], float]) -> None:
        self._microphone, self._target, self._find_zero = microphone, target, zero
        self._stream = target.add_stream("aac", rate=RATE, layout="mono")
        self._zero: int | None = None
        self._num_written, self._end = 0, 0

    def write_until(self, seconds: Fraction) -> None:
        """Write the sound before a time of the recording, as far as it has arrived.

        Raises:
            TalkingheadError: the microphone went away.
        """
        if self._zero is None:
            self._zero = round(self._find_zero() * RATE)
        self._end = round(seconds * RATE)
        known = round(self._microphone.sound_until((self._zero + self._end) / RATE) * RATE)
        self._write(min(known - self._zero, self._end))

    def finish(self) -> None:
        """Wait a moment for the last sound and write it; what does not come is silence."""
        deadline = perf_counter() + _FINISH_S
        while self._num_written < self._end and perf_counter() < deadline:
            self.write_until(Fraction(self._end, RATE))
            threading.Event().wait(0.02)
        self._write(self._end)
        if self._num_written:
            self._target.mux(self._stream.encode(None))

    def _write(self, end: int) -> None:
        """Write the samples before position `end` of the recording."""
        if self._zero is None or end <= self._num_written:
            return
        samples = self._microphone.read(self._zero + self._num_written, self._zero + end)
        frame = av().AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._num_written, Fraction(1, RATE)
        self._target.mux(self._stream.encode(frame))
        self._num_written = end


def _open_microphone(name: str) -> Any:
    input_format, pattern, default = _INPUTS.get(sys.platform, _INPUTS["linux"])
    try:
        container = av().open(pattern.format(default if name == "default" else name), format=input_format)
    except (av().error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TalkingheadError(
            f"microphone {name}: cannot be opened ({reason}); plug one in, or name another"
        ) from error
    if not container.streams.audio:
        container.close()
        raise TalkingheadError(f"microphone {name}: gives no sound; name another")
    return container
