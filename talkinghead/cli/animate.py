"""The command `animate`."""

import argparse
from typing import TYPE_CHECKING, Any

from ..constants import LAYOUTS, MAX_SCALE
from .options import (
    add_detector,
    add_device,
    add_engine,
    add_face,
    add_model_of_person,
    add_person,
    add_precision,
    add_retarget,
    int_in_range,
    open_chosen_detector,
    open_chosen_engine,
)
from .parser import add_command, add_renamed_option
from .path_arguments import InputPath, VideoOutputPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead animate anna.safetensors --drive bob.mp4 --out anna_as_bob.mp4
  talkinghead animate anna.safetensors --drive bob.mp4 --out both.mp4 --layout side-by-side --scale 2
  talkinghead animate anna.safetensors --drive bob.mp4 --out whole.mp4 --paste-back anna.jpg

Only head movement and expression come from the driving video, wherever its face is in the frame and
whatever its shape. Where no face is detected, the movement is interpolated; gaps longer than half a second
are reported."""


def add_parser(commands: Any) -> None:
    """Add the parser of `animate`."""
    parser = add_command(commands, "animate", EXAMPLE)
    add_person(parser)
    parser.add_argument(
        "--drive",
        required=True,
        type=InputPath,
        metavar="VIDEO",
        help="the video whose face drives; its frame rate and sound are kept",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=VideoOutputPath,
        metavar="OUT.mp4",
        help="the video to write; its metadata say that it is synthesised",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="result",
        help="side-by-side: driver, landmarks, result (default: %(default)s)",
    )
    parser.add_argument(
        "--scale",
        type=int_in_range(1, MAX_SCALE),
        default=1,
        metavar="N",
        help=f"enlarge the video N times, up to {MAX_SCALE}; the driver beside it is as sharp as its file "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--paste-back",
        type=InputPath,
        metavar="PICTURE",
        help="put the head into this picture, at the picture's full size (of a video, into its first frame "
        "that clearly shows the face)",
    )
    add_retarget(parser)
    add_precision(parser)
    add_engine(parser)
    parser.add_argument(
        "--keep-partial", action="store_true", help="when interrupted, keep the video of the frames so far"
    )
    add_face(parser)
    add_model_of_person(parser)
    add_device(parser)
    add_detector(parser)
    for option in ("--rank-drivers", "--pictures", "--identity-network"):
        add_renamed_option(parser, option, "the command `talkinghead rank-drivers`")


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `animate`."""
    from ..checkpoint import load_person
    from ..pipelines.animate_video import animate_video
    from ..system.stage_timer import timed_stage

    with timed_stage("reading the person"):
        person = load_person(args.person, args.model)
    animation = animate_video(
        person,
        args.drive,
        args.out,
        args.layout,
        detector=open_chosen_detector(args, console),
        face=args.face,
        retarget=args.retarget,
        precision=args.precision,
        keep_partial=args.keep_partial,
        device=args.device,
        fast=args.fast,
        progress=console.progress,
        engine=open_chosen_engine(args, person),
        paste_back=args.paste_back,
        scale=args.scale,
    )
    height, width = animation.size
    lines = [
        f"{animation.out}: {animation.frames} frames of {width}x{height}, {animation.fps:.4g} a second, in "
        f"{animation.seconds:.0f} s"
    ]
    if animation.without_face:
        lines.append(
            f"{animation.without_face} frames of the driving video show no face; their landmarks lie between "
            "those around them"
        )
    lines += [f"no face from {start:.1f} to {end:.1f} s" for start, end in animation.gaps]
    console.result(animation.as_dict(), lines)
    if animation.interrupted:
        raise KeyboardInterrupt
