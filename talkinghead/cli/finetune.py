"""The command `finetune`."""

import argparse
from typing import TYPE_CHECKING, Any

from ..constants import (
    DEFAULT_MODEL,
    DEFAULT_SHOTS,
    MAX_REFERENCE_IMAGES,
    MIN_IMAGES_TO_HOLD_OUT,
    PAPER_FORM_MODEL,
)
from ..errors import TalkingheadError, quantity
from .argument_types import int_in_range
from .options import (
    add_detector,
    add_device,
    add_face,
    add_model,
    add_perceptual,
    add_seed,
    add_training_precision,
    open_chosen_detector,
    parse_perceptual,
)
from .parser import add_command, add_renamed_option
from .path_arguments import InputPath, PersonOutputPath

if TYPE_CHECKING:
    from ..model import Model, Person
    from .console import Console

EXAMPLE = """\
example:
  talkinghead finetune anna1.jpg anna2.jpg anna3.jpg --out anna.safetensors
  talkinghead finetune anna.mp4 --shots 16 --out anna.safetensors
  talkinghead finetune anna.jpg --steps 0 --out anna.safetensors   # at once, without learning

then:
  talkinghead animate anna.safetensors --drive bob.mp4 --out anna_as_bob.mp4"""


STEPS_HELP = (
    "the preset's; up to 16 pictures, portrait takes 40, tiny 160 and small 160; with 32 pictures twice as "
    "many"
)
MEASURED_SECONDS = {"portrait": 24, "tiny": 57, "small": 141}
"""Seconds of the preset's steps from 8 pictures on two cores of an AMD EPYC with bfloat16
(docs/benchmarks.md).
"""


def add_parser(commands: Any) -> None:
    """Add the parser of `finetune`."""
    parser = add_command(commands, "finetune", EXAMPLE)
    parser.add_argument(
        "pictures",
        nargs="+",
        type=InputPath,
        metavar="PICTURES_OR_VIDEO",
        help="pictures, folders of pictures or videos of one person",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=PersonOutputPath,
        metavar="PERSON.safetensors",
        help="the person to write",
    )
    add_model(parser)
    parser.add_argument(
        "--no-references",
        dest="references",
        action="store_false",
        help="keep no picture of the person in the file: the paper's form, whose model by default is small "
        "instead of portrait",
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=InputPath,
        metavar="PERSON.safetensors",
        help="a person who learns further; with pictures in the file, from those too",
    )
    parser.add_argument(
        "--keep-discriminator",
        action="store_true",
        help="keep the discriminator in the file, from which --from goes on: 3 MB more with the presets that "
        "ship",
    )
    _add_learning_options(parser)
    add_face(parser)
    add_perceptual(parser)
    add_device(parser)
    add_training_precision(parser)
    add_detector(parser)
    add_seed(parser)


def _add_learning_options(parser: argparse.ArgumentParser) -> None:
    seconds = ", ".join(f"{name} {count}" for name, count in MEASURED_SECONDS.items())
    parser.add_argument(
        "--steps",
        type=int_in_range(0),
        metavar="N",
        help=f"(default: {STEPS_HELP}; 0 makes the person at once, in a small file that needs its model). "
        f"On two cores of a CPU with bfloat16 {seconds} seconds were measured from 8 pictures; the time "
        "expected here is printed before the work",
    )
    parser.add_argument(
        "--early-stopping",
        action="store_true",
        help="stop before --steps (default: four times the preset's) when a held-out picture, or with fewer "
        f"than {MIN_IMAGES_TO_HOLD_OUT} pictures augmented views of them, no longer improves",
    )
    add_renamed_option(parser, "--stop", "the flag --early-stopping (leave it out for --stop steps)")
    parser.add_argument(
        "--shots",
        type=int_in_range(1, MAX_REFERENCE_IMAGES),
        default=DEFAULT_SHOTS,
        metavar="T",
        help="of a video, learn from T evenly spaced frames (default: %(default)s)",
    )
    parser.add_argument(
        "--no-adversarial",
        dest="adversarial",
        action="store_false",
        help="leave the discriminator out: faster, less sharp",
    )


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `finetune`."""
    from ..checkpoint import save_person
    from ..pipelines.finetune import add_known_pictures, finetune, read_pictures
    from ..system.atomic_file import check_writable
    from ..system.signals import graceful_shutdown
    from ..system.stage_timer import timed_stage
    from ..training.finetune import Diverged
    from ..training.interrupted import Interrupted
    from ..training.step_time import describe_run, planned_steps

    with timed_stage("reading the model"):
        start, model = _open_start(args)
    clip = read_pictures(
        model,
        args.pictures,
        shots=args.shots,
        face=args.face,
        detector=open_chosen_detector(args, console),
        progress=console.progress,
    )
    pictures = add_known_pictures(clip, start)
    check_writable(args.out)  # fail before minutes of work
    perceptual_files = parse_perceptual(args.perceptual)
    if args.steps != 0 and not (console.quiet or console.as_json):
        options = {"adversarial": args.adversarial, "perceptual_files": perceptual_files}
        console.print(describe_run(model, pictures, args.steps, args.early_stopping, **options))
    total = planned_steps(model, pictures, args.steps, args.early_stopping)
    # A second signal does not interrupt saving.
    with graceful_shutdown() as stop_requested:
        ended: BaseException | None = None
        try:
            with timed_stage("learning"):
                person = finetune(
                    start,
                    clip,
                    args.steps,
                    args.adversarial,
                    seed=args.seed,
                    perceptual_files=perceptual_files,
                    model=None if start is model else model,
                    early_stopping=args.early_stopping,
                    precision=args.precision,
                    device=args.device,
                    fast=args.fast,
                    on_step=console.step_progress("fine-tuning", total),
                )
        except (Interrupted, Diverged) as error:
            console.close_bars()
            if error.person is None:
                raise
            ended, person = error, error.person
        with timed_stage("writing the person"):
            save_person(person, args.out, args.keep_discriminator)
    line = _summary(args.out, len(clip), person.provenance, ended is not None)
    console.result({"person": str(args.out), **person.provenance}, [line])
    if ended is not None or stop_requested():
        raise ended or KeyboardInterrupt


def _open_start(args: argparse.Namespace) -> "tuple[Model | Person, Model]":
    """Return what learning starts from, a model or the person of --from, and the model."""
    from ..checkpoint import load_model, load_person
    from ..pipelines.finetune import check_further_steps, model_of
    from ..system.device import choose_device

    if args.start is not None:
        check_further_steps(args.steps)
    device = choose_device(args.device, args.fast)
    if args.start is not None:
        person = load_person(args.start, args.model).to(device)
        return person, model_of(person, args.model).to(device)
    name = args.model or (DEFAULT_MODEL if args.references else PAPER_FORM_MODEL)
    model = load_model(name, args.seed).to(device)
    if model.config.networks.reference_guided and not args.references:
        raise TalkingheadError(
            f"--no-references: model {name} uses the person's pictures; choose another --model, such as small"
        )
    return model, model


def _summary(out: str, images: int, provenance: dict[str, Any], ended_early: bool) -> str:
    """Describe the person that was written.

    Args:
        out: the file.
        images: number of new pictures.
        provenance: of the person.
        ended_early: whether learning was interrupted or diverged.
    """
    before, known = provenance.get("steps_before", 0), provenance["pictures"] - images
    pictures, steps = quantity(images, "picture"), quantity(provenance["steps"] - before, "step")
    if before or known:
        pictures = f"{images} new and {quantity(known, 'known picture')}"
    if before:
        steps += f" more, {provenance['steps']} in all"
    line = f"{out}: a person from {pictures}, {steps}"
    if ended_early:
        line += ", all that was learned until it ended early"
    if "stopped" in provenance:
        line += f", where the distance to {provenance['stopped']['by']} was least"
    return line
