"""The command `export`."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..constants import ENGINE_FORMATS, ENGINE_INPUTS, ENGINE_OUTPUTS, MAX_BATCH, PRECISIONS, WEB_FORMAT
from ..errors import TalkingheadError
from .argument_types import int_in_range
from .options import add_device, add_model_of_person, add_person
from .parser import add_command, add_renamed_option
from .path_arguments import EnginePath, ExportOutputPath

if TYPE_CHECKING:
    from ..engines.report import EngineReport
    from ..exporters.web import WebPageReport
    from ..model import Person
    from .console import Console

EXAMPLE = """\
example:
  talkinghead export anna.safetensors --format onnx --out anna.onnx
  talkinghead export anna.safetensors --format aoti --out anna.pt2 --precision bf16
  talkinghead export anna.safetensors --format tensorrt --out anna.engine --precision fp16 --target sm_89
  talkinghead export anna.safetensors --format web --out anna_page
  talkinghead verify anna.onnx
  talkinghead animate anna.safetensors --drive bob.mp4 --out anna_as_bob.mp4 --engine anna.onnx"""


def add_parser(commands: Any) -> None:
    """Add the parser of `export`."""
    parser = add_command(commands, "export", EXAMPLE)
    add_person(parser)
    parser.add_argument(
        "--format",
        required=True,
        choices=(*ENGINE_FORMATS, WEB_FORMAT),
        help="onnx: runs nearly anywhere; tensorrt: the fastest on NVIDIA's GPUs; aoti: compiled by PyTorch "
        "for this kind of machine; web: a page that runs in any browser, from any static host",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=ExportOutputPath,
        metavar="FILE",
        help="the engine to write; tensorrt and aoti (.pt2) also write a .json with its name; of web, the "
        "folder",
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="of weights and maps (default: fp32)")
    parser.add_argument(
        "--batch",
        type=int_in_range(1, MAX_BATCH),
        metavar="N",
        help=f"the largest batch (default: {MAX_BATCH})",
    )
    parser.add_argument(
        "--input",
        choices=ENGINE_INPUTS,
        help="points: 68 landmarks, rasterized inside; image: their image (default: points)",
    )
    parser.add_argument(
        "--output", choices=ENGINE_OUTPUTS, help="uint8: pixels; float: -1 to 1 (default: uint8)"
    )
    _add_format_options(parser)
    add_model_of_person(parser)
    add_device(parser, fast=False)


def _add_format_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        metavar="sm_XY",
        help="with tensorrt: the GPU it is for, which need not be here (default: the one that is)",
    )
    parser.add_argument(
        "--refit-from",
        type=EnginePath,
        metavar="ENGINE",
        help="with tensorrt: put the person's weights into this engine of another person: faster than "
        "building",
    )
    parser.add_argument(
        "--portable",
        action="store_true",
        help="with aoti: use PyTorch's own ops only: slower, but it runs without this package",
    )
    add_renamed_option(parser, "--base", "--refit-from")
    add_renamed_option(parser, "--check", "the command `talkinghead verify`")


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `export`."""
    from ..checkpoint import load_person
    from ..system.stage_timer import timed_stage

    write: Callable[..., EngineReport | WebPageReport] = _write_engine
    if args.format == WEB_FORMAT:
        _check_no_engine_options(args)
        write = _write_page
    with timed_stage("reading the person"):
        person = load_person(args.person, args.model)
    exported = write(person, args)
    console.result(exported.as_dict(), exported.lines())


def _check_no_engine_options(args: argparse.Namespace) -> None:
    """Check that no option of engines is set.

    Raises:
        TalkingheadError: one is.
    """
    for name in ("precision", "batch", "input", "output", "target", "refit_from", "portable"):
        if getattr(args, name):
            option = name.replace("_", "-")
            raise TalkingheadError(
                f"export: --{option} belongs to engines, not to --format web; leave it out"
            )


def _write_page(person: "Person", args: argparse.Namespace) -> "WebPageReport":
    from ..exporters.web import export_web_page

    return export_web_page(person, args.out)


def _write_engine(person: "Person", args: argparse.Namespace) -> "EngineReport":
    from ..exporters.export import export_person
    from ..system.device import choose_device

    return export_person(
        person,
        args.out,
        args.format,
        args.precision,
        batch=args.batch,
        input=args.input,
        output=args.output,
        name=args.person,
        portable=args.portable,
        target=args.target,
        base=args.refit_from,
        device=str(choose_device(args.device)),
    )
