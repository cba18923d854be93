"""Tests of the landmark detector and face descriptor of dlib."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from talkinghead.errors import TalkingheadError
from talkinghead.landmarks import dlib_detector
from talkinghead.landmarks.detector import MIN_CONFIDENCE, Face, largest_face
from talkinghead.landmarks.dlib_detector import DlibDetector, face_descriptor
from talkinghead.landmarks.geometry import bounding_boxes
from talkinghead.media.video import VideoReader

pytestmark = pytest.mark.identity
ASTRONAUT: np.ndarray = astronaut()
FACE = (170, 60, 290, 200)
"""Left, top, right and bottom around the astronaut's face."""


def is_inside(points: np.ndarray, box: tuple[float, ...]) -> bool:
    return bool((points >= box[:2]).all() and (points <= box[2:]).all())


def find_face(frame: np.ndarray) -> Face:
    [face] = DlibDetector().find([frame])[0]
    return face


def resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    planes = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    planes = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(planes[0].permute(1, 2, 0).numpy())


def test_dlib_detects_face() -> None:
    face = find_face(ASTRONAUT)
    points = face.landmarks
    assert (points.shape, points.dtype) == ((68, 2), np.float32)
    assert isinstance(face.confidence, float)
    assert is_inside(points, FACE)
    # iBUG order: jaw from the picture's left to its right, brows over eyes over nose over mouth
    assert points[0, 0] < points[8, 0] < points[16, 0]
    heights = [
        points[part, 1].mean() for part in (slice(17, 27), slice(36, 48), slice(31, 36), slice(48, 68))
    ]
    assert heights == sorted(heights)


def test_landmarks_match_dlib_in_continuous_pixels() -> None:
    import dlib

    detected = dlib.get_frontal_face_detector()(ASTRONAUT, 0)[0]
    predictor = dlib.shape_predictor(dlib_detector._model_file("shape_predictor_68_face_landmarks.dat"))
    plain = np.array([[part.x + 0.5, part.y + 0.5] for part in predictor(ASTRONAUT, detected).parts()])
    points = find_face(ASTRONAUT).landmarks
    # without the half pixel, the difference would be 0.5 on average
    assert np.abs((points - plain).mean(axis=0)).max() < 0.25
    assert np.abs(points - plain).mean() < 1


@pytest.mark.parametrize("factor", [0.25, 0.5, 3.0])
def test_dlib_is_independent_of_image_size(factor: float) -> None:
    side = int(512 * factor)
    points, reference = find_face(resized(ASTRONAUT, side, side)).landmarks, find_face(ASTRONAUT).landmarks
    # within 4 of the 120 pixels that the face is wide
    assert np.abs(points / factor - reference).mean() < 4


@pytest.mark.parametrize(
    "frame", [np.zeros((120, 160, 3), np.uint8), np.zeros((1, 1, 3), np.uint8), ASTRONAUT[300:]]
)
def test_dlib_without_face_returns_none(frame: np.ndarray) -> None:
    detector = DlibDetector()
    assert detector.find([frame]) == [[]]
    assert largest_face(detector, frame) is None
    assert face_descriptor(frame) is None


def two_faces() -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...]]:
    """Paste the astronaut, a little smaller, next to the full-size astronaut, each cut to the right of the
    face.
    """
    frame = np.zeros((512, 600, 3), np.uint8)
    frame[:461, :280], frame[:, 280:] = resized(ASTRONAUT, 461, 461)[:, :280], ASTRONAUT[:, :320]
    left, top, right, bottom = FACE
    return frame, (280 + left, top, 280 + right, bottom), tuple(0.9 * side for side in FACE)


def test_dlib_sorts_faces_by_size() -> None:
    frame, large, small = two_faces()
    detector = DlibDetector()
    none, both, one = detector.find([ASTRONAUT[300:], frame, ASTRONAUT])
    assert (len(none), len(both), len(one)) == (0, 2, 1)
    assert is_inside(both[0].landmarks, large) and is_inside(both[1].landmarks, small)
    largest = largest_face(detector, frame)
    assert largest is not None and np.array_equal(largest.landmarks, both[0].landmarks)


def test_bounding_boxes_match_corners() -> None:
    corners = np.resize(np.array([[10, 20], [40, 20], [40, 60], [10, 60]], np.float32), (68, 2))
    assert bounding_boxes(np.stack([corners, 2 * corners])).tolist() == [[25, 40, 40], [50, 80, 80]]


def cover_face(half: str) -> np.ndarray:
    frame = ASTRONAUT.copy()
    x, y = find_face(ASTRONAUT).landmarks.mean(axis=0).astype(int)
    frame[
        {"right": np.s_[50:230, x:310], "upper": np.s_[50:y, 150:310], "lower": np.s_[y:230, 150:310]}[half]
    ] = 128
    return frame


def squeeze_face() -> np.ndarray:
    """Squeeze the face to two fifths of its width: as little is seen of a face in profile."""
    left, top, right, bottom = 150, 40, 310, 220
    frame = np.full_like(ASTRONAUT, 90)
    frame[top:bottom, 200:264] = resized(ASTRONAUT[top:bottom, left:right], bottom - top, 64)
    return frame


def test_confidence_is_high_on_clear_face(carphone: Path) -> None:
    assert find_face(ASTRONAUT).confidence > 0.7
    assert find_face(resized(ASTRONAUT, 256, 256)).confidence > 0.7
    assert np.median([find_face(frame).confidence for frame in list(VideoReader(carphone))[::12]]) > 0.7


@pytest.mark.parametrize("change", ["right", "upper", "lower", "squeezed"])
def test_confidence_is_low_on_occluded_or_turned_face(change: str) -> None:
    frame = squeeze_face() if change == "squeezed" else cover_face(change)
    clear = find_face(ASTRONAUT)
    followed = DlibDetector().follow([frame], clear.landmarks)
    assert not followed or followed[0].confidence < clear.confidence - 0.2
    assert all(0 < face.confidence < 0.7 for face in DlibDetector().find([frame])[0])


def test_detected_face_has_positive_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_detector, "_MAX_SPREAD", 1e-6)  # nothing fits that well
    assert 0 < find_face(ASTRONAUT).confidence < 0.1


def test_averaged_landmarks_jitter_less_than_single_fit() -> None:
    """Compare both under noise in the same box."""
    random = np.random.default_rng(0)
    noisy = [
        np.clip(ASTRONAUT + random.normal(0, 6, ASTRONAUT.shape), 0, 255).astype(np.uint8) for _ in range(12)
    ]
    box = dlib_detector._find_boxes(ASTRONAUT)[0]

    def jitter() -> float:
        return float(np.std([dlib_detector._fit(frame, box).landmarks for frame in noisy], axis=0).mean())

    averaged = jitter()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dlib_detector, "_BOX_VARIATIONS", dlib_detector._BOX_VARIATIONS[:1])
        assert averaged < 0.8 * jitter()


def moving(frames: int, step: tuple[int, int]) -> list[np.ndarray]:
    return [np.roll(ASTRONAUT, (step[1] * number, step[0] * number), (0, 1)) for number in range(frames)]


def test_tracked_face_matches_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = moving(8, (9, 3))
    detector = DlibDetector()
    monkeypatch.setattr(
        dlib_detector,
        "_find_near",
        lambda *_: pytest.fail("a face whose landmarks fit must not be searched for"),
    )
    start = find_face(frames[0]).landmarks
    followed = detector.follow(frames[1:], start)
    assert len(followed) == 7
    side = bounding_boxes(start[None])[0, 2]
    for number, (face, faces) in enumerate(zip(followed, detector.find(frames[1:]), strict=True), 1):
        assert np.abs(face.landmarks - (start + np.float32([9 * number, 3 * number]))).mean() < 0.02 * side
        assert np.abs(face.landmarks - faces[0].landmarks).mean() < 0.02 * side
        assert face.confidence > 0.7


def test_tracking_searches_only_near_face(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    search = dlib_detector._face_detector()

    class Recording:
        def run(self, window: np.ndarray, upsampling: int, score: float) -> Any:
            searched.append(window.shape[0] * window.shape[1])
            return search.run(window, upsampling, score)

    detector, start = DlibDetector(), find_face(ASTRONAUT).landmarks
    monkeypatch.setattr(dlib_detector, "_face_detector", Recording)
    [same] = detector.follow([ASTRONAUT], start)
    assert np.abs(same.landmarks - start).mean() < 2
    assert searched == []
    # where the landmarks do not fit, only the surroundings of the face are searched
    [moved] = detector.follow([np.roll(ASTRONAUT, 60, 1)], start)
    assert np.abs(moved.landmarks - start - [60, 0]).mean() < 2 and moved.confidence > 0.7
    assert len(searched) == 1 and searched[0] < 512 * 512 / 3


def test_tracking_keeps_face_despite_larger_one() -> None:
    frame, _, small = two_faces()
    previous = find_face(ASTRONAUT).landmarks * np.float32(0.9)
    [face] = DlibDetector().follow([frame], previous + np.float32([3, 2]))
    assert is_inside(face.landmarks, small)
    assert np.abs(face.landmarks - previous).mean() < 2


def test_tracking_stops_at_missing_face() -> None:
    wall = np.full_like(ASTRONAUT, 90)
    start = find_face(ASTRONAUT).landmarks
    assert len(DlibDetector().follow([ASTRONAUT, ASTRONAUT, wall, ASTRONAUT], start)) == 2
    assert DlibDetector().follow([], start) == []


@pytest.mark.parametrize("shift", [(250, 250), (-1000, 0), (0, 10_000)])
def test_tracking_from_wrong_place_has_low_confidence(shift: tuple[int, int]) -> None:
    """Accept only faces of low confidence far from the face or outside the frame."""
    start = find_face(ASTRONAUT).landmarks
    assert all(
        face.confidence < MIN_CONFIDENCE
        for face in DlibDetector().follow([ASTRONAUT], start + np.float32(shift))
    )


def test_descriptor_distinguishes_people(carphone: Path) -> None:
    frames = list(VideoReader(carphone))
    first, later, other = (face_descriptor(frame) for frame in (frames[0], frames[60], ASTRONAUT))
    assert first is not None
    assert later is not None
    assert other is not None
    assert (first.shape, first.dtype) == ((128,), np.float32)
    assert np.linalg.norm(first - later) < 0.6
    assert np.linalg.norm(first - other) > 0.7


def test_missing_model_file_reports_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlib_detector.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        TalkingheadError,
        match=r"gone\.dat: dlib's model file is not installed; pip install 'talkinghead\[dlib\]'",
    ):
        dlib_detector._model_file("gone.dat")
