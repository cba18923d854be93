"""Evaluations that add to earlier ones: only what is new is measured, and the numbers are the same."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SMALL_NETWORKS, RedSquare, draw_video
from support.signals import send_signal
from talkinghead.checkpoint import save_model
from talkinghead.config import Config, preset
from talkinghead.evaluation import measurement_keys
from talkinghead.evaluation.evaluate import evaluate_model
from talkinghead.evaluation.evaluate_clip import ClipEvaluator, Protocol, RowTask
from talkinghead.evaluation.split import EvalClip
from talkinghead.model import random_model

METHODS = ("feed-forward", "fine-tuned", "nearest")


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out plots, which take longer than what is tested here."""
    monkeypatch.setattr("talkinghead.evaluation.evaluate.plot_shots", lambda results, path: None)
    monkeypatch.setattr("talkinghead.evaluation.evaluate.plot_steps", lambda results, path: None)
    monkeypatch.setattr("talkinghead.evaluation.aggregate.RESAMPLES", 50)


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model file: random weights, few channels, 64x64."""
    tiny = preset("tiny")
    networks = replace(SMALL_NETWORKS, image_size=64, discriminator_gain=0.01, embedding_gain=0.01)
    # fp32: each process would measure for itself, on a busy machine, whether bf16 is faster
    steps = replace(tiny.finetune, precision="fp32")
    path = tmp_path_factory.mktemp("little") / "little.safetensors"
    save_model(random_model(Config("tiny", networks, tiny.meta, steps, tiny.perceptual), seed=5), path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[EvalClip]:
    """Draw a video of each of two people."""
    folder, clips = tmp_path_factory.mktemp("clips"), []
    for number, name in enumerate(("anna", "bob")):
        faces = [(30 + (3 + number) * frame, 30, 40) for frame in range(9)]
        clips.append(EvalClip(name, f"{name}.mp4", draw_video(folder / f"{name}.mp4", faces)))
    return clips


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what is measured: landmarks of clips, and rows."""
    names: list[str] = []
    real = ClipEvaluator.__call__

    def call(self: ClipEvaluator, task: EvalClip | RowTask, report: Any) -> Any:
        if isinstance(task, EvalClip):
            names.append(f"{task.person} landmarks")
        else:
            names.append(f"{task.clip.person} T{task.shots} {task.method} {task.stages}")
        return real(self, task, report)

    monkeypatch.setattr(ClipEvaluator, "__call__", call)
    return names


def run(
    model: Path, clips: list[EvalClip], out: Path, workers: int = 1, progress: Any = None, **settings: Any
) -> dict[str, Any]:
    """Evaluate, and return results.json without what depends on the time."""
    protocol = Protocol(**{"shots": (1, 2), "held_out": 3, "methods": METHODS, "steps": 1} | settings)
    evaluator = ClipEvaluator(str(model), protocol, RedSquare())
    more = {} if progress is None else {"progress": progress}
    evaluate_model(evaluator, clips, out, workers, **more)
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    for key in ("date", "seconds"):
        del results["settings"][key]
    for clip in results["clips"]:
        clip["seconds"] = {shots: sorted(methods) for shots, methods in clip["seconds"].items()}
    return results


@pytest.mark.slow
def test_incremental_evaluation_equals_one_from_scratch(
    little: Path, clips: list[EvalClip], tmp_path: Path, measured: list[str]
) -> None:
    out = tmp_path / "steps"
    run(little, clips[:1], out, shots=(2,), methods=("feed-forward",))
    assert measured == ["anna landmarks", "anna T0 truth (0,)", "anna T2 feed-forward (0,)"]
    measured.clear()
    run(little, clips, out, shots=(2,), methods=("feed-forward",))  # a person more
    assert measured == ["bob landmarks", "bob T0 truth (0,)", "bob T2 feed-forward (0,)"]
    measured.clear()
    run(little, clips, out, shots=(2,), methods=("feed-forward", "fine-tuned"))  # a row more
    assert measured == ["anna T2 fine-tuned (1,)", "bob T2 fine-tuned (1,)"]
    measured.clear()
    run(little, clips, out, shots=(2,), methods=("feed-forward", "fine-tuned"), curve=(3,))  # steps more
    assert measured == ["anna T2 fine-tuned (3,)", "bob T2 fine-tuned (3,)"]
    measured.clear()
    run(little, clips, out, shots=(2,), curve=(3,))
    assert measured == ["anna T2 nearest (0,)", "bob T2 nearest (0,)"]
    measured.clear()
    added = run(little, clips, out, curve=(3,))  # a T more
    assert [name.split()[1] for name in measured] == ["T1"] * 6
    measured.clear()
    assert run(little, clips, out, curve=(3,)) == added and not measured
    assert run(little, clips, tmp_path / "scratch", curve=(3,)) == added
    assert (tmp_path / "scratch" / "sheet.png").read_bytes() == (out / "sheet.png").read_bytes()
    table = (out / "table.md").read_text()
    assert (tmp_path / "scratch" / "table.md").read_text() == table and "| T = 1: steps | row |" in table


@pytest.mark.slow
def test_evaluation_in_processes_equals_one_in_this(
    little: Path, clips: list[EvalClip], tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        here = run(little, clips[:1], tmp_path / "here", shots=(1,))
        assert torch.get_num_threads() == 2
        assert run(little, clips[:1], tmp_path / "there", workers=2, shots=(1,)) == here
    finally:
        torch.set_num_threads(threads)


def test_split_of_short_clip_is_measured_again(
    little: Path, clips: list[EvalClip], tmp_path: Path, measured: list[str]
) -> None:
    run(little, clips[:1], tmp_path, shots=(1,), methods=("nearest",))
    measured.clear()
    run(little, clips[:1], tmp_path, shots=(1, 7), methods=("nearest",))  # T = 7 of 9 frames holds fewer out
    assert measured == ["anna T0 truth (0,)", "anna T1 nearest (0,)", "anna T7 nearest (0,)"]


@pytest.mark.parametrize(
    ("setting", "section"),
    [("held_out", "split: 3"), ("seed", "seed: 1"), ("version", "versions: 3"), ("model", "model: 2")],
)
def test_other_settings_are_measured_again_with_note(
    setting: str,
    section: str,
    little: Path,
    clips: list[EvalClip],
    tmp_path: Path,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "talkinghead")
    common: dict[str, Any] = {"shots": (1,), "methods": METHODS[:2]}
    first = run(little, clips[:1], tmp_path / "out", **common)
    measured.clear()
    model, changed = little, dict(common)
    if setting == "held_out":
        changed["held_out"] = 2
    if setting == "seed":
        changed["seed"] = 1
    if setting == "version":
        monkeypatch.setattr(measurement_keys, "_VERSIONS", {"talkinghead": "9"})
    if setting == "model":
        other = random_model("tiny", seed=6)
        model = tmp_path / "other.safetensors"
        save_model(other, model)
    run(model, clips[:1], tmp_path / "out", **changed)
    assert measured
    notes = [record.getMessage() for record in caplog.records if "other settings" in record.getMessage()]
    assert len(notes) == 1 and notes[0].endswith("these are measured again") and section in notes[0]
    measured.clear()
    monkeypatch.undo()
    assert run(little, clips[:1], tmp_path / "out", **common) == first and not measured


def test_interrupted_evaluation_keeps_measured_rows(
    little: Path,
    clips: list[EvalClip],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "talkinghead")
    calls, real = [0], ClipEvaluator._row_values

    def interrupting(self: ClipEvaluator, *arguments: Any) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 3:
            send_signal()
        return real(self, *arguments)

    monkeypatch.setattr(ClipEvaluator, "_row_values", interrupting)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(little, clips[:1], out, shots=(1,), curve=(2,))
    kept = [path.name.split("-", 1)[1][:-36] for path in (out / "clips").iterdir()]
    assert sorted(kept) == ["T1-feed-forward", "T1-fine-tuned-1", "landmarks", "truth"]
    assert f"{out / 'clips'}: keeps what was measured; the same command resumes" in caplog.text
    calls[0] = 99
    resumed = run(little, clips[:1], out, shots=(1,), curve=(2,))
    assert calls[0] == 101
    assert run(little, clips[:1], tmp_path / "whole", shots=(1,), curve=(2,)) == resumed


def test_progress_moves_inside_a_clip(
    little: Path, clips: list[EvalClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("talkinghead.evaluation.evaluate_clip._REPORT_SECONDS", 0.0)
    events: list[str] = []
    real = ClipEvaluator._row_values

    def progress(iterable: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        events.append(f"{desc} of {total}")
        for item in iterable:
            yield item
            events.append("step")

    def row_values(self: ClipEvaluator, *arguments: Any) -> dict[str, Any]:
        events.append("row")
        return real(self, *arguments)

    monkeypatch.setattr(ClipEvaluator, "_row_values", row_values)
    run(little, clips[:1], tmp_path, shots=(1,), methods=METHODS[:2], steps=5, progress=progress)
    assert events[:1] == ["finding landmarks of 9"] and events[1:10] == ["step"] * 9
    assert (
        events[10] == "measuring rows and steps of 8"
    )  # the truth, feed-forward, and five steps with their row
    assert events[11:] == ["step", "row", "step", *["step"] * 5, "row", "step"]


def test_crashed_row_leaves_clip_out(
    little: Path, clips: list[EvalClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ClipEvaluator._measure

    def failing(self: ClipEvaluator, task: RowTask, *arguments: Any) -> None:
        if task.clip.person == "bob" and task.method == "nearest":
            from talkinghead.errors import TalkingheadError

            raise TalkingheadError("bob.mp4: fewer frames the second time it was read; copy it again")
        real(self, task, *arguments)

    monkeypatch.setattr(ClipEvaluator, "_measure", failing)
    results = run(little, clips, tmp_path, shots=(1,), methods=METHODS[::2])
    assert list(results["left_out"]) == ["bob.mp4"] and list(results["people"]) == ["anna"]
