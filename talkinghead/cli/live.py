"""The command `live`."""

import argparse
from typing import TYPE_CHECKING, Any

from .argument_types import int_in_range, positive_float
from .options import (
    add_detector,
    add_device,
    add_engine,
    add_model_of_person,
    add_people,
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
  talkinghead live anna.safetensors --sink out.mp4 --microphone
  talkinghead live anna.safetensors bob.safetensors  # n shows the next person

Keys of the window: q quits, m mirrors, c centres (your face is at rest now), space pauses, r records into
a new file and ends the recording, n shows the next person.

Late frames are dropped, so that the latency stays low; every second the count of dropped frames and the
latency from capture to the sink are printed: its median, and what 99% of the frames do not exceed."""


class ListSources(argparse.Action):
    """Option that prints the webcams of this machine and ends the command."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: object) -> None:
        """Print a line for each webcam: its name for --source, and its description."""
        from ..media.frame_source import list_webcams

        webcams = list_webcams()
        for webcam in webcams:
            print(f"{webcam.name}  {webcam.description}")
        if not webcams:
            print("no webcam was found; plug one in, or name a video")
        parser.exit()


def add_parser(commands: Any) -> None:
    """Add the parser of `live`."""
    parser = add_command(commands, "live", EXAMPLE)
    add_people(parser, "take turns by the key n")
    _add_source_and_sink(parser)
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


def _add_source_and_sink(parser: argparse.ArgumentParser) -> None:
    """Add the options of where the driver's frames and sound come from, and where the person's go."""
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
    parser.add_argument(
        "--list-sources",
        action=ListSources,
        nargs=0,
        help="print the webcams of this machine as --source takes them, and do nothing else",
    )
    parser.add_argument(
        "--face",
        type=int_in_range(1),
        default=1,
        metavar="N",
        help="which face, when the source shows several: 1 is the largest when it is found (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--microphone",
        nargs="?",
        const="default",
        metavar="NAME",
        help="give videos the sound of a microphone: on Linux a name of ALSA such as hw:1, on macOS a number "
        "(default: the sound of a video source, if it has one; without NAME: the system's microphone)",
    )


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `live`."""
    from ..checkpoint import load_person
    from ..pipelines.live import live

    people = [load_person(path, args.model) for path in args.person]
    report = live(
        people,
        args.source,
        args.sink,
        engine=open_chosen_engine(args, people[0]),
        detector=open_chosen_detector(args, console),
        retarget=args.retarget,
        face=args.face,
        realtime=args.realtime,
        seconds=args.seconds,
        microphone=args.microphone,
        precision=args.precision,
        device=args.device,
        fast=args.fast,
        log=console.print,
    )
    console.result(report.as_dict(), report.lines())
