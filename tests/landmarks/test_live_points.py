"""Driving while frames come, with a detector that is told where faces are, and on heads whose motion is known."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from test_follow import Person, Scripted, still, video
from test_retarget import ANNA, BOB, film, motion

from talkinghead.animate import map_track
from talkinghead.clip import Clip, Track
from talkinghead.landmarks.at_rest import framing
from talkinghead.landmarks.detect import open_detector
from talkinghead.landmarks.face import Face
from talkinghead.landmarks.live_points import LiveFace, LivePoints
from talkinghead.landmarks.retarget import neutral_face, retarget
from talkinghead.media.video import VideoReader

FPS = 25


def watch(detector: Scripted, count: int) -> tuple[list[Face | None], list[bool]]:
    live = LiveFace(detector)
    faces, new = [], []
    for number, frame in enumerate(video(count)):
        faces.append(live(frame, number / FPS))
        new.append(faces[-1] is not None and live.is_new)
    return faces, new


def centres(faces: list[Face | None]) -> list[float | None]:
    return [None if face is None else round(face.box[0], 2) for face in faces]


def searched(detector: Scripted) -> list[int]:
    return np.concatenate(detector.searched).tolist()


# which face


def test_the_first_frame_and_then_one_a_second_are_searched_and_the_others_followed() -> None:
    detector = Scripted(lambda number: (50 + number, 50, 40))
    faces, new = watch(detector, 80)
    assert centres(faces) == list(range(50, 130))
    assert searched(detector) == [0, 25, 50, 75]
    assert new == [True, *[False] * 79]


def test_a_face_that_is_lost_is_searched_for_at_once_then_now_and_then() -> None:
    detector = Scripted(still(without=range(10, 29)))
    faces, _ = watch(detector, 40)
    assert searched(detector) == [0, 10, 16, 22, 27]
    assert [number for number, face in enumerate(faces) if face is None] == list(range(10, 29))  # then it is followed from where it was
    nobody = Scripted()
    watch(nobody, 50)
    assert searched(nobody)[0] == 0 and 8 <= len(searched(nobody)) <= 10


def test_one_that_is_back_where_it_was_is_the_same_and_elsewhere_or_later_another() -> None:
    faces, new = watch(Scripted(still(without=range(5, 9))), 20)
    assert [face is None for face in faces].count(True) == 4 and new.count(True) == 1
    _, new = watch(Scripted(lambda number: (50 if number < 5 else 300, 50, 40)), 20)
    assert new.index(True, 1) == 5 and new.count(True) == 2
    _, new = watch(Scripted(lambda number: (50, 50, 40 if number < 5 else 100), reach=0.0), 20)
    assert new[5]  # nearer or further by far
    _, new = watch(Scripted(still(without=range(5, 40))), 60)
    assert new.count(True) == 2  # nobody knows who sat down


def test_the_largest_is_taken_and_kept_when_another_becomes_larger() -> None:
    small: Person = still(200, side=30)
    faces, _ = watch(Scripted(small, lambda number: (50, 50, 40 if number < 20 else 20)), 60)
    assert set(centres(faces)) == {50.0}


def test_one_that_the_search_does_not_see_is_doubted_and_left_for_one_that_it_sees() -> None:
    profile: Person = lambda number: (50, 50, 40, 0.9)  # noqa: E731
    detector = Scripted(profile)
    live = LiveFace(detector)
    confidence = []
    for number, frame in enumerate(video(30)):
        detector.overlooked = (25,)
        face = live(frame, number / FPS)
        assert face is not None
        confidence.append(face.confidence)
    np.testing.assert_allclose(confidence, [0.9 * (0.5 if number == 25 else 1) for number in range(30)])
    # a doubtful one that only following sees, and a clear one elsewhere

    class Misled(Scripted):
        def follow(self, frames, near):  # type: ignore[no-untyped-def]
            return [replace(face, confidence=0.2 if face.box[0] < 100 else 1.0) for face in super().follow(frames, near)]

        def find(self, frames):  # type: ignore[no-untyped-def]
            return [[face for face in faces if face.box[0] > 100 or self.number(frames[0]) == 0] for faces in super().find(frames)]

    faces, _ = watch(Misled(still(side=50), still(300)), 40)
    assert centres(faces) == [50.0] * 25 + [300.0] * 15


def test_one_that_is_clearly_followed_is_not_left_because_the_search_sees_another() -> None:
    class Overlooking(Scripted):
        def find(self, frames):  # type: ignore[no-untyped-def]
            return [[face for face in faces if face.box[0] > 100 or self.number(frames[0]) == 0] for faces in super().find(frames)]

    faces, _ = watch(Overlooking(still(side=50), still(300)), 40)
    assert set(centres(faces)) == {50.0}


def test_of_several_that_a_search_finds_the_one_that_was_lost_goes_on() -> None:
    detector = Scripted(still(), lambda number: (300, 50, 60) if number else None, reach=-1)  # which never follows
    faces, _ = watch(detector, 20)
    assert set(centres(faces)) == {50.0}


def test_one_that_was_lost_is_not_taken_up_again_on_doubtful_evidence() -> None:
    detector = Scripted(lambda number: None if number == 3 else (50, 50, 40, 0.4 if number < 8 else 0.6), overlooked=tuple(range(1, 40)))
    assert centres(watch(detector, 20)[0]) == [50.0] * 3 + [None] * 5 + [50.0] * 12


def test_what_is_no_face_is_not_taken_for_one() -> None:
    class Broken(Scripted):
        def find(self, frames):  # type: ignore[no-untyped-def]
            return [[Face(np.zeros((68, 2), np.float32), 1.0), Face(np.full((68, 2), np.nan, np.float32), 1.0)]]

    assert watch(Broken(), 10)[0] == [None] * 10


# where the person's landmarks are to be


class Told:
    """A detector that gives the landmarks of a track, whose confidence is 0 where there is no face."""

    name = choice_reason = "told"

    def __init__(self, track: Track) -> None:
        self.track, self.next = track, 0

    def find(self, frames):  # type: ignore[no-untyped-def]
        face = Face(self.track.landmarks[self.next], float(self.track.confidence[self.next]))
        return [[face] if face.confidence else []]

    def follow(self, frames, near):  # type: ignore[no-untyped-def]
        return self.find(frames)[0]


def drive(track: Track, reference: np.ndarray, keep_proportions: bool = True) -> tuple[np.ndarray, LivePoints]:
    detector = Told(track)
    live = LivePoints(detector, reference, keep_proportions)
    points = []
    for detector.next in range(len(track)):
        points.append(live(np.zeros((2, 2, 3), np.uint8), detector.next / FPS))
    return np.stack(points), live


@pytest.fixture(scope="module")
def anna() -> np.ndarray:
    at_rest = {name: np.full(1, float(name == "lids")) for name in motion()}
    return film(ANNA, at_rest).landmarks[0] / np.float32(400)


def test_after_a_while_the_person_moves_as_in_a_file(anna: np.ndarray) -> None:
    track = film(BOB, motion(200))
    points, live = drive(track, anna)
    whole = retarget(track, neutral_face(anna[None]))
    size = np.ptp(whole[0], axis=0).max()
    apart = np.linalg.norm(points - whole, axis=2).mean(axis=1) / size
    assert apart[100:].mean() < 0.02 and live.without_face == 0
    # it is the person's motion, not the person at rest
    assert np.linalg.norm(whole - anna, axis=2).mean(axis=1)[100:].mean() / size > 0.04
    # and comes to it without jumps
    steps, as_filmed = (np.linalg.norm(np.diff(each, axis=0), axis=2).mean(axis=1) / size for each in (points, whole))
    assert (steps - as_filmed).max() < 0.01


def test_a_still_face_is_steadied(anna: np.ndarray) -> None:
    face = film(BOB, motion(1)).landmarks
    noise = np.random.default_rng(0).normal(0, 0.005 * framing(face)[1][0], (100, 68, 2))
    shaky = face + noise
    points, _ = drive(Track(shaky, (1, 1), FPS), anna, keep_proportions=False)
    steps, as_found = (np.abs(np.diff(each, axis=0)).mean() for each in (points[50:], map_track(Track(shaky, (1, 1)), anna)[50:]))
    assert steps < 0.7 * as_found


def test_with_proportions_off_the_face_is_scaled_and_shifted_alone(anna: np.ndarray) -> None:
    track = film(BOB, motion(200))
    points, _ = drive(track, anna, keep_proportions=False)
    whole = map_track(track, anna)
    size = np.ptp(whole[0], axis=0).max()
    assert points.dtype == np.float32
    assert np.linalg.norm(points - whole, axis=2).mean(axis=1)[100:].mean() / size < 0.03
    flat = points - points.mean(axis=1, keepdims=True), whole - whole.mean(axis=1, keepdims=True)
    assert np.linalg.norm(flat[0] - flat[1], axis=2)[100:].mean() / size < 0.01


def test_frames_without_a_face_hold_the_points_and_are_counted(anna: np.ndarray) -> None:
    track = film(BOB, motion(40))
    sure = np.ones(40)
    sure[20:28] = 0
    points, live = drive(replace(track, confidence=sure), anna)
    assert live.without_face == 8
    assert all(np.array_equal(points[19], each) for each in points[20:28])
    assert not np.array_equal(points[27], points[28])


def test_without_any_face_the_person_is_at_rest(anna: np.ndarray) -> None:
    points, live = drive(Track(np.zeros((10, 68, 2)), (1, 1), FPS, np.zeros(10)), anna)
    assert live.without_face == 10 and all(np.array_equal(each, anna) for each in points)


def test_another_driver_is_measured_anew(anna: np.ndarray) -> None:
    here = film(BOB, motion(60))
    there = replace(here, landmarks=here.landmarks * 2 + 900)  # twice as large, elsewhere
    alone, _ = drive(there, anna)
    both, _ = drive(Track(np.concatenate([here.landmarks, there.landmarks]), (1, 1), FPS), anna)
    # but for how long ago the first frame was
    np.testing.assert_allclose(both[60:], alone, atol=0.01)


def test_a_real_detector_drives(carphone: Path, carphone_clip: Clip) -> None:
    reference = carphone_clip.track.landmarks[0] / 64
    live = LivePoints(open_detector("dlib"), reference)
    points = np.stack([live(frame, number / 30) for number, frame in enumerate(islice(VideoReader(carphone), 30))])
    assert live.without_face == 0 and np.ptp(points, axis=0).max() > 0.01
    assert np.abs(points - reference).max() < 0.15
