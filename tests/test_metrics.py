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
from talkinghead.evaluation import baselines, scorer
from talkinghead.landmarks.detector import Face
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.media.images import resize
from talkinghead.pretrained import face_recognition


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def face(size: int = 64) -> np.ndarray:
    """Return 68 distinct points inside a frame, with the outer eye corners 20 pixels apart."""
    points = np.random.default_rng(0).uniform(0.3 * size, 0.7 * size, (68, 2)).astype(np.float32)
    points[36], points[45] = (20, 30), (40, 30)
    return points


class Shifted:
    """A detector that finds shifted landmarks and a smaller face, and no face on a black frame."""

    name = "shifted"

    def __init__(self, points: np.ndarray, shift: tuple[float, float]) -> None:
        self.points, self.shift = points, np.array(shift, dtype=np.float32)

    def find(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        smaller = Face(self.points / 2, 1.0)
        return [[Face(self.points + self.shift, 1.0), smaller] if frame.any() else [] for frame in frames]

    def follow(self, frames: Sequence[np.ndarray], near: np.ndarray) -> list[Face]:
        pytest.fail("landmark_error searches every frame on its own")


def test_psnr_matches_formula_per_frame() -> None:
    truth = np.full((20, 16, 16, 3), 100, dtype=np.uint8)
    frames = truth.copy()
    frames[:10] += 10  # 20 log10(255 / 10)
    frames[10:] -= 1  # 20 log10(255 / 1)
    assert metrics.psnr(frames, truth) == pytest.approx(
        (20 * np.log10(25.5) + 20 * np.log10(255)) / 2, abs=1e-3
    )
    assert metrics.psnr(truth, truth) == float("inf")


def test_ssim_matches_scikit_image() -> None:
    truth = noise(18, 32, 32, 3)
    frames = (truth * 0.6 + noise(19, 32, 32, 3)[:18] * 0.4).astype(np.uint8)
    settings = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 255,
        "channel_axis": 2,
    }
    expected = np.mean([structural_similarity(a, b, **settings) for a, b in zip(frames, truth, strict=True)])
    assert 0.3 < expected < 0.95
    assert metrics.ssim(frames, truth) == pytest.approx(expected, abs=2e-3)
    assert metrics.ssim(truth, truth) == pytest.approx(1.0, abs=1e-6)


def test_metrics_weight_frames_equally() -> None:
    """Use 17 frames, of which the last is alone in the second batch and must not weigh more."""
    truth = noise(17, 16, 16, 3)
    frames = truth.copy()
    frames[16] = 255 - frames[16]
    alone = metrics.ssim(frames[16:], truth[16:])
    assert metrics.ssim(frames, truth) == pytest.approx((16 + alone) / 17, abs=1e-5)


@pytest.mark.parametrize("measure", [metrics.ssim, metrics.psnr, face_recognition.identity_distance])
@pytest.mark.parametrize("other", [(3, 16, 16, 3), (2, 16, 17, 3), (16, 16, 3), (0, 16, 16, 3)])
def test_metrics_reject_different_shapes(measure: Callable[..., float], other: tuple[int, ...]) -> None:
    truth = noise(*other) if other[0] == 0 else noise(2, 16, 16, 3)
    with pytest.raises(TalkingheadError, match="do not fit; give both as"):
        measure(noise(*other), truth)


def test_landmark_error_is_in_eye_distances() -> None:
    points = face()
    track = Track(np.stack([points] * 3), (64, 64))
    frames = np.stack(
        [noise(64, 64, 3)] * 2 + [np.zeros((64, 64, 3), dtype=np.uint8)]
    )  # no face is found on the last
    assert scorer.landmark_error(frames, track, Shifted(points, (3, 4))) == pytest.approx(5 / 20)
    assert scorer.landmark_error(frames, track, Shifted(points, (0, 0))) == 0
    assert np.isnan(scorer.landmark_error(np.zeros_like(frames), track, Shifted(points, (0, 0))))


def test_landmark_error_rejects_mismatched_track() -> None:
    track = Track(np.stack([face()] * 2), (64, 64))
    for frames in (noise(3, 64, 64, 3), noise(2, 32, 32, 3)):
        with pytest.raises(TalkingheadError, match=r"landmark_error.*; give as many of each, of one size"):
            scorer.landmark_error(frames, track, Shifted(face(), (0, 0)))


def test_landmark_error_is_small_on_real_frames(carphone_clip: Clip) -> None:
    clip, detector = carphone_clip[::40], open_detector("network")
    assert scorer.landmark_error(clip.frames, clip.track, detector) < 0.1
    assert scorer.landmark_error(clip.frames[::-1], clip.track, detector) > 0.15


@pytest.mark.identity
def test_identity_distance_separates_people(carphone_clip: Clip) -> None:
    astronaut = data.astronaut()[:256, 96:352]
    first, later = (np.stack([carphone_clip.frames[number]] * 2) for number in (0, 20))
    same = face_recognition.identity_distance(first, later)
    other = face_recognition.identity_distance(first, np.stack([resize(astronaut, 64)] * 2))
    assert 0 < same < 0.5
    assert other > 0.6
    assert face_recognition.identity_distance(first, first) == 0
    half = later.copy()
    half[1] = 0  # no face: left out, not counted as near or far
    assert face_recognition.identity_distance(first, half) == pytest.approx(same)
    assert np.isnan(face_recognition.identity_distance(first, np.zeros_like(first)))


def test_frechet_distance_matches_formula() -> None:
    """Use features of known mean and covariance: |m1 - m2|^2 + sum of (s1 - s2)^2 for equal axes."""
    generated = np.random.default_rng(0).normal(size=(200, 3))
    generated -= generated.mean(axis=0)
    white = (
        generated @ np.linalg.inv(np.linalg.cholesky(np.cov(generated.T))).T
    )  # mean 0, covariance the identity
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    first, second = (
        torch.from_numpy((white * sigma) @ turn.T + mean)
        for sigma, mean in (((1, 2, 3), 0), ((2, 2, 0.5), (1, 0, 2)))
    )
    assert metrics.frechet_distance(first, second) == pytest.approx(1 + 4 + 1 + 0 + 2.5**2, rel=1e-6)
    assert metrics.frechet_distance(first, first) == pytest.approx(0, abs=1e-6)
    # axes that differ: trace of S1 + S2 - 2 (S1 S2)^(1/2), by the eigenvalues of the product
    other = torch.from_numpy(white * (1, 2, 3))
    product = np.linalg.eigvals(np.cov(first.numpy().T) @ np.cov(other.numpy().T))
    assert metrics.frechet_distance(first, other) == pytest.approx(
        28 - 2 * np.sqrt(product.real).sum(), rel=1e-6
    )
    for wrong in (first[:1], first[:, :2], first[0]):
        with pytest.raises(
            TalkingheadError,
            match=r"frechet_distance: features .* do not fit; give \[N, D\] and \[M, D\] with 2 or more rows",
        ):
            metrics.frechet_distance(wrong, second)


def test_nearest_frames_have_nearest_landmarks() -> None:
    points = face()
    clip = Clip(Track(np.stack([points, points + [6, 0], points + [0, 20]]), (64, 64)), noise(3, 64, 64, 3))
    track = Track(np.stack([points + [5, 0], points + [0, 11], points + [1, 1], points]), (64, 64))
    nearest = baselines.nearest_frames(clip, track)
    assert nearest.dtype == np.int64
    assert nearest.tolist() == [1, 2, 0, 0]
    for wrong in (Track(track.landmarks, (32, 32)), Track(track.landmarks, (64, 32))):
        with pytest.raises(TalkingheadError, match="nearest_frames"):
            baselines.nearest_frames(clip, wrong)
    with pytest.raises(TalkingheadError, match="0 frames"):
        baselines.nearest_frames(clip[:0], track)


def test_warp_moves_landmarks_and_keeps_border() -> None:
    """Warp a ramp whose colour is its position, so that each pixel shows where it came from."""
    size = 64
    middle = np.arange(size) + 0.5
    ramp = np.stack(
        [np.tile(middle * 4, (size, 1)), np.tile(middle[:, None] * 4, (1, size)), np.zeros((size, size))],
        axis=2,
    )
    frame = np.rint(ramp - 1).astype(np.uint8)
    points = face(size)
    assert np.abs(baselines.warp_to_landmarks(frame, points, points).astype(int) - frame).max() <= 1
    moved = points + np.array([4.0, -3.0], dtype=np.float32)
    warped = baselines.warp_to_landmarks(frame, points, moved)
    assert warped.dtype == np.uint8 and warped.shape == frame.shape
    shift = np.array([16, -12])  # in colours, 4 a pixel
    row, column = 29, 36  # inside the face after the move
    assert np.abs(warped[row, column, :2].astype(int) - (frame[row, column, :2] - shift)).max() <= 1
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        # half a pixel from the border it moves by a fraction of the shift
        assert np.abs(warped[edge].astype(int) - frame[edge]).max() <= 2


def test_warp_equal_in_both_skimage_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide `from_estimate`, which scikit-image has since 0.26; before, only `estimate` existed."""
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
    expected = baselines.warp_to_landmarks(frame, points, moved)
    monkeypatch.setattr(
        transform, "PiecewiseAffineTransform", Earlier if hasattr(current, "from_estimate") else Later
    )
    monkeypatch.setattr(transform, "estimate_transform", None)  # before 0.26 it fails on this kind
    np.testing.assert_array_equal(baselines.warp_to_landmarks(frame, points, moved), expected)


def test_warp_is_exact_to_half_pixel() -> None:
    """Move one point between fixed ones: its colour arrives at its pixel's centre, not half a pixel off."""
    turn = np.linspace(0, 2 * np.pi, 67, endpoint=False)
    ring = 32.5 + 2 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    to_points = np.concatenate([ring, [[32.5, 32.5]]])
    from_points = np.concatenate([ring, [[31.2, 32.5]]])
    frame = np.repeat(np.tile(4 * np.arange(64), (64, 1))[..., None], 3, axis=2).astype(np.uint8)
    warped = baselines.warp_to_landmarks(frame, from_points, to_points)
    assert warped[32, 32].tolist() == pytest.approx([4 * 30.7] * 3, abs=1)
    assert np.array_equal(warped[32, 40:], frame[32, 40:])


def test_warp_accepts_coinciding_and_outside_points() -> None:
    frame, points = noise(64, 64, 3), face()
    shut = points.copy()
    shut[60:68] = shut[60]  # lips that touch
    outside = points.copy()
    outside[:5] -= 60
    for from_points, to_points in (
        (shut, points),
        (points, shut),
        (outside, points),
        (points, outside),
        (shut, shut),
    ):
        warped = baselines.warp_to_landmarks(frame, from_points, to_points)
        assert warped.shape == frame.shape
        assert warped.std() > 10


def test_warp_reduces_landmark_error_on_real_frame(carphone_clip: Clip) -> None:
    clip, detector = carphone_clip, open_detector("network")
    for source, drive in ((0, 10), (20, 40)):
        expected = clip[drive : drive + 1].track
        warped = baselines.warp_to_landmarks(
            clip.frames[source], clip.track.landmarks[source], expected.landmarks[0]
        )
        before = scorer.landmark_error(clip.frames[source : source + 1], expected, detector)
        assert scorer.landmark_error(warped[None], expected, detector) < 0.4 * before
