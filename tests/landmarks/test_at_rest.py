"""A driver at rest: how much is kept, and that what is used never jumps."""

import numpy as np
import pytest

from talkinghead.landmarks.at_rest import KEPT, AtRest, framing
from talkinghead.landmarks.face import Face

FPS = 25


def at(x: float, confidence: float = 1.0) -> Face:
    return Face(np.full((68, 2), x, np.float32), confidence)


class Mean:
    """An estimate that remembers what it was made from."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def __call__(self, landmarks: np.ndarray) -> tuple[np.ndarray, ...]:
        self.given.append(landmarks[:, 0, 0].copy())
        return (landmarks[:, 0, 0].mean(keepdims=True),)


def test_the_first_face_is_used_at_once_and_the_first_second_is_kept_whole() -> None:
    mean = Mean()
    rest = AtRest(mean)
    assert rest(at(3), 0)[0].tolist() == [3]
    for number in range(1, FPS):
        rest(at(number), number / FPS)
    assert [len(given) for given in mean.given] == [1, 9, 17, 25]
    assert mean.given[-1].tolist() == [3, *range(1, 25)]


def test_what_is_kept_is_bounded_and_comes_to_span_the_last_quarter_of_a_minute() -> None:
    mean = Mean()
    rest = AtRest(mean)
    seconds = 120
    for number in range(seconds * FPS):
        rest(at(number / FPS), 5 + number / FPS)
    assert max(len(given) for given in mean.given) == KEPT
    oldest, newest = mean.given[-1][[0, -1]]
    assert seconds - 5 < newest < seconds and 14 < newest - oldest < 18
    assert len(mean.given) < seconds / 2  # an estimate takes a while, it is not made often


def test_a_better_estimate_is_come_to_and_never_jumped_to() -> None:
    rest = AtRest(Mean())
    used = [rest(at(0 if number < 2 * FPS else 1), number / FPS)[0].item() for number in range(40 * FPS)]
    steps = np.diff(used)
    assert used[-1] == pytest.approx(1, abs=1e-3)  # who sits down elsewhere is followed
    assert 0 < steps.max() < 0.04  # of the way, with each frame
    # nor where the first face was a bad one, or after a pause
    first = AtRest(Mean())
    assert np.abs(np.diff([first(at(0 if number else 1), number / FPS)[0].item() for number in range(FPS)])).max() < 0.04
    late = AtRest(Mean())
    for number in range(50):
        before = late(at(0 if number < 25 else 1), number / FPS)[0].item()
    assert 0 < late(at(1), 1000)[0].item() - before < 0.1


def test_doubtful_faces_serve_only_until_there_is_another() -> None:
    mean = Mean()
    rest = AtRest(mean)
    for number in range(60):
        rest(at(number, 0.9 if 20 <= number < 40 else 0.3), number / FPS)
    assert mean.given[0].tolist() == [0] and mean.given[1].max() == 8
    first = next(number for number, given in enumerate(mean.given) if 20 in given)
    assert mean.given[first].tolist() == [20] and len(mean.given) > first + 1
    assert all(set(given) <= set(range(20, 40)) for given in mean.given[first:])


def test_framing_is_centre_and_radius_of_the_median() -> None:
    square = np.resize(np.array([[0, 0], [2, 0], [2, 2], [0, 2]], np.float32), (68, 2))
    centre, radius = framing(np.stack([square, square + 4, square + 100]))
    assert centre.tolist() == [5, 5] and radius == pytest.approx([np.sqrt(2)])
