"""The figures of frames: perfect ones where frames equal the truth, and FED by name."""

import numpy as np
import pytest
import torch

from talkinghead.clip import Clip
from talkinghead.evaluation.scorer import METRICS, Scorer, mean_descriptor
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.metrics import frechet_distance
from talkinghead.pretrained.face_recognition import identity_distance


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(open_detector("dlib"))


def test_scorer_equal_frames_score_best(scorer: Scorer, carphone_clip: Clip) -> None:
    clip = carphone_clip[::40]
    truth = scorer.truth(clip)
    scores = scorer.score(clip.frames, truth)
    assert list(scores.figures) == list(METRICS)
    assert scores.figures["ssim"] == pytest.approx(1) and scores.figures["csim"] == pytest.approx(1, abs=1e-6)
    assert (
        scores.figures["identity"] == 0 and scores.figures["perceptual"] == 0 and scores.figures["faces"] == 1
    )
    assert scores.figures["psnr"] == float("inf")
    assert scores.figures["landmark_error"] < 0.1
    assert scorer.frechet == "FED" and torch.equal(scores.features, truth.features)
    assert scores.features.shape == (3, 320)
    assert frechet_distance(scores.features, truth.features) < 1e-3


def test_scorer_other_frames_score_worse(scorer: Scorer, carphone_clip: Clip) -> None:
    clip = carphone_clip[[0, 60]]
    truth = scorer.truth(clip)
    frames = np.stack([clip.frames[1], np.zeros_like(clip.frames[0])])
    scores = scorer.score(frames, truth)
    figures = scores.figures
    assert figures["faces"] == 0.5 and figures["ssim"] < 0.7 and figures["perceptual"] > 5
    assert figures["identity"] == pytest.approx(
        identity_distance(frames, clip.frames)
    )  # of the frame with a face alone
    assert 0.9 < figures["csim"] < 1 and figures["landmark_error"] > 0.02
    twenty = [
        np.repeat(images, 20, axis=0) for images in (frames[:1], clip.frames[:1])
    ]  # more than a batch: the mean stays
    assert scorer.similarity(*twenty) == pytest.approx(
        scorer.similarity(frames[:1], clip.frames[:1]), rel=1e-4
    )
    black = scorer.score(np.zeros_like(frames), truth)
    assert (
        all(np.isnan(black.figures[name]) for name in ("csim", "identity", "landmark_error"))
        and black.descriptor is None
    )


def test_mean_descriptor_has_unit_length() -> None:
    mean = mean_descriptor([np.array([2.0, 0.0]), None, np.array([0.0, 5.0])])
    assert mean is not None
    np.testing.assert_allclose(mean.numpy(), [2**-0.5] * 2, rtol=1e-6)
    assert mean_descriptor([None]) is None
