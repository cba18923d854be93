"""The process of a live window: shows the frames that come on stdin, and writes the keys pressed to stdout.

It is a process of its own, because on Linux OpenCV hangs when it opens a window where PyAV is loaded: each
brings its own copy of libxcb. It is run as a script, and so imports nothing of this package.

stdin: frames of height * width * 3 bytes, BGR. stdout: lines "ready", "error REASON" or "key NUMBER". The
process ends when stdin ends, and when the window is closed, by its button, q or Escape.
"""

import signal
import sys
import threading
from collections import deque
from typing import Any, BinaryIO

import numpy as np

TITLE = "talkinghead"
_SIDE = 512  # longer side of a new window in pixels
_QUIT_KEYS = (ord("q"), 27)  # 27 is Escape
_POLL_MS = 10


class NewestFrame:
    """The newest of the frames that come on a stream, read in a thread.

    Attributes:
        has_ended: whether the stream has.
    """

    def __init__(self, stream: BinaryIO, size: tuple[int, int]) -> None:
        self._stream, self._shape = stream, (*size, 3)
        self._frames: deque[np.ndarray] = deque(maxlen=1)  # a newer one replaces the one that waits
        self.has_ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def take(self) -> np.ndarray | None:
        """Return the newest frame, None when it was taken before."""
        try:
            return self._frames.pop()
        except IndexError:
            return None

    def _read(self) -> None:
        count = int(np.prod(self._shape))
        while len(data := self._stream.read(count)) == count:
            self._frames.append(np.frombuffer(data, np.uint8).reshape(self._shape))
        self.has_ended = True


def answer(line: str) -> None:
    """Write a line to the process that shows the frames."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show_frames(cv2: Any, frames: NewestFrame) -> None:
    """Show frames until they end or the window is closed."""
    has_frame = False
    while not frames.has_ended:
        frame = frames.take()
        if frame is not None:
            cv2.imshow(TITLE, frame)
            has_frame = True
        key = cv2.waitKey(_POLL_MS)
        if key >= 0 and key & 0xFF in _QUIT_KEYS:
            return
        if key >= 0:
            answer(f"key {key & 0xFF}")
        # some windows appear only with the first frame
        if has_frame and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
            return


def main() -> None:
    """Show a window for frames whose height and width are the arguments."""
    height, width = (int(argument) for argument in sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that shows the frames ends this one
    import cv2

    try:
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(TITLE, *(max(side, _SIDE * side // max(height, width)) for side in (width, height)))
    except cv2.error as error:
        answer("error " + " ".join(str(error).split()))
        return
    answer("ready")
    show_frames(cv2, NewestFrame(sys.stdin.buffer, (height, width)))
    cv2.destroyAllWindows()


if __name__ == "__main__":
    main()
