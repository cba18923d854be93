"""The command `rank-drivers`."""

import argparse
from typing import TYPE_CHECKING, Any

from ..constants import DEFAULT_SHOTS
from .options import (
    add_detector,
    add_face,
    add_identity_network,
    add_model_of_person,
    add_person,
    add_retarget,
    open_chosen_detector,
)
from .parser import add_command
from .path_arguments import InputPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead rank-drivers anna.safetensors bob.mp4 carl.mp4 --pictures anna.mp4   # who suits her best
  talkinghead rank-drivers anna.safetensors bob.mp4 carl.mp4"""


def add_parser(commands: Any) -> None:
    """Add the parser of `rank-drivers`."""
    parser = add_command(commands, "rank-drivers", EXAMPLE)
    add_person(parser)
    parser.add_argument(
        "drivers", nargs="+", type=InputPath, metavar="DRIVER", help="videos that may drive the person"
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        type=InputPath,
        metavar="PICTURES_OR_VIDEO",
        help="the person as they are (default: the person at rest, as the model shows them)",
    )
    add_identity_network(
        parser, "an ArcFace network that tells faces apart (default: dlib's network, extra identity)"
    )
    add_retarget(parser)
    add_face(parser)
    add_model_of_person(parser)
    add_detector(parser)


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `rank-drivers`."""
    from ..checkpoint import load_person
    from ..data.few_shot import read_shots
    from ..pipelines.rank_drivers import PICTURE_SIDE, format_scores, rank_drivers
    from ..pretrained.face_recognition import open_identity

    person = load_person(args.person, args.model)
    detector = open_chosen_detector(args, console)
    network = open_identity(args.identity_network, detector)
    pictures = None
    if args.pictures:
        pictures = read_shots(
            args.pictures,
            PICTURE_SIDE,
            DEFAULT_SHOTS,
            detector,
            progress=console.progress,
            convention=person.config.crop,
        ).frames
    scores = rank_drivers(
        person,
        args.drivers,
        network,
        detector,
        pictures=pictures,
        retarget=args.retarget,
        face=args.face,
        progress=console.progress,
    )
    values = {"identity_network": network.name, "drivers": [score.as_dict() for score in scores]}
    console.result(values, format_scores(scores))
