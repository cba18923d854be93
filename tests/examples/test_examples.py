"""The scripts of examples/ run as their docstrings say."""

import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from talkinghead.config import FinetuneConfig

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def main_of(name: str) -> Callable[..., None]:
    """Return the function main of an example."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.mark.slow
def test_finetune_and_animate_write_person_and_video(
    tmp_path: Path, carphone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FinetuneConfig, "steps", lambda self, pictures: 1)
    person, video = tmp_path / "anna.safetensors", tmp_path / "anna_as_bob.mp4"
    main_of("finetune")(str(carphone), str(person))
    main_of("animate")(str(person), str(carphone), str(video))
    assert person.stat().st_size > 1_000_000 and video.stat().st_size > 1_000


@pytest.mark.slow
def test_many_people_share_one_engine(
    tmp_path: Path, carphone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript, which ONNX export needs, is not installed")
    main_of("many_people")(str(carphone), str(carphone), str(carphone), str(tmp_path / "engine.onnx"))
    assert "2 people in one batch: frames uint8 [2, 64, 64, 3]" in capsys.readouterr().out


def test_kernels_alone_runs_as_a_script() -> None:
    command = [sys.executable, str(EXAMPLES / "kernels_alone.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "largest difference" in result.stdout and "[2, 64, 32, 32]" in result.stdout


@pytest.mark.slow
def test_train_tiny_writes_model(tmp_path: Path, carphone: Path) -> None:
    person = tmp_path / "clips" / "anna"
    person.mkdir(parents=True)
    shutil.copy(carphone, person / "a.mp4")
    main_of("train_tiny")(str(tmp_path / "clips"), str(tmp_path / "out"), "1")
    assert (tmp_path / "out" / "run" / "model.safetensors").exists()


def test_every_example_is_tested() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    names = sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert len(names) >= 5 and [name for name in names if name not in source] == []
