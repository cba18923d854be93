"""A step of meta-learning, E, G with P, D and W, against the textbook's."""

from functools import partial

import pytest
import torch
from torch import Tensor

from bench.lib.harness import DEVICE, Case
from bench.networks.baseline_learner import BaselineLite0
from bench.networks.baseline_meta import BaselineMetaLearner
from talkinghead.dataset.episodes import Episodes
from talkinghead.engines.precision import DTYPES
from talkinghead.model import random_model
from talkinghead.pretrained.perceptual import EfficientNetLite0
from talkinghead.training.meta_learner import MetaLearner

VIDEOS = 16
TERMS = ("content", "pixel", "adversarial", "feature_matching", "matching", "discriminator")


@pytest.mark.parametrize("network", ["tiny"] if DEVICE == "cpu" else ["tiny", "small"])
def test_meta(bench, network):
    model = random_model(network).to(torch.device(DEVICE))
    size, meta = model.config.networks.image_size, model.config.meta
    frames = torch.rand(meta.batch, 1 + meta.shots, 3, size, size) * 2 - 1
    points = torch.rand(meta.batch, 1 + meta.shots, 68, 2)
    episodes = Episodes(frames, points, torch.arange(meta.batch)).to(torch.device(DEVICE))
    lite0 = BaselineLite0()
    ours = MetaLearner(model, VIDEOS, [EfficientNetLite0().to(DEVICE)])
    baseline = BaselineMetaLearner(ours, [lite0], torch.channels_last)

    def step() -> Tensor:
        figures, _ = ours.step(episodes)
        return torch.stack([figures[name] for name in TERMS])

    bench(
        Case(
            "meta-learning",
            "step",
            network,
            meta.batch,
            DTYPES[ours.precision],
            bytes_moved=0,
            expected=(BaselineMetaLearner(ours, [lite0], torch.channels_last).step(episodes),),
            providers={"ours": step, "baseline": partial(baseline.step, episodes)},
            tolerance=0.02,  # of the first step's losses; later ones go their own ways
        )
    )
