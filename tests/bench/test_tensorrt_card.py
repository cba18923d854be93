"""The bench of TensorRT, whose engines need a GPU, on engines of straw."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import tensorrt_card
from talkinghead.errors import TalkingheadError


@pytest.fixture
def straw(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In the place of the engines; what they were told, and which precision cannot be refitted or built."""
    told = SimpleNamespace(ran=[], refitted=[], stiff="", refused="")

    def build(person: Any, path: Path, precision: str, batch: int) -> Any:
        if precision == told.refused:
            raise TalkingheadError("tensorrt: its frames are 7 dB from torch's")
        path.write_bytes(b"engine")
        return SimpleNamespace(details={"target": "sm_86", "psnr": 45.0, "refittable": precision != told.stiff})

    def refit(base: Path, person: Any, path: Path) -> Any:
        assert base.read_bytes() == b"engine"
        told.refitted.append(person.name)
        return SimpleNamespace(details={"psnr": 44.0})

    def engine(*arguments: Any) -> Any:
        return SimpleNamespace(run=lambda points: told.ran.append(points.shape))

    people = [SimpleNamespace(name=name, config=SimpleNamespace(preset="tiny"), reference=np.zeros((68, 2))) for name in ("anna", "berta")]
    for name, stand_in in {
        "build_tensorrt": build,
        "refit_tensorrt": refit,
        "TensorRTEngine": engine,
        "EagerEngine": engine,
        "Card": lambda: SimpleNamespace(target="sm_86"),
        "learned": lambda: people,
    }.items():
        monkeypatch.setattr(tensorrt_card, name, stand_in)
    return told


def test_each_engine_is_built_run_refitted_and_timed(straw: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    assert tensorrt_card.main([str(path), "--seconds", "0.01"]) == 0
    results = json.loads(path.read_text())
    rows = results["rows"]
    assert [(each["precision"], each["batch"]) for each in rows] == [("fp16", 1), ("fp16", 8), ("fp32", 1), ("fp32", 8)]
    for each in rows:
        assert {"build", "build again", "load and first frames", "refit"} <= set(each) and each["bytes"] == 6
        assert set(each["frame"]) == {"tensorrt", "eager"} and each["refit psnr"] == 44.0 and each["details"]["psnr"] == 45.0
    assert {shape[1:] for shape in straw.ran} == {(68, 2)} and {shape[0] for shape in straw.ran} == {1, 8}
    assert straw.refitted == ["berta"] * 4
    assert results["machine"]["target"] == "sm_86" and results["machine"]["versions"]["torch"]


def test_what_is_refused_is_written_down(straw: SimpleNamespace, tmp_path: Path) -> None:
    straw.stiff, straw.refused = "fp16", "fp32"
    path = tmp_path / "out.json"
    assert tensorrt_card.main([str(path), "--seconds", "0.01"]) == 1
    rows = json.loads(path.read_text())["rows"]
    assert ["7 dB" in each["refused"] for each in rows] == [False, False, True, True]
    assert ["a refit" in each["refused"] for each in rows] == [True, True, False, False]
    assert "refit" not in rows[0] and "frame" in rows[0] and "build" not in rows[2]
