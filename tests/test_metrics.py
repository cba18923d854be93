"""The metrics on pictures whose values are known, and on a real clip."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from skimage import data, transform
from skimage.metrics import structural_similarity

from talkinghead import metrics
from talkinghead.clip import Clip, Track
from talkinghead.errors import TalkingheadError
from talkinghead.landmarks.detect import open_detector
from talkinghead.landmarks.face import Face
from talkinghead.media.pictures import resize


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def face(size: int = 64) -> np.ndarray:
    """68 points that no two share, well inside a frame of that size; the outer eye corners are 20 pixels apart."""
    points = np.random.default_rng(0).uniform(0.3 * size, 0.7 * size, (68, 2)).astype(np.float32)
    points[36], points[45] = (20, 30), (40, 30)
    return points


class Shifted:
    """A detector that finds the landmarks it was told of, moved, and a smaller face; nothing on a black frame."""

    name = "shifted"
    choice_reason = "for tests"

    def __init__(self, points: np.ndarray, shift: tuple[float, float]) -> None:
        self.points, self.shift = points, np.array(shift, dtype=np.float32)

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        smaller = Face(self.points / 2, 1.0)
        return [[Face(self.points + self.shift, 1.0), smaller] if frame.any() else [] for frame in frames]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        pytest.fail("frames that are measured are searched, each on its own")


def test_psnr_is_the_formula_frame_by_frame() -> None:
    truth = np.full((20, 16, 16, 3), 100, dtype=np.uint8)
    frames = truth.copy()
    frames[:10] += 10  # 20 log10(255 / 10)
    frames[10:] -= 1  # 20 log10(255 / 1)
    assert metrics.psnr(frames, truth) == pytest.approx((20 * np.log10(25.5) + 20 * np.log10(255)) / 2, abs=1e-3)
    assert metrics.psnr(truth, truth) == float("inf")


def test_ssim_agrees_with_another_implementation() -> None:
    truth = noise(18, 32, 32, 3)
    frames = (truth * 0.6 + noise(19, 32, 32, 3)[:18] * 0.4).astype(np.uint8)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "channel_axis": 2}
    theirs = np.mean([structural_similarity(a, b, **settings) for a, b in zip(frames, truth, strict=True)])
    assert 0.3 < theirs < 0.95
    assert metrics.ssim(frames, truth) == pytest.approx(theirs, abs=2e-3)
    assert metrics.ssim(truth, truth) == pytest.approx(1.0, abs=1e-6)


def test_every_frame_counts_the_same_in_the_mean() -> None:
    """17 frames are more than one batch: the last, alone in its own, must not weigh more."""
    truth = noise(17, 16, 16, 3)
    frames = truth.copy()
    frames[16] = 255 - frames[16]
    alone = metrics.ssim(frames[16:], truth[16:])
    assert metrics.ssim(frames, truth) == pytest.approx((16 + alone) / 17, abs=1e-5)


@pytest.mark.parametrize("measure", [metrics.ssim, metrics.psnr, metrics.identity_distance])
@pytest.mark.parametrize("other", [(3, 16, 16, 3), (2, 16, 17, 3), (16, 16, 3), (0, 16, 16, 3)])
def test_frames_and_truth_have_one_shape(measure: Callable[..., float], other: tuple[int, ...]) -> None:
    truth = noise(*other) if other[0] == 0 else noise(2, 16, 16, 3)
    with pytest.raises(TalkingheadError, match="expected the same"):
        measure(noise(*other), truth)


def test_landmark_error_is_in_eye_distances() -> None:
    points = face()
    track = Track(np.stack([points] * 3), (64, 64))
    frames = np.stack([noise(64, 64, 3)] * 2 + [np.zeros((64, 64, 3), dtype=np.uint8)])  # no face is found on the last
    assert metrics.landmark_error(frames, track, Shifted(points, (3, 4))) == pytest.approx(5 / 20)
    assert metrics.landmark_error(frames, track, Shifted(points, (0, 0))) == 0
    assert np.isnan(metrics.landmark_error(np.zeros_like(frames), track, Shifted(points, (0, 0))))


def test_landmark_error_refuses_what_does_not_go_together() -> None:
    track = Track(np.stack([face()] * 2), (64, 64))
    for frames in (noise(3, 64, 64, 3), noise(2, 32, 32, 3)):
        with pytest.raises(TalkingheadError, match=r"landmark_error.*expected the same"):
            metrics.landmark_error(frames, track, Shifted(face(), (0, 0)))


def test_landmarks_of_real_frames_are_found_where_they_are(carphone_clip: Clip) -> None:
    clip, detector = carphone_clip[::40], open_detector("dlib")
    assert metrics.landmark_error(clip.frames, clip.track, detector) < 0.1
    assert metrics.landmark_error(clip.frames[::-1], clip.track, detector) > 0.15


def test_identity_is_nearer_within_a_person_than_between_people(carphone_clip: Clip) -> None:
    astronaut = data.astronaut()[:256, 96:352]
    first, later = (np.stack([carphone_clip.frames[number]] * 2) for number in (0, 20))
    same = metrics.identity_distance(first, later)
    other = metrics.identity_distance(first, np.stack([resize(astronaut, 64)] * 2))
    assert 0 < same < 0.5
    assert other > 0.6
    assert metrics.identity_distance(first, first) == 0
    half = later.copy()
    half[1] = 0  # no face: left out, not counted as near or far
    assert metrics.identity_distance(first, half) == pytest.approx(same)
    assert np.isnan(metrics.identity_distance(first, np.zeros_like(first)))


def test_the_frechet_distance_of_two_gaussians_is_the_formula() -> None:
    """Features whose mean and covariance are exactly known: |m1 - m2|^2 + sum of (s1 - s2)^2 where the axes are the same."""
    drawn = np.random.default_rng(0).normal(size=(200, 3))
    drawn -= drawn.mean(axis=0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T))).T  # mean 0, covariance the identity
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    first, second = (torch.from_numpy((white * sigma) @ turn.T + mean) for sigma, mean in (((1, 2, 3), 0), ((2, 2, 0.5), (1, 0, 2))))
    assert metrics.frechet_distance(first, second) == pytest.approx(1 + 4 + 1 + 0 + 2.5**2, rel=1e-6)
    assert metrics.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    # axes that differ: trace of S1 + S2 - 2 (S1 S2)^(1/2), by the eigenvalues of the product
    other = torch.from_numpy(white * (1, 2, 3))
    product = np.linalg.eigvals(np.cov(first.numpy().T) @ np.cov(other.numpy().T))
    assert metrics.frechet_distance(first, other) == pytest.approx(28 - 2 * np.sqrt(product.real).sum(), rel=1e-6)
    for wrong in (first[:1], first[:, :2], first[0]):
        with pytest.raises(TalkingheadError, match=r"frechet_distance: features .*, expected \[N, D\] and \[M, D\] with 2 or more rows"):
            metrics.frechet_distance(wrong, second)


def test_nearest_frames_are_those_with_the_nearest_landmarks() -> None:
    points = face()
    clip = Clip(Track(np.stack([points, points + [6, 0], points + [0, 20]]), (64, 64)), noise(3, 64, 64, 3))
    track = Track(np.stack([points + [5, 0], points + [0, 11], points + [1, 1], points]), (64, 64))
    nearest = metrics.nearest_frames(clip, track)
    assert nearest.dtype == np.int64
    assert nearest.tolist() == [1, 2, 0, 0]
    for wrong in (Track(track.landmarks, (32, 32)), Track(track.landmarks, (64, 32))):
        with pytest.raises(TalkingheadError, match="nearest_frames"):
            metrics.nearest_frames(clip, wrong)
    with pytest.raises(TalkingheadError, match="0 frames"):
        metrics.nearest_frames(clip[:0], track)


def test_a_warp_takes_the_landmarks_along_and_holds_the_border() -> None:
    """On a ramp whose colour is its place, a warp shows where each pixel came from."""
    size = 64
    middle = np.arange(size) + 0.5
    ramp = np.stack([np.tile(middle * 4, (size, 1)), np.tile(middle[:, None] * 4, (1, size)), np.zeros((size, size))], axis=2)
    frame = np.rint(ramp - 1).astype(np.uint8)
    points = face(size)
    assert np.abs(metrics.warp_to_landmarks(frame, points, points).astype(int) - frame).max() <= 1
    moved = points + np.array([4.0, -3.0], dtype=np.float32)
    warped = metrics.warp_to_landmarks(frame, points, moved)
    assert warped.dtype == np.uint8 and warped.shape == frame.shape
    shift = np.array([16, -12])  # in colours, 4 a pixel
    row, column = 29, 36  # inside the face after the move
    assert np.abs(warped[row, column, :2].astype(int) - (frame[row, column, :2] - shift)).max() <= 1
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        # half a pixel from the border it moves by a fraction of the shift
        assert np.abs(warped[edge].astype(int) - frame[edge]).max() <= 2


def test_warp_is_the_same_by_either_interface_of_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 0.26 a transform was made empty and then told to `estimate`; `from_estimate` does both."""
    current = transform.PiecewiseAffineTransform

    class Earlier:
        def estimate(self, source: np.ndarray, target: np.ndarray) -> bool:
            self.estimated = current.from_estimate(source, target)
            return bool(self.estimated)

        def __call__(self, points: np.ndarray) -> np.ndarray:
            return self.estimated(points)

    class Later:
        @staticmethod
        def from_estimate(source: np.ndarray, target: np.ndarray) -> object:
            estimated = current()
            return estimated if estimated.estimate(source, target) else None

    frame, points = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), face(64)
    moved = points + np.array([4.0, -3.0], dtype=np.float32)
    expected = metrics.warp_to_landmarks(frame, points, moved)
    monkeypatch.setattr(transform, "PiecewiseAffineTransform", Earlier if hasattr(current, "from_estimate") else Later)
    monkeypatch.setattr(transform, "estimate_transform", None)  # before 0.26 it fails on this kind
    np.testing.assert_array_equal(metrics.warp_to_landmarks(frame, points, moved), expected)


def test_a_warp_is_exact_to_half_a_pixel() -> None:
    """One point alone moves, between points that stay: its colour arrives at its pixel's centre, half a pixel beside it does not."""
    turn = np.linspace(0, 2 * np.pi, 67, endpoint=False)
    ring = 32.5 + 2 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    to_points = np.concatenate([ring, [[32.5, 32.5]]])
    from_points = np.concatenate([ring, [[31.2, 32.5]]])
    frame = np.repeat(np.tile(4 * np.arange(64), (64, 1))[..., None], 3, axis=2).astype(np.uint8)
    warped = metrics.warp_to_landmarks(frame, from_points, to_points)
    assert warped[32, 32].tolist() == pytest.approx([4 * 30.7] * 3, abs=1)
    assert np.array_equal(warped[32, 40:], frame[32, 40:])


def test_a_warp_bears_points_in_one_place_and_points_outside() -> None:
    frame, points = noise(64, 64, 3), face()
    shut = points.copy()
    shut[60:68] = shut[60]  # lips that touch
    outside = points.copy()
    outside[:5] -= 60
    for from_points, to_points in ((shut, points), (points, shut), (outside, points), (points, outside), (shut, shut)):
        warped = metrics.warp_to_landmarks(frame, from_points, to_points)
        assert warped.shape == frame.shape
        assert warped.std() > 10


def test_a_warp_brings_a_real_frame_nearer_to_the_driving_landmarks(carphone_clip: Clip) -> None:
    clip, detector = carphone_clip, open_detector("dlib")
    for source, drive in ((0, 10), (20, 40)):
        wanted = clip[drive : drive + 1].track
        warped = metrics.warp_to_landmarks(clip.frames[source], clip.track.landmarks[source], wanted.landmarks[0])
        before = metrics.landmark_error(clip.frames[source : source + 1], wanted, detector)
        assert metrics.landmark_error(warped[None], wanted, detector) < 0.4 * before
