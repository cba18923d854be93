"""Time stamps of a video's frames -> pictures at a constant rate."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_RATES = tuple(
    Fraction(rate) for rate in (*range(1, 11), 12, "25/2", 15, 18, 20, "24000/1001", 24, 25, "30000/1001", 30, 48, 50, "60000/1001", 60)
) + tuple(map(Fraction, (72, 75, 90, 100, 120)))
_USUAL = Fraction(25)  # when nothing sensible is stated
_FASTEST, _HALVED = 120.0, 60.0  # frames a second: above the first, some are left out to come to at most the second
_ABSURD = 480.0  # frames a second that no camera is meant to have
_LONGEST = 60.0  # seconds from one frame to the next
_REPEATS = 100  # pictures for each frame, on average


@dataclass(frozen=True)
class Timing:
    """At which rate a video is read, and which of its frames that takes.

    Attributes:
        fps: pictures per second.
        stamps: int64 [count], rising: the time stamp of the frame that each picture shows; None when every frame is used once.
        note: what the user is to be told about it, "" when there is nothing.
    """

    fps: Fraction
    stamps: np.ndarray | None = None
    note: str = ""


def constant_rate(stamps: np.ndarray, tick: Fraction, stated: Fraction | None, last: int = 0) -> Timing:
    """How to read frames with these time stamps at a constant rate.

    Frames that come at a constant rate are left as they are; up to half an interval more or less does not matter. Otherwise the rate
    is a usual one near the median interval: each frame is shown from the picture nearest to its stamp until the next one's, so pictures
    stay within half an interval of the sound. Above 120 frames a second some are left out, below 1 they are repeated. Stamps that make no
    sense (more than 480 a second, more than 60 seconds apart, pauses of 100 pictures on average) are not followed: every frame is used, at
    the usual rate.

    Args:
        stamps: int64 [N] in units of `tick`, in the order of the file as far as it matters; empty when they are not known.
        tick: seconds.
        stated: the rate that the file states.
        last: how long the last frame is shown, in units of `tick`; 0 when it is not known.
    """
    if len(stamps) < 2:
        if stated is None or 1 <= stated <= _FASTEST:
            return Timing(stated or _USUAL)
        return Timing(_USUAL, None, f"it states {_text(stated)} frames a second, every frame is used, {_text(_USUAL)} a second")
    ordered = np.sort(stamps)
    intervals = np.diff(ordered) * float(tick)
    rate = _rate_of(intervals)
    if rate > _ABSURD or intervals.max() > _LONGEST:
        fps = _nearest(rate) if 1 <= rate <= _FASTEST else _USUAL
        return Timing(fps, None, f"its time stamps make no sense, every frame is used, {_text(fps)} a second")
    steady = _is_steady(ordered, intervals, float(tick))
    if steady:
        rate = len(intervals) / float(intervals.sum())
        if 1 <= rate <= _FASTEST:
            return Timing(_as_stated(stated, rate, float(intervals.sum() / float(tick))))
    if rate > _FASTEST:
        fps = min((each for each in _RATES if 48 <= each <= _HALVED), key=lambda each: (_off_whole(rate / each), -each))
    else:
        fps = _nearest(max(rate, 1.0))
    shown = _schedule(ordered, float(tick * fps), last)
    if len(shown) > _REPEATS * len(stamps):
        return Timing(fps, None, f"its time stamps make no sense, every frame is used, {_text(fps)} a second")
    used = len(np.unique(shown))
    if used == len(shown) == len(stamps):
        return Timing(fps)
    what = f"it has {rate:.3g} frames a second" if steady else "its frame rate varies"
    changes = f"frames repeated: {len(shown) - used}, left out: {len(stamps) - used}"
    return Timing(fps, shown, f"{what}, read at {_text(fps)} a second ({changes})")


def _rate_of(intervals: np.ndarray) -> float:
    """Frames a second, by the intervals that are about as long as the median."""
    median = float(np.sort(intervals)[len(intervals) // 2])
    if median <= 0:
        return math.inf
    return 1 / float(intervals[np.abs(intervals - median) <= 0.2 * median].mean())


def _is_steady(ordered: np.ndarray, intervals: np.ndarray, tick: float) -> bool:
    mean = float(intervals.mean())
    seconds = (ordered - ordered[0]) * tick
    off = np.abs(seconds - mean * np.arange(len(seconds)))
    return bool(off.max() <= mean / 2 and np.abs(intervals - mean).max() <= mean / 2)


def _as_stated(stated: Fraction | None, rate: float, ticks: float) -> Fraction:
    """The stated rate when it is that of frames that last so many ticks together, and otherwise theirs."""
    if stated is not None and abs(stated / rate - 1) <= 0.01 + 2 / ticks:
        return stated
    near = _nearest(rate)
    return near if abs(near / rate - 1) <= 0.005 + 1 / ticks else Fraction(rate).limit_denominator(1001)


def _schedule(ordered: np.ndarray, pictures_per_tick: float, last: int) -> np.ndarray:
    """The stamp that each picture shows, int64."""
    places = (ordered - ordered[0]) * pictures_per_tick
    slots = np.floor(places + 0.5).astype(np.int64)
    end = max(slots[-1] + 1, round((ordered[-1] + last - ordered[0]) * pictures_per_tick))
    shown = np.searchsorted(slots, np.arange(end), side="right") - 1
    # of the frames at one place the nearest to it
    order = np.lexsort((np.abs(places - slots), slots))
    taken, first = np.unique(slots[order], return_index=True)
    shown[taken] = order[first]
    return ordered[shown]


def _nearest(rate: float) -> Fraction:
    return min(_RATES, key=lambda each: abs(math.log(each / rate)))


def _off_whole(ratio: float) -> float:
    return abs(ratio / round(ratio) - 1)


def _text(rate: Fraction) -> str:
    return f"{float(rate):.5g}"
