"""Detectors that fail on videos of certain shades, in a module that worker processes can import."""

import os
import signal
import time
from collections.abc import Sequence

import numpy as np

from conftest import RedSquare
from talkinghead.landmarks.detector import Face

FAILS = {1: "crash", 3: "exit", 5: "hang", 7: "raise"}
"""Shade of a video from `draw_video` -> kind of failure."""


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
