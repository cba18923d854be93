"""Types that a user sees: mypy's verdict on a script with right and wrong calls."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "support" / "typed_example.py"


@pytest.mark.slow
def test_user_script_has_exact_types_and_wrong_calls_are_found(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert len(wrong) == 12
    options = ["--strict", "--config-file=", "--explicit-package-bases", "--follow-imports=silent"]
    command = [sys.executable, "-m", "mypy", *options, f"--cache-dir={tmp_path}", str(EXAMPLE)]
    paths = {"MYPYPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": ""}
    result = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=600)
    errors = [line for line in result.stdout.splitlines() if ": error:" in line]
    reported = {int(line.split(":")[1]) for line in errors if "typed_example" in line.split(":")[0]}
    assert reported == wrong, result.stdout + result.stderr
    assert len(errors) == len(wrong), result.stdout
