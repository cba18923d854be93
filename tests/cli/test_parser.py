"""Arguments of the command line: no abbreviations, short options, and what was meant by a mistyped word."""

import argparse

import pytest
from commands import command_error

import talkinghead.cli as cli
from talkinghead.cli.parser import SHORT_OPTIONS
from talkinghead.errors import did_you_mean


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    parser = cli.build_parser(command)
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices[command]


@pytest.mark.parametrize(
    "command, expected",
    [
        ("animate p --layot x", "unknown option --layot; did you mean --layout? see `talkinghead animate"),
        ("animate p --layot=x", "unknown option --layot; did you mean --layout? see `talkinghead animate"),
        ("animate p -drive d", "unknown option -drive; did you mean --drive? see `talkinghead animate"),
        ("animate --prec fp32", "unknown option --prec; did you mean --precision? see `talkinghead animate"),
        ("demo --qiet", "unknown option --qiet; did you mean --quiet? see `talkinghead demo --help`"),
        ("demo -x", "unknown option -x; see `talkinghead demo --help`"),
        ("--versio", "unknown option --versio; did you mean --version? see `talkinghead --help`"),
        ("demo a.mp4 b.mp4", "unexpected argument 'b.mp4'; see `talkinghead demo --help`"),
        ("demo -- --qiet b.mp4", "unexpected argument 'b.mp4'; see `talkinghead demo --help`"),
        ("finetun a.png", "did you mean finetune? see `talkinghead --help`"),
        ("train d --out o --preset tinny", "; did you mean tiny? see `talkinghead train --help`"),
        (
            "train d --out o --preset vast",
            "tiny, and no .toml file; see `talkinghead train",
        ),
    ],
)
def test_mistyped_word_reports_suggestion(
    command: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in command_error(capsys, *command.split())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_abbreviated_option_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = command_error(capsys, command, "--jso")
    assert error.endswith(f"unknown option --jso; did you mean --json? see `talkinghead {command} --help`")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_short_options_accompany_long_ones(command: str) -> None:
    shorts = set()
    for action in parser_of(command)._actions:
        names = action.option_strings
        if any(name in SHORT_OPTIONS for name in names):
            assert names == [SHORT_OPTIONS[names[-1]], names[-1]]
        shorts |= {name for name in names if not name.startswith("--")}
    assert shorts <= {"-h", *SHORT_OPTIONS.values()}


def test_short_options_mean_long_ones() -> None:
    parse = cli.build_parser().parse_args
    short = parse(["finetune", "a.png", "-oa.safetensors", "-m", "tiny", "-s", "40", "-q"])
    long = parse(
        ["finetune", "a.png", "--out", "a.safetensors", "--model", "tiny", "--steps", "40", "--quiet"]
    )
    assert short == long and parse(["animate", "a", "-d", "b.mp4", "-o", "c.mp4"]).drive == "b.mp4"


def test_values_that_look_like_options_are_parsed() -> None:
    parse = cli.build_parser().parse_args
    assert parse(["demo", "--seed", "-3"]).seed == -3
    assert parse(["demo", "--out=--my videos"]).out == "--my videos"
    assert parse(["demo", "--", "--qiet"]).video == "--qiet"


def test_parser_of_one_command_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    def help_text(only: str | None) -> str:
        with pytest.raises(SystemExit):
            cli.build_parser(only).parse_args(["--help"])
        return capsys.readouterr().out

    assert help_text("") == help_text("demo") == help_text(None)


def test_did_you_mean_names_closest_word_or_nothing() -> None:
    assert did_you_mean("--stps", ["--out", "--steps"]) == "; did you mean --steps?"
    assert did_you_mean("--s", ["--out", "--steps"]) == did_you_mean("dance", ["demo"]) == ""
