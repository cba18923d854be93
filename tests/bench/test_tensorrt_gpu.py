"""The bench of TensorRT, whose engines need a GPU, with fake engines."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.gpu import tensorrt_gpu
from talkinghead.errors import TalkingheadError


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Fake engines; they record their calls, and fail to be built or refitted at a precision."""
    record = SimpleNamespace(ran=[], refitted=[], stiff="", refused="")

    def build(person: Any, path: Path, precision: str, batch: int) -> Any:
        if precision == record.refused:
            raise TalkingheadError("tensorrt: its frames are 7 dB from torch's")
        path.write_bytes(b"engine")
        return SimpleNamespace(
            details={"target": "sm_86", "psnr": 45.0, "refittable": precision != record.stiff}
        )

    def refit(base: Path, person: Any, path: Path) -> Any:
        assert base.read_bytes() == b"engine"
        record.refitted.append(person.name)
        return SimpleNamespace(details={"psnr": 44.0})

    def engine(*arguments: Any, fast: bool = False) -> Any:
        return SimpleNamespace(run=lambda points: record.ran.append(points.shape))

    people = [
        SimpleNamespace(name=name, config=SimpleNamespace(preset="tiny"), neutral_landmarks=np.zeros((68, 2)))
        for name in ("anna", "berta")
    ]
    for name, stand_in in {
        "build_tensorrt": build,
        "refit_tensorrt": refit,
        "TensorRTEngine": engine,
        "TorchEngine": engine,
        "GpuContext": lambda: SimpleNamespace(target="sm_86"),
        "finetune_two": lambda: people,
    }.items():
        monkeypatch.setattr(tensorrt_gpu, name, stand_in)
    return record


def test_each_engine_is_built_run_refitted_and_timed(fake_tensorrt: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert tensorrt_gpu.main([str(path), "--seconds", "0.01"]) == 0
    results = json.loads(path.read_text())
    rows = results["rows"]
    assert [(row["precision"], row["batch"]) for row in rows] == [
        ("fp16", 1),
        ("fp16", 8),
        ("fp32", 1),
        ("fp32", 8),
    ]
    for row in rows:
        assert {"build", "build again", "load and first frames", "refit"} <= set(row) and row["bytes"] == 6
        assert (
            set(row["frame"]) == {"tensorrt", "eager"}
            and row["refit psnr"] == 44.0
            and row["details"]["psnr"] == 45.0
        )
    assert {shape[1:] for shape in fake_tensorrt.ran} == {(68, 2)} and {
        shape[0] for shape in fake_tensorrt.ran
    } == {1, 8}
    assert fake_tensorrt.refitted == ["berta"] * 4
    assert results["machine"]["target"] == "sm_86" and results["machine"]["versions"]["torch"]


def test_what_is_refused_is_written_down(fake_tensorrt: SimpleNamespace, tmp_path: Path) -> None:
    fake_tensorrt.stiff, fake_tensorrt.refused = "fp16", "fp32"
    path = tmp_path / "out.json"
    assert tensorrt_gpu.main([str(path), "--seconds", "0.01"]) == 1
    rows = json.loads(path.read_text())["rows"]
    assert ["7 dB" in row["refused"] for row in rows] == [False, False, True, True]
    assert ["a refit" in row["refused"] for row in rows] == [True, True, False, False]
    assert "refit" not in rows[0] and "frame" in rows[0] and "build" not in rows[2]
