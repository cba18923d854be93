"""What is printed, where stdout and stderr are no terminal that takes everything: as with ls or grep, and never at the cost of the work."""

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
from talkinghead.console import Console
from talkinghead.errors import TalkingheadError
from talkinghead.streams import ClosedPipe, Stream

PICTURE = "é\x1b]0;title\x07\x1b[31m.jpg"
SCRIPT = """
import json, os, sys
import talkinghead.cli as cli
from conftest import RedSquare

cli.open_detector = lambda *_: RedSquare()

def connect(number, target):
    # to a file, to a pipe whose reader is gone, or to nothing
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
    return open(number, "w", encoding="ascii", errors=("strict", "backslashreplace")[number - 1], closefd=False)

cli.main(["landmarks", sys.argv[1], "--out", "first.png", "--quiet"])  # what is imported now the children need not import
for name, (command, out, err) in json.load(open("cases.json")).items():
    child = os.fork()
    if not child:
        sys.stderr = sys.__stderr__ = connect(2, err)
        sys.stdout = sys.__stdout__ = connect(1, out)
        raise SystemExit(cli.main(command))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([name, code]), flush=True)
"""


def landmarks(name: str, *more: str) -> list[str]:
    return ["landmarks", PICTURE, "--out", f"{name}.png", *more]


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
    """The exit codes of all cases, and the folder they ran in: what each printed is in "NAME.out" and "NAME.err"."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    folder = tmp_path_factory.mktemp("streams")
    Image.fromarray(drawn_frame((90, 90), (20, 20, 30))).save(folder / PICTURE, quality=95)
    cases = {}
    for name, (command, out, err, _) in CASES.items():
        cases[name] = command, *(f"{name}.{end}" if end in ("out", "err") else end for end in (out, err))
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    ran = subprocess.run([sys.executable, "-c", SCRIPT, PICTURE], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return folder, dict(map(json.loads, ran.stdout.splitlines()))


@pytest.mark.parametrize("name", CASES)
def test_exit_code_is_that_of_ls(name: str, results: tuple[Path, dict[str, int]]) -> None:
    folder, codes = results
    assert codes[name] == CASES[name][3]
    if CASES[name][0][0] == "landmarks":  # the work is done, whatever became of the printing
        assert Image.open(folder / f"{name}.png").size[0] > 100
    errors = folder / f"{name}.err"
    said = errors.read_text().splitlines() if errors.exists() else []  # unless it went nowhere
    lines = [line for line in said if line.startswith(("talkinghead", "Traceback", "Exception"))]
    if "full" in name and codes[name] == 2:
        assert lines == ["talkinghead: error: stdout: cannot be written to (No space left on device); send it elsewhere, or add --quiet"]
    elif name == "stdout closed":
        assert lines == ["talkinghead: error: stdout: cannot be written to (Bad file descriptor); send it elsewhere, or add --quiet"]
    else:
        assert lines == []


def test_what_is_printed_holds_no_terminal_escapes(results: tuple[Path, dict[str, int]]) -> None:
    folder, _ = results
    printed = (folder / "plain.out").read_bytes()
    assert rb"a face in \xe9\x1b]0;title\x07\x1b[31m.jpg" in printed
    progress = (folder / "plain.err").read_bytes()
    assert rb"landmarks of \xe9\x1b]0;title\x07\x1b[31m.jpg" in progress
    for text in (printed, progress.replace(b"\x1b[A", b"")):  # by which a bar moves up
        assert not set(text) & (set(range(32)) - set(b"\r\n"))


def test_error_of_a_manifest_holds_no_terminal_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.result({}, ["opset \x1b]0;PWNED\x07\x1b[2J\nmade up"])
    console.say("\x9b31m\u202etxt")
    assert capsys.readouterr().out == "opset \\x1b]0;PWNED\\x07\\x1b[2J\\nmade up\n\\x9b31m\\u202etxt\n"
    list(console.progress(iter([1]), 1, "of \x1b[31m.jpg"))
    assert "\x1b[31m" not in (shown := capsys.readouterr().err) and "of \\x1b[31m.jpg" in shown


def test_name_that_is_no_unicode_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "open_detector", lambda *_: RedSquare())
    path = tmp_path / os.fsdecode(b"\xff.png")
    try:
        Image.fromarray(drawn_frame((90, 90), (20, 20, 30))).save(path)
    except OSError:
        pytest.skip("this file system takes no such name")
    assert cli.main(["landmarks", str(path), "--out", str(tmp_path / "out.png")]) == 0
    assert "\\udcff.png" in capsys.readouterr().out


def test_stream_keeps_to_its_first_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        attempts = 0

        def flush(self) -> None:
            self.attempts += 1
            raise BrokenPipeError

    gone = Gone()
    monkeypatch.setattr(sys, "stdout", gone)
    stream = Stream("stdout")
    stream.check()
    for _ in range(3):
        stream.line("text")
    assert gone.attempts == 1
    with pytest.raises(ClosedPipe):
        stream.check()
    monkeypatch.setattr(sys, "stdout", None)
    stream = Stream("stdout")
    stream.line("text")
    with pytest.raises(TalkingheadError, match="^stdout: cannot be written to"):
        stream.check()
