"""Kill `train` at random points, and check that resumed runs end with the bytes of an uninterrupted run.

python -m tests.robustness.kills --kills 50 --seed 0
"""

import argparse
import multiprocessing
import random
import shutil
import tempfile
import time
from pathlib import Path

if __package__:  # run as a module
    from ..support.minimal_training import train_minimal, write_data
else:  # imported by a test
    from support.minimal_training import train_minimal, write_data

FILES = ("state.safetensors", "model.safetensors")
# A server imports torch once, and every run is forked from it.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    [train_minimal.__module__, "talkinghead.training.meta", "torch.utils.tensorboard"]
)


def train_in_process(data: Path, out: Path, kill_after: float | None = None) -> bool:
    """Train in another process, and return whether it was killed after `kill_after` seconds.

    Raises:
        AssertionError: the run ended with an error.
    """
    process = _PROCESSES.Process(target=train_minimal, args=(data, out))
    process.start()
    process.join(kill_after)
    killed = process.is_alive()
    process.kill()
    process.join()
    if not killed and process.exitcode:
        raise AssertionError(f"train ended with exit code {process.exitcode}")
    return killed


def check_kills(work: Path, kills: int, seed: int, verbose: bool = False) -> None:
    """Kill runs at random times, resume each, and compare its files with those of an uninterrupted run."""
    data, uninterrupted, rng = write_data(work / "data"), work / "uninterrupted", random.Random(seed)
    train_in_process(data, work / "warm")  # the first run waits for the server of processes
    start = time.monotonic()
    train_in_process(data, uninterrupted)
    duration = time.monotonic() - start
    expected = {name: (uninterrupted / name).read_bytes() for name in FILES}
    count = 0
    while count < kills:
        out = work / f"killed-{count}"
        if not train_in_process(data, out, rng.uniform(0, duration)):
            shutil.rmtree(out)  # it ended before it was killed
            continue
        files = sorted(path.name for path in out.iterdir()) if out.exists() else []
        train_in_process(data, out)
        for name, content in expected.items():
            assert (out / name).read_bytes() == content, (
                f"{out / name} differs from that of the uninterrupted run"
            )
        hidden = [path.name for path in out.iterdir() if path.name.startswith(".")]
        assert not hidden, f"{out}: holds {hidden}"
        count += 1
        if verbose:
            print(
                f"{count} of {kills}: killed with {', '.join(files) or 'no files'} written; the same bytes",
                flush=True,
            )
        shutil.rmtree(out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        check_kills(Path(work), args.kills, args.seed, verbose=True)


if __name__ == "__main__":
    main()
