"""Presets of one's own in TOML files."""

import dataclasses
from pathlib import Path

import pytest

from conftest import face_clip, face_points
from talkinghead import finetune, load_model, load_person, save_model, save_person
from talkinghead.config import Config, NetworkConfig, preset
from talkinghead.config_file import read_preset, resolve_preset
from talkinghead.constants import PRESETS
from talkinghead.errors import TalkingheadError
from talkinghead.model import random_model

WIDE = """
[preset]
base = "tiny"
crop = 2
[preset.networks]
residual = 1
encoder = [16, 24, 32, 32]
[preset.meta.generator]
learning_rate = 1e-3
[preset.finetune]
epochs = 3
average = 0
"""


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    path = tmp_path / "wide.toml"
    path.write_text(WIDE)
    return path


def test_file_overrides_fields_of_its_base(wide: Path) -> None:
    config, tiny = read_preset(wide), preset("tiny")
    expected = dataclasses.replace(
        tiny,
        preset="wide",
        crop=2,
        networks=dataclasses.replace(tiny.networks, residual=1, encoder=(16, 24, 32, 32)),
        meta=dataclasses.replace(
            tiny.meta, generator=dataclasses.replace(tiny.meta.generator, learning_rate=1e-3)
        ),
        finetune=dataclasses.replace(tiny.finetune, epochs=3, average=0.0),
    )
    assert config == expected and Config.from_dict(config.to_dict()) == config
    wide.write_text(WIDE.replace("[preset", "[train.preset").replace("crop", 'name = "mine"\ncrop'))
    assert read_preset(wide) == dataclasses.replace(expected, preset="mine")


def test_preset_is_name_file_or_configuration(wide: Path) -> None:
    config = read_preset(wide)
    assert resolve_preset(wide) == resolve_preset(str(wide)) == resolve_preset(config) == config
    assert [resolve_preset(name) for name in PRESETS] == [preset(name) for name in PRESETS]
    for name in PRESETS:
        assert resolve_preset(preset(name)) == preset(name)
    with pytest.raises(TalkingheadError, match="preset 'vast': there is none of this name"):
        resolve_preset("vast")
    with pytest.raises(TalkingheadError, match="preset 3: expected a name, a Config or the path of a .toml"):
        resolve_preset(3)  # type: ignore[arg-type]


def test_model_and_person_of_own_preset_load(wide: Path, tmp_path: Path) -> None:
    model = random_model(read_preset(wide))
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config and loaded.config.preset == "wide"
    clip = face_clip(face_points((0, 0), (0.02, 0)))
    for steps in (0, 1):
        path = tmp_path / f"person{steps}.safetensors"
        save_person(finetune(loaded, clip, steps=steps), path)
        needed = loaded if steps == 0 else None
        assert load_person(path, needed).config == model.config


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "residual",
            "residuals",
            r"preset.networks.residuals: no such field; did you mean residual\?",
        ),
        ("crop", "corp", r"preset.corp: no such field; did you mean crop\?"),
        ("preset.meta", "preset.mata", r"preset.mata: no such field; did you mean meta\?"),
        (
            "crop = 2",
            "xyzzy = 2",
            "preset.xyzzy: no such field; there are base, name, networks",
        ),
        ("crop = 2", 'preset = "mine"', "preset.preset: no such field"),
        ('base = "tiny"', 'base = "tinny"', r"base 'tinny', which is no preset; did you mean tiny\?"),
        ('base = "tiny"', "", "base None, which is no preset; choose portrait, paper, small, tiny"),
        ("crop = 2", 'name = "small"', "name 'small', which is no new name; choose another"),
        ("crop = 2", "name = 3", "name 3, which is no new name"),
        ("crop = 2", "crop = 3", "preset.crop: is 3, expected 1 or 2"),
        ("crop = 2", 'perceptual = ["vgg91"]', r"preset.perceptual: expected some of .*did you mean vgg19\?"),
        ("crop = 2", 'perceptual = "vgg19"', "preset.perceptual: expected a list, got 'vgg19'"),
        ("residual = 1", "residual = 1.5", "preset.networks.residual: expected a whole number, got 1.5"),
        ("residual = 1", "residual = true", "preset.networks.residual: expected a whole number, got True"),
        ("residual = 1", "residual = 99", "makes no network; start from a preset"),
        ("residual = 1", "image_size = 100", "makes no network"),
        ("residual = 1", 'initialisation = "zero"', '"zero", expected orthogonal or uniform'),
        ("[16, 24, 32, 32]", "[8, 8, 8, 8, 8, 8, 8]", "7 blocks are too many for images of 64 pixels"),
        ("1e-3", "0", "preset.meta.generator.learning_rate: is 0.0, expected more than 0"),
        ("1e-3", "nan", "preset.meta.generator.learning_rate: is nan, expected a finite number"),
        ("1e-3", '"fast"', "expected a number, got 'fast'"),
        (
            "average = 0",
            "average = 1",
            "preset.finetune.average: is 1.0, expected at least 0 and less than 1",
        ),
        ("average = 0", "jitter = 2", "preset.finetune.jitter: is 2.0, expected 0 to 1"),
        ("epochs = 3", "epochs = -3", "preset.finetune.epochs: is -3, expected 0 or more"),
        (
            "[preset.meta.generator]\nlearning_rate = 1e-3",
            "[preset.meta]\nshots = 0",
            "shots: is 0, expected 1",
        ),
    ],
)
def test_bad_file_reports_user_error(old: str, new: str, message: str, wide: Path) -> None:
    wide.write_text(WIDE.replace(old, new, 1))
    with pytest.raises(TalkingheadError, match=message) as error:
        read_preset(wide)
    assert str(error.value).startswith(f"{wide}: ")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[presets]", r"has no table \[preset\]; add one"),
        ('preset = "tiny"', r"has no table \[preset\]"),
        ('[preset]\nbase = "tiny"\nmeta = 3', r"preset.meta: is 3, expected a table; write \[preset.meta\]"),
    ],
)
def test_file_without_table_reports_user_error(text: str, message: str, wide: Path) -> None:
    wide.write_text(text)
    with pytest.raises(TalkingheadError, match=message):
        read_preset(wide)


def test_impossible_configuration_reports_user_error() -> None:
    tiny = preset("tiny")
    bad = dataclasses.replace(tiny, preset="bad", meta=dataclasses.replace(tiny.meta, batch=0))
    with pytest.raises(TalkingheadError, match="^preset bad.meta.batch: is 0, expected more than 0"):
        resolve_preset(bad)


def test_missing_file_reports_user_error() -> None:
    with pytest.raises(TalkingheadError, match="gone.toml: cannot be read .*; name a TOML file"):
        resolve_preset("gone.toml")


def test_negative_number_of_blocks_is_refused() -> None:
    with pytest.raises(TalkingheadError):
        NetworkConfig(residual=-1)
