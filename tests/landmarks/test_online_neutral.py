"""Tests of the online estimate of a neutral face."""

import numpy as np
import pytest

from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.online_neutral import MAX_FACES, OnlineNeutralEstimator, median_centre_and_scale

FPS = 25


def at(x: float, confidence: float = 1.0) -> Face:
    return Face(np.full((68, 2), x, np.float32), confidence)


class Mean:
    """Estimate by the mean that records its inputs."""

    def __init__(self) -> None:
        self.calls: list[np.ndarray] = []

    def __call__(self, landmarks: np.ndarray) -> tuple[np.ndarray, ...]:
        self.calls.append(landmarks[:, 0, 0].copy())
        return (landmarks[:, 0, 0].mean(keepdims=True),)


def test_estimator_keeps_all_of_first_second() -> None:
    mean = Mean()
    rest = OnlineNeutralEstimator(mean)
    assert rest(at(3), 0)[0].tolist() == [3]
    for number in range(1, FPS):
        rest(at(number), number / FPS)
    assert [len(landmarks) for landmarks in mean.calls] == [1, 9, 17, 25]
    assert mean.calls[-1].tolist() == [3, *range(1, 25)]


def test_estimator_memory_is_bounded() -> None:
    mean = Mean()
    rest = OnlineNeutralEstimator(mean)
    seconds = 120
    for number in range(seconds * FPS):
        rest(at(number / FPS), 5 + number / FPS)
    assert max(len(landmarks) for landmarks in mean.calls) == MAX_FACES
    oldest, newest = mean.calls[-1][[0, -1]]
    assert seconds - 5 < newest < seconds and 14 < newest - oldest < 18
    assert len(mean.calls) < seconds / 2  # an estimate takes a while, it is not made often


def test_estimate_changes_smoothly() -> None:
    rest = OnlineNeutralEstimator(Mean())
    used = [rest(at(0 if number < 2 * FPS else 1), number / FPS)[0].item() for number in range(40 * FPS)]
    steps = np.diff(used)
    assert used[-1] == pytest.approx(1, abs=1e-3)  # who sits down elsewhere is followed
    assert 0 < steps.max() < 0.04  # of the way, with each frame
    # nor where the first face was a bad one, or after a pause
    first = OnlineNeutralEstimator(Mean())
    assert (
        np.abs(
            np.diff([first(at(0 if number else 1), number / FPS)[0].item() for number in range(FPS)])
        ).max()
        < 0.04
    )
    late = OnlineNeutralEstimator(Mean())
    for number in range(50):
        before = late(at(0 if number < 25 else 1), number / FPS)[0].item()
    assert 0 < late(at(1), 1000)[0].item() - before < 0.1


def test_estimator_drops_doubtful_faces() -> None:
    mean = Mean()
    rest = OnlineNeutralEstimator(mean)
    for number in range(60):
        rest(at(number, 0.9 if 20 <= number < 40 else 0.3), number / FPS)
    assert mean.calls[0].tolist() == [0] and mean.calls[1].max() == 8
    first = next(number for number, landmarks in enumerate(mean.calls) if 20 in landmarks)
    assert mean.calls[first].tolist() == [20] and len(mean.calls) > first + 1
    assert all(set(landmarks) <= set(range(20, 40)) for landmarks in mean.calls[first:])


def test_median_centre_and_scale_uses_median() -> None:
    square = np.resize(np.array([[0, 0], [2, 0], [2, 2], [0, 2]], np.float32), (68, 2))
    centre, radius = median_centre_and_scale(np.stack([square, square + 4, square + 100]))
    assert centre.tolist() == [5, 5] and radius == pytest.approx(np.sqrt(2))
