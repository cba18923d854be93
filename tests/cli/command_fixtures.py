"""Fixtures of the tests of commands: a detector of red squares, and files that commands read."""

from pathlib import Path

import pytest
from commands import FACES, run_command

from conftest import RedSquare, draw_video
from talkinghead.checkpoint import save_model
from talkinghead.model import random_model


@pytest.fixture
def command_detector(monkeypatch: pytest.MonkeyPatch) -> RedSquare:
    """Make commands detect red squares."""
    detector = RedSquare()
    monkeypatch.setattr("talkinghead.landmarks.open_detector.open_detector", lambda name, device: detector)
    return detector


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model of random weights."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(random_model("tiny", seed=3), path)
    return path


@pytest.fixture
def drive_video(tmp_path: Path) -> Path:
    """Write a video of a moving red square."""
    return draw_video(tmp_path / "drive.mp4", FACES)


@pytest.fixture
def person_file(tmp_path: Path, model_file: Path, drive_video: Path, command_detector: RedSquare) -> Path:
    """Write a feed-forward person."""
    path = tmp_path / "person.safetensors"
    run_command("finetune", drive_video, "--model", model_file, "--steps", "0", "--out", path, "--quiet")
    return path
