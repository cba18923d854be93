"""The bench of the networks runs, and leaves its tables and its plot beside its results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_training_and_animation_against_the_baseline_networks(tmp_path):
    path = tmp_path / "results.json"
    cases = ["bench_animate.py", "bench_finetune.py::test_person", "bench_meta.py"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *(f"bench/networks/{case}" for case in cases),
        "--quick",
        f"--results={path}",
        "-q",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    rows = json.loads(path.read_text())["rows"]
    assert [row["op"] for row in rows] == ["animate", "fine-tuning", "meta-learning"]
    assert all(row["times"].keys() == {"ours", "baseline"} for row in rows)
    table = path.with_suffix(".md").read_text()
    assert (
        "**animate, 4 frames, encoding included**" in table
        and "**fine-tuning, 2 steps, a person**" in table
        and "**meta-learning, step**" in table
    )
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.width > 500
