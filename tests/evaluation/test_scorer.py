"""The figures of frames: perfect ones where frames equal the truth, and FED by name."""

import numpy as np
import pytest
import torch

from talkinghead.clip import Clip
from talkinghead.evaluation import scorer as scorer_module
from talkinghead.evaluation.scorer import METRICS, Scorer, mean_descriptor
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.metrics import frechet_distance
from talkinghead.pretrained.face_recognition import identity_distance

WITHOUT_DLIB = ["ssim", "psnr", "landmark_error", "faces", "perceptual"]
"""The metrics that need no face-recognition network."""


@pytest.fixture(
    scope="module",
    params=["without dlib", pytest.param("with dlib", marks=pytest.mark.identity)],
)
def scorer(request: pytest.FixtureRequest) -> Scorer:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without dlib":
            patch.setattr(scorer_module, "open_installed_dlib", lambda: None)
        return Scorer(open_detector("network"))


def test_scorer_equal_frames_score_best(scorer: Scorer, carphone_clip: Clip) -> None:
    clip = carphone_clip[::40]
    truth = scorer.truth(clip)
    scores = scorer.score(clip.frames, truth)
    if scorer.identity is None:
        assert list(scores.figures) == WITHOUT_DLIB and scores.descriptor is None
    else:
        assert list(scores.figures) == list(METRICS)
        assert scores.figures["csim"] == pytest.approx(1, abs=1e-6) and scores.figures["identity"] == 0
    assert scores.figures["ssim"] == pytest.approx(1)
    assert scores.figures["perceptual"] == 0 and scores.figures["faces"] == 1
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
    assert figures["landmark_error"] > 0.02
    if scorer.identity is not None:
        # of the frame with a face alone
        assert figures["identity"] == pytest.approx(identity_distance(frames, clip.frames))
        assert 0.9 < figures["csim"] < 1
    twenty = [
        np.repeat(images, 20, axis=0) for images in (frames[:1], clip.frames[:1])
    ]  # more than a batch: the mean stays
    assert scorer.similarity(*twenty) == pytest.approx(
        scorer.similarity(frames[:1], clip.frames[:1]), rel=1e-4
    )
    black = scorer.score(np.zeros_like(frames), truth)
    expected = {"csim", "identity", "landmark_error"} & set(figures)
    assert {name for name, value in black.figures.items() if np.isnan(value)} == expected
    assert black.figures["faces"] == 0 and black.descriptor is None


def test_mean_descriptor_has_unit_length() -> None:
    mean = mean_descriptor([np.array([2.0, 0.0]), None, np.array([0.0, 5.0])])
    assert mean is not None
    np.testing.assert_allclose(mean.numpy(), [2**-0.5] * 2, rtol=1e-6)
    assert mean_descriptor([None]) is None
