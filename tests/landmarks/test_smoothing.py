"""Tests of smoothing: jitter, lag and quick movements of landmarks detected on warped noisy frames."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from talkinghead.clip import Track
from talkinghead.landmarks.detector import Detector
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.landmarks.smoothing import OnlineSmoother, smooth
from talkinghead.landmarks.tracking import track_faces

PORTRAIT: np.ndarray = astronaut()[:270, 90:370]
CENTRE = np.array([140.0, 130.0])
SENSOR = 4.0  # standard deviation of a pixel's noise, of 255
FRAMES = 60
UPPER_LIDS = [37, 38, 43, 44]
LOWER_LIP = [55, 56, 57, 58, 59, 65, 66, 67]
Smoothing = Callable[[Track], Track]


class Limits(NamedTuple):
    """Limits of what smoothing leaves of a detector's jitter, and of movements as small as that."""

    jitter: float  # pixels of a still face before smoothing, at least
    still: float  # share of it that is left around the mean, at most
    steps: float  # the same from frame to frame
    moving: float  # the same of a moving head
    eyes: float  # the same of its eyes
    lag: float  # frames that the live smoother lags behind, at most
    blink: float  # share of half a blink that is left, at least


LIMITS = {
    "dlib": Limits(jitter=0.1, still=0.45, steps=0.33, moving=0.75, eyes=0.4, lag=0.3, blink=0.9),
    # The network's landmarks jitter less than dlib's, and its errors move with the head.
    "network": Limits(jitter=0.05, still=0.52, steps=0.42, moving=0.93, eyes=0.75, lag=0.4, blink=0.88),
}


def live(track: Track) -> Track:
    """Smooth the track with an `OnlineSmoother`, frame by frame."""
    smoother = OnlineSmoother()
    return replace(
        track,
        landmarks=np.stack([smoother(points, i / track.fps) for i, points in enumerate(track.landmarks)]),
    )


BOTH = pytest.mark.parametrize("smoothing", [smooth, live])


def moved(points: np.ndarray, shift: tuple[float, float], turn: float) -> np.ndarray:
    """Rotate points [..., 2] by radians around the centre of the portrait, then shift them."""
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return (points - CENTRE) @ rotation + CENTRE + shift


def warped(shift: tuple[float, float], turn: float) -> np.ndarray:
    """Return the portrait, moved as the points by `moved`."""
    height, width = PORTRAIT.shape[:2]
    places = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    back = moved(moved(places, (-shift[0], -shift[1]), 0), (0, 0), -turn) / (width, height) * 2 - 1
    planes = torch.from_numpy(PORTRAIT).permute(2, 0, 1)[None].double()
    image = torch.nn.functional.grid_sample(
        planes, torch.from_numpy(back)[None], "bicubic", "border", align_corners=False
    )
    return image[0].permute(1, 2, 0).numpy()


@pytest.fixture(scope="module", params=["network", pytest.param("dlib", marks=pytest.mark.identity)])
def detector(request: pytest.FixtureRequest) -> Detector:
    return open_detector(request.param)


@pytest.fixture
def limits(detector: Detector) -> Limits:
    return LIMITS[detector.name]


def detected(detector: Detector, frames: Iterable[np.ndarray], fps: float, seed: int) -> Track:
    """Return the landmarks that are detected on the frames with sensor noise."""
    noise = np.random.default_rng(seed)
    noisy = (
        np.clip(frame + noise.normal(0, SENSOR, frame.shape), 0, 255).round().astype(np.uint8)
        for frame in frames
    )
    (chain, *_), total = track_faces(noisy, detector)
    assert len(chain) == total == FRAMES
    return Track(chain.landmarks, (PORTRAIT.shape[0], PORTRAIT.shape[1]), fps)


@pytest.fixture(scope="module")
def still(detector: Detector) -> Track:
    return detected(detector, [PORTRAIT] * FRAMES, 30, 0)


def swing(fps: float, hertz: float = 2.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(FRAMES) / fps)


@pytest.fixture(scope="module")
def nodding(detector: Detector) -> tuple[Track, np.ndarray]:
    """Return a head that shifts at 2 Hz, and its position along the way."""
    along = swing(25)
    return detected(detector, (warped((12 * x, 4 * x), 0) for x in along), 25, 1), along


@pytest.fixture(scope="module")
def rolling_head(detector: Detector) -> tuple[Track, np.ndarray]:
    """Return a head that turns in the picture at 2 Hz, and its position along the way."""
    along = swing(30)
    return detected(detector, (warped((0, 0), 0.12 * x) for x in along), 30, 2), along


def radius(track: Track) -> float:
    points = track.landmarks[0].astype(np.float64)
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean()))


def wave(values: np.ndarray, fps: float, hertz: float) -> np.ndarray:
    """Return the complex amplitude [...] of [N, ...] at a frequency, from half a second on."""
    start = int(fps / 2)
    turns = 2 * np.pi * hertz * np.arange(start, len(values)) / fps
    basis = np.stack([np.sin(turns), np.cos(turns), np.ones(len(turns))], axis=1)
    sine, cosine, _ = np.linalg.lstsq(basis, values[start:].reshape(len(turns), -1), rcond=None)[0]
    return (sine + 1j * cosine).reshape(values.shape[1:])


def lag_and_amplitude(
    points: np.ndarray, truth: np.ndarray, fps: float, hertz: float = 2.0
) -> tuple[float, float]:
    """Return by how many frames [N, 68, 2] lags behind the truth, and its relative amplitude."""
    measured, true = wave(points, fps, hertz), wave(truth, fps, hertz)
    ratio = (measured * true.conj()).sum() / (np.abs(true) ** 2).sum()
    return float(-np.angle(ratio) / (2 * np.pi * hertz) * fps), float(np.abs(ratio))


def jitter(points: np.ndarray) -> tuple[float, float]:
    """Return the jitter of a still face in pixels: around its mean, and from frame to frame."""
    settled = points[10:].astype(np.float64)
    return float(settled.std(axis=0).mean()), float(np.diff(settled, axis=0).std())


@BOTH
def test_smoothing_halves_jitter_of_still_face(still: Track, smoothing: Smoothing, limits: Limits) -> None:
    raw, smoothed = jitter(still.landmarks), jitter(smoothing(still).landmarks)
    assert raw[0] > limits.jitter
    assert smoothed[0] < limits.still * raw[0]
    assert smoothed[1] < limits.steps * raw[1]
    # the mean position is kept
    assert np.abs(smoothing(still).landmarks.mean(axis=0) - still.landmarks.mean(axis=0)).max() < 0.1


@pytest.mark.parametrize("motion", ["nodding", "rolling_head"])
@pytest.mark.parametrize("smoothing, most", [(smooth, 0.05), (live, 0.25)])
def test_smoothing_follows_2_hz_without_lag(
    still: Track,
    motion: str,
    smoothing: Smoothing,
    most: float,
    limits: Limits,
    request: pytest.FixtureRequest,
) -> None:
    track, along = request.getfixturevalue(motion)
    rest = still.landmarks.mean(axis=0)
    truth = np.stack(
        [
            moved(rest, (12 * x, 4 * x), 0) if motion == "nodding" else moved(rest, (0, 0), 0.12 * x)
            for x in along
        ]
    )
    raw, _ = lag_and_amplitude(track.landmarks, truth, track.fps)
    lag, gain = lag_and_amplitude(smoothing(track).landmarks, truth, track.fps)
    assert abs(raw) < 0.1  # the detector itself does not lag
    assert abs(lag) < most
    assert 0.97 < gain < 1.03
    # jitter is also reduced while the head moves
    errors = [points[15:] - truth[15:] for points in (track.landmarks, smoothing(track).landmarks)]
    before, after = (np.diff(error - error.mean(axis=0), axis=0).std() for error in errors)
    assert after < limits.moving * before


@pytest.mark.parametrize("reach", [0.1, 0.03, 0.015])
@BOTH
def test_small_movements_do_not_lag(still: Track, smoothing: Smoothing, reach: float, limits: Limits) -> None:
    sway = np.zeros((FRAMES, 68, 2))
    sway[..., 0] = (reach * radius(still) * swing(30))[:, None]
    track = replace(still, landmarks=still.landmarks + sway)
    # compared with the input, because its jitter is not small
    lag, gain = lag_and_amplitude(smoothing(track).landmarks.mean(axis=1), track.landmarks.mean(axis=1), 30)
    assert abs(lag) < (limits.lag if smoothing is live else 0.1)
    assert 0.9 < gain < 1.1


def remaining_blink_share(
    still: Track, smoothing: Smoothing, fps: float, seconds: float, reach: float
) -> float:
    """Return the remaining share of a blink whose lids move by `reach` radii.

    It is the mean over blinks that start at different times between two frames.
    """
    track = replace(still, fps=fps)
    times = np.arange(FRAMES) / fps
    shares = []
    for start in np.linspace(0, 1, 6, endpoint=False) / fps:
        phase = np.clip((times - 1.0 - start) / seconds, 0, 1)
        down = reach * radius(still) * np.sin(np.pi * phase) ** 2
        lids = np.zeros((FRAMES, 68, 2))
        lids[:, UPPER_LIDS, 1] = down[:, None]
        smoothed = smoothing(replace(track, landmarks=track.landmarks + lids)).landmarks
        deepest = down.argmax()
        opened = smoothing(track).landmarks[deepest, UPPER_LIDS, 1]
        shares.append((smoothed[deepest, UPPER_LIDS, 1] - opened).mean() / down[deepest])
    return float(np.mean(shares))


@BOTH
@pytest.mark.parametrize("fps", [25, 30])
@pytest.mark.parametrize("seconds", [0.12, 0.16])
@pytest.mark.parametrize("reach", [0.1, 0.05])
def test_smoothing_keeps_blink(
    still: Track, smoothing: Smoothing, fps: float, seconds: float, reach: float, limits: Limits
) -> None:
    # an open eye is about 0.15 radii high: the second is half a blink
    assert limits.blink < remaining_blink_share(still, smoothing, fps, seconds, reach) < 1.1


@BOTH
@pytest.mark.parametrize("fps", [25, 30])
@pytest.mark.parametrize("hertz", [5.0, 6.0])
@pytest.mark.parametrize("height", [0.2, 0.1])
def test_smoothing_keeps_speaking_lips(
    still: Track, smoothing: Smoothing, fps: float, hertz: float, height: float
) -> None:
    speech = np.zeros((FRAMES, 68, 2))
    speech[:, LOWER_LIP, 1] = (height / 2 * radius(still) * swing(fps, hertz))[:, None]
    smoothed = smoothing(replace(still, fps=fps, landmarks=still.landmarks + speech)).landmarks
    _, gain = lag_and_amplitude(smoothed[:, LOWER_LIP], speech[:, LOWER_LIP], fps, hertz)
    assert 0.9 < gain < 1.1


@BOTH
def test_smoothing_steadies_eyes_of_moving_head(still: Track, smoothing: Smoothing, limits: Limits) -> None:
    track = replace(still, landmarks=still.landmarks + (0.3 * radius(still) * swing(30))[:, None, None])
    track.landmarks[:, LOWER_LIP, 1] += (0.1 * radius(still) * swing(30, 5))[:, None]
    eyes = [
        np.diff(points[15:, 36:48] - points[15:, 36:48].mean(axis=1, keepdims=True), axis=0)
        for points in (track.landmarks, smoothing(track).landmarks)
    ]
    assert eyes[1].std() < limits.eyes * eyes[0].std()


@pytest.mark.parametrize("noise", [0.0025, 0.01])
def test_smoothing_adapts_to_jitter(still: Track, noise: float) -> None:
    """Check the jitter of a better and of a worse detector."""
    rest = still.landmarks.mean(axis=0)
    track = replace(
        still, landmarks=rest + np.random.default_rng(0).normal(0, noise * radius(still), (FRAMES, 68, 2))
    )
    assert jitter(smooth(track).landmarks)[0] < 0.45 * jitter(track.landmarks)[0]
    # movements above the jitter are kept
    assert remaining_blink_share(track, smooth, 30, 0.14, 15 * noise) > 0.9


@BOTH
def test_smoothing_commutes_with_similarity(
    rolling_head: tuple[Track, np.ndarray], smoothing: Smoothing
) -> None:
    track, _ = rolling_head
    for scale, turn, shift in (
        (0.25, 0.0, (0.0, 0.0)),
        (1.0, 1.0, (100.0, -50.0)),
        (4.0, -2.5, (0.0, 3000.0)),
    ):
        other = smoothing(
            replace(track, landmarks=scale * moved(track.landmarks, (0, 0), turn) + shift)
        ).landmarks
        expected = scale * moved(smoothing(track).landmarks, (0, 0), turn) + shift
        assert np.abs(other - expected).max() < 1e-3 * max(scale, 1)


def confidence_without(count: int, unseen: slice) -> np.ndarray:
    confidence = np.ones(count, dtype=np.float32)
    confidence[unseen] = 0
    return confidence


def test_frames_without_face_do_not_affect_others(still: Track) -> None:
    unseen = slice(20, 26)
    confidence = confidence_without(FRAMES, unseen)
    wild = still.landmarks.copy()
    wild[unseen] += 1000
    one, other = (
        smooth(replace(still, landmarks=points, confidence=confidence)) for points in (still.landmarks, wild)
    )
    assert np.array_equal(one.landmarks[confidence > 0], other.landmarks[confidence > 0])
    assert np.array_equal(one.confidence, confidence)
    # they are shifted like the adjacent frames, so interpolated landmarks stay interpolated
    shift = one.landmarks - still.landmarks
    between = np.linspace(shift[19], shift[26], 8)[1:-1]
    assert np.allclose(shift[unseen], between, atol=1e-4)


def test_smoothing_across_gap_uses_time_window(still: Track) -> None:
    """Check that frames across a gap are averaged only within the time window."""
    gap = slice(20, 30)  # a third of a second
    track = replace(still, confidence=confidence_without(FRAMES, gap))
    unseen_on = replace(track, confidence=confidence_without(FRAMES, slice(20, FRAMES)))
    assert np.array_equal(smooth(track[:20]).landmarks, smooth(unseen_on).landmarks[:20])
    later = still.landmarks.copy()
    later[30:] += 0.3  # as little as jitter
    change = smooth(replace(track, landmarks=later)).landmarks - smooth(track).landmarks
    assert np.abs(change[:20]).max() < 0.003


@pytest.mark.parametrize("border", ["gap", "jump", "growth"])
def test_smoothing_stops_at_borders(still: Track, border: str) -> None:
    points, confidence = still.landmarks.copy(), np.ones(FRAMES, dtype=np.float32)
    first, second = slice(0, 20), slice(20, FRAMES)
    if border == "gap":
        confidence[20:36] = 0  # 16 frames of 30 a second
        second = slice(36, FRAMES)
    elif border == "jump":
        points[second] += (0, 0.55 * 3 * radius(still))
    else:
        points[second] *= 3
    # a similar face, which would be averaged with the frames at the border
    track = replace(still, landmarks=points, confidence=confidence)
    whole = smooth(track).landmarks
    for part in (first, second):
        assert np.array_equal(whole[part], smooth(track[part]).landmarks)


def test_smoothing_skips_images(still: Track) -> None:
    pictures = replace(still, fps=0.0)
    assert smooth(pictures) is pictures


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_smoothing_accepts_few_frames(still: Track, count: int) -> None:
    few = still[:count]
    assert smooth(few).landmarks.shape == (count, 68, 2)
    assert np.abs(smooth(few).landmarks - few.landmarks).max(initial=0) < 0.02 * radius(still)
    unseen = replace(few, confidence=np.zeros(count))
    assert np.array_equal(smooth(unseen).landmarks, few.landmarks)


@BOTH
def test_smoothing_keeps_constant_landmarks(still: Track, smoothing: Smoothing) -> None:
    held = replace(still, landmarks=np.repeat(still.landmarks[:1], FRAMES, axis=0))
    assert np.abs(smoothing(held).landmarks - held.landmarks).max() < 1e-4
    point = replace(still, landmarks=np.full((FRAMES, 68, 2), 7.0))
    assert np.abs(smoothing(point).landmarks - 7).max() < 1e-4


def test_smoothing_skips_slow_video(still: Track) -> None:
    """Check that no frames are averaged at 2 frames per second, where they are too far apart in time."""
    slow = replace(still, fps=2.0)
    assert np.abs(smooth(slow).landmarks - slow.landmarks).max() < 1e-4


def test_online_smoother_restarts_at_border(still: Track) -> None:
    before, after = still.landmarks[:10], still.landmarks[10:16]
    fresh = [OnlineSmoother() for _ in range(4)]
    jumped = after + np.float32(2 * radius(still))
    cases = ((0.6, after), (-1.0, after), (1 / 30, jumped), (1 / 30, after))
    for (shift, begin), smoother in zip(cases, fresh, strict=True):
        for i, points in enumerate(before):
            smoother(points, i / 30)
        if smoother is fresh[3]:
            smoother.reset()
        anew = OnlineSmoother()
        for i, points in enumerate(begin):
            t = 9 / 30 + shift + i / 30
            assert np.array_equal(smoother(points, t), anew(points, t))


def test_online_smoother_forgets_distant_frames(still: Track) -> None:
    outcomes = []
    for nudge in (0.0, 0.2):
        smoother = OnlineSmoother()
        points = still.landmarks.copy()
        points[1:5] += np.float32(nudge)
        outcomes.append([smoother(frame, i / 30) for i, frame in enumerate(points)])
    changed = [not np.array_equal(one, other) for one, other in zip(*outcomes, strict=True)]
    assert changed[4] and changed[11] and not any(changed[13:])


def test_online_smoother_keeps_shape_and_dtype(still: Track) -> None:
    smoothed = OnlineSmoother()(still.landmarks[0], 0.0)
    assert (smoothed.shape, smoothed.dtype) == ((68, 2), np.float32)
    assert np.abs(smoothed - still.landmarks[0]).max() < 1e-3
