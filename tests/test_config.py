import dataclasses
import json

import pytest

from talkinghead.config import PRESETS, Config, FinetuneConfig, preset
from talkinghead.errors import TalkingheadError


@pytest.mark.parametrize("name", PRESETS)
def test_survives_json(name):
    config = preset(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_preset_is_named():
    with pytest.raises(TalkingheadError, match="'huge'"):
        preset("huge")


def test_fields_of_another_version_are_named():
    values = preset("tiny").to_dict()
    values["networks"]["colour_of_hat"] = 1
    with pytest.raises(TalkingheadError, match=r"configuration\.networks: fields colour_of_hat"):
        Config.from_dict(values)


def test_paper_values():
    config = preset("paper")
    assert config.meta.shots == 8 and config.meta.discriminator_steps == 2 and config.meta.average == 0.999
    assert (config.meta.generator.learning_rate, config.meta.discriminator.learning_rate) == (5e-5, 2e-4)
    assert (config.meta.generator.beta1, config.meta.generator.beta2) == (0.0, 0.999)
    losses = config.meta.losses
    assert (losses.adversarial, losses.feature_matching, losses.matching, losses.pixel) == (1, 10, 10, 0)
    assert dataclasses.replace(losses, matching=0.0) == config.finetune.losses


def test_epochs_are_passes_over_the_pictures():
    config = FinetuneConfig(epochs=40, batch=8)
    assert [config.steps(pictures) for pictures in (1, 8, 9, 32)] == [40, 40, 80, 160]
