"""Options that several commands share: their types, and what the values stand for."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..constants import (
    DEFAULT_MODEL,
    DETECTOR_ENDINGS,
    DETECTORS,
    DEVICES,
    PRECISIONS,
    RETARGET,
    TRAINING_PRECISIONS,
)
from ..errors import TalkingheadError, did_you_mean
from ..weights import shipped_models
from .argument_types import int_in_range, positive_float
from .path_arguments import DetectorName, EnginePath, InputPath, ModelPath, NamedPath

if TYPE_CHECKING:
    from ..engines.base import Engine
    from ..landmarks.detector import Detector
    from ..model import Person
    from .console import Console

MODELS = f"{' or '.join(shipped_models())} (from the package), a file, or hf://OWNER/NAME"


def add_person(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument PERSON."""
    parser.add_argument("person", type=InputPath, metavar="PERSON", help="from `talkinghead finetune`")


def add_people(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add the positional arguments PERSON, one or several for a purpose."""
    parser.add_argument(
        "person",
        nargs="+",
        type=InputPath,
        metavar="PERSON",
        help=f"from `talkinghead finetune`; several {purpose}",
    )


def add_model_of_person(parser: argparse.ArgumentParser) -> None:
    """Add --model of commands that read a person."""
    parser.add_argument(
        "--model",
        type=ModelPath,
        metavar="MODEL",
        help=f"the model of a person made with --steps 0: {MODELS} (default: the package's of its preset)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model of commands that learn a person."""
    parser.add_argument(
        "--model",
        type=ModelPath,
        metavar="MODEL",
        help=f"where learning starts: {MODELS}, or none, random weights (default: {DEFAULT_MODEL})",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add --precision of the generator."""
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of the generator's arithmetic; auto: bf16 where the machine is faster with it, else fp32 "
        "(default: %(default)s)",
    )


def add_training_precision(parser: argparse.ArgumentParser) -> None:
    """Add --precision of fine-tuning."""
    parser.add_argument(
        "--precision",
        choices=("auto", *TRAINING_PRECISIONS),
        default="auto",
        help="of learning; auto: the preset's, where the machine is fast in it (default: %(default)s)",
    )


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add --engine and --trust."""
    parser.add_argument(
        "--engine",
        type=EnginePath,
        metavar="FILE",
        help="render with this engine of the person, from `talkinghead export` (default: PyTorch)",
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add --trust."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the native code of a .pt2 engine that another machine made; it can do all you can",
    )


def open_chosen_engine(args: argparse.Namespace, person: "Person") -> "Engine | None":
    """Open the engine of --engine, or return None without one."""
    from ..engines.load import open_engine

    if args.engine is None:
        return None
    if args.precision != "auto":
        raise TalkingheadError("--precision is fixed by the engine; leave out --precision or --engine")
    return open_engine(args.engine, person, args.device, args.trust)


def add_detector(parser: argparse.ArgumentParser) -> None:
    """Add --landmarks and --detector-device."""
    parser.add_argument(
        "--landmarks",
        type=parse_detector,
        default="auto",
        metavar="DETECTOR",
        help=f"the landmark detector: {', '.join(DETECTORS)}, or MediaPipe's face_landmarker.task "
        "(default: %(default)s, the networks of this package)",
    )
    parser.add_argument(
        "--detector-device",
        default="cpu",
        metavar="DEVICE",
        help="where network or face-alignment run, such as cuda (default: %(default)s)",
    )


def parse_detector(text: str) -> DetectorName:
    """Parse the name of a landmark detector, or the path of one's file."""
    if text in DETECTORS or text.endswith(DETECTOR_ENDINGS):
        return DetectorName(text)
    names = ", ".join(DETECTORS)
    raise argparse.ArgumentTypeError(
        f"{text!r} is none of {names}, and no file of a detector{did_you_mean(text, DETECTORS)}"
    )


def open_chosen_detector(args: argparse.Namespace, console: "Console") -> "Detector":
    """Open the detector of --landmarks, and print which one it is."""
    from ..landmarks.open_detector import open_detector

    detector = open_detector(args.landmarks, args.detector_device)
    console.print(f"landmarks by {detector.name}")
    return detector


def add_device(parser: argparse.ArgumentParser, fast: bool = True) -> None:
    """Add --device and, of commands that compute with this package's ops, --fast."""
    parser.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help=f"where networks run: {', '.join(DEVICES)}; auto is a GPU where torch sees one (default: "
        "%(default)s)",
    )
    if fast:
        parser.add_argument(
            "--fast",
            action="store_true",
            help="on a GPU, use this package's own kernels and CUDA graphs, which no measurement supports "
            "yet (default: torch's)",
        )


def add_face(parser: argparse.ArgumentParser) -> None:
    """Add --face."""
    parser.add_argument(
        "--face",
        type=int_in_range(1),
        default=1,
        metavar="N",
        help="which face, when a video shows several: 1 is the largest times longest; `talkinghead "
        "landmarks` shows their numbers",
    )


def add_identity_network(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add --identity-network."""
    parser.add_argument("--identity-network", type=InputPath, metavar="FILE.onnx", help=purpose)


def add_retarget(
    parser: argparse.ArgumentParser, auto: str = "off where the driver is the person, else on"
) -> None:
    """Add --retarget; `auto` says what its default does."""
    parser.add_argument(
        "--retarget",
        choices=RETARGET,
        default="auto",
        help="on: the person keeps their own proportions; off: the driver's landmarks as they are, scaled "
        f"and shifted; auto: {auto} (default: %(default)s)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add --seed."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of everything random (default: %(default)s)"
    )


def add_workers(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add --workers."""
    parser.add_argument(
        "--workers", type=int_in_range(1), metavar="N", help=f"{purpose} (default: one for each core)"
    )


def add_perceptual(parser: argparse.ArgumentParser) -> None:
    """Add --perceptual."""
    parser.add_argument(
        "--perceptual",
        nargs="+",
        type=NamedPath,
        default=(),
        metavar="NAME=FILE",
        help="weights of vgg19 and vggface, which preset paper needs",
    )


def parse_perceptual(values: Sequence[str]) -> dict[str, str]:
    """Return the files of --perceptual by name.

    Raises:
        TalkingheadError: a value is not NAME=FILE.
    """
    pairs = [text.partition("=") for text in values]
    for name, _, file in pairs:
        if not file:
            raise TalkingheadError(
                f"--perceptual {name}: names no file; write NAME=FILE, such as vgg19=vgg19.safetensors"
            )
    return {name: file for name, _, file in pairs}


def add_training_data(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument DATA of commands that train."""
    parser.add_argument(
        "data",
        nargs="+",
        type=InputPath,
        metavar="DATA",
        help="from `talkinghead prepare`, or its URL; several are sampled equally often",
    )


def add_excluded_identities(parser: argparse.ArgumentParser) -> None:
    """Add --exclude-identities of commands that train."""
    parser.add_argument(
        "--exclude-identities",
        nargs="+",
        default=(),
        metavar="PERSON",
        help="people not to learn from, to test on",
    )


def add_save_every(parser: argparse.ArgumentParser) -> None:
    """Add --save-every of commands that train."""
    parser.add_argument(
        "--save-every",
        type=positive_float,
        default=120.0,
        metavar="SECONDS",
        help="time between two saves (default: %(default)g)",
    )
