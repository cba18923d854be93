"""Tests that the Dockerfile fits the project; no image is built."""

import fnmatch
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from talkinghead.cli import build_parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Return the instructions and their arguments, in order."""
    lines = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined)]


def arguments_of(name: str) -> list[str]:
    """Return the arguments of every instruction of a name."""
    return [rest for word, rest in instructions() if word == name]


def test_last_stage_is_for_cpus() -> None:
    stages = [rest.split()[-1] for rest in arguments_of("FROM")]
    assert stages == ["cuda", "wheel", "cpu"]


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    needed = [
        "setup.py",
        "pyproject.toml",
        "csrc",
        "kernels",
        "talkinghead",
        "docs/description.md",
        "LICENSE",
    ]
    copied = [rest.split()[0] for rest in arguments_of("COPY") if not rest.startswith("--from")]
    for name in {*copied, *needed}:
        assert (ROOT / name).exists()
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in ignored), name


def test_extras_exist() -> None:
    requested = re.findall(r"\[([\w,-]+)\]\"", TEXT)
    assert len(requested) == 2 and requested[0] == requested[1]
    assert set(requested[0].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_build_requirements_are_those_of_project() -> None:
    assert TEXT.count(" ".join(f'"{one}"' for one in PROJECT["build-system"]["requires"])) == 2


COMMANDS = [json.loads(rest) for rest in arguments_of("CMD")] + [
    command
    for line in TEXT.splitlines()
    if "docker run" in line and (command := shlex.split(line.partition(" talkinghead ")[2]))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_image_are_valid(command: list[str]) -> None:
    assert build_parser().parse_args(command).command == command[0]


def test_both_images_have_a_command() -> None:
    assert len(arguments_of("CMD")) == 2 and len(COMMANDS) == 3
