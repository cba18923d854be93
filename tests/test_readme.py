"""README's Python example runs as printed, and its commands are ones the command line knows."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from talkinghead.arguments import build_parser
from talkinghead.cli import _VERBS
from talkinghead.config import FinetuneConfig

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_example_runs(tmp_path: Path, carphone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example, _ = blocks("python")
    for name in ("anna.mp4", "bob.mp4"):
        shutil.copy(carphone, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FinetuneConfig, "steps", lambda self, pictures: 1)  # the example's own would take a minute
    found: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), found)
    assert (tmp_path / "anna.safetensors").stat().st_size > 1_000_000
    assert (tmp_path / "anna_as_bob.mp4").stat().st_size > 1_000
    assert found["frame"].shape == (256, 256, 3)


def test_the_ops_example_runs() -> None:
    found: dict[str, object] = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), found)
    assert found["z"].shape == (8, 32, 64, 64)


def test_commands_parse() -> None:
    commands = [
        shlex.split(line, comments=True)[1:]
        for block in blocks("sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("talkinghead ")
    ]
    assert {command[0] for command in commands} == set(_VERBS)
    for command in commands:
        build_parser(_VERBS).parse_args(command)
