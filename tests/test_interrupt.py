"""Ctrl-C and losses that are not finite: what was done by then is kept, and nothing half-written."""

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

import talkinghead.cli as cli
from conftest import RedSquare, draw_video
from talkinghead import demo, tensor_file
from talkinghead.checkpoint import Person, load_person, random_model, save_person
from talkinghead.clip import Clip
from talkinghead.engines.eager import EagerEngine
from talkinghead.interrupt import delayed, interruptible, signals_as_interrupts, stop_flag
from talkinghead.media.video import VideoReader, VideoWriter
from talkinghead.training.finetune import Diverged, Interrupted, PersonLearner, finetune
from talkinghead.training.meta import train
from talkinghead.training.meta_learner import MetaLearner

KINDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def interrupt(kind: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), kind)


def interrupting_save(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal comes whenever a model or person is being written."""
    real = tensor_file.save_file

    def save(*given: Any) -> None:
        interrupt(kind)
        real(*given)

    monkeypatch.setattr(tensor_file, "save_file", save)


def interrupting_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal comes when a video is being finished."""
    real = VideoWriter.finish

    def finish(self: VideoWriter) -> None:
        interrupt()
        real(self)

    monkeypatch.setattr(VideoWriter, "finish", finish)


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video, and the command line finding the face in it."""
    monkeypatch.setattr(cli, "open_detector", lambda name, device: RedSquare())
    return draw_video(tmp_path / "drive.mp4", [(40 + i, 30, 40) for i in range(40)])


@pytest.fixture
def person(tmp_path: Path) -> Path:
    model = random_model("tiny")
    model.generator.projection, styles = None, torch.zeros(1, model.generator.style_length)
    path = tmp_path / "person.safetensors"
    save_person(Person(model.config, model.generator, styles, np.random.default_rng(0).random((68, 2), np.float32), "", False), path)
    return path


def test_a_flag_takes_the_place_of_ctrl_c_and_gives_it_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_flag() as stopped:
        assert not stopped()
        interrupt()
        assert stopped()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("kind", KINDS)
def test_flag_within_a_flag_is_the_same_flag(kind: int) -> None:
    before = signal.getsignal(kind)
    with stop_flag() as outer:
        with stop_flag() as inner:
            assert not inner()
            interrupt(kind)
            assert inner()
        interrupt(kind)  # the handlers are still the outer's
        with stop_flag() as later:
            assert later() and outer()
    assert signal.getsignal(kind) is before


@pytest.mark.parametrize("kind", KINDS)
def test_interruptible_part_of_a_flag_acts_on_signals_before_and_within(kind: int) -> None:
    with signals_as_interrupts(), stop_flag() as stopped:
        with pytest.raises(KeyboardInterrupt), interruptible():
            interrupt(kind)
        interrupt(kind)
        assert stopped()


def test_signal_held_back_acts_where_it_may() -> None:
    reached = []
    with signals_as_interrupts(), stop_flag():
        interrupt()
        with pytest.raises(KeyboardInterrupt), interruptible():
            reached.append(1)
    with signals_as_interrupts(), pytest.raises(KeyboardInterrupt), delayed():
        interrupt()
        reached.append(2)
    assert reached == [2]


@pytest.mark.parametrize("kind", KINDS)
def test_command_cleans_up_after_a_signal_whatever_follows(
    kind: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def work() -> None:
        try:
            interrupt(kind)
        finally:
            for each in KINDS:
                interrupt(each)
            cleaned.append(True)

    monkeypatch.setattr(cli, "info", work)
    before = [signal.getsignal(each) for each in KINDS]
    assert cli.main(["info"]) == cli.INTERRUPTED and cleaned
    assert capsys.readouterr().err == "talkinghead: interrupted\n"
    assert [signal.getsignal(each) for each in KINDS] == before


@pytest.mark.parametrize("kind", KINDS)
def test_signal_that_is_ignored_stays_ignored(kind: signal.Signals) -> None:
    """As SIGHUP is under nohup, and SIGINT in a background job of a shell script; others are heeded, in nested flags too."""
    before, other = signal.signal(kind, signal.SIG_IGN), next(each for each in KINDS if each != kind)
    try:
        with signals_as_interrupts(), stop_flag() as stopped:
            interrupt(kind)
            assert not stopped()
            with stop_flag() as inner:
                interrupt(other)
                assert inner()
            assert stopped()
    finally:
        signal.signal(kind, before)


def test_interrupted_fine_tuning_gives_the_person_of_the_last_step(carphone_clip: Clip) -> None:
    model = random_model("tiny")

    def at_third(step: int, steps: int, figures: object) -> None:
        if step == 3:
            interrupt()

    with pytest.raises(Interrupted) as ended:
        finetune(model, carphone_clip[:2], steps=6, perceptual=[], progress=at_third)
    person = ended.value.person
    assert person is not None and person.provenance["steps"] == 3
    alone = finetune(model, carphone_clip[:2], steps=3, perceptual=[])
    assert torch.equal(person.styles, alone.styles) and torch.equal(person.generator.out.weight, alone.generator.out.weight)


def not_finite_from(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning's weights and losses are NaN from a step on."""
    taken, real = [0], PersonLearner.step

    def spoilt(self: PersonLearner, *given: object) -> dict[str, torch.Tensor]:
        taken[0] += 1
        figures = real(self, *given)  # type: ignore[arg-type]
        if taken[0] < step:
            return figures
        with torch.no_grad():
            self.average_styles.fill_(torch.nan)
        return figures | {"pixel": torch.tensor(torch.nan)}

    monkeypatch.setattr(PersonLearner, "step", spoilt)


def test_a_loss_that_is_not_finite_gives_the_last_good_person(carphone_clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pictures = random_model("tiny"), carphone_clip[:1]
    alone = finetune(model, pictures, steps=10, adversarial=False, perceptual=[])
    not_finite_from(14, monkeypatch)
    with pytest.raises(Diverged, match=r"a loss is not finite at step 20 \(content 0, pixel nan\); lower the learning rate") as ended:
        finetune(model, pictures, steps=30, adversarial=False, perceptual=[])
    person = ended.value.person
    assert person is not None and person.provenance["steps"] == 10 and torch.equal(person.styles, alone.styles)
    not_finite_from(1, monkeypatch)
    with pytest.raises(Diverged) as ended:
        finetune(model, pictures, steps=5, adversarial=False, perceptual=[])
    assert ended.value.person is None


def test_the_command_saves_the_person_so_far_and_says_so(
    tmp_path: Path, drive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", str(drive), "--shots", "1", "--no-adversarial", "--steps", "20", "--out", str(tmp_path / "p")]
    taken, real = [0], PersonLearner.step

    def interrupting(self: PersonLearner, *given: object) -> dict[str, torch.Tensor]:
        taken[0] += 1
        if taken[0] == 2:
            interrupt()
        return real(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(PersonLearner, "step", interrupting)
    assert cli.main(command) == cli.INTERRUPTED
    said = capsys.readouterr()
    assert "a person from 1 pictures, 2 steps, all that was learned until it ended early" in said.out
    assert said.err.endswith("talkinghead: interrupted\n") and load_person(tmp_path / "p").provenance["steps"] == 2
    monkeypatch.setattr(PersonLearner, "step", real)
    not_finite_from(12, monkeypatch)
    assert cli.main(command) == cli.USER_ERROR
    said = capsys.readouterr()
    assert "10 steps, all that was learned" in said.out and "a loss is not finite at step 20" in said.err
    assert load_person(tmp_path / "p").provenance["steps"] == 10


@pytest.mark.parametrize("kind", KINDS)
def test_second_signal_while_the_person_is_saved_waits(
    kind: int, tmp_path: Path, drive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    taken, real = [0], PersonLearner.step

    def interrupting(self: PersonLearner, *given: object) -> dict[str, torch.Tensor]:
        taken[0] += 1
        assert not list(out.iterdir()), "a hidden file would be left if this process were killed"
        if taken[0] == 2:
            interrupt(kind)
        return real(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(PersonLearner, "step", interrupting)
    interrupting_save(kind, monkeypatch)
    command = ["finetune", str(drive), "--shots", "1", "--no-adversarial", "--steps", "20", "--model", "none", "--out", str(out / "p")]
    assert cli.main(command) == cli.INTERRUPTED
    assert [path.name for path in out.iterdir()] == ["p"] and load_person(out / "p").provenance["steps"] == 2
    assert "a person from 1 pictures, 2 steps, all that was learned" in capsys.readouterr().out


def test_person_that_cannot_be_written_is_written_elsewhere(
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
    command = ["finetune", str(drive), "--shots", "1", "--no-adversarial", "--steps", "1", "--model", "none", "--out", str(out)]
    assert cli.main(command) == cli.USER_ERROR
    said = capsys.readouterr().err.splitlines()[-1]
    (rescued,) = (tmp_path / "tmp").glob("*/p.safetensors")
    assert f"{out}: writing failed (No space left on device)" in said and f"it was written to {rescued} instead" in said
    assert load_person(rescued).provenance["steps"] == 1 and not list(out.parent.iterdir())


def test_interrupted_demo_keeps_the_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = draw_video(tmp_path / "drive.mp4", [(40 + i, 30, 40) for i in range(48)])
    real = PersonLearner.step

    def interrupting(self: PersonLearner, *given: object) -> dict[str, torch.Tensor]:
        interrupt()
        return real(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(PersonLearner, "step", interrupting)
    interrupting_save(signal.SIGTERM, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        demo.run(video, tmp_path / "out", random_model("tiny"), RedSquare(), steps=5)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["person.safetensors"]
    assert load_person(tmp_path / "out" / "person.safetensors").provenance["steps"] == 1


def test_meta_learning_stops_at_such_a_loss_and_saves_nothing_of_it(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(face_shards, tmp_path, "tiny", steps=1)
    before = (tmp_path / "state.safetensors").read_bytes()
    real = MetaLearner.step

    def spoilt(self: MetaLearner, *given: object) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        figures, rows = real(self, *given)  # type: ignore[arg-type]
        return figures | {"content": torch.tensor(torch.inf)}, rows

    monkeypatch.setattr(MetaLearner, "step", spoilt)
    with pytest.raises(ValueError, match="a loss is not finite at step 2 .*content inf"):
        train(face_shards, tmp_path, "tiny", steps=5, save_seconds=0.0)
    assert (tmp_path / "state.safetensors").read_bytes() == before


@pytest.mark.parametrize("keep", [False, True])
def test_an_interrupted_animation_leaves_a_video_of_the_frames_so_far_or_none(
    keep: bool, tmp_path: Path, drive: Path, person: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken, real = [0], EagerEngine.run

    def interrupting(self: EagerEngine, points: np.ndarray) -> np.ndarray:
        taken[0] += 1
        if taken[0] == 3:  # the first belongs to the question whether the driver is the person
            interrupt()
        return real(self, points)

    monkeypatch.setattr(EagerEngine, "run", interrupting)
    out = tmp_path / "out.mp4"
    interrupting_finish(monkeypatch)  # once more while the video is finished
    command = ["animate", str(person), "--drive", str(drive), "--out", str(out), *(["--keep-partial"] if keep else [])]
    assert cli.main(command) == cli.INTERRUPTED
    said = capsys.readouterr()
    assert said.err.endswith("talkinghead: interrupted\n")
    if keep:
        frames = list(VideoReader(out))
        assert 0 < len(frames) < 40 and f"{out}: {len(frames)} frames of 64x64" in said.out
    else:
        assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["drive.mp4", "person.safetensors", *(["out.mp4"] if keep else [])])


def test_what_ends_fine_tuning_passes_between_processes() -> None:
    again = pickle.loads(pickle.dumps(Diverged("a loss is not finite")))
    assert str(again) == "a loss is not finite" and isinstance(pickle.loads(pickle.dumps(Interrupted())), KeyboardInterrupt)


TERMINAL = """
import sys
import conftest, talkinghead.cli as cli
cli.open_detector = lambda name, device: conftest.RedSquare()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_fine_tuning_whose_terminal_is_closed_saves_the_person(tmp_path: Path, drive: Path) -> None:
    out = tmp_path / "out" / "person.safetensors"
    command = ["finetune", str(drive), "--shots", "1", "--no-adversarial", "--steps", "5000", "--model", "none", "--out", str(out)]
    child, terminal = pty.fork()
    if not child:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        os.execv(sys.executable, [sys.executable, "-c", TERMINAL, *command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))  # else no progress is shown
    said = b""
    while not re.search(rb"\b[2-9]/5000", said):
        said += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitpid(child, 0)[1] != signal.SIGHUP
    assert [path.name for path in out.parent.iterdir()] == [out.name] and load_person(out).provenance["steps"] >= 2
