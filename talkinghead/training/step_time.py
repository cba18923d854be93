"""The time that fine-tuning will take on this machine, estimated before it begins."""

from collections.abc import Sequence

from ..clip import Clip
from ..errors import quantity
from ..model import Model
from ..pretrained.perceptual import PerceptualNetwork, open_perceptual
from ..system.torch_state import with_default_torch_state
from .finetune import FinetuneRun
from .finetune_inputs import prepare_images

MIN_STEPS_TO_ESTIMATE = 30
"""A run of fewer steps is not worth an estimate, which takes as long as two or three of them."""


@with_default_torch_state
def estimate_seconds(
    model: Model,
    clip: Clip,
    steps: int,
    adversarial: bool = True,
    perceptual: Sequence[PerceptualNetwork] | None = None,
    perceptual_files: dict[str, str] | None = None,
) -> float | None:
    """Estimate the seconds of fine-tuning by one to three steps on copies of the networks, after a small one
    that warms up.

    Args:
        model, clip, steps, adversarial, perceptual, perceptual_files: as for `finetune_at_steps`.

    Returns:
        the seconds; None of a short run, or on a GPU, where compiling comes before the first step.

    Raises:
        TalkingheadError: the clip has no frames, or frames that are not square, or a network is missing.
    """
    if steps < MIN_STEPS_TO_ESTIMATE or model.device.type != "cpu":
        return None
    if perceptual is None:
        perceptual = open_perceptual(model.config.perceptual, perceptual_files, model.device)
    images = prepare_images(model, clip)
    run = FinetuneRun(model, clip, images, perceptual, adversarial=adversarial, seed=0)
    return steps * run.measure_step_seconds()


def planned_steps(model: Model, clip: Clip, steps: int | None = None, early_stopping: bool = False) -> int:
    """Return the largest number of steps of a run; arguments as for `describe_run`."""
    if steps is not None:
        return steps
    return model.config.finetune.steps(len(clip)) * (4 if early_stopping else 1)


def describe_run(
    model: Model, clip: Clip, steps: int | None = None, early_stopping: bool = False, **options: object
) -> str:
    """Return a line that says how many steps a run takes, whose number that is, and how long it takes here.

    Args:
        model, clip, steps: as for `finetune_at_steps`.
        early_stopping: whether it may end before; the default number of steps is then four times as large.
        **options: further arguments of `estimate_seconds`.
    """
    origin, count = "", planned_steps(model, clip, steps, early_stopping)
    if steps is None:
        times = "four times " if early_stopping else ""
        origin = f" ({times}{model.config.preset}'s default)"
    seconds = estimate_seconds(model, clip, count, **options)  # type: ignore[arg-type]
    most, time = ("up to ", ", at most") if early_stopping else ("", ",")
    duration = "" if seconds is None else f"{time} about {format_duration(seconds)} here"
    return f"learning {most}{quantity(count, 'step')}{origin}{duration}"


def format_duration(seconds: float) -> str:
    """Format a rough duration: "20 s", "3 min" or "2 h"."""
    if seconds < 90:
        return f"{max(5 * round(seconds / 5), 1)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
