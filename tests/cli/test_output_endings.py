"""Names of outputs: their endings are checked before any work."""

from pathlib import Path

import pytest
from commands import command_error

from talkinghead.cli import build_parser
from talkinghead.cli.path_arguments import check_arguments


@pytest.mark.parametrize(
    "command, expected",
    [
        ("finetune a.png --out x.mp4", "x.mp4: a person is a .safetensors file; name it x.safetensors"),
        ("finetune a.png --out x.y.ONNX", "a person is a .safetensors file; name it x.y.safetensors"),
        ("animate p --drive d --out x.avi", "x.avi: a video is a .mp4 file; name it x.mp4 instead"),
        ("animate p --drive d --out x", "x: a video is a .mp4 file; name it x.mp4 instead"),
        ("animate p --drive d --out /", "/: a video is a .mp4 file; name it NAME.mp4 instead"),
        ("live p --sink x.mkv", "x.mkv: a video is a .mp4 file; name it x.mp4 instead"),
        ("export p --format onnx --out x.pt2", "an engine of format onnx is a .onnx file; name it x.onnx"),
        ("export p --format tensorrt --out x.onnx", "tensorrt is a .engine file; name it x.engine instead"),
        ("export p --format aoti --out x.safetensors", "aoti is a .pt2 file; name it x.pt2 instead"),
        ("landmarks v --out x.gif", "a picture is a .png or .jpg, a video is a .mp4 file; name it x.mp4"),
    ],
)
def test_wrong_ending_reports_right_one_before_work(
    command: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("talkinghead.cli._run", lambda *_: pytest.fail("the work began"))
    assert expected in command_error(capsys, *command.split())


@pytest.mark.parametrize(
    "command",
    [
        "finetune a.png --out anna",
        "finetune a.png --out anna.2",
        "finetune a.png --out anna.safetensors",
        "animate p --drive d --out x.MP4",
        "live p --sink window",
        "live p --sink v4l2:/dev/video2",
        "live p --sink x.mp4",
        "export p --format onnx --out x.onnx",
        "export p --format onnx --out x",
        "export p --format tensorrt --out x.plan",
        "export p --format aoti --out x.pt2",
        "landmarks v --out x.jpeg",
        "landmarks v --out x.mp4",
        "train d --out run.2",
    ],
)
def test_right_ending_is_accepted(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_arguments(build_parser().parse_args(command.split()))
