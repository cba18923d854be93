"""Ctrl-C and losses that are not finite: what was done by then is kept, and nothing half-written."""

import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import talkinghead.cli as cli
from conftest import RedSquare, draw_video
from talkinghead.checkpoint import Person, load_person, random_model, save_person
from talkinghead.clip import Clip
from talkinghead.engines.eager import EagerEngine
from talkinghead.interrupt import stop_flag
from talkinghead.media.video import VideoReader
from talkinghead.training.finetune import Diverged, Interrupted, PersonLearner, finetune
from talkinghead.training.meta import MetaLearner, train


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


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
