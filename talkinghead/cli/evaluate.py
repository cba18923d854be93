"""The command `evaluate`."""

import argparse
from typing import TYPE_CHECKING, Any

from ..constants import DEFAULT_METHODS, EVALUATION_SHOTS, MAX_REFERENCE_IMAGES, METHODS, NUM_HELD_OUT
from .argument_types import IntList, int_in_range
from .options import (
    MODELS,
    add_detector,
    add_identity_network,
    add_perceptual,
    add_seed,
    add_workers,
    open_chosen_detector,
    parse_perceptual,
)
from .parser import add_command, add_renamed_option
from .path_arguments import FolderType, InputPath, ModelPath, VideosPath
from .prepare import add_people

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead evaluate tiny clips/ --people people.tsv --out out/evaluation
  talkinghead evaluate run/model.safetensors data --only bob carl --shots 8 --steps-curve 10,40,160 --out out

Of each clip, frames of the first two thirds are learned from and frames of the last third are held out; all
T share the held-out frames. Clips of one person count as one person: by --people, the data set, or the names
of folders. A clip shorter than T + 1 frames is left out, with a warning. Read table.md, look at sheet.png.
Interrupt it at any time; the same command resumes. More people, methods, T or steps in the same --out add to
what is there."""


def _output_patterns() -> tuple[str, ...]:
    from ..evaluation.evaluate import FILES

    return FILES


def add_parser(commands: Any) -> None:
    """Add the parser of `evaluate`."""
    parser = add_command(commands, "evaluate", EXAMPLE)
    parser.add_argument("model", type=ModelPath, metavar="MODEL", help=f"{MODELS}, or none, random weights")
    parser.add_argument(
        "clips",
        nargs="+",
        type=VideosPath,
        metavar="CLIPS",
        help="videos, folders of videos (with --people, or by their layout), or data from `prepare`",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=FolderType(_output_patterns),
        metavar="FOLDER",
        help="folder for results.json, table.md, the plots and sheet.png",
    )
    add_people(parser, "(prepared data knows its own people)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=(),
        metavar="PERSON",
        help="measure on these people, such as those excluded from training",
    )
    parser.add_argument(
        "--clips-each",
        type=int_in_range(1),
        metavar="N",
        help="of each person the N longest clips (default: all)",
    )
    _add_protocol_options(parser)
    _add_network_options(parser)
    add_workers(parser, "rows measured at a time")
    add_detector(parser)
    add_seed(parser)


def _add_protocol_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shots",
        type=IntList(1, MAX_REFERENCE_IMAGES),
        default=EVALUATION_SHOTS,
        metavar="T,T",
        help="how many frames to learn from, each number in turn (default: 1,8,32)",
    )
    parser.add_argument(
        "--num-held-out",
        type=int_in_range(2),
        default=NUM_HELD_OUT,
        metavar="N",
        help="frames of each clip held out (default: %(default)s)",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=DEFAULT_METHODS,
        metavar="METHOD",
        help=f"what to measure: {', '.join(METHODS)} (default: all but no-adversarial)",
    )
    parser.add_argument(
        "--steps",
        type=int_in_range(1),
        metavar="N",
        help="of fine-tuning (default: the model's own for each T)",
    )
    parser.add_argument(
        "--steps-curve",
        type=IntList(1),
        default=(),
        metavar="N,N",
        help="measure after these numbers of steps as well, such as 10,20,40,80,160,320",
    )
    add_renamed_option(parser, "--held-out", "--num-held-out")
    add_renamed_option(parser, "--rows", "--methods")
    add_renamed_option(parser, "--curve", "--steps-curve")


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    add_identity_network(parser, "an ArcFace network for CSIM (default: dlib's network, extra identity)")
    parser.add_argument(
        "--fid-network",
        type=InputPath,
        metavar="FILE",
        help="weights of FID's Inception, pt_inception-2015-12-05-6726825d.pth (default: "
        "EfficientNet-Lite0's features, called FED)",
    )
    add_perceptual(parser)


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `evaluate`."""
    from ..pipelines.evaluate import evaluate

    open_chosen_detector(args, console)  # a missing detector must fail before the work
    evaluation = evaluate(
        args.model,
        args.clips,
        args.out,
        people=args.people,
        only=args.only,
        clips_each=args.clips_each,
        shots=args.shots,
        num_held_out=args.num_held_out,
        methods=args.methods,
        steps=args.steps,
        steps_curve=args.steps_curve,
        seed=args.seed,
        detector=args.landmarks,
        detector_device=args.detector_device,
        identity_network=args.identity_network,
        fid_network=args.fid_network,
        perceptual_files=parse_perceptual(args.perceptual),
        workers=args.workers,
        progress=console.progress,
    )
    files = {name: str(path) for name, path in evaluation.files.items()}
    lines = [
        *evaluation.files["table"].read_text(encoding="utf-8").splitlines(),
        *(f"{name:8}{path}" for name, path in files.items()),
    ]
    console.result({"files": files, **evaluation.results}, lines)
