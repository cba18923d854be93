"""Tests of the choice of a constant frame rate."""

from fractions import Fraction

import numpy as np
import pytest

from talkinghead.media.frame_rate import constant_rate

MILLISECOND = Fraction(1, 1000)
RANDOM = np.random.default_rng(0)


def stamps(seconds: object) -> np.ndarray:
    return np.rint(np.asarray(seconds, np.float64) * 1000).astype(np.int64)


@pytest.mark.parametrize(
    ("seconds", "stated", "fps"),
    [
        pytest.param(np.arange(300) * 1001 / 30000, "30000/1001", "30000/1001", id="rounded"),
        pytest.param(np.arange(300) / 30 + RANDOM.uniform(-0.007, 0.007, 300), 30, 30, id="shaking"),
        pytest.param(
            np.arange(300) / 30 + np.r_[0, RANDOM.uniform(-0.012, 0.012, 299)], 30, 30, id="shaking-more"
        ),
        pytest.param(np.cumsum(np.tile([1 / 20, 1 / 30], 100)), "24000/1001", "24000/1001", id="pulldown"),
        pytest.param(np.arange(300) / 30, 1000, 30, id="stated-wrongly"),
        pytest.param(np.arange(300) * 0.07, None, "100/7", id="unusual"),
        pytest.param(np.arange(100) / 120, 120, 120, id="fast"),
        pytest.param([0], "25/2", "25/2", id="one-frame"),
        pytest.param([], 15, 15, id="unknown"),
        pytest.param([], None, 25, id="nothing-known"),
    ],
)
def test_constant_rate_uses_every_frame_once(seconds: object, stated: object, fps: object) -> None:
    timing = constant_rate(stamps(seconds), MILLISECOND, None if stated is None else Fraction(stated))  # type: ignore[arg-type]
    assert (timing.fps, timing.stamps, timing.note) == (Fraction(fps), None, "")  # type: ignore[arg-type]


def test_missing_frame_repeats_previous_frame() -> None:
    seconds = np.delete(np.arange(100), [40, 41, 70]) / 30
    timing = constant_rate(stamps(seconds), MILLISECOND, Fraction(30), last=33)
    expected = np.arange(100)
    expected[[40, 41, 70]] = [39, 39, 69]
    assert timing.fps == 30
    assert timing.stamps is not None
    assert np.array_equal(timing.stamps, stamps(expected / 30))
    assert timing.note == "its frame rate varies, read at 30 a second (frames repeated: 3, left out: 0)"


@pytest.mark.parametrize(
    ("seconds", "fps"),
    [
        pytest.param(np.delete(np.arange(101), 50) / 30, 30, id="one-lost-in-the-middle"),
        pytest.param(np.r_[np.arange(200) / 25, 8 + np.arange(100) / 30], 25, id="faster-later"),
    ],
)
def test_small_rate_changes_are_resampled(seconds: np.ndarray, fps: int) -> None:
    timing = constant_rate(stamps(seconds), MILLISECOND, Fraction(fps))
    assert timing.fps == fps
    assert timing.stamps is not None
    assert abs(len(timing.stamps) - float(seconds[-1]) * fps - 1) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_frames_stay_in_sync_with_sound(seed: int) -> None:
    random = np.random.default_rng(seed)
    seconds = np.cumsum(random.choice([1 / 30, 1 / 24, 1 / 60, 0.4], 400, p=[0.6, 0.25, 0.1, 0.05]))
    source_stamps = stamps(seconds - seconds[0])
    timing = constant_rate(random.permutation(source_stamps), MILLISECOND, Fraction(28))
    assert timing.fps in (30, Fraction(30000, 1001))  # they hardly differ in milliseconds
    assert timing.stamps is not None
    times = 1000 * np.arange(len(timing.stamps)) / float(timing.fps)
    # the frame that is due within half an interval
    soonest, latest = (
        source_stamps[np.maximum(np.searchsorted(source_stamps, times + offset, side="right") - 1, 0)]
        for offset in (-17, 17)
    )
    assert (soonest <= timing.stamps).all()
    assert (timing.stamps <= latest).all()
    assert (np.diff(timing.stamps) >= 0).all()
    repeated, left_out = (
        len(timing.stamps) - len(set(timing.stamps.tolist())),
        len(set(source_stamps.tolist()) - set(timing.stamps.tolist())),
    )
    assert f"(frames repeated: {repeated}, left out: {left_out})" in timing.note


def test_last_frame_lasts_as_stated() -> None:
    timing = constant_rate(stamps([0, 0.1, 0.2, 0.5]), MILLISECOND, None, last=300)
    assert timing.fps == 10
    assert timing.stamps is not None
    assert timing.stamps.tolist() == [0, 100, 200, 200, 200, 500, 500, 500]


@pytest.mark.parametrize(
    ("frames", "rate", "fps", "count", "what"),
    [
        (
            480,
            240,
            60,
            121,
            "it has 240 frames a second, read at 60 a second (frames repeated: 0, left out: 359)",
        ),
        (480, 240 * 1000 / 1001, "60000/1001", 121, "it has 240 frames a second, read at 59.94 a second"),
        (200, 200, 50, 51, "it has 200 frames a second, read at 50 a second"),
        (10, 0.2, 1, 46, "it has 0.2 frames a second, read at 1 a second (frames repeated: 36, left out: 0)"),
    ],
)
def test_extreme_rates_are_limited(frames: int, rate: float, fps: object, count: int, what: str) -> None:
    tick = Fraction(1, 240_000)
    timing = constant_rate(
        np.rint(np.arange(frames) / rate / float(tick)).astype(np.int64), tick, Fraction(rate)
    )
    assert timing.fps == Fraction(fps)  # type: ignore[arg-type]
    assert timing.stamps is not None
    assert len(timing.stamps) == count
    assert timing.note.startswith(what)
    if rate > 1:
        assert np.abs(timing.stamps[:-1] * float(tick * timing.fps) - np.arange(count - 1)).max() < 0.01


@pytest.mark.parametrize(
    ("seconds", "fps"),
    [
        pytest.param(np.arange(100) / 1000, 25, id="1000-a-second"),
        pytest.param(np.zeros(50), 25, id="all-the-same"),
        pytest.param(np.r_[np.arange(50), np.arange(50) + 100_000] / 30, 30, id="a-jump-of-an-hour"),
        pytest.param(np.arange(20) * 100, 25, id="one-in-100-seconds"),
        pytest.param(np.r_[np.arange(20) / 30, 10 + 50 * np.arange(10)], 30, id="many-long-pauses"),
    ],
)
def test_implausible_time_stamps_are_ignored(seconds: object, fps: int) -> None:
    timing = constant_rate(stamps(seconds), MILLISECOND, Fraction(25))
    assert (timing.fps, timing.stamps) == (fps, None)
    assert timing.note == f"its time stamps make no sense, every frame is used, {fps} a second"


def test_implausible_stated_rate_is_ignored() -> None:
    timing = constant_rate(stamps([]), MILLISECOND, Fraction(90000))
    assert (timing.fps, timing.stamps) == (25, None)
    assert timing.note == "it states 90000 frames a second, every frame is used, 25 a second"
