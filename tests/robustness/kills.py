"""Kill `train` at random points: started again, it must end with the bytes of a run that nothing disturbed.

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
    from .least_training import train_least, write_data
else:  # imported by a test
    from least_training import train_least, write_data

FILES = ("state.safetensors", "model.safetensors")
_PROCESSES = multiprocessing.get_context("forkserver")  # a server imports torch once; each run is forked from it
_PROCESSES.set_forkserver_preload([train_least.__module__, "talkinghead.training.meta", "torch.utils.tensorboard"])


def run(data: Path, out: Path, kill_after: float | None = None) -> bool:
    """Train in another process, and say whether it was killed after so many seconds; a run that ends by itself must end well."""
    process = _PROCESSES.Process(target=train_least, args=(data, out))
    process.start()
    process.join(kill_after)
    killed = process.is_alive()
    process.kill()
    process.join()
    if not killed and process.exitcode:
        raise AssertionError(f"train ended with exit code {process.exitcode}")
    return killed


def check_kills(work: Path, kills: int, seed: int, say: bool = False) -> None:
    """Kill so many runs, each at a random point of its life, start each again, and compare what they end with."""
    data, whole, chance = write_data(work / "data"), work / "whole", random.Random(seed)
    run(data, work / "warm")  # the first waits for the server of processes
    start = time.monotonic()
    run(data, whole)
    life = time.monotonic() - start
    wanted = {name: (whole / name).read_bytes() for name in FILES}
    done = 0
    while done < kills:
        out = work / f"killed-{done}"
        if not run(data, out, chance.uniform(0, life)):
            shutil.rmtree(out)  # it was faster than the first
            continue
        left = sorted(path.name for path in out.iterdir()) if out.exists() else []
        run(data, out)
        for name, content in wanted.items():
            assert (out / name).read_bytes() == content, f"{out / name} differs from that of the run which was not killed"
        hidden = [path.name for path in out.iterdir() if path.name.startswith(".")]
        assert not hidden, f"{out}: holds {hidden}"
        done += 1
        if say:
            print(f"{done} of {kills}: killed with {', '.join(left) or 'nothing'} written; the same bytes", flush=True)
        shutil.rmtree(out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        check_kills(Path(work), given.kills, given.seed, say=True)


if __name__ == "__main__":
    main()
