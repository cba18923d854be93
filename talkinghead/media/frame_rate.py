"""Conversion of a video's frames to a constant frame rate by their time stamps."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_COMMON_RATES = tuple(
    Fraction(rate)
    for rates in (
        range(1, 11),
        (12, "25/2", 15, 18, 20, "24000/1001", 24, 25, "30000/1001", 30),
        (48, 50, "60000/1001", 60, 72, 75, 90, 100, 120),
    )
    for rate in rates
)
"""Common frame rates in frames per second."""
_DEFAULT_RATE = Fraction(25)  # frames per second where no plausible rate is stated
_MAX_RATE = 120.0  # frames per second above which frames are left out
_MIN_REDUCED_RATE = 48  # frames per second that remain then
_MAX_REDUCED_RATE = 60
_MAX_PLAUSIBLE_RATE = 480.0  # frames per second
_MAX_INTERVAL_S = 60.0
_MAX_MEAN_REPEATS = 100  # output frames per source frame


@dataclass(frozen=True)
class Timing:
    """Rate at which a video is read, and the frames that are read.

    Attributes:
        fps: output frames per second.
        stamps: int64 [count], rising: the time stamp of the source frame of each output frame; None when
            every frame is used once.
        note: a warning for the user, empty without one.
    """

    fps: Fraction
    stamps: np.ndarray | None = None
    note: str = ""


def constant_rate(stamps: np.ndarray, tick: Fraction, stated: Fraction | None, last: int = 0) -> Timing:
    """Return the timing that reads frames with these time stamps at a constant rate.

    Frames at a constant rate, within half an interval, are kept as they are. Otherwise the rate is a common
    one near the median interval: a frame is repeated from the output frame nearest to its time stamp to that
    of the next frame, so the output stays within half an interval of the sound. Above 120 frames per second
    some are left out, below 1 they are repeated. Implausible time stamps (more than 480 frames per second,
    intervals above 60 seconds, on average more than 100 output frames for each) are ignored: every frame is
    used once, at a common rate.

    Args:
        stamps: int64 [N] in units of `tick`, in any order; empty when unknown.
        tick: seconds.
        stated: the frame rate that the file states, None when it states none.
        last: duration of the last frame in units of `tick`; 0 when unknown.
    """
    if len(stamps) < 2:
        if stated is None or 1 <= stated <= _MAX_RATE:
            return Timing(stated or _DEFAULT_RATE)
        return Timing(
            _DEFAULT_RATE,
            None,
            f"it states {_format_rate(stated)} frames a second, every frame is used, "
            f"{_format_rate(_DEFAULT_RATE)} a second",
        )
    ordered = np.sort(stamps)
    intervals = np.diff(ordered) * float(tick)
    rate = _typical_rate(intervals)
    if rate > _MAX_PLAUSIBLE_RATE or intervals.max() > _MAX_INTERVAL_S:
        fps = _nearest_common_rate(rate) if 1 <= rate <= _MAX_RATE else _DEFAULT_RATE
        return Timing(
            fps, None, f"its time stamps make no sense, every frame is used, {_format_rate(fps)} a second"
        )
    steady = _is_steady(ordered, intervals, float(tick))
    if steady:
        rate = len(intervals) / float(intervals.sum())
        if 1 <= rate <= _MAX_RATE:
            return Timing(_exact_rate(stated, rate, float(intervals.sum() / float(tick))))
    if rate > _MAX_RATE:
        reduced = [fps for fps in _COMMON_RATES if _MIN_REDUCED_RATE <= fps <= _MAX_REDUCED_RATE]
        fps = min(reduced, key=lambda fps: (_distance_to_integer(rate / fps), -fps))
    else:
        fps = _nearest_common_rate(max(rate, 1.0))
    source_stamps = _source_stamps(ordered, float(tick * fps), last)
    if len(source_stamps) > _MAX_MEAN_REPEATS * len(stamps):
        return Timing(
            fps, None, f"its time stamps make no sense, every frame is used, {_format_rate(fps)} a second"
        )
    used = len(np.unique(source_stamps))
    if used == len(source_stamps) == len(stamps):
        return Timing(fps)
    problem = f"it has {rate:.3g} frames a second" if steady else "its frame rate varies"
    changes = f"frames repeated: {len(source_stamps) - used}, left out: {len(stamps) - used}"
    return Timing(fps, source_stamps, f"{problem}, read at {_format_rate(fps)} a second ({changes})")


def _typical_rate(intervals: np.ndarray) -> float:
    """Return frames per second from the intervals that are close to the median."""
    median = float(np.sort(intervals)[len(intervals) // 2])
    if median <= 0:
        return math.inf
    return 1 / float(intervals[np.abs(intervals - median) <= 0.2 * median].mean())


def _is_steady(ordered: np.ndarray, intervals: np.ndarray, tick: float) -> bool:
    mean = float(intervals.mean())
    seconds = (ordered - ordered[0]) * tick
    deviations = np.abs(seconds - mean * np.arange(len(seconds)))
    return bool(deviations.max() <= mean / 2 and np.abs(intervals - mean).max() <= mean / 2)


def _exact_rate(stated: Fraction | None, rate: float, ticks: float) -> Fraction:
    """Return the stated or a common rate where it agrees with the measured one.

    Args:
        stated: the rate that the file states.
        rate: the mean rate of the frames.
        ticks: duration of the frames, on which the precision of `rate` depends.
    """
    if stated is not None and abs(stated / rate - 1) <= 0.01 + 2 / ticks:
        return stated
    common = _nearest_common_rate(rate)
    return common if abs(common / rate - 1) <= 0.005 + 1 / ticks else Fraction(rate).limit_denominator(1001)


def _source_stamps(ordered: np.ndarray, frames_per_tick: float, last: int) -> np.ndarray:
    """Return the time stamp of the source frame of each output frame, int64."""
    positions = (ordered - ordered[0]) * frames_per_tick
    slots = np.floor(positions + 0.5).astype(np.int64)
    end = max(slots[-1] + 1, round((ordered[-1] + last - ordered[0]) * frames_per_tick))
    sources = np.searchsorted(slots, np.arange(end), side="right") - 1
    # of several frames in one slot, take the nearest to it
    order = np.lexsort((np.abs(positions - slots), slots))
    filled_slots, first = np.unique(slots[order], return_index=True)
    sources[filled_slots] = order[first]
    return ordered[sources]


def _nearest_common_rate(rate: float) -> Fraction:
    return min(_COMMON_RATES, key=lambda common: abs(math.log(common / rate)))


def _distance_to_integer(ratio: float) -> float:
    return abs(ratio / round(ratio) - 1)


def _format_rate(rate: Fraction) -> str:
    return f"{float(rate):.5g}"
