"""The command `train-landmarks`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..constants import LANDMARK_NETWORKS
from .argument_types import int_in_range, positive_float
from .options import add_excluded_identities, add_save_every, add_seed, add_training_data
from .parser import add_command
from .path_arguments import FolderType, InputPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead prepare clips/ --landmarks face_landmarker.task --size 256 --out clips256
  talkinghead prepare --synthetic 500 --poses wide --size 256 --out people256
  talkinghead train-landmarks clips256 people256 --out run --exclude-identities bob
  talkinghead train-landmarks clips256 people256 --out run2 --network detection

Interrupt it at any time; the same command resumes. The labels are the landmarks of the data: do not train
what you publish on those of dlib or face-alignment, whose own training data exclude commercial use."""


def _output_patterns() -> tuple[str, ...]:
    from ..training.landmark_run import FILES

    return FILES


def add_parser(commands: Any) -> None:
    """Add the parser of `train-landmarks`."""
    parser = add_command(commands, "train-landmarks", EXAMPLE)
    add_training_data(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=FolderType(_output_patterns),
        metavar="RUN",
        help="the run's folder; network.safetensors in it is the network",
    )
    parser.add_argument(
        "--network",
        choices=LANDMARK_NETWORKS,
        default="landmarks",
        help="landmarks: finds the points of a face; detection: finds the faces (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int_in_range(1),
        default=20_000,
        metavar="N",
        help="in all; the learning rate falls to 0 by then (default: %(default)s)",
    )
    add_excluded_identities(parser)
    parser.add_argument(
        "--init-from",
        type=InputPath,
        metavar="NETWORK",
        help="start from the weights of a network.safetensors of another run (default: random ones)",
    )
    parser.add_argument(
        "--whole-frames",
        type=InputPath,
        metavar="VIDEOS",
        help="folder of the videos that DATA was prepared from: the detection network learns on their whole "
        "frames too",
    )
    parser.add_argument(
        "--learning-rate",
        type=positive_float,
        default=2e-3,
        metavar="R",
        help="after the first steps (default: %(default)g)",
    )
    add_save_every(parser)
    add_seed(parser)


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `train-landmarks`."""
    from ..training.landmark_run import train_landmarks

    train_landmarks(
        args.data,
        args.out,
        network=args.network,
        steps=args.steps,
        seed=args.seed,
        exclude_identities=args.exclude_identities,
        init_from=args.init_from,
        whole_frames=args.whole_frames,
        learning_rate=args.learning_rate,
        save_seconds=args.save_every,
        on_step=console.step_progress(f"{args.network} network"),
    )
    path = Path(args.out, "network.safetensors")
    text = f"{path}: {args.network} network, {args.steps} steps"
    console.result({"network": str(path), "steps": args.steps}, [text])
