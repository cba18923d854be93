"""The command `prepare`."""

import argparse
from typing import TYPE_CHECKING, Any

from ..constants import (
    MAX_SECOND_FACE_RATIO,
    MIN_FACE_PIXELS,
    MIN_SHARPNESS,
    MIN_SHOT_FRAMES,
    SHARD_CLIPS,
)
from ..errors import TalkingheadError
from .argument_types import int_in_range, parse_float
from .options import add_detector, add_seed, add_workers, open_chosen_detector
from .parser import add_command, add_renamed_option
from .path_arguments import FolderType, InputPath, PartsPath, VideosPath

if TYPE_CHECKING:
    from ..synthetic.dataset import SyntheticReport
    from ..synthetic.portraits import PortraitReport
    from .console import Console

EXAMPLE = """\
example:
  talkinghead prepare clips/ --out data --size 64 --people people.tsv
  talkinghead prepare VoxCeleb2/dev/mp4 --out data          # the layout of its folders names the people
  talkinghead prepare --synthetic 500 --clips-each 4 --seed 0 --out people --size 64
  talkinghead train data --preset tiny --out run
  talkinghead prepare VoxCeleb2/dev/mp4 --out parts --part 3/100          # in the third of 100 jobs
  talkinghead prepare --merge parts --out data                            # when all have ended
  talkinghead prepare VoxCeleb2/dev/mp4 --out data --ray auto             # on all nodes of a Ray cluster

people.tsv, its columns separated by a tab; a name may begin with the folders that the file lies in:
  file               person
  bob1.mp4           bob
  carl/0001.mp4      carl

A video with several shots gives a clip for each good one. data/report.jsonl lists every video, and why a
video was rejected. Interrupt it at any time; the same command resumes."""


def _output_patterns() -> tuple[str, ...]:
    from ..dataset.prepare import FILES

    return FILES


def add_parser(commands: Any) -> None:
    """Add the parser of `prepare`."""
    parser = add_command(commands, "prepare", EXAMPLE)
    parser.add_argument(
        "videos",
        nargs="*",
        type=VideosPath,
        metavar="VIDEO",
        help="videos, or folders of videos; subfolders are read too",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=FolderType(_output_patterns),
        metavar="DATA",
        help="the folder to write",
    )
    parser.add_argument(
        "--size",
        type=int_in_range(1),
        default=256,
        metavar="N",
        help="side of the frames in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-clips",
        type=int_in_range(1),
        metavar="N",
        help="clips after which a shard is finished; `train --streaming` needs as many shards as a batch has "
        f"videos (default: {SHARD_CLIPS})",
    )
    add_people(parser, "(default: from the layout of VoxCeleb, HDTF, CelebV-HQ or plain folders)")
    _add_synthetic_options(parser)
    add_seed(parser)
    add_workers(parser, "number of processes")
    _add_cluster_options(parser)
    _add_quality_options(parser)
    add_detector(parser)


def add_people(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --people."""
    parser.add_argument(
        "--people",
        type=InputPath,
        metavar="TABLE.tsv",
        help=f"who is in which video: tab-separated columns file, person {default}",
    )


def _add_synthetic_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--synthetic",
        type=int_in_range(1),
        metavar="PEOPLE",
        help="render synthetic people instead of reading videos: pip install 'talkinghead[synthetic]'",
    )
    parser.add_argument(
        "--clips-each",
        type=int_in_range(1),
        default=4,
        metavar="N",
        help="clips of each synthetic person (default: %(default)s)",
    )
    parser.add_argument(
        "--portraits",
        type=InputPath,
        metavar="FOLDER_OR_TAR",
        help="make still portraits of many people move instead of reading videos: one person a picture",
    )
    parser.add_argument(
        "--frames-each",
        type=int_in_range(1),
        metavar="N",
        help="frames of each clip of a synthetic person or a portrait (default: 50 of a synthetic person, 10 "
        "of a portrait)",
    )
    parser.add_argument(
        "--frame-stride",
        type=int_in_range(1),
        default=1,
        metavar="N",
        help="of synthetic people: keep every N-th frame of their motion, for fewer frames in more poses "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--poses",
        choices=("talking", "wide"),
        default="talking",
        help="of synthetic people: heads that talk to the camera, or turn up to 90 degrees (default: "
        "%(default)s)",
    )


def _add_cluster_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--part",
        type=_parse_part,
        metavar="I/N",
        help="prepare every N-th video from the I-th on, into DATA/part-I-of-N, in a job of a cluster",
    )
    parser.add_argument(
        "--merge",
        nargs="+",
        type=PartsPath,
        default=(),
        metavar="PARTS",
        help="make the data of the parts in these folders instead of reading videos: the same bytes as "
        "without --part",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="work on all nodes of a Ray cluster: HOST:PORT of its head, or auto for the cluster of this "
        "machine; pip install 'talkinghead[cluster]'",
    )


def _parse_part(text: str) -> str:
    from ..dataset.parts import parse_part

    try:
        parse_part(text)
    except TalkingheadError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _add_quality_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--min-face",
        type=parse_float,
        default=MIN_FACE_PIXELS,
        metavar="PIXELS",
        help="leave out shots whose face is smaller: the longer side of its landmarks (default: %(default)g)",
    )
    parser.add_argument(
        "--min-frames",
        type=int_in_range(1),
        default=MIN_SHOT_FRAMES,
        metavar="N",
        help="leave out shots with fewer frames that show the face (default: %(default)s)",
    )
    parser.add_argument(
        "--min-sharpness",
        type=parse_float,
        default=MIN_SHARPNESS,
        metavar="S",
        help="leave out shots whose face is blurred; sharp ones have 0.1 to 1 (default: %(default)g)",
    )
    parser.add_argument(
        "--max-second-face-ratio",
        type=parse_float,
        default=MAX_SECOND_FACE_RATIO,
        metavar="RATIO",
        help="leave out shots with a second face in more than this ratio of their frames (default: "
        "%(default)g)",
    )
    add_renamed_option(parser, "--second-face", "--max-second-face-ratio")


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `prepare`."""
    from ..system.stage_timer import timed_stage

    sources = {
        "videos": args.videos,
        "--synthetic": args.synthetic,
        "--portraits": args.portraits,
        "--merge": args.merge,
    }
    chosen = [name for name, value in sources.items() if value]
    options = {"--people": args.people, "--part": args.part, "--ray": args.ray}
    of_videos = [name for name, value in options.items() if value is not None]
    if not chosen and not of_videos:
        raise TalkingheadError(
            "prepare: there are no videos; name videos or folders of them, --synthetic PEOPLE, --portraits "
            "FOLDER or --merge PARTS"
        )
    if len(chosen) > 1:
        raise TalkingheadError(
            f"prepare: {chosen[0]} and {chosen[1]} are different sources; name one of videos, --synthetic, "
            "--portraits and --merge"
        )
    if of_videos and chosen != ["videos"]:
        raise TalkingheadError(f"prepare: {of_videos[0]} takes videos; name videos or folders of them")
    prepare = _prepare_videos
    if args.portraits:
        prepare = _prepare_portraits
    elif args.synthetic:
        prepare = _prepare_synthetic
    elif args.merge:
        prepare = _merge_parts
    with timed_stage("reading and writing clips"):
        report = prepare(args, console)
    console.result(report.as_dict(), report.lines())


def _prepare_videos(args: argparse.Namespace, console: "Console") -> Any:
    from ..dataset.people_table import read_people
    from ..dataset.prepare import prepare
    from ..dataset.quality_filters import Filters

    return prepare(
        args.videos,
        args.out,
        args.size,
        filters=Filters(args.min_face, args.min_frames, args.min_sharpness, args.max_second_face_ratio),
        people=None if args.people is None else read_people(args.people),
        detector=open_chosen_detector(args, console),
        workers=args.workers,
        progress=console.progress,
        part=args.part,
        ray=args.ray,
        shard_clips=args.shard_clips,
    )


def _merge_parts(args: argparse.Namespace, console: "Console") -> Any:
    from ..dataset.merge_parts import merge_parts

    return merge_parts(args.merge, args.out, progress=console.progress, shard_clips=args.shard_clips)


def _prepare_synthetic(args: argparse.Namespace, console: "Console") -> "SyntheticReport":
    from ..synthetic.dataset import FRAMES, prepare_synthetic

    return prepare_synthetic(
        args.synthetic,
        args.clips_each,
        args.out,
        args.size,
        seed=args.seed,
        workers=args.workers,
        frames_each=args.frames_each or FRAMES,
        frame_stride=args.frame_stride,
        poses=args.poses,
        progress=console.progress,
        shard_clips=args.shard_clips,
    )


def _prepare_portraits(args: argparse.Namespace, console: "Console") -> "PortraitReport":
    from ..synthetic.portraits import FRAMES_EACH, prepare_portraits

    return prepare_portraits(
        args.portraits,
        args.out,
        args.size,
        args.seed,
        frames_each=args.frames_each or FRAMES_EACH,
        workers=args.workers,
        detector=open_chosen_detector(args, console),
        progress=console.progress,
        shard_clips=args.shard_clips,
    )
