"""Window of live frames: the side of the process that makes the frames (`window_process` is the other)."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from ..errors import TalkingheadError, require

_PROGRAM = Path(__file__).with_name("window_process.py")
_START_S = 30.0  # that a display may take to open a window
_END_S = 2.0
_SINKS = "name an .mp4 or v4l2 as the sink"


class Window:
    """Window that shows the newest frame. Its close button, q or Escape closes it.

    Args:
        size: (height, width) of the frames in pixels.

    Raises:
        TalkingheadError: OpenCV is not installed, or cannot open a window on this display.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        if importlib.util.find_spec("cv2") is None:
            require("cv2", "live")
        self._keys: deque[str] = deque()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        command = [sys.executable, str(_PROGRAM), *map(str, size)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors)
        self._answered, self._problem = threading.Event(), ""
        self._is_open = False
        threading.Thread(target=self._listen, name="live window", daemon=True).start()
        answered_in_time = self._answered.wait(_START_S)
        if not self._is_open:
            problem = self._problem or self._display_problem(answered_in_time)
            self.close()
            raise TalkingheadError(problem)

    def show(self, image: np.ndarray, t: float) -> None:
        """See `Sink`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(image[..., ::-1]).data)
            self._process.stdin.flush()
        except OSError:  # it was closed in the meantime
            self._is_open = False

    def is_open(self) -> bool:
        """See `Sink`."""
        return self._is_open

    def read_keys(self) -> str:
        """See `Sink`."""
        return "".join(self._keys.popleft() for _ in range(len(self._keys)))

    def close(self) -> None:
        """Close the window and end its process."""
        assert self._process.stdin is not None
        with suppress(OSError):  # the process is gone, and bytes are left
            self._process.stdin.close()
        self._errors.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        """Take the answers of the process until it ends."""
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                kind, _, value = line.decode(errors="replace").strip().partition(" ")
                if kind == "ready":
                    self._is_open = True
                elif kind == "key":
                    self._keys.append(chr(int(value)))
                else:
                    self._problem = (
                        f"window: OpenCV cannot open one ({value[:160]}), expected a display and a build "
                        f"that can; pip install opencv-python (without -headless), or {_SINKS}"
                    )
                self._answered.set()
        self._is_open = False
        self._answered.set()

    def _display_problem(self, answered_in_time: bool) -> str:
        """Return why the process opened no window."""
        if answered_in_time:
            code = self._process.wait(_END_S)
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            reason = next((line for line in lines if "display" in line), lines[-1] if lines else ended)[:160]
        else:
            reason = f"it did not answer in {_START_S:g} seconds"
        return f"window: the display cannot be used ({reason}), expected a desktop; {_SINKS}"


@contextmanager
def open_window(size: tuple[int, int]) -> Iterator[Window]:
    """Open a window for frames of a (height, width) for the duration of the block.

    Raises:
        TalkingheadError: OpenCV is not installed, or there is no display.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise TalkingheadError(
            f"window: there is no display (DISPLAY is not set), expected a desktop; {_SINKS}"
        )
    window = Window(size)
    try:
        yield window
    finally:
        window.close()
