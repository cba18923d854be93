"""Following faces, with a detector that is told where they are."""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from talkinghead.landmarks import follow
from talkinghead.landmarks.face import DOUBTFUL, Face, boxes_of
from talkinghead.landmarks.follow import EVERY, Chain, follow_faces

Place = tuple[float, ...]
"""A face's centre x and y, its side, and its confidence where that is not 1."""
Person = Callable[[int], Place | None]
"""Where somebody's face is in the frame of that number."""


def face(x: float, y: float, side: float, confidence: float = 1.0) -> Face:
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]]) - 0.5
    return Face((np.array([x, y]) + side * np.resize(corners, (68, 2))).astype(np.float32), confidence)


def video(count: int, size: tuple[int, int] = (2, 2)) -> Iterator[np.ndarray]:
    """Frames that carry their number."""
    for number in range(count):
        frame = np.zeros((*size, 3), np.uint8)
        frame[0, 0, :2] = divmod(number, 256)
        yield frame


class Scripted:
    """A detector that finds the people it was told of, and follows whichever face is nearest, up to `reach` times its side away."""

    name = "scripted"
    choice_reason = "scripted: for tests"

    def __init__(self, *people: Person, overlooked: tuple[int, ...] = (), reach: float = 0.5) -> None:
        self.people, self.overlooked, self.reach = people, overlooked, reach
        self.searched: list[list[int]] = []
        self.followed: list[int] = []

    def number(self, frame: np.ndarray) -> int:
        return int(frame[0, 0, 0]) * 256 + int(frame[0, 0, 1])

    def faces(self, number: int) -> list[Face]:
        places = sorted((place for person in self.people if (place := person(number)) is not None), key=lambda place: -place[2])
        return [face(*place) for place in places]

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        numbers = [self.number(frame) for frame in frames]
        self.searched.append(numbers)
        return [[] if number in self.overlooked else self.faces(number) for number in numbers]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        found: list[Face] = []
        for number in map(self.number, frames):
            self.followed.append(number)
            x, y, side = boxes_of(near[None])[0]
            there = [(np.hypot(*(boxes_of(each.landmarks[None])[0, :2] - [x, y])), each) for each in self.faces(number)]
            away, nearest = min(there, key=lambda pair: pair[0], default=(np.inf, None))
            if nearest is None or away > side * self.reach:
                break
            found.append(nearest)
            near = nearest.landmarks
        return found


def still(x: float = 50, y: float = 50, side: float = 40, without: Sequence[int] = ()) -> Person:
    return lambda number: None if number in without else (x, y, side)


def places(chain: Chain) -> list[list[float]]:
    return boxes_of(chain.landmarks).round(3).tolist()


def numbers(chains: list[Chain]) -> list[list[int]]:
    return [chain.numbers.tolist() for chain in chains]


# what is searched


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
def test_every_eighth_frame_and_the_last_are_searched_and_all_are_followed(count: int, searched: list[int]) -> None:
    detector = Scripted(lambda number: (50 + 5 * number, 50, 40))
    [chain], total = follow_faces(video(count), detector)
    assert np.concatenate(detector.searched).tolist() == searched
    assert total == count
    assert chain.numbers.tolist() == list(range(count))
    assert places(chain) == [[50 + 5 * number, 50, 40] for number in range(count)]
    assert detector.followed == list(range(1, count))  # each once, none that is not needed


def test_a_video_without_frames_or_faces() -> None:
    assert follow_faces(video(0), Scripted(still())) == ([], 0)
    assert follow_faces(video(20), Scripted()) == ([], 20)


def test_a_chain_is_arrays() -> None:
    [chain], _ = follow_faces(video(20), Scripted(lambda number: (50, 50, 40, 0.25 + number / 40)))
    assert (chain.numbers.dtype, chain.landmarks.dtype, chain.confidence.dtype) == (np.int64, np.float32, np.float32)
    assert (len(chain), chain.landmarks.shape) == (20, (20, 68, 2))
    np.testing.assert_allclose(chain.confidence, 0.25 + np.arange(20) / 40, rtol=1e-6)
    assert chain.weight == pytest.approx(20 * 40)
    part = chain.between(5, 9)
    assert part.numbers.tolist() == [5, 6, 7, 8]
    assert np.array_equal(part.landmarks, chain.landmarks[5:9]) and np.array_equal(part.confidence, chain.confidence[5:9])
    gappy = Chain(chain.numbers[[2, 7, 9]], chain.landmarks[:3], chain.confidence[:3])
    assert [gappy.between(*span).numbers.tolist() for span in ((0, 2), (2, 9), (3, 10), (10, 20))] == [[], [2, 7], [7, 9], []]


@pytest.mark.parametrize("side, batches", [(2, [[0], [8, 16, 24, 32], [40, 48, 49]]), (64, [[0], [8], [16], [24], [32], [40], [48], [49]])])
def test_several_frames_are_searched_in_one_batch_unless_they_are_large(
    side: int, batches: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_BLOCK", 2 * EVERY * 64 * 64 * 3 - 1)  # less than two windows of the large ones
    detector = Scripted(still())
    follow_faces(video(50, (side, side)), detector)
    assert detector.searched == batches


@pytest.mark.parametrize("block, held", [(follow._BLOCK, 4 * EVERY), (1, EVERY)])
def test_no_more_than_a_block_of_frames_is_held(block: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_BLOCK", block)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watched() -> Iterator[np.ndarray]:
        nonlocal most
        for frame in video(200):
            alive.append(weakref.ref(frame))
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))
            yield frame

    follow_faces(watched(), Scripted(still()))
    assert held <= most <= held + 2  # and the one that is on its way


def test_frames_that_do_not_follow_each_other_are_all_searched() -> None:
    detector = Scripted(lambda number: (50 + 35 * (number % 2), 50, 40))  # further than it can be followed
    [chain], total = follow_faces(video(9), detector, every=1)
    assert np.concatenate(detector.searched).tolist() == list(range(9))
    assert (chain.numbers.tolist(), total) == (list(range(9)), 9)


# one face


def test_a_face_that_is_found_late_is_followed_back_to_its_first_frame() -> None:
    detector = Scripted(lambda number: (50 + 5 * number, 50, 40) if number >= 3 else None)
    [chain], total = follow_faces(video(20), detector)
    assert (chain.numbers.tolist(), total) == (list(range(3, 20)), 20)
    assert places(chain) == [[50 + 5 * number, 50, 40] for number in range(3, 20)]


def test_it_is_followed_back_no_further_than_to_the_search_before() -> None:
    detector = Scripted(still(), overlooked=(0, 8))
    [chain], _ = follow_faces(video(20), detector)
    assert chain.numbers.tolist() == list(range(9, 20))


def test_a_face_that_is_lost_for_a_moment_goes_on_without_a_search() -> None:
    def person(number: int) -> Place | None:
        return None if number in (3, 4, 8) else (50 + 6 * number, 50, 40)  # each time to be looked for where it was last

    [chain], _ = follow_faces(video(20), Scripted(person, overlooked=(8, 16)))
    assert chain.numbers.tolist() == [0, 1, 2, 5, 6, 7, *range(9, 20)]


def test_one_that_is_found_late_is_followed_back_past_such_moments() -> None:
    [chain], _ = follow_faces(video(20), Scripted(still(without=(0, 3, 6, 7))))
    assert chain.numbers.tolist() == [1, 2, 4, 5, *range(8, 20)]


def test_a_doubtful_face_is_followed_but_not_taken_up_again() -> None:
    def person(number: int) -> Place | None:
        return None if number == 3 else (50, 50, 40, DOUBTFUL - 0.1 if number < 6 else DOUBTFUL)

    [chain], _ = follow_faces(video(8), Scripted(person, overlooked=(7,)))
    assert chain.numbers.tolist() == [0, 1, 2, 6, 7]
    # the search at the end sees no face: half as sure from the search before it on
    np.testing.assert_allclose(chain.confidence, [0.4, 0.2, 0.2, 0.25, 0.25])
    # nor where it was lost at the end of a window
    [chain], _ = follow_faces(video(20), Scripted(lambda number: None if number == 8 else (50, 50, 40, 0.4), overlooked=(8, 16, 19)))
    assert chain.numbers.tolist() == list(range(8))


def test_one_that_jumps_is_followed_back_to_where_it_was_lost() -> None:
    detector = Scripted(lambda number: (50 if number < 12 else 90, 50, 40))
    [chain], _ = follow_faces(video(24), detector)
    assert places(chain) == [[50 if number < 12 else 90, 50, 40] for number in range(24)]
    assert detector.followed.count(11) == 1


def test_one_that_is_lost_for_long_is_not_looked_for_in_every_frame() -> None:
    detector = Scripted(still(without=range(4, 200)))
    follow_faces(video(200), detector)
    assert max(detector.followed) <= 16


@pytest.mark.parametrize("place", [(50, 50, 40), (50, 105, 40), (20, 60, 70), (60, 40, 25)])
def test_a_face_that_returns_near_by_is_the_same(place: Place) -> None:
    detector = Scripted(lambda number: (50, 50, 40) if number < 10 else place if number >= 60 else None)
    [chain], _ = follow_faces(video(80), detector)
    assert chain.numbers.tolist() == [*range(10), *range(60, 80)]
    assert places(chain) == [[50, 50, 40]] * 10 + [[*place]] * 20


@pytest.mark.parametrize("place", [(50, 115, 40), (115, 50, 40), (50, 50, 81), (50, 50, 19)])
def test_a_face_that_appears_far_away_or_of_another_size_is_another(place: Place) -> None:
    detector = Scripted(lambda number: (50, 50, 40) if number < 60 else place if number >= 80 else None)
    chains, _ = follow_faces(video(90), detector)
    assert numbers(chains) == [list(range(60)), list(range(80, 90))]


def test_of_two_that_were_lost_near_by_the_one_seen_last_goes_on() -> None:
    detector = Scripted(
        lambda number: (50, 50, 40) if number < 30 else None,
        lambda number: (110, 50, 40) if number < 20 or number >= 60 else None,
        lambda number: None,
    )
    chains, _ = follow_faces(video(70), detector)
    assert numbers(chains) == [[*range(30), *range(60, 70)], list(range(20))]


# several faces


def test_the_largest_times_longest_is_first() -> None:
    detector = Scripted(
        lambda number: (300, 50, 90) if number < 10 else None,  # large and short: 900
        still(50, 50, 40),  # 1600
        lambda number: (500, 50, 30 + number),  # growing: 1980
        lambda number: (800, 50, 100) if number >= 35 else None,  # 500
    )
    chains, total = follow_faces(video(40), detector)
    assert total == 40
    assert [places(chain)[0][0] for chain in chains] == [500, 50, 300, 800]
    assert [chain.weight for chain in chains] == pytest.approx([1980, 1600, 900, 500])


def test_faces_that_pass_each_other_keep_their_chains() -> None:
    def rightwards(number: int) -> Place:
        return (50 + 6 * number, 50, 40)

    def leftwards(number: int) -> Place:
        return (290 - 6 * number, 72, 36)

    chains, _ = follow_faces(video(41), Scripted(rightwards, leftwards))
    assert [places(chain) for chain in chains] == [[[*person(number)] for number in range(41)] for person in (rightwards, leftwards)]


def test_a_face_that_passes_behind_another_is_found_again() -> None:
    """Its chain runs onto the face before it, and leaves that to the other chain; the search finds it on the other side."""

    def behind(number: int) -> Place | None:
        x = 3 * number + 10
        return None if abs(x - 100) < 13 else (x, 75, 36)

    chains, _ = follow_faces(video(50), Scripted(still(100, 50, 40), behind, reach=1.0))
    assert [places(chain) for chain in chains] == [[[100, 50, 40]] * 50, [[*place] for number in range(50) if (place := behind(number))]]


@pytest.mark.parametrize("leaves, kept", [(0, [list(range(30)), list(range(20, 48))]), (1, [list(range(48)), list(range(20, 30))])])
def test_a_chain_that_comes_to_the_face_of_another_leaves_it(leaves: int, kept: list[list[int]]) -> None:
    def person(who: int) -> Person:
        return lambda number: None if (who == leaves and number >= 30) or number < 20 * who else (100 + 25 * who, 50, 40 + who)

    chains, _ = follow_faces(video(48), Scripted(person(0), person(1), reach=1.0))
    assert numbers(chains) == kept


def test_following_back_stops_at_a_face_that_is_followed_already() -> None:
    """A face that comes out from behind another, followed back, would lead onto it."""
    detector = Scripted(still(100, 50, 40), lambda number: (100 + 5 * (number - 16), 50, 38) if number >= 18 else None)
    chains, _ = follow_faces(video(40), detector)
    assert numbers(chains) == [list(range(40)), list(range(21, 40))]  # until then nearer to it than half a face


def test_many_faces_that_came_and_went() -> None:
    """Those that are gone cost nothing: the time grows with the length."""
    people = [lambda number, who=who: (100 * who, 50, 40) if number // 8 == who else None for who in range(60)]
    chains, total = follow_faces(video(480), Scripted(*people))
    assert total == 480
    assert sorted(numbers(chains)) == [list(range(8 * who, 8 * who + 8)) for who in range(60)]
