"""Bad input of commands: a one-line error that names the file, exit code 2, and no output."""

from pathlib import Path

import pytest
import torch
from commands import FACES, command_error, run_command
from PIL import Image
from safetensors.torch import save_file

from conftest import RedSquare, draw_video, drawn_frame
from talkinghead import load_person
from talkinghead.checkpoint import load_model, save_model
from talkinghead.model import random_model
from talkinghead.weights import shipped_models

pytest_plugins = ["command_fixtures"]


@pytest.mark.parametrize("name", ["missing.mp4", "empty.mp4", "cut.mp4", "foreign.mp4"])
def test_bad_video_reports_user_error(
    name: str,
    tmp_path: Path,
    person_file: Path,
    model_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    valid = draw_video(tmp_path / "valid.mp4", FACES).read_bytes()
    contents = {
        "empty.mp4": b"",
        "cut.mp4": valid[: len(valid) // 3],
        "foreign.mp4": b"not a video at all " * 50,
    }
    video, out = tmp_path / name, tmp_path / "outputs"
    if name in contents:
        video.write_bytes(contents[name])
    model = ("--model", model_file)
    for command in (
        ("animate", person_file, *model, "--drive", video, "--out", out / "o.mp4"),
        ("finetune", video, *model, "--out", out / "o.safetensors"),
        ("demo", video, "--model", "none", "--out", out / "demo"),
    ):
        assert str(video) in command_error(capsys, *command)
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_image_without_face_reports_user_error(
    tmp_path: Path, model_file: Path, command_detector: RedSquare, capsys: pytest.CaptureFixture[str]
) -> None:
    wall, empty, out = tmp_path / "wall.png", tmp_path / "none", tmp_path / "o.safetensors"
    Image.fromarray(drawn_frame((90, 90), None)).save(wall)
    empty.mkdir()
    for path in (wall, empty):
        assert path.name in command_error(capsys, "finetune", path, "--model", model_file, "--out", out)
    assert not out.exists()


def test_bad_checkpoint_reports_user_error(
    tmp_path: Path,
    person_file: Path,
    model_file: Path,
    drive_video: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, person_out = tmp_path / "o.mp4", tmp_path / "o.safetensors"
    files = ("--drive", drive_video, "--out", out)
    text = tmp_path / "text.safetensors"
    text.write_text("not a checkpoint")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    edited = tmp_path / "edited.safetensors"
    edited.write_bytes(person_file.read_bytes().replace(b"feed_forward", b"feed_farword"))
    for path in (text, foreign, model_file, edited, tmp_path / "gone"):
        assert str(path) in command_error(capsys, "animate", path, *files)
    assert str(text) in command_error(capsys, "demo", drive_video, "--model", text)
    error = command_error(capsys, "finetune", drive_video, "--model", person_file, "--out", person_out)
    assert str(person_file) in error
    other_model = tmp_path / "other.safetensors"
    save_model(random_model("tiny", seed=4), other_model)
    assert "--model" in command_error(capsys, "animate", person_file, *files, "--model", other_model)
    assert not out.exists() and not person_out.exists()


@pytest.mark.parametrize("name", ["paper", "tinny"])
def test_unknown_model_reports_shipped_models(
    name: str, tmp_path: Path, person_file: Path, drive_video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    expected = (
        f"{name}: no such file, and no model that comes with the package (there is: "
        f"{', '.join(shipped_models())})"
    )
    for command in (
        ("finetune", drive_video, "--model", name, "--out", out),
        ("demo", drive_video, "--model", name, "--out", out),
        ("evaluate", name, drive_video, "--out", out),
        ("animate", person_file, "--model", name, "--drive", drive_video, "--out", f"{out}.mp4"),
    ):
        assert expected in command_error(capsys, *command)


def test_finetune_model_is_shipped_model_or_default(
    tmp_path: Path, drive_video: Path, command_detector: RedSquare, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    run_command("finetune", drive_video, "--model", "tiny", "--steps", "0", "--out", out, "--quiet")
    assert load_person(out).model_digest == load_model("tiny").digest
    run_command("finetune", drive_video, "--steps", "0", "--out", out, "--quiet")
    assert load_person(out).model_digest == load_model().digest == load_model("portrait").digest


def test_animate_with_other_model_reports_user_error(
    tmp_path: Path, person_file: Path, drive_video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--drive", drive_video, "--out", tmp_path / "o.mp4")
    error = command_error(capsys, "animate", person_file, "--model", "tiny", *files)
    assert "was made with model" in error


def test_unwritable_output_reports_user_error_before_work(
    tmp_path: Path,
    person_file: Path,
    model_file: Path,
    drive_video: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    below_file = drive_video / "below" / "o"
    model = ("--model", model_file)
    animate = ("animate", person_file, *model, "--drive", drive_video, "--out")
    assert f"{below_file}.mp4" in command_error(capsys, *animate, f"{below_file}.mp4")
    monkeypatch.setattr(
        "talkinghead.pipelines.finetune.finetune", lambda *_, **__: pytest.fail("the work of minutes began")
    )
    assert str(below_file) in command_error(capsys, "finetune", drive_video, *model, "--out", below_file)
    assert "mp4" in command_error(capsys, *animate, tmp_path / "o.avi")


def test_perceptual_without_file_reports_user_error(
    tmp_path: Path,
    model_file: Path,
    drive_video: Path,
    command_detector: RedSquare,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--model", model_file, "--out", tmp_path / "o", "--perceptual", "vgg19")
    assert "NAME=FILE" in command_error(capsys, "finetune", drive_video, *options)
