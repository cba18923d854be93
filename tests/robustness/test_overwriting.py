"""No command and no function writes over what it reads."""

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import talkinghead.cli as cli
from conftest import RedSquare, draw_video, drawn_frame
from talkinghead.checkpoint import load_model
from talkinghead.cli import build_parser
from talkinghead.cli.path_arguments import InputPath, OutputPath, check_arguments
from talkinghead.data.output_paths import check_outputs
from talkinghead.dataset.prepare import prepare
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation.evaluate import evaluate_model
from talkinghead.evaluation.evaluate_clip import ClipEvaluator, Protocol
from talkinghead.pipelines.animate_video import animate_video
from talkinghead.pipelines.demo import run as run_demo
from talkinghead.training.meta import train
from talkinghead.weights import shipped_models

SAME_FILE_ERROR = "is the same file as the input .* name another output"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a video, links to it, an image, and placeholders for other files, under names of outputs."""
    draw_video(tmp_path / "result.mp4", [(40 + 2 * i, 30, 40) for i in range(4)])
    Image.fromarray(drawn_frame((90, 90), (20, 20, 30))).save(tmp_path / "sheet.png")
    shutil.copy(shipped_models()["tiny"], tmp_path / "model.safetensors")
    for name in ("person.safetensors", "engine.onnx", "engine.onnx.json", "report.jsonl", "shard-000000.tar"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "parts" / "part-1-of-2").mkdir(parents=True)
    (tmp_path / "parts" / "part-1-of-2" / "part.json").write_bytes(b"{}")
    (tmp_path / "link.mp4").symlink_to("result.mp4")
    os.link(tmp_path / "result.mp4", tmp_path / "hard.mp4")
    return tmp_path


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        "animate person.safetensors --drive result.mp4 --out result.mp4",
        "animate person.safetensors --drive result.mp4 --out link.mp4",
        "animate person.safetensors --drive link.mp4 --out result.mp4",
        "animate person.safetensors --drive result.mp4 --out hard.mp4",
        "animate person.safetensors --drive result.mp4 --out ./../{name}/result.mp4",
        "animate person.safetensors --drive gone.mp4 --paste-back result.mp4 --out result.mp4",
        "animate result.mp4 --drive gone.mp4 --out result.mp4",
        "animate person.safetensors --drive gone.mp4 --engine result.mp4 --out result.mp4",
        "animate person.safetensors --drive gone.mp4 --model result.mp4 --out result.mp4",
        "finetune sheet.png --out sheet.png",
        "finetune . --out sheet.png",
        "finetune gone.png result.mp4 --out hard.mp4",
        "finetune gone.png --model model.safetensors --out model.safetensors",
        "finetune gone.png --perceptual vgg19=gone vggface=sheet.png --out sheet.png",
        "export person.safetensors --format onnx --out person.safetensors",
        "export gone --format tensorrt --refit-from engine.onnx --out engine.onnx",
        "export gone --format tensorrt --refit-from engine.onnx --out engine.onnx.json",
        "export engine.onnx.json --format aoti --out engine.onnx",
        "export person.safetensors --format web --out person.safetensors",
        "live person.safetensors --source result.mp4 --sink link.mp4",
        "live result.mp4 --sink result.mp4",
        "landmarks sheet.png --out sheet.png",
        "landmarks . --out sheet.png",
        "demo result.mp4 --out .",
        "demo gone.mp4 --model person.safetensors --out .",
        "prepare gone.mp4 --people report.jsonl --out .",
        "prepare --portraits shard-000000.tar --out .",
        "prepare --portraits . --out .",
        "prepare --merge parts --out parts/part-1-of-2",
        "train gone --init-from model.safetensors --out .",
        "evaluate sheet.png gone --out .",
        "evaluate model.safetensors sheet.png --out .",
        "evaluate tiny gone --identity-network sheet.png --out .",
        "evaluate tiny gone --fid-network sheet.png --out .",
    ],
)
def test_command_refuses_output_that_is_input(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    # The error must come before any work.
    for function in (
        "landmarks.open_detector.open_detector",
        "checkpoint.load_person",
        "checkpoint.load_model",
        "dataset.people_table.read_people",
    ):
        monkeypatch.setattr(f"talkinghead.{function}", lambda *_: pytest.fail("the work began"))
    before = read_files(folder)
    assert cli.main(command.replace("{name}", folder.name).split()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "is the same file as the input" in line and line.endswith("; name another output")
    assert read_files(folder) == before


def test_command_writes_next_to_its_inputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("talkinghead.landmarks.open_detector.open_detector", lambda *_: RedSquare())
    for _ in range(2):
        command = [
            "finetune",
            "sheet.png",
            "--model",
            "model.safetensors",
            "--steps",
            "0",
            "--out",
            "person.safetensors",
            "--quiet",
        ]
        assert cli.main(command) == 0
    (folder / "data").mkdir()
    check_outputs(
        [folder / "person.safetensors", folder / "new.png"], [folder, folder / "data", "webcam", None]
    )


def test_image_in_folder_of_videos_is_no_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A second run into the folder of the videos finds the image that the first one wrote there.
    monkeypatch.chdir(folder)
    for command in ("prepare . --out .", "evaluate tiny . --out ."):
        check_arguments(build_parser().parse_args(command.split()))
    with pytest.raises(TalkingheadError, match=SAME_FILE_ERROR):
        check_arguments(build_parser().parse_args(["finetune", ".", "--out", "sheet.png"]))  # type: ignore[arg-type]


def test_check_outputs_follows_cyclic_links(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "circle").symlink_to(folder)
    (folder / "elsewhere").symlink_to(inner)
    with pytest.raises(TalkingheadError, match=SAME_FILE_ERROR):
        check_outputs([folder / "hard.mp4"], [inner])
    check_outputs([folder / "report.jsonl"], [inner, "\0"])


def command_options() -> Iterator[tuple[str, argparse.Action]]:
    """Yield every visible argument of every command with its name."""
    parser = build_parser()
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(commands.choices) == set(cli.COMMANDS)
    for command, subparser in commands.choices.items():
        yield from (
            (f"{command} {[action.dest, *action.option_strings][-1]}", action)
            for action in subparser._actions
            if action.help != argparse.SUPPRESS or action.dest == "help"
        )


def test_arguments_that_take_text_are_declared() -> None:
    # A new argument names a file to read or to write, or is listed here.
    no_files = {"--exclude-identities", "--only", "--device", "--detector-device", "--target"}
    no_files |= {"--microphone"}  # of live, a device
    no_files |= {"--ray"}  # of prepare, an address
    no_files |= {"--host", "--token", "--folder"}  # of web, which reads no files
    undeclared = [
        name
        for name, action in command_options()
        if action.nargs != 0 and not action.choices and not action.type and name.split()[1] not in no_files
    ]
    assert undeclared == []
    kinds = {
        name: action.type("x")
        for name, action in command_options()
        if action.type and not action.choices and accepts_text(action)
    }
    written = {name for name, value in kinds.items() if isinstance(value, OutputPath)}
    assert written == {
        f"{command} --out"
        for command in cli.COMMANDS
        if command not in ("live", "info", "verify", "rank-drivers", "completion", "web")
    } | {"live --sink"}
    assert sum(isinstance(value, InputPath) for value in kinds.values()) == len(kinds) - len(written) > 25


def accepts_text(action: argparse.Action) -> bool:
    """Return whether the type of an argument accepts any text."""
    try:
        action.type("x")  # type: ignore[misc,operator]
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return True


def test_functions_refuse_output_that_is_input(folder: Path) -> None:
    detector, video = RedSquare(), folder / "result.mp4"
    model = load_model("tiny")
    before = read_files(folder)
    calls = [
        lambda: animate_video(None, video, folder / "link.mp4", detector=detector),  # type: ignore[arg-type]
        lambda: animate_video(None, "gone.mp4", video, detector=detector, paste_back=video),  # type: ignore[arg-type]
        lambda: run_demo(video, folder, model, detector),
        lambda: prepare([folder / "shard-000000.tar"], folder, detector=detector),
        lambda: train(folder, folder, init_from=str(folder / "model.safetensors")),
        lambda: evaluate_model(ClipEvaluator(str(folder / "sheet.png"), Protocol()), [], folder),
    ]
    for call in calls:
        with pytest.raises(TalkingheadError, match=SAME_FILE_ERROR):
            call()
    assert read_files(folder) == before and np.array_equal(
        Image.open(folder / "sheet.png"), drawn_frame((90, 90), (20, 20, 30))
    )
