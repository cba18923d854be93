import numpy as np
import pytest

from talkinghead.clip import Clip, Track
from talkinghead.errors import TalkingheadError


def track(confidence: list[float] | None = None, fps: float = 10, count: int = 4) -> Track:
    points = np.arange(len(confidence) if confidence else count, dtype=np.float64)[:, None, None] + np.zeros((68, 2))
    return Track(points, (20, 30), fps, confidence)  # type: ignore[arg-type]


def test_a_track_is_arrays_of_one_kind() -> None:
    given = track([0, 0.5, 1])
    assert (given.landmarks.dtype, given.confidence.dtype) == (np.float32, np.float32)
    assert given.landmarks.flags["C_CONTIGUOUS"] and given.confidence.flags["C_CONTIGUOUS"]
    assert (len(given), given.size, given.fps) == (3, (20, 30), 10)


def test_confidence_is_one_where_none_is_given() -> None:
    assert track().confidence.tolist() == [1, 1, 1, 1]
    assert track().seen.tolist() == [True] * 4
    assert track(count=0).confidence.shape == (0,)


def test_seen_is_where_a_face_was_found_however_doubtful() -> None:
    seen = track([0, 0.01, 1, 0]).seen
    assert seen.dtype == bool and seen.tolist() == [False, True, True, False]


def test_slices_keep_confidence_beside_landmarks() -> None:
    whole = track([0, 0.1, 0.2, 0.3, 0.4])
    for index in (slice(1, 4), slice(None, None, -2), [4, 0], np.array([3, 3]), whole.seen):
        part = whole[index]
        np.testing.assert_allclose(part.confidence, part.landmarks[:, 0, 0] / 10, rtol=1e-6)
        assert len(part) == len(np.arange(5)[index]) and (part.size, part.fps) == (whole.size, whole.fps)
    clip = Clip(whole, np.zeros((5, 20, 30, 3), np.uint8))
    np.testing.assert_allclose(clip[2:4].track.confidence, [0.2, 0.3], rtol=1e-6)
    with pytest.raises(TalkingheadError, match=r"sliced, not indexed: write \[2:3\]"):
        whole[2]  # type: ignore[index]


@pytest.mark.parametrize("confidence", [[1, 1, 1], [[1], [1], [1], [1]], 1.0])
def test_confidence_is_one_number_a_frame(confidence: object) -> None:
    with pytest.raises(TalkingheadError, match=r"^Track: confidence must be \[4\], one for each frame, got \[.*\]$"):
        Track(np.zeros((4, 68, 2)), (20, 30), 10, confidence)  # type: ignore[arg-type]


def test_landmarks_are_68_points() -> None:
    with pytest.raises(TalkingheadError, match=r"must be \[N, 68, 2\], got \[4, 5, 2\]"):
        Track(np.zeros((4, 5, 2)), (20, 30))


@pytest.mark.parametrize(
    "confidence, gaps",
    [
        ([1] * 10, []),
        ([1, *[0] * 5, 1], []),  # half a second is not longer than half a second
        ([1, *[0] * 6, 0.1], [(0.1, 0.7)]),
        ([*[0] * 6, 1, 0, 1, *[0] * 7], [(0, 0.6), (0.9, 1.6)]),  # at both ends, and a short one between
        ([0] * 8, [(0, 0.8)]),
    ],
)
def test_gaps_are_told_by_time(confidence: list[float], gaps: list[tuple[float, float]]) -> None:
    found = track(confidence).gaps()
    assert [isinstance(each, tuple) for each in found] == [True] * len(gaps)
    np.testing.assert_allclose(np.reshape(found, (-1, 2)), np.reshape(gaps, (-1, 2)), atol=1e-9)


def test_how_long_a_gap_is_told_from() -> None:
    given = track([1, 0, 0, 1, 0, 1])
    assert [len(given.gaps(seconds)) for seconds in (0, 0.1, 0.15, 0.25)] == [2, 1, 1, 0]
    with np.errstate(all="raise"):
        assert track([1, 0, 0, 1], fps=0).gaps(0) == []  # pictures are not in time


def test_clip_valid_of_another_kind_raises() -> None:
    frames = np.zeros((4, 20, 30, 3), np.uint8)
    assert Clip(track(), frames).valid is None
    assert Clip(track(), frames, valid=np.ones((4, 20, 30), bool)).valid is not None
    for wrong in (np.ones((4, 20, 30), np.uint8), np.ones((20, 30), bool), np.ones((3, 20, 30), bool)):
        with pytest.raises(TalkingheadError, match=r"^clip: valid must be bool \[4, 20, 30\], one for each pixel, got .*; leave it out"):
            Clip(track(), frames, valid=wrong)


def test_clip_sliced_keeps_valid_beside_frames() -> None:
    frames = np.zeros((4, 20, 30, 3), np.uint8)
    valid = np.zeros((4, 20, 30), bool)
    valid[2] = True
    clip = Clip(track(), frames, valid=valid)
    for index in (slice(1, 4), [2, 0], np.array([True, False, True, False])):
        part = clip[index].valid
        assert part is not None and np.array_equal(part, valid[index])
    assert Clip(track(), frames)[1:3].valid is None
