"""Tests that the discriminator learns: once it did not (equal scores for real and generated frames), and no
other test noticed.
"""

import pytest
import torch

from talkinghead.checkpoint import load_model
from talkinghead.config import preset
from talkinghead.landmarks.landmark_image import landmark_image
from talkinghead.networks import Discriminator
from talkinghead.training.adversarial import (
    active_unit_fraction,
    discriminator_backward,
    mixed_precision,
    score_real_and_fake,
    take_step,
)
from talkinghead.training.finetune import embed
from talkinghead.training.resume import adam


@pytest.mark.slow
def test_discriminator_separates_fixed_fakes_within_500_steps(carphone_clip):
    model, config = load_model("tiny"), preset("tiny")
    clip = carphone_clip[::2]
    real = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    landmark_images = landmark_image(torch.from_numpy(clip.track.landmarks / 64), 64)
    with torch.no_grad():
        fake = model.generator(
            landmark_images, model.generator.project(embed(model, clip[:8])).expand(len(clip), -1)
        )
    torch.manual_seed(0)
    discriminator = Discriminator(config.networks)
    video_embedding = torch.nn.Parameter(torch.empty(config.networks.embedding).uniform_(-0.01, 0.01))
    optimiser = adam([{"params": [*discriminator.parameters(), video_embedding]}], config.meta.discriminator)
    random = torch.Generator().manual_seed(0)
    gaps, losses = [], []
    for _step in range(500):
        chosen = torch.randint(len(clip), (config.meta.batch,), generator=random)
        discriminator.power_iteration_()
        with mixed_precision(real.device, config.meta.precision):
            outputs = score_real_and_fake(
                discriminator,
                video_embedding + discriminator.w0,
                fake[chosen],
                real[chosen],
                landmark_images[chosen],
            )
            metrics = discriminator_backward(optimiser, outputs)
            take_step(optimiser, config.meta.clip)
        gaps.append(float(metrics["score_gap"]))
        losses.append(float(metrics["discriminator"]))
        # apart, and around 0: equal scores would cost 2
        if len(gaps) >= 20 and sum(gaps[-20:]) / 20 > 1 and sum(losses[-20:]) / 20 < 1.5:
            break
    with torch.no_grad():
        scores_real, _, pooled = discriminator(real, landmark_images, video_embedding + discriminator.w0)
        scores_fake = discriminator(fake, landmark_images, video_embedding + discriminator.w0)[0]
    assert scores_real.mean() - scores_fake.mean() > 1
    assert active_unit_fraction(pooled) > 0.5
    assert sum(losses[-20:]) / 20 < 1.5


@pytest.mark.parametrize(("dead", "share"), [(0, 1.0), (3, 0.25), (4, 0.0)])
def test_active_unit_fraction_counts_varying_units(dead, share):
    pooled = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    pooled[:, :dead] = 0.7
    assert active_unit_fraction(pooled) == share
