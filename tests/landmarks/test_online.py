"""Tests of online tracking and retargeting, with scripted detectors and heads of known motion."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from test_retarget import ANNA, BOB, make_track, motion
from test_tracking import Person, Scripted, still, video

from talkinghead.clip import Clip, Track
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.gaze import look_ahead
from talkinghead.landmarks.online import OnlineFaceTracker, OnlineRetargeter
from talkinghead.landmarks.online_neutral import median_centre_and_scale
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.landmarks.retarget import neutral_face, retarget
from talkinghead.media.video import VideoReader
from talkinghead.pipelines.animate import align_track

FPS = 25


def watch(detector: Scripted, count: int) -> tuple[list[Face | None], list[bool]]:
    live = OnlineFaceTracker(detector)
    faces, new = [], []
    for number, frame in enumerate(video(count)):
        faces.append(live(frame, number / FPS))
        new.append(faces[-1] is not None and live.is_new)
    return faces, new


def centres(faces: list[Face | None]) -> list[float | None]:
    return [None if face is None else round(face.box[0], 2) for face in faces]


def searched(detector: Scripted) -> list[int]:
    return np.concatenate(detector.searched).tolist()


def test_tracker_detects_once_a_second() -> None:
    detector = Scripted(lambda number: (50 + number, 50, 40))
    faces, new = watch(detector, 80)
    assert centres(faces) == list(range(50, 130))
    assert searched(detector) == [0, 25, 50, 75]
    assert new == [True, *[False] * 79]


def test_tracker_redetects_lost_face_with_backoff() -> None:
    detector = Scripted(still(without=range(10, 29)))
    faces, _ = watch(detector, 40)
    assert searched(detector) == [0, 10, 16, 22, 27]
    assert [number for number, face in enumerate(faces) if face is None] == list(
        range(10, 29)
    )  # then it is tracked from its last position
    no_people = Scripted()
    watch(no_people, 50)
    assert searched(no_people)[0] == 0 and 8 <= len(searched(no_people)) <= 10


def test_tracker_recognises_face_by_position_and_time() -> None:
    faces, new = watch(Scripted(still(without=range(5, 9))), 20)
    assert [face is None for face in faces].count(True) == 4 and new.count(True) == 1
    _, new = watch(Scripted(lambda number: (50 if number < 5 else 300, 50, 40)), 20)
    assert new.index(True, 1) == 5 and new.count(True) == 2
    _, new = watch(Scripted(lambda number: (50, 50, 40 if number < 5 else 100), reach=0.0), 20)
    assert new[5]  # much nearer or farther
    _, new = watch(Scripted(still(without=range(5, 40))), 60)
    assert new.count(True) == 2  # it may be another person


def test_tracker_keeps_first_largest_face() -> None:
    small: Person = still(200, side=30)
    faces, _ = watch(Scripted(small, lambda number: (50, 50, 40 if number < 20 else 20)), 60)
    assert set(centres(faces)) == {50.0}


def test_tracker_leaves_undetected_doubtful_face() -> None:
    profile: Person = lambda number: (50, 50, 40, 0.9)  # noqa: E731
    detector = Scripted(profile)
    live = OnlineFaceTracker(detector)
    confidence = []
    for number, frame in enumerate(video(30)):
        detector.overlooked = (25,)
        face = live(frame, number / FPS)
        assert face is not None
        confidence.append(face.confidence)
    np.testing.assert_allclose(confidence, [0.9 * (0.5 if number == 25 else 1) for number in range(30)])
    # a doubtful face that only tracking reports, and a clear one elsewhere

    class Misled(Scripted):
        def follow(self, frames, near):  # type: ignore[no-untyped-def]
            return [
                replace(face, confidence=0.2 if face.box[0] < 100 else 1.0)
                for face in super().follow(frames, near)
            ]

        def find(self, frames):  # type: ignore[no-untyped-def]
            return [
                [face for face in faces if face.box[0] > 100 or self.number(frames[0]) == 0]
                for faces in super().find(frames)
            ]

    faces, _ = watch(Misled(still(side=50), still(300)), 40)
    assert centres(faces) == [50.0] * 25 + [300.0] * 15


def test_tracker_keeps_clear_face_despite_detection() -> None:
    class Overlooking(Scripted):
        def find(self, frames):  # type: ignore[no-untyped-def]
            return [
                [face for face in faces if face.box[0] > 100 or self.number(frames[0]) == 0]
                for faces in super().find(frames)
            ]

    faces, _ = watch(Overlooking(still(side=50), still(300)), 40)
    assert set(centres(faces)) == {50.0}


def test_tracker_resumes_lost_face_among_several() -> None:
    detector = Scripted(
        still(), lambda number: (300, 50, 60) if number else None, reach=-1
    )  # this detector never tracks
    faces, _ = watch(detector, 20)
    assert set(centres(faces)) == {50.0}


def test_tracker_does_not_resume_at_low_confidence() -> None:
    detector = Scripted(
        lambda number: None if number == 3 else (50, 50, 40, 0.4 if number < 8 else 0.6),
        overlooked=tuple(range(1, 40)),
    )
    assert centres(watch(detector, 20)[0]) == [50.0] * 3 + [None] * 5 + [50.0] * 12


def test_tracker_ignores_invalid_faces() -> None:
    class Broken(Scripted):
        def find(self, frames):  # type: ignore[no-untyped-def]
            return [
                [Face(np.zeros((68, 2), np.float32), 1.0), Face(np.full((68, 2), np.nan, np.float32), 1.0)]
            ]

    assert watch(Broken(), 10)[0] == [None] * 10


class TrackDetector:
    """Detector that returns the landmarks of a track; a confidence of 0 means no face."""

    name = "track"

    def __init__(self, track: Track) -> None:
        self.track, self.next = track, 0

    def find(self, frames):  # type: ignore[no-untyped-def]
        irises = None if self.track.irises is None else self.track.irises[self.next]
        face = Face(self.track.landmarks[self.next], float(self.track.confidence[self.next]), irises)
        return [[face] if face.confidence else []]

    def follow(self, frames, near):  # type: ignore[no-untyped-def]
        return self.find(frames)[0]


def drive(
    track: Track, reference: np.ndarray, keep_proportions: bool = True
) -> tuple[np.ndarray, OnlineRetargeter]:
    detector = TrackDetector(track)
    live = OnlineRetargeter(detector, reference, keep_proportions)
    points = []
    for detector.next in range(len(track)):
        points.append(live(np.zeros((2, 2, 3), np.uint8), detector.next / FPS))
    return np.stack(points), live


@pytest.fixture(scope="module")
def anna() -> np.ndarray:
    at_rest = {name: np.full(1, float(name == "lids")) for name in motion()}
    return make_track(ANNA, at_rest).landmarks[0] / np.float32(400)


def test_online_retargeting_converges_to_offline(anna: np.ndarray) -> None:
    track = make_track(BOB, motion(200))
    points, live = drive(track, anna)
    whole = retarget(track, neutral_face(anna[None]))
    size = np.ptp(whole[0], axis=0).max()
    distance = np.linalg.norm(points - whole, axis=2).mean(axis=1) / size
    assert distance[100:].mean() < 0.02 and live.without_face == 0
    # the person moves and is not at rest
    assert np.linalg.norm(whole - anna, axis=2).mean(axis=1)[100:].mean() / size > 0.04
    # it converges without jumps
    steps, as_filmed = (
        np.linalg.norm(np.diff(landmarks, axis=0), axis=2).mean(axis=1) / size
        for landmarks in (points, whole)
    )
    assert (steps - as_filmed).max() < 0.01


@pytest.mark.parametrize("keep_proportions", [True, False])
def test_online_retargeting_hands_irises_on(anna: np.ndarray, keep_proportions: bool) -> None:
    track = make_track(BOB, motion(60))
    irises = look_ahead(track.landmarks)
    irises[30:, ..., 0] += 0.15 * (track.landmarks[30:, 39, 0] - track.landmarks[30:, 36, 0])[:, None, None]
    points, _ = drive(replace(track, irises=irises), anna, keep_proportions)
    landmarks, _ = drive(track, anna, keep_proportions)
    np.testing.assert_array_equal(points[:, :68], landmarks)
    moved, ahead = points[:, [68, 73], 0], look_ahead(landmarks)[:, :, 0, 0]
    shift = (moved - ahead) / (landmarks[:, [39, 45], 0] - landmarks[:, [36, 42], 0])
    np.testing.assert_allclose(shift[10:29], 0, atol=0.03)
    np.testing.assert_allclose(shift[32:], 0.15, atol=0.03)  # two frames after the gaze jumped


def test_online_retargeting_smooths_still_face(anna: np.ndarray) -> None:
    face = make_track(BOB, motion(1)).landmarks
    noise = np.random.default_rng(0).normal(0, 0.005 * median_centre_and_scale(face)[1], (100, 68, 2))
    shaky = face + noise
    points, _ = drive(Track(shaky, (1, 1), FPS), anna, keep_proportions=False)
    steps, as_found = (
        np.abs(np.diff(landmarks, axis=0)).mean()
        for landmarks in (points[50:], align_track(Track(shaky, (1, 1)), anna)[50:])
    )
    assert steps < 0.7 * as_found


def test_retargeter_without_proportions_only_aligns(anna: np.ndarray) -> None:
    track = make_track(BOB, motion(200))
    points, _ = drive(track, anna, keep_proportions=False)
    whole = align_track(track, anna)
    size = np.ptp(whole[0], axis=0).max()
    assert points.dtype == np.float32
    assert np.linalg.norm(points - whole, axis=2).mean(axis=1)[100:].mean() / size < 0.03
    flat = points - points.mean(axis=1, keepdims=True), whole - whole.mean(axis=1, keepdims=True)
    assert np.linalg.norm(flat[0] - flat[1], axis=2)[100:].mean() / size < 0.01


def test_retargeter_holds_landmarks_without_face(anna: np.ndarray) -> None:
    track = make_track(BOB, motion(40))
    confidence = np.ones(40)
    confidence[20:28] = 0
    points, live = drive(replace(track, confidence=confidence), anna)
    assert live.without_face == 8
    assert all(np.array_equal(points[19], frame) for frame in points[20:28])
    assert not np.array_equal(points[27], points[28])


def test_retargeter_without_any_face_returns_reference(anna: np.ndarray) -> None:
    points, live = drive(Track(np.zeros((10, 68, 2)), (1, 1), FPS, np.zeros(10)), anna)
    assert live.without_face == 10 and all(np.array_equal(frame, anna) for frame in points)


def test_retargeter_restarts_for_new_driver(anna: np.ndarray) -> None:
    here = make_track(BOB, motion(60))
    there = replace(here, landmarks=here.landmarks * 2 + 900)  # twice as large, elsewhere
    alone, _ = drive(there, anna)
    both, _ = drive(Track(np.concatenate([here.landmarks, there.landmarks]), (1, 1), FPS), anna)
    # the time since the first frame differs
    np.testing.assert_allclose(both[60:], alone, atol=0.01)


def test_retargeter_works_with_network_detector(carphone: Path, carphone_clip: Clip) -> None:
    reference = carphone_clip.track.landmarks[0] / 64
    live = OnlineRetargeter(open_detector("network"), reference)
    points = np.stack(
        [live(frame, number / 30) for number, frame in enumerate(islice(VideoReader(carphone), 30))]
    )
    assert live.without_face == 0 and np.ptp(points, axis=0).max() > 0.01
    assert np.abs(points[:, :68] - reference).max() < 0.15


class TwoFaces(Scripted):
    """Detector that sees a second, smaller face 70 pixels to the right of the first."""

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [[face, _shrunk(face)] for faces in super().find(frames) for face in faces]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        return [Face(near.copy(), 1.0)]


def _shrunk(face: Face) -> Face:
    centre = face.landmarks.mean(axis=0)
    return Face((face.landmarks - centre) / 2 + centre + (70, 0), 1.0)


@pytest.mark.parametrize("face, expected", [(1, 50), (2, 120), (3, None)])
def test_tracker_follows_chosen_face(face: int, expected: int | None) -> None:
    tracker = OnlineFaceTracker(TwoFaces(still()), face)
    seen = [tracker(frame, number / FPS) for number, frame in enumerate(video(30))]
    assert [None if x is None else round(x) for x in centres(seen)] == [expected] * 30


def test_restarted_tracker_finds_face_anew() -> None:
    detector = Scripted(still())
    tracker = OnlineFaceTracker(detector)
    for number, frame in enumerate(video(10)):
        if number == 5:
            tracker.restart()
        assert tracker(frame, number / FPS) is not None
        assert tracker.is_new == (number in (0, 5))
    assert searched(detector) == [0, 5]
