"""The command `verify`."""

import argparse
from typing import TYPE_CHECKING, Any

from .options import add_device, add_model_of_person, add_trust
from .parser import add_command
from .path_arguments import EnginePath, InputPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead verify anna.onnx
  talkinghead verify anna.onnx anna.safetensors"""


def add_parser(commands: Any) -> None:
    """Add the parser of `verify`."""
    parser = add_command(commands, "verify", EXAMPLE)
    parser.add_argument("engine", type=EnginePath, metavar="ENGINE", help="from `talkinghead export`")
    parser.add_argument(
        "person",
        nargs="?",
        type=InputPath,
        metavar="PERSON",
        help="the person to compare with (default: the file that the engine names)",
    )
    add_trust(parser)
    add_model_of_person(parser)
    add_device(parser, fast=False)


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `verify`."""
    from ..checkpoint import load_person
    from ..engines.report import verify_engine
    from ..system.device import choose_device

    person = None if args.person is None else load_person(args.person, args.model)
    device = str(choose_device(args.device))
    report = verify_engine(args.engine, person, device, args.model, trust=args.trust)
    console.result(report.as_dict(), report.lines())
