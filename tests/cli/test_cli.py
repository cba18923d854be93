"""The command line: help, arguments, exit codes and imports."""

import os
import re
import subprocess
import sys

import pytest
import torch
from commands import command_error

import talkinghead
import talkinghead.cli as cli
from talkinghead.cli.commands import load_command

COMMANDS = tuple(cli.COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples_and_common_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert exited.value.code == 0
    assert re.search(rf"^  talkinghead {command}\s", text.split("example:")[1], re.MULTILINE)
    assert "--json" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_help_parse(command: str) -> None:
    parser = cli.build_parser()
    lines = [
        re.split("[#|]", line)[0].split()[1:]
        for line in load_command(command).EXAMPLE.splitlines()
        if line.startswith("  talkinghead ")
    ]
    assert lines
    for line in lines:
        assert parser.parse_args(line).command in cli.COMMANDS


def test_common_options_are_parsed_where_used() -> None:
    parse = cli.build_parser().parse_args
    required_arguments = {
        "demo": [],
        "finetune": ["p.png", "--out", "o"],
        "animate": ["p", "--drive", "d", "--out", "o"],
        "live": ["p"],
        "export": ["p", "--format", "onnx", "--out", "o"],
        "export-landmarks": ["--out", "o.onnx"],
        "verify": ["e"],
        "rank-drivers": ["p", "d"],
        "landmarks": ["v", "--out", "o.png"],
        "prepare": ["v", "--out", "o"],
        "train": ["d", "--out", "o"],
        "train-landmarks": ["d", "--out", "o"],
        "evaluate": ["tiny", "d", "--out", "o"],
        "completion": ["bash"],
        "info": [],
    }
    for command, arguments in required_arguments.items():
        args = parse([command, *arguments])
        assert args.json is False
        assert hasattr(args, "quiet") == (command not in ("completion", "info"))
        seeded = ("demo", "finetune", "prepare", "train", "train-landmarks", "evaluate")
        assert hasattr(args, "seed") == (command in seeded)
    assert parse(["demo", "--seed", "7"]).seed == 7


@pytest.mark.parametrize(
    "command, expected",
    [
        ("animate person", "talkinghead animate --help"),
        ("animate p --drive d --out o --layout wide", "wide"),
        ("demo --steps=-3", "'-3' is not a whole number"),
        ("finetune p.png --out o --shots 0", "'0' is not a whole number from 1 to 32"),
        ("finetune p.mp4 --out o --shots 33", "'33' is not a whole number from 1 to 32"),
        ("dance", "dance"),
        ("", "--help"),
    ],
)
def test_bad_arguments_report_user_error(
    command: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in command_error(capsys, *command.split())


def test_interrupt_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("talkinghead.cli.info_report.collect", interrupt)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "talkinghead: interrupted\n"


def test_out_of_memory_reports_option_that_needs_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB\nmore"
        )

    monkeypatch.setattr("talkinghead.training.meta.train", run_out_of_memory)
    assert cli.main(["train", "data", "--out", "run"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "talkinghead: error: train: CUDA out of memory; --grad-accum-steps 2 needs half, and more steps "
        "less; --device cpu needs none"
    ]


def modules_after(statement: str) -> set[str]:
    """Return the modules that a new process has imported after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules, file=sys.__stderr__)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.split())


@pytest.mark.parametrize("command", ["--help", "--version", *(f"{name} --help" for name in COMMANDS)])
def test_help_imports_neither_torch_nor_numpy(command: str) -> None:
    loaded = modules_after(
        f"import talkinghead.cli\ntry: talkinghead.cli.main({command.split()})\nexcept SystemExit: pass"
    )
    modules = {f"talkinghead.cli.{name.replace('-', '_')}" for name in COMMANDS if name in command.split()}
    assert modules <= loaded and ("talkinghead.cli.finetune" in loaded) == (command == "finetune --help")
    assert not loaded & {
        "torch",
        "numpy",
        "safetensors",
        "av",
        "PIL",
        "dlib",
        "cv2",
        "tqdm",
        "triton",
        "onnx",
        "difflib",
        "logging",
        "dataclasses",
        "importlib.metadata",
    }


def test_package_runs_as_script() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-m", "talkinghead", "animate"], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1


def test_public_names_exist() -> None:
    for name in talkinghead.__all__:
        assert getattr(talkinghead, name) is not None
    assert callable(talkinghead.animate) and callable(talkinghead.finetune)  # and no modules
