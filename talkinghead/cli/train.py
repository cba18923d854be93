"""The command `train`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..constants import EVALUATE_EVERY, PRESETS, TRACKERS, VARIANTS
from ..errors import did_you_mean, quantity
from ..system import torchrun
from .argument_types import int_in_range
from .options import (
    MODELS,
    add_device,
    add_excluded_identities,
    add_perceptual,
    add_save_every,
    add_seed,
    add_training_data,
    parse_perceptual,
)
from .parser import add_command, add_renamed_option
from .path_arguments import FolderType, InputPath, ModelPath, PresetPath, VideosPath

if TYPE_CHECKING:
    from .console import Console

EXAMPLE = """\
example:
  talkinghead prepare clips/ --out data --size 64
  talkinghead train data --preset tiny --out run --exclude-identities bob
  talkinghead train people data --preset tiny --out run2   # half of the episodes from each
  tensorboard --logdir run/log
  talkinghead train data --out run --exclude-identities bob --evaluate clips/   # measures on bob meanwhile
  talkinghead finetune bob.mp4 --model run/model.safetensors --out bob.safetensors
  torchrun --nproc-per-node 4 -m talkinghead train data --preset paper --out run3   # on four GPUs

Interrupt it at any time; the same command resumes."""


def _output_patterns() -> tuple[str, ...]:
    from ..training.meta import FILES

    return FILES


def add_parser(commands: Any) -> None:
    """Add the parser of `train`."""
    parser = add_command(commands, "train", EXAMPLE)
    add_training_data(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=FolderType(_output_patterns),
        metavar="RUN",
        help="the run's folder: model, state, TensorBoard's log",
    )
    parser.add_argument(
        "--preset",
        type=parse_preset,
        default="tiny",
        metavar="PRESET",
        help=f"size of the networks: {', '.join(PRESETS)}, or a .toml file whose table [preset] overrides "
        "values of one of these (default: %(default)s)",
    )
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        default="ft",
        help="ft: to be fine-tuned; ff: to be used feed-forward (default: %(default)s)",
    )
    parser.add_argument(
        "--irises",
        action="store_true",
        help="show the networks the irises, so that the driver's gaze moves the person's; needs data with "
        "irises (default: as the preset says)",
    )
    _add_learning_options(parser)
    _add_monitoring_options(parser)
    add_perceptual(parser)
    add_device(parser)
    add_seed(parser)


def parse_preset(text: str) -> str:
    """Parse the name of a preset, or the path of a TOML file."""
    if text in PRESETS:
        return text
    if not text.lower().endswith(".toml"):
        names = ", ".join(PRESETS)
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {names}, and no .toml file{did_you_mean(text, PRESETS)}"
        )
    return PresetPath(text)


def _add_learning_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int_in_range(0), metavar="N", help="in all (default: the preset's)")
    add_excluded_identities(parser)
    parser.add_argument(
        "--init-from",
        type=ModelPath,
        metavar="MODEL",
        help=f"start from the weights of {MODELS}, of the same channels (default: random ones)",
    )
    parser.add_argument(
        "--grad-accum-steps",
        type=int_in_range(1),
        default=1,
        metavar="N",
        help="accumulate the gradient of each step over N parts of its episodes: less memory (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int_in_range(0),
        metavar="N",
        help="processes that read the data; 0 reads it between two steps (default: 4 on a GPU, 0 on a CPU)",
    )
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="read whole shards one after the other, with a shuffle buffer, instead of single frames",
    )
    add_save_every(parser)
    add_renamed_option(parser, "--leave-out", "--exclude-identities")
    add_renamed_option(parser, "--start", "--init-from")
    add_renamed_option(parser, "--accumulate", "--grad-accum-steps")


def _add_monitoring_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--track",
        nargs="+",
        choices=(*TRACKERS, "none"),
        default=("tensorboard",),
        metavar="TRACKER",
        help=f"where metrics and images go: {', '.join(TRACKERS)}, or none (default: tensorboard)",
    )
    parser.add_argument(
        "--evaluate",
        nargs="+",
        type=VideosPath,
        default=(),
        metavar="CLIPS",
        help="measure saved models on these videos or prepared data while training goes on, on the people of "
        "--exclude-identities where there are any; results are in RUN/evaluations/table.tsv",
    )
    parser.add_argument(
        "--evaluate-every",
        type=int_in_range(1),
        default=EVALUATE_EVERY,
        metavar="N",
        help="steps between two such evaluations (default: %(default)s)",
    )
    parser.add_argument(
        "--evaluate-config",
        type=InputPath,
        metavar="FILE.toml",
        help="options of `talkinghead evaluate`, as its --config reads them, but for the people of "
        "--exclude-identities and, with --variant ff, without fine-tuning (default: T = 8 on the longest "
        "clip of each person, by one worker)",
    )


def run(args: argparse.Namespace, console: "Console") -> None:
    """Run `train`."""
    import logging  # not for --help
    import shlex

    from ..dataset.remote import display
    from ..training.meta import train
    from ..training.run_folder import RunFolder
    from ..training.run_monitor import Monitoring

    _report_unused_preset(args)
    try:
        model = train(
            args.data,
            args.out,
            preset=args.preset,
            variant=args.variant,
            steps=args.steps,
            seed=args.seed,
            exclude_identities=args.exclude_identities,
            init_from=args.init_from,
            device=args.device,
            fast=args.fast,
            perceptual_files=parse_perceptual(args.perceptual),
            grad_accum_steps=args.grad_accum_steps,
            save_seconds=args.save_every,
            irises=args.irises,
            workers=args.workers,
            streaming=args.streaming,
            on_step=console.step_progress("meta-learning"),
            monitoring=Monitoring(args.track, args.evaluate, args.evaluate_every, args.evaluate_config),
        )
    except KeyboardInterrupt:
        if RunFolder(Path(args.out)).state.exists():
            prefix = "torchrun ... -m " if torchrun.is_launched() else ""
            command = prefix + shlex.join(map(display, shlex.split(args.command_line)))
            logging.getLogger(__name__).info("%s: resume by: %s", args.out, command)
        raise
    path = Path(args.out, "model.safetensors")
    values = {"model": str(path), **model.provenance, "seconds": round(RunFolder(Path(args.out)).seconds())}
    console.result(
        values,
        [f"{path}: model of preset {model.config.preset}, {quantity(model.provenance['steps'], 'step')}"],
    )


def _report_unused_preset(args: argparse.Namespace) -> None:
    """Warn where --preset replaces the table [preset] of the file of --config."""
    import logging  # not for --help

    from ..config_file import has_preset_table

    if args.config is not None and args.preset != args.config and has_preset_table(args.config):
        logging.getLogger(__name__).warning(
            "%s: its [preset] is not used, since --preset %s was named; leave --preset out to use it",
            args.config,
            args.preset,
        )
