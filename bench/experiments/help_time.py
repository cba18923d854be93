"""Time of `talkinghead --help` and the like: whole processes, the median of ten.

python -m bench.experiments.help_time
"""

import statistics
import subprocess
import sys
from time import perf_counter

COMMANDS = ("--help", "--version", "finetune --help", "train --help", "info --help")
RUNS = 10


def median_seconds(arguments: list[str]) -> float:
    """Return the median duration of processes of the command line."""
    durations = []
    for _ in range(RUNS):
        start = perf_counter()
        subprocess.run(
            [sys.executable, "-m", "talkinghead", *arguments], stdout=subprocess.DEVNULL, check=True
        )
        durations.append(perf_counter() - start)
    return statistics.median(durations)


if __name__ == "__main__":
    for command in COMMANDS:
        print(f"talkinghead {command:16} {median_seconds(command.split()):.3f} s")
