"""Memory of training on a data set as large as VoxCeleb2."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads memory from /proc")
def test_data_set_of_19_million_frames_needs_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.experiments.large_index", str(tmp_path)]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    first, start, later = printed.splitlines()
    assert first == "144992 videos, 18993952 frames"
    for line in (start, later):
        words = line.split()
        assert float(words[words.index("MB") - 1]) < 200
