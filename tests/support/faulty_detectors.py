"""Detectors that fail on videos of certain shades, in a module that worker processes can import."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conftest import RedSquare
from talkinghead.landmarks.detector import Face

FAILS = {1: "crash", 3: "exit", 5: "hang", 7: "raise"}
"""Shade of a video from `draw_video` -> kind of failure."""

DOOMED = "TALKINGHEAD_TEST_DOOMED_NODE"
"""Variable of the processes of a node that is killed."""
MAX_WAIT_S = 60.0


def shade_of(frame: np.ndarray) -> int:
    return round((float(frame[:4, :4].mean()) - 60) / 3)


class Failing(RedSquare):
    """A detector that crashes, exits, hangs or raises on the shades of `FAILS`."""

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        failure = FAILS.get(shade_of(frames[0]))
        if failure == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif failure == "exit":
            os._exit(3)
        elif failure == "hang":
            time.sleep(600)
        elif failure == "raise":
            raise IndexError("of a library")
        return super().find(frames)


class Unused(RedSquare):
    """A detector that must not be called."""

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        raise AssertionError("a video that is known was looked at again")


class Slow(RedSquare):
    """A slow detector, so that a run can be interrupted."""

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        time.sleep(0.2)
        return super().find(frames)


class Pair(RedSquare):
    """A detector that finds a second face of equal size to the right of every square."""

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [
            [*faces, *(Face(face.landmarks + [70, 0], 1.0) for face in faces)]
            for faces in super().find(frames)
        ]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        moved = 70 * (near[4, 0] > 110)
        return [Face(face.landmarks + [moved, 0], 1.0) for face in super().follow(frames, near - [moved, 0])]


class Doomed(RedSquare):
    """Detector that waits for the end of its node on some video, and elsewhere until that video is begun.

    Args:
        mark: file that says that the video is begun, with the number of the process.
    """

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        if shade_of(frames[0]) >= 2:
            if os.environ.get(DOOMED):
                temp = self._mark.with_suffix(".new")
                temp.write_text(str(os.getpid()))
                temp.rename(self._mark)
                time.sleep(MAX_WAIT_S)
            wait_for(self._mark)
        return super().find(frames)


def wait_for(path: Path) -> None:
    """Wait until a file is there, for `MAX_WAIT_S` at most."""
    end = time.monotonic() + MAX_WAIT_S
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
