"""Runs of commands in the tests' own process."""

from pathlib import Path

import pytest

import talkinghead.cli as cli

FACES = [(40 + 2 * number, 30, 40) for number in range(20)]
"""Red squares (left, top, side) of 20 frames, for `draw_video`."""


def run_command(*arguments: str | Path) -> None:
    """Run a command that must succeed."""
    code = cli.main([str(argument) for argument in arguments])
    assert code == 0, f"exit code {code}"


def command_error(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must fail, and return its one-line error."""
    assert cli.main([str(argument) for argument in arguments]) == cli.USER_ERROR
    stderr = capsys.readouterr().err
    lines = [line for line in stderr.splitlines() if line and not _is_progress(line)]
    assert len(lines) == 1, stderr
    assert lines[0].startswith("talkinghead: error: ") and "Traceback" not in stderr
    return lines[0]


def _is_progress(line: str) -> bool:
    return "%|" in line or line.endswith(" a second")
