"""Output to full disks, closed pipes and closed descriptors: exit codes as of ls, and no lost work."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import talkinghead.cli as cli
from conftest import RedSquare, drawn_frame
from talkinghead.cli.console import Console
from talkinghead.cli.standard_streams import ClosedPipe, StandardStream
from talkinghead.errors import TalkingheadError

IMAGE = "é\x1b]0;title\x07\x1b[31m.jpg"
SCRIPT = """
import json, os, sys
import talkinghead.cli as cli
import talkinghead.landmarks.open_detector as module
from conftest import RedSquare

module.open_detector = lambda *_: RedSquare()

def connect(number, target):
    # Connect to a file, to a pipe without a reader, or to nothing.
    os.close(number)
    if target == "closed":
        return None
    if target == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(target, os.O_WRONLY | os.O_CREAT)
    if writer != number:
        os.dup2(writer, number)
        os.close(writer)
    errors = "strict" if number == 1 else "backslashreplace"
    return open(number, "w", encoding="ascii", errors=errors, closefd=False)

# Import everything before the forks.
cli.main(["landmarks", sys.argv[1], "--out", "first.png", "--quiet"])
for name, (command, out, err) in json.load(open("cases.json")).items():
    child = os.fork()
    if not child:
        sys.stderr = sys.__stderr__ = connect(2, err)
        sys.stdout = sys.__stdout__ = connect(1, out)
        raise SystemExit(cli.main(command))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([name, code]), flush=True)
"""


def landmarks(name: str, *options: str) -> list[str]:
    """Return a command line of `landmarks` that writes NAME.png."""
    return ["landmarks", IMAGE, "--out", f"{name}.png", *options]


CASES = {
    "plain": (landmarks("plain"), "out", "err", 0),
    "stdout full": (landmarks("stdout full"), "/dev/full", "err", 2),
    "stdout full, JSON": (landmarks("stdout full, JSON", "--json"), "/dev/full", "err", 2),
    "stdout full, quiet": (landmarks("stdout full, quiet", "--quiet"), "/dev/full", "err", 0),
    "stdout closed": (landmarks("stdout closed"), "closed", "err", 2),
    "pipe closed": (landmarks("pipe closed"), "pipe", "err", 141),
    "stderr full": (landmarks("stderr full"), "out", "/dev/full", 0),
    "stderr closed": (landmarks("stderr closed"), "out", "closed", 0),
    "stderr pipe closed": (landmarks("stderr pipe closed"), "out", "pipe", 0),
    "both closed": (landmarks("both closed"), "closed", "closed", 2),
    "help full": (["--help"], "/dev/full", "err", 2),
    "help pipe closed": (["finetune", "--help"], "pipe", "err", 141),
    "version": (["--version"], "out", "err", 0),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Run all cases; return the folder of their outputs NAME.out and NAME.err, and their exit codes."""
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    folder = tmp_path_factory.mktemp("streams")
    Image.fromarray(drawn_frame((90, 90), (20, 20, 30))).save(folder / IMAGE, quality=95)
    cases = {}
    for name, (command, out, err, _) in CASES.items():
        cases[name] = command, *(f"{name}.{end}" if end in ("out", "err") else end for end in (out, err))
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, IMAGE],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return folder, dict(map(json.loads, result.stdout.splitlines()))


@pytest.mark.parametrize("name", CASES)
def test_failed_output_sets_exit_code(name: str, results: tuple[Path, dict[str, int]]) -> None:
    folder, codes = results
    assert codes[name] == CASES[name][3]
    if CASES[name][0][0] == "landmarks":  # the output file is complete in every case
        assert Image.open(folder / f"{name}.png").size[0] > 100
    errors = folder / f"{name}.err"
    all_lines = errors.read_text().splitlines() if errors.exists() else []
    lines = [line for line in all_lines if line.startswith(("talkinghead", "Traceback", "Exception"))]
    if "full" in name and codes[name] == 2:
        assert lines == [
            "talkinghead: error: stdout: cannot be written to (No space left on device); send it elsewhere, "
            "or add --quiet"
        ]
    elif name == "stdout closed":
        assert lines == [
            "talkinghead: error: stdout: cannot be written to (Bad file descriptor); send it elsewhere, or "
            "add --quiet"
        ]
    else:
        assert lines == []


def test_output_escapes_terminal_codes_of_names(results: tuple[Path, dict[str, int]]) -> None:
    folder, _ = results
    printed = (folder / "plain.out").read_bytes()
    assert rb"a face in \xe9\x1b]0;title\x07\x1b[31m.jpg" in printed
    progress = (folder / "plain.err").read_bytes()
    assert rb"landmarks of \xe9\x1b]0;title\x07\x1b[31m.jpg" in progress
    for text in (printed, progress.replace(b"\x1b[A", b"")):  # which moves a bar up
        assert not set(text) & (set(range(32)) - set(b"\r\n"))


def test_console_escapes_terminal_codes(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.result({}, ["opset \x1b]0;PWNED\x07\x1b[2J\nmade up"])
    console.print("\x9b31m\u202etxt")
    assert capsys.readouterr().out == "opset \\x1b]0;PWNED\\x07\\x1b[2J\\nmade up\n\\x9b31m\\u202etxt\n"
    list(console.progress(iter([1]), desc="of \x1b[31m.jpg", total=1))
    progress = capsys.readouterr().err
    assert "\x1b[31m" not in progress and "of \\x1b[31m.jpg" in progress


def test_name_outside_unicode_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("talkinghead.landmarks.open_detector.open_detector", lambda *_: RedSquare())
    path = tmp_path / os.fsdecode(b"\xff.png")
    try:
        Image.fromarray(drawn_frame((90, 90), (20, 20, 30))).save(path)
    except OSError:
        pytest.skip("this file system allows no such name")
    assert cli.main(["landmarks", str(path), "--out", str(tmp_path / "out.png")]) == 0
    assert "\\udcff.png" in capsys.readouterr().out


def test_stream_stops_after_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenStream(io.StringIO):
        attempts = 0

        def flush(self) -> None:
            self.attempts += 1
            raise BrokenPipeError

    broken = BrokenStream()
    monkeypatch.setattr(sys, "stdout", broken)
    stream = StandardStream("stdout")
    stream.check()
    for _ in range(3):
        stream.write_line("text")
    assert broken.attempts == 1
    with pytest.raises(ClosedPipe):
        stream.check()
    monkeypatch.setattr(sys, "stdout", None)
    stream = StandardStream("stdout")
    stream.write_line("text")
    with pytest.raises(TalkingheadError, match="^stdout: cannot be written to"):
        stream.check()
