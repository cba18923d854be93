"""The command `live`."""

import argparse
from typing import TYPE_CHECKING, Any

from .argument_types import positive_float
from .options import (
    add_detector,
    add_device,
    add_engine,
    add_model_of_person,
    add_person,
    add_precision,
    add_retarget,
    open_chosen_detector,
    open_chosen_engine,
)
from .parser import add_command, add_renamed_option
from .path_arguments import InputPath, SinkPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead live anna.safetensors                  # your webcam drives her, in a window; q ends it
  talkinghead live anna.safetensors --source bob.mp4 --sink out.mp4 --seconds 10
  talkinghead live anna.safetensors --sink v4l2      # a webcam for other programs (needs v4l2loopback)

Late frames are dropped, so that the latency stays low; every second the count of dropped frames and the
latency from capture to the sink are printed: its median, and what 99% of the frames do not exceed."""


def add_parser(commands: Any) -> None:
    """Add the parser of `live`."""
    parser = add_command(commands, "live", EXAMPLE)
    add_person(parser)
    parser.add_argument(
        "--source",
        default="webcam",
        type=InputPath,
        metavar="webcam|VIDEO",
        help="webcam, webcam:1, /dev/video1, or a video, which plays as if it were one (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--sink",
        default="window",
        type=SinkPath,
        metavar="window|OUT.mp4|v4l2",
        help="a window, a video (its metadata say that it is synthesised; until it ends well, OUT.part.mp4, "
        "which plays even when it is killed), or a virtual webcam: v4l2, v4l2:/dev/video2 (default: window)",
    )
    add_engine(parser)
    add_retarget(parser, auto="on, since nobody is compared while the time runs")
    add_precision(parser)
    parser.add_argument(
        "--seconds",
        type=positive_float,
        metavar="N",
        help="end after N seconds (default: when the source ends, or at Ctrl-C)",
    )
    parser.add_argument(
        "--no-realtime",
        dest="realtime",
        action="store_false",
        help="of a video: process every frame, as fast as possible, and drop none",
    )
    add_renamed_option(parser, "--every-frame", "--no-realtime")
    add_model_of_person(parser)
    add_device(parser)
    add_detector(parser)


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `live`."""
    from ..checkpoint import load_person
    from ..pipelines.live import live

    person = load_person(args.person, args.model)
    report = live(
        person,
        args.source,
        args.sink,
        engine=open_chosen_engine(args, person),
        detector=open_chosen_detector(args, console),
        retarget=args.retarget,
        realtime=args.realtime,
        seconds=args.seconds,
        precision=args.precision,
        device=args.device,
        fast=args.fast,
        log=console.print,
    )
    console.result(report.as_dict(), report.lines())
