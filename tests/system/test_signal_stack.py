"""Ctrl-C after OpenVINO's networks were closed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import gc, os, signal, sys
from pathlib import Path
from talkinghead.system.onnx_runtime import run_by_openvino
networks = [run_by_openvino(Path(sys.argv[1]), "cpu", "fp32") for _ in range(3)]
while networks:
    networks.pop(0)
    gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit("no signal came")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_networks_were_closed_raises_keyboard_interrupt(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    ops = openvino.opset13
    x = ops.parameter([1, 3, 8, 8], dtype=np.float32)
    openvino.save_model(openvino.Model([ops.relu(x)], [x]), tmp_path / "relu.xml")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "relu.xml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (0, "interrupted\n"), result.stderr
