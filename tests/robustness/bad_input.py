"""Commands that are run on bad input, and reports of what goes wrong."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.sandbox import Outcome, leftovers

SEED = 20
LOG = os.environ.get("TALKINGHEAD_CORPUS_LOG")
"""File to append every call to: its name, exit code, processor time, memory and fault."""


@dataclass(frozen=True)
class Command:
    """Command line that reads an image or video.

    Attributes:
        template: arguments with the fields {source}, {person}, {model} and {out}, a folder.
        outputs: names of the files that it writes into {out}.
    """

    template: str
    outputs: tuple[str, ...]

    def arguments(self, source: Path, out: Path, person: Path, model: Path) -> list[str]:
        """Return the arguments of one call."""
        values = {"source": source, "out": out, "person": person, "model": model}
        return [word.format_map(values) for word in self.template.split()]


COMMANDS: dict[str, Command] = {
    "finetune": Command(
        "finetune {source} --model {model} --steps 0 --out {out}/p.safetensors", ("p.safetensors",)
    ),
    "animate": Command("animate {person} --model {model} --drive {source} --out {out}/v.mp4", ("v.mp4",)),
    "demo": Command(
        "demo {source} --model {model} --steps 0 --out {out}", ("result.mp4", "sheet.png", "metrics.json")
    ),
    "landmarks": Command("landmarks {source} --out {out}/l.png", ("l.png",)),
}


def find_faults(outcomes: Sequence[Outcome], names: Sequence[str]) -> list[str]:
    """Return a line "name: fault" for every outcome with a fault."""
    faults = [
        (name, outcome.fault() or leftovers(outcome)) for name, outcome in zip(names, outcomes, strict=True)
    ]
    if LOG:
        with open(LOG, "a") as log:
            for (name, fault), outcome in zip(faults, outcomes, strict=True):
                usage = f"{outcome.cpu_seconds:.2f} s\t{outcome.peak_bytes >> 20} MB"
                print(f"{name!r}\t{outcome.code}\t{usage}\t{fault!r}", file=log)
    return [f"{name}: {fault}" for name, fault in faults if fault]


def fail_on_faults(faults: Sequence[str], count: int) -> None:
    """Fail with all faults of `count` calls, names with the same fault in one line."""
    names_by_fault: dict[str, list[str]] = {}
    for line in faults:
        name, _, fault = line.partition(": ")
        names_by_fault.setdefault(fault, []).append(name)
    assert not faults, f"{len(faults)} of {count}:\n" + "\n".join(
        f"{', '.join(names)}: {fault}" for fault, names in names_by_fault.items()
    )
