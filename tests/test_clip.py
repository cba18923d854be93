from dataclasses import replace

import numpy as np
import pytest

from talkinghead.clip import Clip, Track
from talkinghead.errors import TalkingheadError


def make_track(confidence: list[float] | None = None, fps: float = 10, count: int = 4) -> Track:
    points = np.arange(len(confidence) if confidence else count, dtype=np.float64)[:, None, None] + np.zeros(
        (68, 2)
    )
    return Track(points, (20, 30), fps, confidence)  # type: ignore[arg-type]


def test_track_arrays_are_contiguous_float32() -> None:
    values = make_track([0, 0.5, 1])
    assert (values.landmarks.dtype, values.confidence.dtype) == (np.float32, np.float32)
    assert values.landmarks.flags["C_CONTIGUOUS"] and values.confidence.flags["C_CONTIGUOUS"]
    assert (len(values), values.size, values.fps) == (3, (20, 30), 10)


def test_track_default_confidence_is_one() -> None:
    assert make_track().confidence.tolist() == [1, 1, 1, 1]
    assert make_track().seen.tolist() == [True] * 4
    assert make_track(count=0).confidence.shape == (0,)


def test_track_seen_is_positive_confidence() -> None:
    seen = make_track([0, 0.01, 1, 0]).seen
    assert seen.dtype == bool and seen.tolist() == [False, True, True, False]


def test_track_slice_keeps_confidence_with_landmarks() -> None:
    track = make_track([0, 0.1, 0.2, 0.3, 0.4])
    for index in (slice(1, 4), slice(None, None, -2), [4, 0], np.array([3, 3]), track.seen):
        part = track[index]
        np.testing.assert_allclose(part.confidence, part.landmarks[:, 0, 0] / 10, rtol=1e-6)
        assert len(part) == len(np.arange(5)[index]) and (part.size, part.fps) == (track.size, track.fps)
    clip = Clip(track, np.zeros((5, 20, 30, 3), np.uint8))
    np.testing.assert_allclose(clip[2:4].track.confidence, [0.2, 0.3], rtol=1e-6)


def test_track_and_clip_of_one_index_or_a_loop_give_arrays() -> None:
    track = make_track([0, 0.1, 0.2])
    clip = Clip(track, np.arange(3 * 20 * 30 * 3).reshape(3, 20, 30, 3).astype(np.uint8))
    assert np.array_equal(track[1], track.landmarks[1]) and track[np.int64(-1)].shape == (68, 2)
    assert np.array_equal(clip[2], clip.frames[2]) and clip[0].dtype == np.uint8
    assert [points[0, 0] for points in track] == [0, 1, 2]
    assert np.array_equal(np.stack(list(clip)), clip.frames)
    for value in (track, clip):
        with pytest.raises(IndexError):
            value[3]


def test_tracks_and_clips_are_equal_by_their_values() -> None:
    clip = Clip(make_track([0, 0.1]), np.zeros((2, 20, 30, 3), np.uint8))
    same = Clip(make_track([0, 0.1]), np.zeros((2, 20, 30, 3), np.uint8))
    assert clip == same and clip.track == same.track
    assert clip.track != make_track([0, 0.2]) and clip.track != make_track([0, 0.1], fps=9)
    assert clip != clip[:1] and clip != replace(same, name="other") and clip.track != clip
    masked = replace(same, valid=np.ones((2, 20, 30), bool))
    assert clip != masked and masked == replace(masked, valid=masked.valid)
    with pytest.raises(TypeError, match="unhashable"):
        hash(clip)


def irises_of(count: int) -> np.ndarray:
    """Return irises whose values are all different."""
    return np.arange(count * 20, dtype=np.float64).reshape(count, 2, 5, 2)


def test_track_slice_keeps_irises_with_landmarks() -> None:
    track = replace(make_track(), irises=irises_of(4))
    assert make_track().irises is None and make_track()[1:3].irises is None
    assert track.irises is not None and track.irises.dtype == np.float32
    for index in (slice(1, 4), slice(None, None, -2), [3, 0], np.array([True, False, True, True])):
        part = track[index].irises
        assert part is not None and np.array_equal(part, irises_of(4)[index])
        assert part.flags["C_CONTIGUOUS"]
    clip = Clip(track, np.zeros((4, 20, 30, 3), np.uint8))
    kept = clip[2:].track.irises
    assert kept is not None and np.array_equal(kept, irises_of(4)[2:])


def test_tracks_with_irises_are_equal_by_their_values() -> None:
    track = replace(make_track(), irises=irises_of(4))
    assert track == replace(make_track(), irises=irises_of(4))
    assert track != make_track() and make_track() != track
    assert track != replace(make_track(), irises=irises_of(4) + 1)
    assert repr(track) == repr(make_track())


@pytest.mark.parametrize("shape", [(3, 2, 5, 2), (4, 5, 2), (4, 2, 4, 2), (4, 2, 5, 3)])
def test_track_irises_of_wrong_shape_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(TalkingheadError, match=r"^Track: irises are \[.*, expected \[4, 2, 5, 2\]; give"):
        replace(make_track(), irises=np.zeros(shape))


def test_track_irises_that_are_not_finite_raise() -> None:
    irises = irises_of(4)
    irises[2, 1, 3, 0] = np.nan
    with pytest.raises(TalkingheadError, match="^Track: irises of frame 2 are not finite"):
        replace(make_track(), irises=irises)


def test_repr_is_a_line() -> None:
    track = make_track([0, 0.1])
    clip = Clip(track, np.zeros((2, 20, 30, 3), np.uint8), "a.mp4", "anna")
    assert repr(track) == (
        "Track(2 frames, 10 frames a second, landmarks in frames of 30x20, 1 without a face)"
    )
    assert repr(clip) == "Clip('a.mp4', 2 frames of 30x20, 10 frames a second, person 'anna')"
    assert repr(make_track(fps=0)) == "Track(4 frames, pictures, landmarks in frames of 30x20)"


@pytest.mark.parametrize("confidence", [[1, 1, 1], [[1], [1], [1], [1]], 1.0])
def test_track_confidence_of_wrong_shape_raises(confidence: object) -> None:
    with pytest.raises(
        TalkingheadError, match=r"^Track: confidence is \[.*\], expected \[4\]; give one value for each frame"
    ):
        Track(np.zeros((4, 68, 2)), (20, 30), 10, confidence)  # type: ignore[arg-type]


def test_track_other_number_of_points_raises() -> None:
    with pytest.raises(TalkingheadError, match=r"are \[4, 5, 2\], expected \[N, 68, 2\]; of one face"):
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
def test_track_gaps_are_in_seconds(confidence: list[float], gaps: list[tuple[float, float]]) -> None:
    spans = make_track(confidence).gaps()
    assert [isinstance(span, tuple) for span in spans] == [True] * len(gaps)
    np.testing.assert_allclose(np.reshape(spans, (-1, 2)), np.reshape(gaps, (-1, 2)), atol=1e-9)


def test_track_gaps_respects_minimum_length() -> None:
    values = make_track([1, 0, 0, 1, 0, 1])
    assert [len(values.gaps(seconds)) for seconds in (0, 0.1, 0.15, 0.25)] == [2, 1, 1, 0]
    with np.errstate(all="raise"):
        assert make_track([1, 0, 0, 1], fps=0).gaps(0) == []  # pictures are not in time


def test_clip_valid_of_wrong_shape_raises() -> None:
    frames = np.zeros((4, 20, 30, 3), np.uint8)
    assert Clip(make_track(), frames).valid is None
    assert Clip(make_track(), frames, valid=np.ones((4, 20, 30), bool)).valid is not None
    for wrong in (np.ones((4, 20, 30), np.uint8), np.ones((20, 30), bool), np.ones((3, 20, 30), bool)):
        with pytest.raises(
            TalkingheadError,
            match=r"^clip: valid is .*, expected bool \[4, 20, 30\]; leave it out",
        ):
            Clip(make_track(), frames, valid=wrong)


def test_clip_slice_keeps_valid_with_frames() -> None:
    frames = np.zeros((4, 20, 30, 3), np.uint8)
    valid = np.zeros((4, 20, 30), bool)
    valid[2] = True
    clip = Clip(make_track(), frames, valid=valid)
    for index in (slice(1, 4), [2, 0], np.array([True, False, True, False])):
        part = clip[index].valid
        assert part is not None and np.array_equal(part, valid[index])
    assert Clip(make_track(), frames)[1:3].valid is None
