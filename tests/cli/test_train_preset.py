"""The command `train` with a preset of one's own."""

from dataclasses import replace
from pathlib import Path

import pytest
from commands import command_error, run_command

from talkinghead import load_model
from talkinghead.cli.preset_template import DESCRIPTIONS
from talkinghead.config import preset
from talkinghead.config_file import read_preset
from talkinghead.constants import PRESETS
from talkinghead.model import random_model

CONFIG = """
steps = 1
out = "run"
[preset]
base = "tiny"
[preset.networks]
residual = 1
[preset.meta]
batch = 1
shots = 1
videos = 1
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("mine.toml")
    path.write_text(CONFIG)
    return path


def test_run_of_own_preset_resumes_and_refuses_changed_values(
    config: Path, face_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("train", face_shards, "--config", config)
    assert "run/model.safetensors: model of preset mine, 1 step\n" in capsys.readouterr().out
    run_command("train", face_shards, "--preset", config, "--out", "run", "--steps", "2", "-q")
    model = load_model("run/model.safetensors")
    assert (model.config.preset, model.config.networks.residual) == ("mine", 1)
    assert model.provenance["steps"] == 2
    config.write_text(CONFIG.replace("shots = 1", "shots = 2"))
    error = command_error(capsys, "train", face_shards, "--config", config)
    assert "run: holds a run with other settings: meta.shots was 1, now 2; choose another folder" in error
    config.write_text(CONFIG.replace("residual", "residul"))
    error = command_error(capsys, "train", face_shards, "--config", config)
    assert "mine.toml: preset.networks.residul: no such field; did you mean residual?" in error


def test_train_says_that_preset_of_command_line_replaces_table(
    config: Path, face_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_model("tiny")
    model.provenance = {"steps": 1}
    monkeypatch.setattr("talkinghead.training.meta.train", lambda *_, **__: model)
    note = "mine.toml: its [preset] is not used, since --preset small was named; leave --preset out to use it"
    for options, is_noted in ((["--preset", "small"], True), ([], False), (["--preset", "mine.toml"], False)):
        run_command("train", face_shards, "--config", config, *options)
        assert (note in capsys.readouterr().err) == is_noted


@pytest.mark.parametrize("name", PRESETS)
def test_printed_preset_is_read_as_the_same_values(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("info", "--preset", name)
    text = capsys.readouterr().out
    path = tmp_path / "copy.toml"
    path.write_text(text)
    assert replace(read_preset(path), preset=name) == preset(name)
    values = [line for line in text.splitlines() if " = " in line and not line.startswith(("#", "base"))]
    assert len(values) == len(DESCRIPTIONS) + 1 and all("  # " in line for line in values)


def test_preset_of_command_line_wins_over_table(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, expected in ((["--preset", "small"], '"small"'), ([], '"mine.toml"')):
        with pytest.raises(SystemExit):
            run_command("train", "data", "--config", config, "--print-config", *options)
        assert f"preset = {expected}\n" in capsys.readouterr().out
    config.write_text("[train]\nsteps = 3\n" + CONFIG.partition('out = "run"\n')[2])
    with pytest.raises(SystemExit):
        run_command("train", "data", "--config", config, "--print-config")
    assert 'preset = "mine.toml"\n' in capsys.readouterr().out


def test_preset_file_is_an_input(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/model.safetensors").symlink_to(config.absolute())
    error = command_error(capsys, "train", "data", "--config", config)
    assert "run/model.safetensors: is the same file as the input mine.toml" in error


def test_print_config_checks_the_preset(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("residual", "residul"))
    for options in (["--config", config], ["--preset", config]):
        error = command_error(capsys, "train", "data", *options, "--print-config")
        assert "mine.toml: preset.networks.residul: no such field; did you mean residual?" in error
    assert "absent.toml: " in command_error(capsys, "train", "--preset", "absent.toml", "--print-config")
