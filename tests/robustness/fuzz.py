"""Fuzz every reader with damaged files, from the root of the repository:

python -m tests.robustness.fuzz --cases 2000 --seed 1
python -m tests.robustness.fuzz --seed 1 --case 137      # one case again; --keep FOLDER leaves its files there

A case must end well, or with one line that says what is wrong and exit code 2: with no traceback, no signal, no more than 20 s of CPU
and 2 GB of memory, and with nothing of an output left. A case is drawn by its seed and number alone.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT, ROOT / "kernels", ROOT / "tests", ROOT / "tests" / "robustness"):  # as pytest finds them
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from readers import Reader, make_readers  # noqa: E402

from alone import Call, Crew, leftovers  # noqa: E402

BATCH = 50  # cases whose files are on the disk at a time


@dataclass(frozen=True)
class Failure:
    """A case that went wrong: its number, what was read and done to it, and the fault."""

    seed: int
    number: int
    what: str
    fault: str

    def __str__(self) -> str:
        return f"case {self.number} of seed {self.seed}: {self.what}: {self.fault}"


class Fuzz:
    """Runs cases; a context manager, in which whole files of every kind are at hand.

    Args:
        folder: for files.
        seed: of all cases.
        servers: how many cases run at a time.
    """

    def __init__(self, folder: Path, seed: int, servers: int = 1) -> None:
        self.folder, self.seed, self.crew = folder, seed, Crew(servers)
        self.readers: dict[str, Reader] = {}

    def __enter__(self) -> "Fuzz":
        os.environ.pop("TALKINGHEAD_TEST_MODEL", None)
        self.crew.__enter__()
        self.readers = make_readers(self.folder / "whole", self.crew)
        return self

    def __exit__(self, *failure: object) -> None:
        self.crew.__exit__(*failure)

    def run(self, numbers: Iterable[int], keep: bool = False) -> Iterator[Failure]:
        """Run cases by number, and yield those that went wrong."""
        remaining = iter(numbers)
        while batch := list(islice(remaining, BATCH)):
            cases = [self.prepare(number) for number in batch]
            outcomes = self.crew.run([call for _, call in cases])
            for number, (what, _), outcome in zip(batch, cases, outcomes, strict=True):
                fault = outcome.fault() or leftovers(outcome)
                if fault:
                    yield Failure(self.seed, number, what, fault)
                if not keep:
                    shutil.rmtree(self.folder / f"case-{number}")

    def prepare(self, number: int) -> tuple[str, Call]:
        """Write the files of a case; returns what it is, and its call."""
        chance = random.Random(f"{self.seed} {number}")
        name = list(self.readers)[number % len(self.readers)]
        place, out = self.folder / f"case-{number}" / "in", self.folder / f"case-{number}" / "out"
        for each in (place, out):
            each.mkdir(parents=True)
        path, done = self.readers[name].damage(place, chance)
        call = self.readers[name].call(path, out, chance)
        return f"{name}, {done}, {call.verb} {call.arguments[0] if call.verb in ('cli', 'bench') else ''}".rstrip(), call


def main() -> int:
    parser = argparse.ArgumentParser("fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which (default: %(default)s)")
    parser.add_argument("--case", type=int, help="one by its number")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave all files in a new folder")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time (default: %(default)s)")
    args = parser.parse_args()
    numbers = range(args.cases) if args.case is None else [args.case]
    if args.keep is not None:
        args.keep.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch, Fuzz(args.keep or Path(scratch), args.seed, args.jobs) as fuzz:
        count = 0
        for failure in fuzz.run(numbers, args.keep is not None):
            count += 1
            print(failure, flush=True)
    print(f"{len(numbers)} cases of seed {args.seed}: {count or 'none'} went wrong")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main())
