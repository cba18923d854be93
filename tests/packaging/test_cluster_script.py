"""The shell scripts of the page on clusters parse, and start commands that exist."""

import os
import re
import subprocess
from pathlib import Path

from talkinghead.cli import build_parser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training_at_scale.md"


def test_shell_blocks_parse() -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert any("#SBATCH" in block for block in blocks)
    for block in blocks:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_job_array_starts_part_of_its_number(tmp_path: Path) -> None:
    [script] = [
        block
        for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        if "--array" in block
    ]
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "7"}
    done = subprocess.run(["bash"], input=script, text=True, check=True, capture_output=True, env=environment)
    command = done.stdout.splitlines()
    assert command[:2] == ["talkinghead", "prepare"]
    assert build_parser().parse_args(command[1:]).part == "7/100"
