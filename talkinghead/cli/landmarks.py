"""The command `landmarks`."""

import argparse
from typing import TYPE_CHECKING, Any

from .options import add_detector, add_face, open_chosen_detector
from .parser import add_command
from .path_arguments import InputPath, PictureOrVideoOutputPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead landmarks me.mp4 --out faces.png           # 12 frames: evenly spaced, and the least certain
  talkinghead landmarks me.mp4 --out faces.mp4           # every frame, with time, confidence and new shots
  talkinghead landmarks me.mp4 --out other.mp4 --face 2  # follow the face drawn in grey with number 2

The tracked face has coloured lines, and a square marks the crop. A video without a face is no error here:
the outcome shows it. --json prints frames, faces, gaps, uncertain times and new shots."""


def add_parser(commands: Any) -> None:
    """Add the parser of `landmarks`."""
    parser = add_command(commands, "landmarks", EXAMPLE)
    parser.add_argument(
        "video",
        type=InputPath,
        metavar="VIDEO_OR_PICTURE",
        help="a video, GIF, picture, or folder of pictures of one size",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=PictureOrVideoOutputPath,
        metavar="PICTURE_OR_VIDEO",
        help="an .mp4 shows every frame; a .png or .jpg shows 12 of them, evenly spaced and those of least "
        "confidence",
    )
    add_face(parser)
    add_detector(parser)


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `landmarks`."""
    from ..pipelines.landmark_overlay import draw_landmark_overlay

    detector = open_chosen_detector(args, console)
    overlay = draw_landmark_overlay(args.video, args.out, detector, args.face, progress=console.progress)
    first_line, *other_lines = overlay.lines()
    console.result(overlay.as_dict(), [f"{overlay.file}: {first_line}", *other_lines])
