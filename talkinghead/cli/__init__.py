"""The command line `talkinghead`: one command for each step from reference images to a video."""

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from ..errors import TalkingheadError
from ..system import torchrun
from ..version import __version__
from .commands import COMMANDS, load_command
from .parser import CommandParser
from .path_arguments import check_arguments
from .standard_streams import ClosedPipe, StandardStream, open_missing_descriptors

USER_ERROR = 2
INTERRUPTED = 130
CLOSED_PIPE = 141
"""Exit code that a shell reports for a program killed by SIGPIPE."""

REPORT_S = 1.0
"""Time that the first of several processes has to print an error."""

EXAMPLE = """\
from pictures to a talking head:
  talkinghead demo                                           # see it work first
  talkinghead finetune me.mp4 --out me.safetensors           # 8 of its frames become a person
  talkinghead animate me.safetensors --drive you.mp4 --out me_as_you.mp4

`talkinghead COMMAND --help` shows examples of each."""

OOM_HINTS = {
    "finetune": "--no-adversarial and a --model of a smaller preset need less; --device cpu needs none",
    "animate": "--precision bf16 needs half of fp32; --device cpu needs none",
    "live": "--precision bf16 needs half of fp32; --device cpu needs none",
    "train": "--grad-accum-steps 2 needs half, and more steps less; --device cpu needs none",
}
"""Options that reduce the memory that a command needs on a GPU."""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands; bad arguments raise TalkingheadError.

    Args:
        only: the command whose arguments are parsed; the others are only listed, and not imported.
    """
    parser = CommandParser(
        prog="talkinghead",
        description="Make a few pictures of a person talk: learn the person, then drive the picture by the "
        "landmarks of another video.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"talkinghead {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands", dest="command")
    for name, summary in COMMANDS.items():
        if only in (None, name):
            load_command(name).add_parser(commands)
        else:
            commands.add_parser(name, help=summary, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0, 2 for bad input (one line on stderr), 130 when interrupted, 141 when the reader of
            stdout has closed it.
    """
    open_missing_descriptors()
    out, err = StandardStream("stdout"), StandardStream("stderr")
    arguments = sys.argv[1:] if argv is None else argv
    command = next((text for text in arguments if not text.startswith("-")), "")
    try:
        args = build_parser(only=command).parse_args(arguments)
        check_arguments(args)
        args.command_line = shlex.join(["talkinghead", *arguments])
        _run(args, out, err)
        out.check()
    except ClosedPipe:
        return CLOSED_PIPE
    except TalkingheadError as error:
        if _is_reported(error):
            _wait_for_report()
        else:
            err.write_line(f"talkinghead: error: {error}")
        return USER_ERROR
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        summary = str(error).splitlines()[0].partition(". ")[0]
        hint = OOM_HINTS.get(command, "--device cpu needs none")
        err.write_line(f"talkinghead: error: {command}: {summary}; {hint}")
        return USER_ERROR
    except KeyboardInterrupt:
        if torchrun.rank() == 0:
            err.write_line("talkinghead: interrupted")
        return INTERRUPTED
    return 0


def _run(args: argparse.Namespace, out: StandardStream, err: StandardStream) -> None:
    from ..system.signals import signals_as_interrupts
    from ..system.stage_timer import timed_stage
    from .console import Console

    quiet = getattr(args, "quiet", False)
    if quiet and args.verbose:
        raise TalkingheadError("--verbose and --quiet contradict each other; leave one of them out")
    prints = torchrun.rank() == 0
    with (
        signals_as_interrupts(),
        Console(
            quiet=quiet or not prints,
            as_json=args.json and prints,
            verbose=args.verbose,
            out=out,
            err=err,
        ) as console,
        timed_stage(f"{args.command}, in all"),
    ):
        load_command(args.command).run(args, console)


def _is_reported(error: TalkingheadError) -> bool:
    """Return whether another process that torchrun started prints the same error."""
    if error.reported is None:  # before the processes have joined, all of a machine fail alike
        return torchrun.local_rank() != 0
    return error.reported


def _wait_for_report() -> None:
    """Give the first process time to print, since torchrun ends all as soon as one has ended."""
    with suppress(ValueError):  # only the main thread may
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(REPORT_S)


def _is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError)
