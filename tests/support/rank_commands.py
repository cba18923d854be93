"""Commands that several processes run together, as torchrun starts them, and what they print."""

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.minimal_training import minimal_config
from support.rank_processes import start_ranks
from talkinghead import cli, config
from talkinghead.training import meta

BATCH = 6
"""Episodes of a step, which 2 and 3 processes share."""
Sabotage = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit codes of the processes, and what each printed to stdout and stderr."""

    codes: list[int]
    printed: list[str]


def start_train(
    arguments: Sequence[str], count: int, log: Path, sabotage: Sabotage | None = None
) -> list[Any]:
    """Start `talkinghead train` with the preset `tiny` made smaller on `count` processes.

    Args:
        arguments: of the command.
        count: of processes.
        log: folder for what they print.
        sabotage: a function of a module that every process calls with its rank.
    """
    log.mkdir(parents=True, exist_ok=True)
    return start_ranks(_train, count, list(arguments), log, sabotage)


def wait(processes: list[Any], log: Path, seconds: float = 120) -> Outcome:
    """Wait for the processes of `start_train`."""
    for process in processes:
        process.join(seconds)
    running = [process for process in processes if process.is_alive()]
    for process in running:
        process.kill()
        process.join()
    assert not running, f"{len(running)} processes did not end"
    printed = [Path(log, str(number)).read_text() for number in range(len(processes))]
    return Outcome([process.exitcode for process in processes], printed)


def run_train(arguments: Sequence[str], count: int, log: Path, sabotage: Sabotage | None = None) -> Outcome:
    """Run `start_train` to its end."""
    return wait(start_train(arguments, count, log, sabotage), log)


def _train(arguments: list[str], log: Path, sabotage: Sabotage | None) -> None:
    """Run the command in this process, with its output in a file."""
    output = os.open(log / os.environ["RANK"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    tiny = minimal_config()
    smaller = dataclasses.replace(tiny.meta, batch=BATCH, videos=20)
    config._PRESETS["tiny"] = dataclasses.replace(tiny, meta=smaller)
    meta.measure_peak_flops = lambda *_: 1.0  # measuring it takes seconds
    if sabotage is not None:
        sabotage(int(os.environ["RANK"]))
    sys.exit(cli.main(["train", *arguments]))
