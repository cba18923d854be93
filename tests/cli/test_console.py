"""Output of the command line."""

import json

import pytest

import talkinghead.cli as cli
from talkinghead.cli.console import Console
from talkinghead.errors import TalkingheadError
from talkinghead.system.progress import StepsStart, start_steps


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.print("a note")
    assert list(console.progress(iter(range(3)), desc="counting", total=3)) == [0, 1, 2]
    console.result({"a": 1}, ["a is 1"])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"a": 1} and "counting" in printed.err


def test_step_progress_resumes_at_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    advance = Console().step_progress("learning")
    for step in (60, 80, 100):
        advance(step, 100, {"content": 3.14159, "hidden": 1.0})
    text = capsys.readouterr().err
    assert "100/100" in text and "content=3.14" in text and "hidden" not in text
    Console(quiet=True).step_progress("learning")(1, 2, {})
    assert capsys.readouterr().err == ""


def test_error_after_unfinished_bar_has_own_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object, console: Console) -> None:
        console.step_progress("learning")(1, 3, {})
        raise TalkingheadError("the disk\n  is full")

    monkeypatch.setattr("talkinghead.cli.info.run", fail)
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err.endswith("\ntalkinghead: error: the disk\\n  is full\n")


def test_step_progress_opens_at_start_step(capsys: pytest.CaptureFixture[str]) -> None:
    advance = Console().step_progress("learning")
    assert isinstance(advance, StepsStart)
    start_steps(advance, 20, 100)
    text = capsys.readouterr().err
    assert " 20/100 " in text and "it/s" not in text.replace("?it/s", "")
    advance(21, 100, {"content": 1.0})
    start_steps(Console(quiet=True).step_progress("learning"), 20, 100)
    start_steps(lambda step, steps, metrics: None, 20, 100)  # a callback without a bar
    assert capsys.readouterr().out == ""
    advance(100, 100, {})


def test_outcome_after_unfinished_bar_has_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.step_progress("learning", 3)(1, 3, {})
    console.result({}, ["anna.safetensors: a person"])
    assert capsys.readouterr().err.endswith("\n")


def test_note_is_above_bars(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.step_progress("learning", 3)(1, 3, {})
    capsys.readouterr()
    console.print("a note")
    printed = capsys.readouterr()
    assert printed.out == "a note\n" and printed.err.startswith("\r ") and "1/3" in printed.err
