"""The option --verbose: how long each stage took, on stderr."""

import json
import re
from pathlib import Path

import pytest
from commands import command_error, run_command

import talkinghead.cli as cli
from conftest import RedSquare
from talkinghead.cli.console import Console

pytest_plugins = ["command_fixtures"]


def stages(capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """Return stdout, and the stages whose durations stderr has."""
    printed = capsys.readouterr()
    lines = re.split(r"[\r\n]|\x1b\[A", printed.err)
    matches = (re.fullmatch(r"(.*): \d+\.\d\d s", line) for line in lines)
    return printed.out, [match[1] for match in matches if match]


def test_verbose_prints_stages_of_commands(
    tmp_path: Path,
    model_file: Path,
    drive_video: Path,
    command_detector: RedSquare,
    capsys: pytest.CaptureFixture[str],
) -> None:
    person = tmp_path / "person.safetensors"
    learn = ("finetune", drive_video, "-m", model_file, "-s", "0", "-o", person)
    run_command(*learn, "--json", "--verbose")
    out, names = stages(capsys)
    assert json.loads(out)["steps"] == 0
    assert names[-3:] == ["learning", "writing the person", "finetune, in all"]
    assert {"reading the model", "drive.mp4: reading", "drive.mp4: landmarks"} <= set(names)
    animate = ("animate", person, "-d", drive_video, "-o", tmp_path / "o.mp4", "-m", model_file)
    run_command(*animate, "--verbose")
    _, names = stages(capsys)
    assert {"reading the person", "drive.mp4: reading", "drive.mp4: landmarks"} <= set(names)
    assert {"rendering", "writing", "animate, in all"} <= set(names)
    run_command(*animate)
    assert stages(capsys)[1] == []


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in ("info", "completion")])
def test_verbose_and_quiet_contradict_each_other(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {
        "demo": "",
        "live": "p",
        "web": "",
        "verify": "e",
        "finetune": "a.png -o o",
        "export": "p --format onnx -o o",
        "train": "d -o o",
        "evaluate": "tiny d -o o",
        "prepare": "d -o o",
        "rank-drivers": "p d",
    }
    line = f"{command} {arguments.get(command, 'p -d d -o o.mp4' if command == 'animate' else 'v -o o.png')}"
    error = command_error(capsys, *line.split(), "--quiet", "--verbose")
    assert error == "talkinghead: error: --verbose and --quiet contradict each other; leave one of them out"


def test_console_restores_level_of_log() -> None:
    console = Console(verbose=True)
    level = console._logger.level
    with console:
        assert console._logger.isEnabledFor(10)
    assert console._logger.level == level
