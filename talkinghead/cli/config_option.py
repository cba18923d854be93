"""The options --config and --print-config: values of a command from a TOML file, and written as one."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from ..errors import TalkingheadError, did_you_mean, shorten
from ..system.toml_file import format_toml, read_toml
from .argument_types import IntList, takes_text
from .commands import COMMANDS

_NOT_IN_FILES = ("help", "config", "print_config", "list_sources")
_TABLE_KEYS = ("preset",)
"""Keys whose value may be a table: the option gets the file's name, and its reader reads the table."""


@contextmanager
def config_defaults(parser: argparse.ArgumentParser, args: Sequence[str]) -> Iterator[None]:
    """Make the values of the file of --config the defaults of a command's parser, within the block.

    With --print-config, arguments may be missing.

    Raises:
        TalkingheadError: the file cannot be read, or a key or value in it is not of the command.
    """
    options = list(takewhile(lambda text: text != "--", args))
    path = _config_path(options)
    before = [(action, action.default, action.required) for action in parser._actions]
    try:
        if path is not None:
            for action, value in _read_values(parser, path):
                action.default, action.required = value, False
        if "--print-config" in options:
            for action in parser._actions:
                action.required = False
        yield
    finally:
        for action, default, required in before:
            action.default, action.required = default, required


def format_config(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """Return the values of a command's arguments as a TOML file that --config reads."""
    command = _command_name(parser)
    lines = [f"# `talkinghead {command} --config FILE.toml` reads this file", f"[{command}]"]
    for key, action in config_keys(parser).items():
        value = getattr(args, action.dest)
        if action.nargs == 0:
            value = value == action.const
        is_unset = value is None or value == () or value == []
        lines.append(f"# {key} is not set" if is_unset else f"{key} = {format_toml(value)}")
    return "\n".join(lines) + "\n"


def config_keys(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the arguments of a command by their keys: long names of options, names of other arguments."""
    return {
        [action.dest, *action.option_strings][-1].lstrip("-"): action
        for action in parser._actions
        if action.help != argparse.SUPPRESS and action.dest not in _NOT_IN_FILES
    }


def _config_path(options: Sequence[str]) -> str | None:
    """Return the value of the last --config."""
    path = None
    for position, text in enumerate(options):
        if text == "--config" and position + 1 < len(options):
            path = options[position + 1]
        elif text.startswith("--config="):
            path = text.partition("=")[2]
    return path


def _command_name(parser: argparse.ArgumentParser) -> str:
    return parser.prog.rpartition(" ")[2]


def _read_values(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[argparse.Action, Any]]:
    """Yield the arguments that a file sets, and their values."""
    command, keys = _command_name(parser), config_keys(parser)
    replaced = {name.lstrip("-"): action for name, action in parser._option_string_actions.items()}
    for key, value in _command_table(read_toml(path), command, path).items():
        if key not in keys:
            replacement = getattr(replaced.get(key), "replacement", None)
            if replacement is not None:
                raise TalkingheadError(f"{path}: {key} was replaced by {replacement}; rename it")
            hint = did_you_mean(key, [*keys, *COMMANDS]) or f"; `talkinghead {command} --help` shows all"
            raise TalkingheadError(f"{path}: unknown option {shorten(key)}{hint}")
        action = keys[key]
        if isinstance(value, dict) and key in _TABLE_KEYS:
            value = path
        try:
            yield action, _convert(parser, action, value)
        except argparse.ArgumentError as error:
            separator = " " if str(error).endswith("?") else "; "
            raise TalkingheadError(f"{path}: {error}{separator}correct the file") from error


def _command_table(values: dict[str, Any], command: str, path: str) -> dict[str, Any]:
    """Return the table of a command, or all values of a file without such tables."""
    tables = [name for name, value in values.items() if isinstance(value, dict) and name in COMMANDS]
    if not tables:
        return values
    shared = {name: value for name, value in values.items() if name not in tables}
    outside = [
        name for name, value in shared.items() if not (isinstance(value, dict) and name in _TABLE_KEYS)
    ]
    if outside:
        raise TalkingheadError(
            f"{path}: {shorten(outside[0])} is outside of the tables of commands; move it into [{command}]"
        )
    if command not in tables:
        names = ", ".join(f"[{name}]" for name in tables)
        raise TalkingheadError(
            f"{path}: has no table [{command}], only {names}; add it, or name another file"
        )
    return {**(shared if command == "train" else {}), **values[command]}


def _convert(parser: argparse.ArgumentParser, action: argparse.Action, value: Any) -> Any:
    """Return the value of an argument as the command line would.

    Raises:
        argparse.ArgumentError: it would be refused.
    """
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise argparse.ArgumentError(action, f"expected true or false, got {shorten(value)!r}")
        return action.const if value else not action.const
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, (str, int, float)):
            raise argparse.ArgumentError(action, f"expected text, a number or a list, got {shorten(item)!r}")
        if takes_text(action.type) and not isinstance(item, str):
            raise argparse.ArgumentError(action, f"{format_toml(item)} is not text, which is in quotes")
    words = [item if isinstance(item, str) else format_toml(item) for item in items]
    if isinstance(action.type, IntList):
        words = [",".join(words)]
    elif isinstance(value, list) and action.nargs in (None, "?"):
        raise argparse.ArgumentError(action, "expected one value, got a list")
    elif not words and action.nargs == "+":
        raise argparse.ArgumentError(action, "expected at least one argument")
    return parser._get_values(action, words)
