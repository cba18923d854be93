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
from talkinghead.animate import animate_video
from talkinghead.arguments import build_parser
from talkinghead.checkpoint import load_model, shipped_models
from talkinghead.corpus.prepare import prepare
from talkinghead.data.outputs import check_outputs
from talkinghead.demo import run as run_demo
from talkinghead.errors import TalkingheadError
from talkinghead.evaluation.clips import Measure, Protocol
from talkinghead.evaluation.evaluate import evaluate
from talkinghead.file_arguments import Input, Output, check_arguments
from talkinghead.training.meta import train

REFUSED = "is the same file as the input .* name another output"
VERBS = ("demo", "finetune", "animate", "export", "live", "landmarks", "prepare", "train", "evaluate", "info")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video, a picture and files that stand for the rest, under the names that commands write, and links to them."""
    draw_video(tmp_path / "result.mp4", [(40 + 2 * i, 30, 40) for i in range(4)])
    Image.fromarray(drawn_frame((90, 90), (20, 20, 30))).save(tmp_path / "sheet.png")
    shutil.copy(shipped_models()["tiny"], tmp_path / "model.safetensors")
    for name in ("person.safetensors", "engine.onnx", "engine.onnx.json", "report.jsonl", "shard-000000.tar"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link.mp4").symlink_to("result.mp4")
    os.link(tmp_path / "result.mp4", tmp_path / "hard.mp4")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
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
        "export gone --format tensorrt --base engine.onnx --out engine.onnx",
        "export gone --format tensorrt --base engine.onnx --out engine.onnx.json",
        "export engine.onnx.json --format aoti --out engine.onnx",
        "live person.safetensors --source result.mp4 --sink link.mp4",
        "live result.mp4 --sink result.mp4",
        "landmarks sheet.png --out sheet.png",
        "landmarks . --out sheet.png",
        "demo result.mp4 --out .",
        "demo gone.mp4 --model person.safetensors --out .",
        "prepare gone.mp4 --people report.jsonl --out .",
        "prepare --portraits shard-000000.tar --out .",
        "prepare --portraits . --out .",
        "train gone --start model.safetensors --out .",
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
    for work in ("open_detector", "load_person", "open_model", "read_people"):  # it is refused before any work
        monkeypatch.setattr(cli, work, lambda *_: pytest.fail("the work began"))
    before = content(folder)
    assert cli.main(command.replace("{name}", folder.name).split()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "is the same file as the input" in line and line.endswith("; name another output")
    assert content(folder) == before


def test_command_writes_beside_its_inputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is read may hold what is written, as long as it is none of the pictures and videos."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli, "open_detector", lambda *_: RedSquare())
    for _ in range(2):
        command = ["finetune", "sheet.png", "--model", "model.safetensors", "--steps", "0", "--out", "person.safetensors", "--quiet"]
        assert cli.main(command) == 0
    (folder / "data").mkdir()
    check_outputs([folder / "person.safetensors", folder / "new.png"], [folder, folder / "data", "webcam", None])


def test_pictures_in_a_folder_of_videos_are_no_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run into a folder within the videos finds the sheet that the first one wrote there."""
    monkeypatch.chdir(folder)
    for command in ("prepare . --out .", "evaluate tiny . --out ."):
        check_arguments(build_parser(dict.fromkeys(VERBS, print)).parse_args(command.split()))
    with pytest.raises(TalkingheadError, match=REFUSED):
        check_arguments(build_parser(dict.fromkeys(VERBS, print)).parse_args(["finetune", ".", "--out", "sheet.png"]))  # type: ignore[arg-type]


def test_check_follows_links_between_folders_and_ends(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "circle").symlink_to(folder)
    (folder / "elsewhere").symlink_to(inner)
    with pytest.raises(TalkingheadError, match=REFUSED):
        check_outputs([folder / "hard.mp4"], [inner])
    check_outputs([folder / "report.jsonl"], [inner, "\0"])


def options() -> Iterator[tuple[str, argparse.Action]]:
    parser = build_parser(dict.fromkeys(VERBS, print))
    [verbs] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(verbs.choices) == set(VERBS)
    for verb, inside in verbs.choices.items():
        yield from ((f"{verb} {'/'.join(action.option_strings) or action.dest}", action) for action in inside._actions)


def test_every_argument_that_takes_text_is_declared() -> None:
    """A new argument is a file that is read, one that is written, or named here as neither."""
    no_files = {"--leave-out", "--only", "--device", "--detector-device", "--target"}
    undeclared = [
        name
        for name, action in options()
        if action.nargs != 0 and not action.choices and not action.type and name.split()[1] not in no_files
    ]
    assert undeclared == []
    kinds = {name: action.type("x") for name, action in options() if action.type and not action.choices and works_on_text(action)}
    written = {name for name, value in kinds.items() if isinstance(value, Output)}
    assert written == {f"{verb} --out" for verb in VERBS if verb not in ("live", "info")} | {"live --sink"}
    assert sum(isinstance(value, Input) for value in kinds.values()) == len(kinds) - len(written) > 25


def works_on_text(action: argparse.Action) -> bool:
    try:
        action.type("x")  # type: ignore[misc,operator]
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return True


def test_functions_refuse_output_that_is_input(folder: Path) -> None:
    detector, video = RedSquare(), folder / "result.mp4"
    model = load_model("tiny")
    before = content(folder)
    calls = [
        lambda: animate_video(None, video, folder / "link.mp4", detector=detector),  # type: ignore[arg-type]
        lambda: animate_video(None, "gone.mp4", video, detector=detector, paste_back=video),  # type: ignore[arg-type]
        lambda: run_demo(video, folder, model, detector),
        lambda: prepare([folder / "shard-000000.tar"], folder, detector=detector),
        lambda: train(folder, folder, start=str(folder / "model.safetensors")),
        lambda: evaluate(Measure(str(folder / "sheet.png"), Protocol()), [], folder),
    ]
    for call in calls:
        with pytest.raises(TalkingheadError, match=REFUSED):
            call()
    assert content(folder) == before and np.array_equal(Image.open(folder / "sheet.png"), drawn_frame((90, 90), (20, 20, 30)))
