"""The discriminator learns: it once did not (equal scores for real and generated frames), and nothing else showed it."""

import pytest
import torch

from talkinghead.checkpoint import load_model
from talkinghead.config import preset
from talkinghead.landmarks.draw import landmark_image
from talkinghead.networks import Discriminator
from talkinghead.training.adversarial import discriminator_backward, judge, live_units, mixed_precision, take_step
from talkinghead.training.finetune import embed
from talkinghead.training.state import adam


def test_tells_real_from_a_fixed_generators_frames_within_500_steps(carphone_clip):
    model, config = load_model("tiny"), preset("tiny")
    clip = carphone_clip[::2]
    real = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    drawn = landmark_image(torch.from_numpy(clip.track.landmarks / 64), 64)
    with torch.no_grad():
        fake = model.generator(drawn, model.generator.project(embed(model, clip[:8])).expand(len(clip), -1))
    torch.manual_seed(0)
    discriminator = Discriminator(config.networks)
    column = torch.nn.Parameter(torch.empty(config.networks.embedding).uniform_(-0.01, 0.01))
    optimiser = adam([{"params": [*discriminator.parameters(), column]}], config.meta.discriminator)
    random = torch.Generator().manual_seed(0)
    gaps, losses = [], []
    for _step in range(500):
        some = torch.randint(len(clip), (config.meta.batch,), generator=random)
        discriminator.power_iteration_()
        with mixed_precision(real.device, config.meta.precision):
            verdicts = judge(discriminator, column + discriminator.w0, fake[some], real[some], drawn[some])
            figures = discriminator_backward(optimiser, verdicts)
            take_step(optimiser, config.meta.clip)
        gaps.append(float(figures["score_gap"]))
        losses.append(float(figures["discriminator"]))
        # apart, and around 0: equal scores would cost 2
        if len(gaps) >= 20 and sum(gaps[-20:]) / 20 > 1 and sum(losses[-20:]) / 20 < 1.5:
            break
    with torch.no_grad():
        scores_real, _, pooled = discriminator(real, drawn, column + discriminator.w0)
        scores_fake = discriminator(fake, drawn, column + discriminator.w0)[0]
    assert scores_real.mean() - scores_fake.mean() > 1
    assert live_units(pooled) > 0.5
    assert sum(losses[-20:]) / 20 < 1.5


@pytest.mark.parametrize(("dead", "share"), [(0, 1.0), (3, 0.25), (4, 0.0)])
def test_live_units_counts_units_that_vary(dead, share):
    pooled = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    pooled[:, :dead] = 0.7
    assert live_units(pooled) == share
