"""Measurement of reading episodes from single frames and from whole shards."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_streaming_bench_measures_both_ways(tmp_path: Path) -> None:
    settings = ["--preset", "tiny", "--shards", "8", "--draws", "4", "--steps", "1"]
    command = [sys.executable, "-m", "bench.experiments.streaming", str(tmp_path), *settings]
    result = subprocess.run(
        [*command, "--out", str(tmp_path / "results.json")],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    pattern = r"(random|streaming) +[1-9]\d* frames/s, +[\d.]+ ms of +\d+ ms a step, [\d.]+ % waiting"
    names = [match[1] for line in result.stdout.splitlines() if (match := re.fullmatch(pattern, line))]
    results = json.loads((tmp_path / "results.json").read_text())
    assert names == ["random", "streaming"] == list(results["frames_per_second"])
    assert results["settings"]["preset"] == "tiny" and len(list(tmp_path.glob("*.tar"))) == 8
