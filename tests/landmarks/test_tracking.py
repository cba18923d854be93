"""Tests of face tracking with a scripted detector."""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from talkinghead.landmarks import tracking
from talkinghead.landmarks.detector import MIN_CONFIDENCE, Face
from talkinghead.landmarks.geometry import bounding_boxes
from talkinghead.landmarks.tracking import DETECT_EVERY, FaceTrack, track_faces

Place = tuple[float, ...]
"""A face's centre x and y, its side, and its confidence where that is not 1."""
Person = Callable[[int], Place | None]
"""Position of a person's face by frame number."""


def face(x: float, y: float, side: float, confidence: float = 1.0) -> Face:
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]]) - 0.5
    return Face((np.array([x, y]) + side * np.resize(corners, (68, 2))).astype(np.float32), confidence)


def video(count: int, size: tuple[int, int] = (2, 2)) -> Iterator[np.ndarray]:
    """Yield frames that encode their number."""
    for number in range(count):
        frame = np.zeros((*size, 3), np.uint8)
        frame[0, 0, :2] = divmod(number, 256)
        yield frame


class Scripted:
    """Detector of scripted people that follows the nearest face, up to `reach` times its side away."""

    name = "scripted"

    def __init__(self, *people: Person, overlooked: tuple[int, ...] = (), reach: float = 0.5) -> None:
        self.people, self.overlooked, self.reach = people, overlooked, reach
        self.searched: list[list[int]] = []
        self.followed: list[int] = []

    def number(self, frame: np.ndarray) -> int:
        return int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1])

    def faces(self, number: int) -> list[Face]:
        places = sorted(
            (place for person in self.people if (place := person(number)) is not None),
            key=lambda place: -place[2],
        )
        return [face(*place) for place in places]

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        numbers = [self.number(frame) for frame in frames]
        self.searched.append(numbers)
        return [[] if number in self.overlooked else self.faces(number) for number in numbers]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        tracked: list[Face] = []
        for number in map(self.number, frames):
            self.followed.append(number)
            x, y, side = bounding_boxes(near[None])[0]
            candidates = [
                (np.hypot(*(bounding_boxes(candidate.landmarks[None])[0, :2] - [x, y])), candidate)
                for candidate in self.faces(number)
            ]
            distance, nearest = min(candidates, key=lambda pair: pair[0], default=(np.inf, None))
            if nearest is None or distance > side * self.reach:
                break
            tracked.append(nearest)
            near = nearest.landmarks
        return tracked


def still(x: float = 50, y: float = 50, side: float = 40, without: Sequence[int] = ()) -> Person:
    return lambda number: None if number in without else (x, y, side)


def places(chain: FaceTrack) -> list[list[float]]:
    return bounding_boxes(chain.landmarks).round(3).tolist()


def numbers(chains: list[FaceTrack]) -> list[list[int]]:
    return [chain.numbers.tolist() for chain in chains]


@pytest.mark.parametrize(
    "count, searched",
    [
        (1, [0]),
        (2, [0, 1]),
        (8, [0, 7]),
        (9, [0, 8]),
        (10, [0, 8, 9]),
        (17, [0, 8, 16]),
        (33, [0, 8, 16, 24, 32]),
        (35, [0, 8, 16, 24, 32, 34]),
    ],
)
def test_tracking_detects_every_eighth_frame_and_last(count: int, searched: list[int]) -> None:
    detector = Scripted(lambda number: (50 + 5 * number, 50, 40))
    [chain], total = track_faces(video(count), detector)
    assert np.concatenate(detector.searched).tolist() == searched
    assert total == count
    assert chain.numbers.tolist() == list(range(count))
    assert places(chain) == [[50 + 5 * number, 50, 40] for number in range(count)]
    assert detector.followed == list(range(1, count))  # each once, none that is not needed


def test_tracking_without_frames_or_faces_is_empty() -> None:
    assert track_faces(video(0), Scripted(still())) == ([], 0)
    assert track_faces(video(20), Scripted()) == ([], 20)


def test_face_track_holds_arrays() -> None:
    [chain], _ = track_faces(video(20), Scripted(lambda number: (50, 50, 40, 0.25 + number / 40)))
    assert (chain.numbers.dtype, chain.landmarks.dtype, chain.confidence.dtype) == (
        np.int64,
        np.float32,
        np.float32,
    )
    assert (len(chain), chain.landmarks.shape) == (20, (20, 68, 2))
    np.testing.assert_allclose(chain.confidence, 0.25 + np.arange(20) / 40, rtol=1e-6)
    assert chain.weight == pytest.approx(20 * 40)
    part = chain.between(5, 9)
    assert part.numbers.tolist() == [5, 6, 7, 8]
    assert np.array_equal(part.landmarks, chain.landmarks[5:9]) and np.array_equal(
        part.confidence, chain.confidence[5:9]
    )
    gappy = FaceTrack(chain.numbers[[2, 7, 9]], chain.landmarks[:3], chain.confidence[:3])
    assert [gappy.between(*span).numbers.tolist() for span in ((0, 2), (2, 9), (3, 10), (10, 20))] == [
        [],
        [2, 7],
        [7, 9],
        [],
    ]


@pytest.mark.parametrize(
    "side, batches",
    [(2, [[0], [8, 16, 24, 32], [40, 48, 49]]), (64, [[0], [8], [16], [24], [32], [40], [48], [49]])],
)
def test_detection_batches_small_frames(
    side: int, batches: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tracking, "_MAX_BLOCK_BYTES", 2 * DETECT_EVERY * 64 * 64 * 3 - 1
    )  # less than two windows of the large ones
    detector = Scripted(still())
    track_faces(video(50, (side, side)), detector)
    assert detector.searched == batches


@pytest.mark.parametrize("block, held", [(tracking._MAX_BLOCK_BYTES, 4 * DETECT_EVERY), (1, DETECT_EVERY)])
def test_tracking_holds_one_block_of_frames(block: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_MAX_BLOCK_BYTES", block)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watched() -> Iterator[np.ndarray]:
        nonlocal most
        for frame in video(200):
            alive.append(weakref.ref(frame))
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))
            yield frame

    track_faces(watched(), Scripted(still()))
    assert held <= most <= held + 2  # and the one that is on its way


def test_unordered_frames_are_all_detected() -> None:
    detector = Scripted(lambda number: (50 + 35 * (number % 2), 50, 40))  # further than it can be followed
    [chain], total = track_faces(video(9), detector, detect_every=1)
    assert np.concatenate(detector.searched).tolist() == list(range(9))
    assert (chain.numbers.tolist(), total) == (list(range(9)), 9)


# one face


def test_late_face_is_tracked_back_to_first_frame() -> None:
    detector = Scripted(lambda number: (50 + 5 * number, 50, 40) if number >= 3 else None)
    [chain], total = track_faces(video(20), detector)
    assert (chain.numbers.tolist(), total) == (list(range(3, 20)), 20)
    assert places(chain) == [[50 + 5 * number, 50, 40] for number in range(3, 20)]


def test_backward_tracking_stops_at_previous_detection() -> None:
    detector = Scripted(still(), overlooked=(0, 8))
    [chain], _ = track_faces(video(20), detector)
    assert chain.numbers.tolist() == list(range(9, 20))


def test_briefly_lost_face_resumes_without_detection() -> None:
    def person(number: int) -> Place | None:
        return (
            None if number in (3, 4, 8) else (50 + 6 * number, 50, 40)
        )  # each time to be looked for where it was last

    [chain], _ = track_faces(video(20), Scripted(person, overlooked=(8, 16)))
    assert chain.numbers.tolist() == [0, 1, 2, 5, 6, 7, *range(9, 20)]


def test_backward_tracking_bridges_brief_losses() -> None:
    [chain], _ = track_faces(video(20), Scripted(still(without=(0, 3, 6, 7))))
    assert chain.numbers.tolist() == [1, 2, 4, 5, *range(8, 20)]


def test_doubtful_face_is_tracked_but_not_resumed() -> None:
    def person(number: int) -> Place | None:
        return None if number == 3 else (50, 50, 40, MIN_CONFIDENCE - 0.1 if number < 6 else MIN_CONFIDENCE)

    [chain], _ = track_faces(video(8), Scripted(person, overlooked=(7,)))
    assert chain.numbers.tolist() == [0, 1, 2, 6, 7]
    # the search at the end sees no face: half as sure from the search before it on
    np.testing.assert_allclose(chain.confidence, [0.4, 0.2, 0.2, 0.25, 0.25])
    # nor where it was lost at the end of a window
    [chain], _ = track_faces(
        video(20), Scripted(lambda number: None if number == 8 else (50, 50, 40, 0.4), overlooked=(8, 16, 19))
    )
    assert chain.numbers.tolist() == list(range(8))


def test_jumping_face_is_tracked_back_to_loss() -> None:
    detector = Scripted(lambda number: (50 if number < 12 else 90, 50, 40))
    [chain], _ = track_faces(video(24), detector)
    assert places(chain) == [[50 if number < 12 else 90, 50, 40] for number in range(24)]
    assert detector.followed.count(11) == 1


def test_long_lost_face_is_retried_rarely() -> None:
    detector = Scripted(still(without=range(4, 200)))
    track_faces(video(200), detector)
    assert max(detector.followed) <= 16


@pytest.mark.parametrize("place", [(50, 50, 40), (50, 105, 40), (20, 60, 70), (60, 40, 25)])
def test_face_that_returns_nearby_continues_track(place: Place) -> None:
    detector = Scripted(lambda number: (50, 50, 40) if number < 10 else place if number >= 60 else None)
    [chain], _ = track_faces(video(80), detector)
    assert chain.numbers.tolist() == [*range(10), *range(60, 80)]
    assert places(chain) == [[50, 50, 40]] * 10 + [[*place]] * 20


@pytest.mark.parametrize("place", [(50, 115, 40), (115, 50, 40), (50, 50, 81), (50, 50, 19)])
def test_distant_or_resized_face_starts_track(place: Place) -> None:
    detector = Scripted(lambda number: (50, 50, 40) if number < 60 else place if number >= 80 else None)
    chains, _ = track_faces(video(90), detector)
    assert numbers(chains) == [list(range(60)), list(range(80, 90))]


def test_latest_lost_face_nearby_continues() -> None:
    detector = Scripted(
        lambda number: (50, 50, 40) if number < 30 else None,
        lambda number: (110, 50, 40) if number < 20 or number >= 60 else None,
        lambda number: None,
    )
    chains, _ = track_faces(video(70), detector)
    assert numbers(chains) == [[*range(30), *range(60, 70)], list(range(20))]


# several faces


def test_tracks_are_sorted_by_size_times_length() -> None:
    detector = Scripted(
        lambda number: (300, 50, 90) if number < 10 else None,  # large and short: 900
        still(50, 50, 40),  # 1600
        lambda number: (500, 50, 30 + number),  # growing: 1980
        lambda number: (800, 50, 100) if number >= 35 else None,  # 500
    )
    chains, total = track_faces(video(40), detector)
    assert total == 40
    assert [places(chain)[0][0] for chain in chains] == [500, 50, 300, 800]
    assert [chain.weight for chain in chains] == pytest.approx([1980, 1600, 900, 500])


def test_passing_faces_keep_their_tracks() -> None:
    def move_right(number: int) -> Place:
        return (50 + 6 * number, 50, 40)

    def move_left(number: int) -> Place:
        return (290 - 6 * number, 72, 36)

    chains, _ = track_faces(video(41), Scripted(move_right, move_left))
    assert [places(chain) for chain in chains] == [
        [[*person(number)] for number in range(41)] for person in (move_right, move_left)
    ]


def test_occluded_face_is_detected_again() -> None:
    """Check that its track ends at the occluding face and resumes when the search detects it again."""

    def pass_behind(number: int) -> Place | None:
        x = 3 * number + 10
        return None if abs(x - 100) < 13 else (x, 75, 36)

    chains, _ = track_faces(video(50), Scripted(still(100, 50, 40), pass_behind, reach=1.0))
    assert [places(chain) for chain in chains] == [
        [[100, 50, 40]] * 50,
        [[*place] for number in range(50) if (place := pass_behind(number))],
    ]


@pytest.mark.parametrize(
    "leaves, kept", [(0, [list(range(30)), list(range(20, 48))]), (1, [list(range(48)), list(range(20, 30))])]
)
def test_track_ends_at_face_of_other_track(leaves: int, kept: list[list[int]]) -> None:
    def person(who: int) -> Person:
        return lambda number: (
            None if (who == leaves and number >= 30) or number < 20 * who else (100 + 25 * who, 50, 40 + who)
        )

    chains, _ = track_faces(video(48), Scripted(person(0), person(1), reach=1.0))
    assert numbers(chains) == kept


def test_backward_tracking_stops_at_tracked_face() -> None:
    """Track a face backwards that appears from behind another; it must not take over that face."""
    detector = Scripted(
        still(100, 50, 40), lambda number: (100 + 5 * (number - 16), 50, 38) if number >= 18 else None
    )
    chains, _ = track_faces(video(40), detector)
    assert numbers(chains) == [
        list(range(40)),
        list(range(21, 40)),
    ]  # nearer to it than half a face before


def test_tracking_many_short_tracks() -> None:
    """Check that ended tracks cost no time: the time grows with the length of the video."""
    people = [
        lambda number, who=who: (100 * who, 50, 40) if number // 8 == who else None for who in range(60)
    ]
    chains, total = track_faces(video(480), Scripted(*people))
    assert total == 480
    assert sorted(numbers(chains)) == [list(range(8 * who, 8 * who + 8)) for who in range(60)]
