"""The command `export-landmarks`."""

import argparse
from typing import TYPE_CHECKING, Any

from .parser import add_command
from .path_arguments import InputPath, OutputPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead export-landmarks --out landmarks.onnx
  talkinghead animate anna.safetensors --drive bob.mp4 --out anna_as_bob.mp4 --landmarks landmarks.onnx"""


def add_parser(commands: Any) -> None:
    """Add the parser of `export-landmarks`."""
    parser = add_command(commands, "export-landmarks", EXAMPLE)
    parser.add_argument(
        "network",
        nargs="?",
        type=InputPath,
        metavar="NETWORK",
        help="file of `talkinghead train-landmarks` (default: the one that ships with the package)",
    )
    parser.add_argument(
        "--out", required=True, type=OutputPath, metavar="FILE.onnx", help="the file to write"
    )


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `export-landmarks`."""
    from ..exporters.landmark_network import export_landmark_network
    from ..landmarks.network import SHIPPED

    export_landmark_network(args.out, args.network or SHIPPED)
    console.result(
        {"file": args.out}, [f"{args.out}: landmark network, float32 [B, 3, 128, 128] -> [B, 79, 3]"]
    )
