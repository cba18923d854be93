"""Fuzz every reader with damaged files, from the root of the repository.

python -m tests.robustness.fuzz --cases 2000 --seed 1
python -m tests.robustness.fuzz --seed 1 --case 137      # repeat one case; --keep FOLDER keeps its files

A case must succeed, or fail with a one-line error and exit code 2: without a traceback or signal, within 20 s
of CPU time and 2 GB of memory, and without a partial output. Seed and number determine a case.
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
for folder in (ROOT, ROOT / "kernels", ROOT / "tests", ROOT / "tests" / "robustness"):  # as with pytest
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from readers import Reader, make_readers  # noqa: E402

from support.sandbox import SandboxCall, SandboxPool, leftovers  # noqa: E402

BATCH_SIZE = 50  # cases whose files are on the disk at a time


@dataclass(frozen=True)
class Failure:
    """Failed case: its number, a description of the file and its damage, and the fault."""

    seed: int
    number: int
    description: str
    fault: str

    def __str__(self) -> str:
        return f"case {self.number} of seed {self.seed}: {self.description}: {self.fault}"


class Fuzz:
    """Fuzz run: a context manager that writes valid files of every kind and runs cases.

    Args:
        folder: folder for all files.
        seed: seed of all cases.
        servers: number of cases that run at a time.
    """

    def __init__(self, folder: Path, seed: int, servers: int = 1) -> None:
        self.folder, self.seed, self.sandbox = folder, seed, SandboxPool(servers)
        self.readers: dict[str, Reader] = {}

    def __enter__(self) -> "Fuzz":
        os.environ.pop("TALKINGHEAD_TEST_MODEL", None)
        self.sandbox.__enter__()
        self.readers = make_readers(self.folder / "valid", self.sandbox)
        return self

    def __exit__(self, *failure: object) -> None:
        self.sandbox.__exit__(*failure)

    def run(self, numbers: Iterable[int], keep: bool = False) -> Iterator[Failure]:
        """Run cases by number, and yield those that failed."""
        remaining = iter(numbers)
        while batch := list(islice(remaining, BATCH_SIZE)):
            cases = [self.prepare(number) for number in batch]
            outcomes = self.sandbox.run([call for _, call in cases])
            for number, (description, _), outcome in zip(batch, cases, outcomes, strict=True):
                fault = outcome.fault() or leftovers(outcome)
                if fault:
                    yield Failure(self.seed, number, description, fault)
                if not keep:
                    shutil.rmtree(self.folder / f"case-{number}")

    def prepare(self, number: int) -> tuple[str, SandboxCall]:
        """Write the files of a case, and return its description and its call."""
        rng = random.Random(f"{self.seed} {number}")
        name = list(self.readers)[number % len(self.readers)]
        source, out = self.folder / f"case-{number}" / "in", self.folder / f"case-{number}" / "out"
        for folder in (source, out):
            folder.mkdir(parents=True)
        path, damage = self.readers[name].damage(source, rng)
        call = self.readers[name].call(path, out, rng)
        subcommand = call.arguments[0] if call.command in ("cli", "bench") else ""
        return f"{name}, {damage}, {call.command} {subcommand}".rstrip(), call


def main() -> int:
    """Run the cases of the command line, and print those that failed."""
    parser = argparse.ArgumentParser(
        "fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200, help="number of cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all cases (default: %(default)s)")
    parser.add_argument("--case", type=int, help="run one case by its number")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all files in a new folder")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time (default: %(default)s)")
    args = parser.parse_args()
    numbers = range(args.cases) if args.case is None else [args.case]
    if args.keep is not None:
        args.keep.mkdir(parents=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        Fuzz(args.keep or Path(scratch), args.seed, args.jobs) as fuzz,
    ):
        count = 0
        for failure in fuzz.run(numbers, args.keep is not None):
            count += 1
            print(failure, flush=True)
    print(f"{len(numbers)} cases of seed {args.seed}: {count or 'none'} failed")
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main())
