"""The argument parser of a command: its errors, its help, and options that have a new name."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import takewhile
from typing import Any, NoReturn

from ..errors import TalkingheadError, did_you_mean
from .commands import COMMANDS
from .config_option import config_defaults, format_config
from .path_arguments import InputPath
from .standard_streams import StandardStream

SHORT_OPTIONS = {"--out": "-o", "--drive": "-d", "--model": "-m", "--steps": "-s", "--quiet": "-q"}
"""Long option -> its short form, in every command that has the long one."""
_NEGATIVE_NUMBER = re.compile(r"-\d*\.?\d+$")


class CommandParser(argparse.ArgumentParser):
    """Parser whose errors are TalkingheadErrors and whose help is checked to be printed.

    Options are not abbreviated, and some have a short form (`SHORT_OPTIONS`).
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument, and its short form."""
        short = [SHORT_OPTIONS[name] for name in names if name in SHORT_OPTIONS]
        return super().add_argument(*short, *names, **settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse arguments, all of which must be known."""
        arguments = sys.argv[1:] if args is None else args
        self._check_options(arguments)
        is_command = self._subparsers is None
        with config_defaults(self, arguments) if is_command else nullcontext():
            namespace, extras = super().parse_known_args(arguments, namespace)
        if extras:
            self.error(f"unexpected argument {extras[0]!r}")
        if is_command and namespace.print_config:
            for value in vars(namespace).values():
                if isinstance(value, InputPath):
                    value.check_content()
            self._print_message(format_config(self, namespace))
            self.exit()
        return namespace, extras

    def error(self, message: str) -> NoReturn:
        """Raise a TalkingheadError that names the help."""
        separator = " " if message.endswith("?") else "; "
        raise TalkingheadError(f"{message}{separator}see `{self.prog} --help`")

    def _check_options(self, args: Sequence[str]) -> None:
        """Report an unknown option, before arguments that are missing because it was mistyped."""
        known = self._option_string_actions
        options: Iterable[str] = takewhile(lambda text: text != "--", args)
        if self._subparsers is not None:  # what follows the command is the command's
            options = takewhile(lambda text: text.startswith("-"), options)
        for text in options:
            name = text.partition("=")[0]
            is_option = name.startswith("-") and name != "-" and " " not in name
            if not is_option or name in known or _NEGATIVE_NUMBER.match(text):
                continue
            long_name = f"-{name}" if not name.startswith("--") else name
            if name[:2] in known and long_name not in known:  # -oFILE
                continue
            self.error(f"unknown option {name}{did_you_mean(long_name, self._visible_options())}")

    def _visible_options(self) -> list[str]:
        return [
            name
            for name, action in self._option_string_actions.items()
            if name.startswith("--") and action.help != argparse.SUPPRESS
        ]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), choices)
            raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(choices)}{hint}")

    def _print_message(self, message: str, file: object = None) -> None:
        stream = StandardStream("stdout")  # of --help and --version
        stream.write(message)
        stream.check()


class _RenamedOption(argparse.Action):
    """Error that names what an option was replaced by."""

    def __init__(self, replacement: str, **settings: Any) -> None:
        super().__init__(nargs="*", help=argparse.SUPPRESS, **settings)
        self.replacement = replacement

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Raise a TalkingheadError."""
        parser.error(f"{self.option_strings[0]} was replaced by {self.replacement}")


def add_command(commands: Any, name: str, example: str, quiet: bool = True) -> argparse.ArgumentParser:
    """Add the parser of a command, with the options of every command.

    Args:
        commands: what `add_subparsers` returned.
        name: of the command.
        example: the end of its help.
        quiet: whether it takes --quiet.
    """
    summary = COMMANDS[name]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if quiet:
        parser.add_argument(
            "--quiet", action="store_true", help="print nothing but errors (and the outcome with --json)"
        )
    parser.add_argument(
        "--verbose", action="store_true", help="print more on stderr: how long each stage took"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON on stdout")
    parser.add_argument(
        "--config",
        type=InputPath,
        metavar="FILE.toml",
        help="read options from this file: long names without dashes, or a table named like the command; the "
        "command line wins over the file, the file over the defaults",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print all options as such a file, and do nothing else"
    )
    return parser


def add_renamed_option(parser: argparse.ArgumentParser, old: str, replacement: str) -> None:
    """Make the old name of an option an error that names its replacement."""
    parser.add_argument(old, action=_RenamedOption, replacement=replacement, dest=argparse.SUPPRESS)
