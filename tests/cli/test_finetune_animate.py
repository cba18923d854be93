"""The commands `finetune` and `animate`, from pictures or a video of a person to a video."""

import json
from pathlib import Path

import pytest
import torch
from commands import command_error, run_command
from PIL import Image, ImageDraw, ImageFilter
from skimage import data

from conftest import RedSquare, draw_video
from talkinghead import Clip, Model, Person, load_person
from talkinghead.errors import TalkingheadError
from talkinghead.media.video import VideoReader

pytest_plugins = ["command_fixtures"]


def test_finetune_and_animate_write_person_and_video(
    tmp_path: Path,
    model_file: Path,
    drive_video: Path,
    command_detector: RedSquare,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, video = tmp_path / "person.safetensors", tmp_path / "out.mp4"
    options = ("--steps", "1", "--shots", "3", "--no-adversarial", "--json")
    run_command("finetune", drive_video, "--model", model_file, "--out", out, *options)
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert values["pictures"] == 3 and values["steps"] == 1 and values["adversarial"] is False
    assert "fine-tuning" in printed.err
    assert not load_person(out).feed_forward
    run_command("animate", out, "--drive", drive_video, "--out", video, "--layout", "side-by-side")
    printed = capsys.readouterr()
    assert "landmarks by red-square\n" in printed.out
    assert f"{video}: 20 frames of 192x64, 25 a second" in printed.out
    assert "no face" not in printed.out
    assert "rendering" in printed.err
    assert VideoReader(video).size == (64, 192)


def test_animate_reports_times_without_face(
    tmp_path: Path, person_file: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = [None if 4 <= number < 20 else (40 + number, 30, 40) for number in range(30)]
    drive, out = draw_video(tmp_path / "gap.mp4", faces), tmp_path / "out.mp4"
    capsys.readouterr()
    run_command("animate", person_file, "--drive", drive, "--out", out, "--model", model_file)
    text = capsys.readouterr().out
    assert "16 frames of the driving video show no face" in text and "no face from 0.2 to 0.8 s" in text


def test_animate_quiet_prints_nothing(
    tmp_path: Path,
    person_file: Path,
    model_file: Path,
    drive_video: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    capfd.readouterr()
    files = ("--drive", drive_video, "--out", tmp_path / "out.mp4", "--model", model_file)
    run_command("animate", person_file, *files, "--quiet")
    assert capfd.readouterr() == ("", "")
    run_command("animate", person_file, *files, "--quiet", "--json")
    printed = capfd.readouterr()
    assert json.loads(printed.out)["frames"] == 20 and printed.err == ""


def test_seed_reaches_weights_and_finetuning(
    tmp_path: Path,
    drive_video: Path,
    command_detector: RedSquare,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[tuple[torch.Tensor, object]] = []

    def fake_finetune(
        start: Model, clip: Clip, steps: int, adversarial: bool, seed: int, **_: object
    ) -> Person:
        calls.append((start.generator.out.weight, seed))
        raise TalkingheadError("enough")

    monkeypatch.setattr("talkinghead.pipelines.finetune.finetune", fake_finetune)
    for seed in ("1", "1", "2"):
        options = ("--model", "none", "--seed", seed)
        command_error(capsys, "finetune", drive_video, *options, "--out", tmp_path / "o")
    weights, seeds = zip(*calls, strict=True)
    assert seeds == (1, 1, 2)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_finetune_accepts_painting_and_rejects_drawing_of_house(
    tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = Image.fromarray(data.astronaut()[:300, 80:380])
    painting = photo.filter(ImageFilter.ModeFilter(9)).quantize(24).convert("RGB")
    painting.save(tmp_path / "painted.png")
    options = ("--model", model_file, "--landmarks", "network", "--quiet")
    run_command("finetune", tmp_path / "painted.png", *options, "--steps", "1", "--out", tmp_path / "o")
    assert load_person(tmp_path / "o").provenance["pictures"] == 1
    drawing = Image.new("RGB", (200, 200), "white")
    pen = ImageDraw.Draw(drawing)
    for box in ((40, 90, 160, 180), (60, 110, 80, 130), (90, 130, 110, 180)):
        pen.rectangle(box, outline="black", width=3)
    pen.polygon(((40, 90), (100, 30), (160, 90)), outline="black", width=3)
    drawing.save(tmp_path / "drawn.png")
    error = command_error(capsys, "finetune", tmp_path / "drawn.png", *options, "--out", tmp_path / "p")
    assert "drawn.png: no face was found in it, expected one seen from the front; name another" in error


def test_finetune_with_two_people_warns(
    tmp_path: Path, model_file: Path, carphone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other.png", tmp_path / "o"
    Image.fromarray(data.astronaut()[:300, 80:380]).save(other)
    options = ("--landmarks", "network", "--shots", "2", "--steps", "0")
    run_command("finetune", carphone, other, "--model", model_file, *options, "--out", out)
    warning = "picture 1, 2 and picture 3 look like different people (distance 0."
    assert warning in capsys.readouterr().err and out.exists()
