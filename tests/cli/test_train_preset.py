"""The command `train` with a preset of one's own."""

from pathlib import Path

import pytest
from commands import command_error, run_command

from talkinghead import load_model

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
    assert "run/model.safetensors: model of preset mine, 1 steps" in capsys.readouterr().out
    run_command("train", face_shards, "--preset", config, "--out", "run", "--steps", "2", "-q")
    model = load_model("run/model.safetensors")
    assert (model.config.preset, model.config.networks.residual) == ("mine", 1)
    assert model.provenance["steps"] == 2
    config.write_text(CONFIG.replace("shots = 1", "shots = 2"))
    error = command_error(capsys, "train", face_shards, "--config", config)
    assert "run: holds a run whose preset mine had other values; choose another folder" in error
    config.write_text(CONFIG.replace("residual", "residul"))
    error = command_error(capsys, "train", face_shards, "--config", config)
    assert "mine.toml: preset.networks.residul: no such field; did you mean residual?" in error


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
