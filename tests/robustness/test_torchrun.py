"""`torchrun ... -m talkinghead train`, as a user starts it: a killed process ends in a restart of all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.minimal_training import write_data

PRESET = """\
[preset]
base = "tiny"
perceptual = ["efficientnet-lite0"]
[preset.networks]
image_size = 32
encoder = [8, 16]
encoder_attention = 1
down = [8, 16]
down_attention = 1
residual = 1
up = [16, 8]
up_attention = 1
[preset.meta]
precision = "fp32"
videos = 20
"""


def start(data: Path, out: Path, steps: int = 12, save_every: str = "0.001") -> subprocess.Popen[str]:
    """Start two processes that torchrun starts again once."""
    preset = data / "smaller.toml"
    preset.write_text(PRESET)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "1", "--monitor-interval", "0.1", "-m", "talkinghead", "train", str(data)),
        *("--out", str(out), "--preset", str(preset), "--steps", str(steps), "--save-every", save_every),
        *("--device", "cpu"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that torchrun started."""
    children = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(number) for file in children for number in file.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_torchrun_restarts_after_kill_and_ends_bit_for_bit(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    whole = start(data, tmp_path / "whole")
    printed, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, printed
    assert printed.count("model of preset smaller, 12 steps") == 1
    killed = start(data, tmp_path / "killed")
    while not (tmp_path / "killed" / "previous" / "state.safetensors").exists():
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(workers_of(killed)[-1], signal.SIGKILL)
    printed, _ = killed.communicate(timeout=300)
    assert killed.returncode == 0, printed
    assert "resuming at step" in printed
    names = ["state.safetensors", *(f"shares/0000{rank}-of-00002-step-12.safetensors" for rank in range(2))]
    for name in names:
        expected, resumed = (load_file(tmp_path / folder / name) for folder in ("whole", "killed"))
        assert expected.keys() == resumed.keys()
        assert [key for key in expected if not torch.equal(expected[key], resumed[key])] == []


@pytest.mark.slow
def test_sigterm_to_torchrun_saves_last_step(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(write_data(tmp_path / "data"), out, 10_000, "1")
    while not (out / "model.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.02)
    before = (out / "state.safetensors").stat().st_mtime_ns
    time.sleep(0.5)
    process.terminate()
    printed, _ = process.communicate(timeout=120)
    assert f"{out}: stopped at step" in printed and "resume by: torchrun ... -m talkinghead train" in printed
    assert (out / "state.safetensors").stat().st_mtime_ns > before
