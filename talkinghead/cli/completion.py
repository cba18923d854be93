"""The command `completion`."""

import argparse
from typing import TYPE_CHECKING, Any

from ..constants import SHELLS
from .parser import add_command
from .path_arguments import FolderType, InputPath, NamedPath, OutputPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead completion bash                 # prints the script

in the file that your shell reads when it starts:
  eval "$(talkinghead completion bash)"       # ~/.bashrc
  eval "$(talkinghead completion zsh)"        # ~/.zshrc, after compinit
  talkinghead completion fish | source        # ~/.config/fish/config.fish"""


def add_parser(commands: Any) -> None:
    """Add the parser of `completion`."""
    parser = add_command(commands, "completion", EXAMPLE, quiet=False)
    parser.add_argument("shell", choices=SHELLS, help=f"the shell: {', '.join(SHELLS)}")


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `completion`."""
    from . import build_parser

    script = completion_script(build_parser(), args.shell)
    console.document({"shell": args.shell, "script": script}, script)


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes the command line of a parser with commands.

    Raises:
        TalkingheadError: shtab is not installed, or knows no such shell.
    """
    from ..errors import TalkingheadError, require

    shtab = require("shtab", "completion")
    if shell not in shtab.SUPPORTED_SHELLS:
        raise TalkingheadError(
            f"completion: this shtab knows no {shell}; pip install -U 'talkinghead[completion]'"
        )
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if isinstance(action.type, FolderType):
                action.complete = shtab.DIRECTORY
            elif _names_file(action.type):
                action.complete = shtab.FILE
    return shtab.complete(parser, shell).rstrip("\n") + "\n"


def _names_file(kind: Any) -> bool:
    """Return whether arguments of a type are names of files, which a shell can complete."""
    return isinstance(kind, type) and issubclass(kind, (InputPath, OutputPath)) and kind is not NamedPath
