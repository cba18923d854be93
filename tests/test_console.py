"""What the command line prints."""

import json

import pytest

import talkinghead.cli as cli
from talkinghead.console import Console
from talkinghead.errors import TalkingheadError


def test_json_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.say("a note")
    assert list(console.progress(iter(range(3)), 3, "counting")) == [0, 1, 2]
    console.result({"a": 1}, ["a is 1"])
    said = capsys.readouterr()
    assert json.loads(said.out) == {"a": 1} and "counting" in said.err


def test_counter_goes_on_from_where_a_run_stood(capsys: pytest.CaptureFixture[str]) -> None:
    advance = Console().counter("learning")
    for step in (60, 80, 100):
        advance(step, 100, {"content": 3.14159, "hidden": 1.0})
    shown = capsys.readouterr().err
    assert "100/100" in shown and "content=3.14" in shown and "hidden" not in shown
    Console(quiet=True).counter("learning")(1, 2, {})
    assert capsys.readouterr().err == ""


def test_a_bar_cut_short_leaves_the_error_its_own_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(given: object, console: Console) -> None:
        console.counter("learning")(1, 3, {})
        raise TalkingheadError("the disk\n  is full")

    monkeypatch.setitem(cli._VERBS, "info", failing)
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err.endswith("\ntalkinghead: error: the disk\\n  is full\n")
