"""The figures of frames: perfect ones where frames equal the truth, and FED by name."""

import numpy as np
import pytest
import torch

from talkinghead.clip import Clip
from talkinghead.evaluation.judge import METRICS, Judge, mean_descriptor
from talkinghead.landmarks.detect import open_detector
from talkinghead.metrics import frechet_distance, identity_distance


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(open_detector("dlib"))


def test_equal_frames_have_the_best_figures(judge: Judge, carphone_clip: Clip) -> None:
    clip = carphone_clip[::40]
    truth = judge.truth(clip)
    verdict = judge.verdict(clip.frames, truth)
    assert list(verdict.figures) == list(METRICS)
    assert verdict.figures["ssim"] == pytest.approx(1) and verdict.figures["csim"] == pytest.approx(1, abs=1e-6)
    assert verdict.figures["identity"] == 0 and verdict.figures["perceptual"] == 0 and verdict.figures["faces"] == 1
    assert verdict.figures["psnr"] == float("inf")
    assert verdict.figures["landmark_error"] < 0.1
    assert judge.frechet == "FED" and torch.equal(verdict.features, truth.features)
    assert verdict.features.shape == (3, 320)
    assert frechet_distance(verdict.features, truth.features) < 1e-3


def test_other_frames_have_worse_ones(judge: Judge, carphone_clip: Clip) -> None:
    clip = carphone_clip[[0, 60]]
    truth = judge.truth(clip)
    frames = np.stack([clip.frames[1], np.zeros_like(clip.frames[0])])
    verdict = judge.verdict(frames, truth)
    figures = verdict.figures
    assert figures["faces"] == 0.5 and figures["ssim"] < 0.7 and figures["perceptual"] > 5
    assert figures["identity"] == pytest.approx(identity_distance(frames, clip.frames))  # of the frame with a face alone
    assert 0.9 < figures["csim"] < 1 and figures["landmark_error"] > 0.02
    twenty = [np.repeat(each, 20, axis=0) for each in (frames[:1], clip.frames[:1])]  # more than a batch: the mean stays
    assert judge.likeness(*twenty) == pytest.approx(judge.likeness(frames[:1], clip.frames[:1]), rel=1e-4)
    nothing = judge.verdict(np.zeros_like(frames), truth)
    assert all(np.isnan(nothing.figures[name]) for name in ("csim", "identity", "landmark_error")) and nothing.descriptor is None


def test_the_mean_descriptor_is_a_direction() -> None:
    mean = mean_descriptor([np.array([2.0, 0.0]), None, np.array([0.0, 5.0])])
    assert mean is not None
    np.testing.assert_allclose(mean.numpy(), [2**-0.5] * 2, rtol=1e-6)
    assert mean_descriptor([None]) is None
