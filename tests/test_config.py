import dataclasses
import json

import pytest

from talkinghead.config import PRESETS, Config, FinetuneConfig, preset
from talkinghead.errors import TalkingheadError


@pytest.mark.parametrize("name", PRESETS)
def test_config_json_round_trip_is_exact(name):
    config = preset(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_preset_reports_unknown_name():
    with pytest.raises(TalkingheadError, match="'huge'"):
        preset("huge")


def test_from_dict_reports_fields_of_other_versions():
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
    assert config.networks.embedding_gain == 0.01 and config.meta.columns_from_embeddings
    assert dataclasses.replace(losses, matching=0.0) == config.finetune.losses


def test_steps_count_epochs_over_images():
    config = FinetuneConfig(epochs=40, batch=8)
    assert [config.steps(pictures) for pictures in (1, 8, 9, 32)] == [40, 40, 80, 160]


ADDED = {
    "": {"crop"},
    "networks": {"reference_guided", "network_size", "irises"},
    "meta": {"own_picture", "details", "far_targets", "camera_motion", "columns_from_embeddings"},
    "finetune": {"own_picture", "details", "head_jitter"},
    **{
        f"{stage}.{half}": {"eps"}
        for stage in ("meta", "finetune")
        for half in ("generator", "discriminator")
    },
}
"""Fields that files of earlier versions lack, by where they lie."""


def part_of(values, where):
    for name in where.split(".") if where else ():
        values = values[name]
    return values


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_to_dict_omits_defaults_of_later_fields(name):
    values = preset(name).to_dict()
    for where, names in ADDED.items():
        assert not names & set(part_of(values, where)), where
    assert Config.from_dict(values) == preset(name)


def test_from_dict_fills_missing_later_fields():
    """Check a dictionary with the fields of an earlier version, as `dataclasses.asdict` wrote it."""
    values = json.loads(json.dumps(dataclasses.asdict(preset("tiny"))))
    for where, names in ADDED.items():
        for name in names:
            del part_of(values, where)[name]
    config = Config.from_dict(values)
    assert config == preset("tiny")
    assert config.crop == 1 and not config.networks.reference_guided and config.networks.layer_size == 64
    assert (config.meta.own_picture, config.meta.details, config.meta.far_targets) == (0, 0, 0)
    assert (config.finetune.own_picture, config.finetune.details, config.finetune.head_jitter) == (0, 0, 0)


def test_earlier_paper_config_keeps_its_gain():
    values = json.loads(json.dumps(dataclasses.asdict(preset("paper"))))
    values["networks"]["embedding_gain"] = 1.0
    for where, names in ADDED.items():
        for name in names:
            del part_of(values, where)[name]
    config = Config.from_dict(values)
    assert (
        config.networks.embedding_gain == 1.0
        and not config.meta.columns_from_embeddings
        and config.meta.generator.eps == 1e-8
    )


def test_to_dict_keeps_other_values_of_later_fields():
    values = preset("portrait").to_dict()
    assert (
        values["crop"] == 2
        and values["networks"]["reference_guided"] is True
        and values["networks"]["network_size"] == 128
    )
    assert values["meta"]["own_picture"] > 0 and values["finetune"]["head_jitter"] > 0
    alone = dataclasses.replace(
        preset("tiny"), meta=dataclasses.replace(preset("tiny").meta, far_targets=0.5)
    ).to_dict()
    assert alone["meta"]["far_targets"] == 0.5 and "details" not in alone["meta"] and "crop" not in alone


def test_from_dict_reports_missing_old_field():
    values = preset("tiny").to_dict()
    del values["networks"]["residual"]
    with pytest.raises(TalkingheadError, match=r"configuration\.networks: fields residual"):
        Config.from_dict(values)


@pytest.mark.parametrize(
    "change",
    [{"network_size": 32}, *({"reference_guided": True, "network_size": size} for size in (48, 128, -32))],
)
def test_network_config_rejects_invalid_sizes(change):
    with pytest.raises(TalkingheadError, match="makes no network"):
        dataclasses.replace(preset("tiny").networks, **change)


def test_layer_size_is_network_size():
    assert preset("portrait").networks.layer_size == 128 and preset("small").networks.layer_size == 128
    assert dataclasses.replace(preset("tiny").networks, reference_guided=True).layer_size == 64
