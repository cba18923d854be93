"""Signals and losses that are not finite: what was done so far is kept, and no file is incomplete."""

import fcntl
import os
import pickle
import pty
import re
import signal
import struct
import sys
import tempfile
import termios
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import talkinghead.cli as cli
from conftest import RedSquare, draw_video
from support.signals import STOP_SIGNALS, send_signal
from talkinghead.checkpoint import load_person, save_model, save_person
from talkinghead.clip import Clip
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.media.video import VideoReader, VideoWriter
from talkinghead.model import Person, random_model
from talkinghead.pipelines.finetune import finetune
from talkinghead.system import tensor_file
from talkinghead.training.finetune import Diverged
from talkinghead.training.finetune_trainer import FinetuneTrainer
from talkinghead.training.interrupted import Interrupted
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner


def interrupting_save(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal whenever a model or person is being written."""
    real = tensor_file.save_file

    def save(*arguments: Any) -> None:
        send_signal(kind)
        real(*arguments)

    monkeypatch.setattr(tensor_file, "save_file", save)


def interrupting_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal when a video is being finished."""
    real = VideoWriter.finish

    def finish(self: VideoWriter) -> None:
        send_signal()
        real(self)

    monkeypatch.setattr(VideoWriter, "finish", finish)


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a video, and the command line finding the face in it."""
    monkeypatch.setattr("talkinghead.landmarks.open_detector.open_detector", lambda name, device: RedSquare())
    return draw_video(tmp_path / "drive.mp4", [(40 + i, 30, 40) for i in range(40)])


@pytest.fixture
def person(tmp_path: Path) -> Path:
    model = random_model("tiny")
    model.generator.projection, styles = None, torch.zeros(1, model.generator.style_length)
    path = tmp_path / "person.safetensors"
    save_person(
        Person(
            model.config,
            model.generator,
            styles,
            np.random.default_rng(0).random((68, 2), np.float32),
            "",
            False,
        ),
        path,
    )
    return path


def test_interrupted_finetune_returns_person_so_far(carphone_clip: Clip) -> None:
    model = random_model("tiny")

    def stop_at_third_step(step: int, steps: int, figures: object) -> None:
        if step == 3:
            send_signal()

    with pytest.raises(Interrupted) as ended:
        finetune(model, carphone_clip[:2], steps=6, perceptual=[], on_step=stop_at_third_step)
    person = ended.value.person
    assert person is not None and person.provenance["steps"] == 3
    alone = finetune(model, carphone_clip[:2], steps=3, perceptual=[])
    assert torch.equal(person.styles, alone.styles) and torch.equal(
        person.generator.out.weight, alone.generator.out.weight
    )


def make_losses_nan(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the weights and losses of fine-tuning NaN from a step on."""
    calls, real = [0], FinetuneTrainer.step

    def nan_step(self: FinetuneTrainer, *arguments: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        figures = real(self, *arguments)  # type: ignore[arg-type]
        if calls[0] < step:
            return figures
        with torch.no_grad():
            self.average_styles.fill_(torch.nan)
        return figures | {"pixel": torch.tensor(torch.nan)}

    monkeypatch.setattr(FinetuneTrainer, "step", nan_step)


def test_finetune_nonfinite_loss_returns_last_good_person(
    carphone_clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pictures = random_model("tiny"), carphone_clip[:1]
    alone = finetune(model, pictures, steps=10, adversarial=False, perceptual=[])
    make_losses_nan(14, monkeypatch)
    with pytest.raises(
        Diverged, match=r"a loss is not finite at step 20 \(content 0, pixel nan\); lower the learning rate"
    ) as ended:
        finetune(model, pictures, steps=30, adversarial=False, perceptual=[])
    person = ended.value.person
    assert (
        person is not None and person.provenance["steps"] == 10 and torch.equal(person.styles, alone.styles)
    )
    make_losses_nan(1, monkeypatch)
    with pytest.raises(Diverged) as ended:
        finetune(model, pictures, steps=5, adversarial=False, perceptual=[])
    assert ended.value.person is None


def test_finetune_command_saves_person_so_far(
    tmp_path: Path, drive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "finetune",
        str(drive),
        "--shots",
        "1",
        "--no-adversarial",
        "--steps",
        "20",
        "--out",
        str(tmp_path / "p"),
    ]
    calls, real = [0], FinetuneTrainer.step

    def interrupting(self: FinetuneTrainer, *arguments: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        if calls[0] == 2:
            send_signal()
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FinetuneTrainer, "step", interrupting)
    assert cli.main(command) == cli.INTERRUPTED
    output = capsys.readouterr()
    assert "a person from 1 picture, 2 steps, all that was learned until it ended early" in output.out
    assert (
        output.err.endswith("talkinghead: interrupted\n")
        and load_person(tmp_path / "p").provenance["steps"] == 2
    )
    monkeypatch.setattr(FinetuneTrainer, "step", real)
    make_losses_nan(12, monkeypatch)
    assert cli.main(command) == cli.USER_ERROR
    output = capsys.readouterr()
    assert "10 steps, all that was learned" in output.out and "a loss is not finite at step 20" in output.err
    assert load_person(tmp_path / "p").provenance["steps"] == 10


@pytest.mark.parametrize("kind", STOP_SIGNALS)
def test_second_signal_waits_for_save(
    kind: int,
    tmp_path: Path,
    drive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    calls, real = [0], FinetuneTrainer.step

    def interrupting(self: FinetuneTrainer, *arguments: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        assert not list(out.iterdir()), "a hidden file would be left if this process were killed"
        if calls[0] == 2:
            send_signal(kind)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FinetuneTrainer, "step", interrupting)
    interrupting_save(kind, monkeypatch)
    command = [
        "finetune",
        str(drive),
        "--shots",
        "1",
        "--no-adversarial",
        "--steps",
        "20",
        "--model",
        "none",
        "--out",
        str(out / "p"),
    ]
    assert cli.main(command) == cli.INTERRUPTED
    assert [path.name for path in out.iterdir()] == ["p"] and load_person(out / "p").provenance["steps"] == 2
    assert "a person from 1 picture, 2 steps, all that was learned" in capsys.readouterr().out


def test_unwritable_person_is_rescued_to_temp_folder(
    tmp_path: Path, drive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    out, real = tmp_path / "out" / "p.safetensors", tensor_file.save_file

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        if out.parent in path.parents:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path, metadata)

    monkeypatch.setattr(tensor_file, "save_file", full)
    command = [
        "finetune",
        str(drive),
        "--shots",
        "1",
        "--no-adversarial",
        "--steps",
        "1",
        "--model",
        "none",
        "--out",
        str(out),
    ]
    assert cli.main(command) == cli.USER_ERROR
    output = capsys.readouterr().err.splitlines()[-1]
    (rescued,) = (tmp_path / "tmp").glob("*/p.safetensors")
    assert (
        f"{out}: writing failed (No space left on device)" in output
        and f"it was written to {rescued} instead" in output
    )
    assert load_person(rescued).provenance["steps"] == 1 and not list(out.parent.iterdir())


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_saves_person(
    kind: int,
    tmp_path: Path,
    drive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_model(random_model("tiny"), tmp_path / "model")
    calls, real = [0], FinetuneTrainer.step

    def interrupting(self: FinetuneTrainer, *arguments: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        if calls[0] == 2:
            send_signal(kind)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FinetuneTrainer, "step", interrupting)
    interrupting_save(signal.SIGTERM, monkeypatch)
    command = ["demo", str(drive), "--out", str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    assert cli.main([*command, "--steps", "5"]) == cli.INTERRUPTED
    path = tmp_path / "out" / "person.safetensors"
    assert list((tmp_path / "out").iterdir()) == [path]
    assert load_person(path).provenance["steps"] == 2
    errors = capsys.readouterr().err.splitlines()
    line = f"{path}: a person from 8 pictures, 2 steps, all that was learned until it ended early"
    assert [text for text in errors if "a person from" in text] == [line]
    assert errors[-1] == "talkinghead: interrupted"


def test_train_nonfinite_loss_keeps_saved_state(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(face_shards, tmp_path, "tiny", steps=1)
    before = load_file(tmp_path / "state.safetensors")
    real = MetaLearner.step

    def nan_step(self: MetaLearner, *arguments: object) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        figures, rows = real(self, *arguments)  # type: ignore[arg-type]
        return figures | {"content": torch.tensor(torch.inf)}, rows

    monkeypatch.setattr(MetaLearner, "step", nan_step)
    with pytest.raises(ValueError, match="a loss or gradient is not finite at step 2 .*content inf"):
        train(face_shards, tmp_path, "tiny", steps=5, save_seconds=0.0)
    after = load_file(tmp_path / "state.safetensors")
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize("keep", [False, True])
def test_interrupted_animation_keeps_partial_video_on_request(
    keep: bool,
    tmp_path: Path,
    drive: Path,
    person: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls, real = [0], TorchEngine.run

    def interrupting(self: TorchEngine, points: np.ndarray) -> np.ndarray:
        calls[0] += 1
        if calls[0] == 3:  # the first belongs to the question whether the driver is the person
            send_signal()
        return real(self, points)

    monkeypatch.setattr(TorchEngine, "run", interrupting)
    out = tmp_path / "out.mp4"
    interrupting_finish(monkeypatch)  # once more while the video is finished
    command = [
        "animate",
        str(person),
        "--drive",
        str(drive),
        "--out",
        str(out),
        *(["--keep-partial"] if keep else []),
    ]
    assert cli.main(command) == cli.INTERRUPTED
    output = capsys.readouterr()
    assert output.err.endswith("talkinghead: interrupted\n")
    if keep:
        frames = list(VideoReader(out))
        assert 0 < len(frames) < 40 and f"{out}: {len(frames)} frames of 64x64" in output.out
    else:
        assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["drive.mp4", "person.safetensors", *(["out.mp4"] if keep else [])]
    )


def test_finetune_exceptions_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(Diverged("a loss is not finite")))
    assert str(copy) == "a loss is not finite" and isinstance(
        pickle.loads(pickle.dumps(Interrupted())), KeyboardInterrupt
    )


TERMINAL = """
import sys
import conftest, talkinghead.cli as cli, talkinghead.landmarks.open_detector as module
module.open_detector = lambda name, device: conftest.RedSquare()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_finetune_closed_terminal_saves_person(tmp_path: Path, drive: Path) -> None:
    out = tmp_path / "out" / "person.safetensors"
    command = [
        "finetune",
        str(drive),
        "--shots",
        "1",
        "--no-adversarial",
        "--steps",
        "5000",
        "--model",
        "none",
        "--out",
        str(out),
    ]
    child, terminal = pty.fork()
    if not child:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        os.execv(sys.executable, [sys.executable, "-c", TERMINAL, *command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))  # else no progress is shown
    output = b""
    while not re.search(rb"\b[2-9]/5000", output):
        output += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitpid(child, 0)[1] != signal.SIGHUP
    assert [path.name for path in out.parent.iterdir()] == [out.name] and load_person(out).provenance[
        "steps"
    ] >= 2
