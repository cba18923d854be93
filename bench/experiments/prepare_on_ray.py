"""Time `prepare` on a Ray cluster of two nodes of one core, against one process with two workers.

python -m bench.experiments.prepare_on_ray CLIPS [--videos 60] [--copies 4] [--rounds 1]

CLIPS is a folder of videos. Copies of them, each with another byte at its end, are so many different videos.
Both prepare the same ones into a temporary folder, in turns, and the bytes are compared. The cluster runs on
this machine and is started before. Printed are the seconds of each round: of the whole call, in which workers
start and import this package, and from the first result to the last. It needs two cores that nothing else
uses.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from talkinghead.dataset.discover import find_videos
from talkinghead.dataset.prepare import prepare

STORE_BYTES = 80 << 20
NAMES = ("2 workers", "2 Ray nodes")


class ResultTimes:
    """Progress that notes when the first and the last result came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, iterable: Iterable[Any], /, *, desc: str, total: int | None) -> Iterable[Any]:
        """Yield the same items."""
        for item in iterable:
            self.times.append(time.perf_counter())
            yield item


def time_prepare(videos: list[Path], out: Path, size: int, address: str | None) -> tuple[float, float]:
    """Prepare videos; return the seconds of the call, and those from the first result to the last."""
    results, start = ResultTimes(), time.perf_counter()
    prepare(videos, out, size, workers=None if address else 2, ray=address, progress=results)
    return time.perf_counter() - start, results.times[-1] - results.times[0]


def copy_videos(folder: Path, args: argparse.Namespace) -> list[Path]:
    """Copy videos, each with another byte at its end; return the copies."""
    copies = []
    for source in islice(find_videos([args.clips]), args.videos):
        for number in range(args.copies):
            copies.append(folder / f"{number}-{source.path.name}")
            copies[-1].write_bytes(source.path.read_bytes() + bytes([number]))
    return copies


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_rounds(videos: list[Path], folder: Path, args: argparse.Namespace, address: str) -> None:
    """Time both in turns, and print the results."""
    calls: dict[str, list[float]] = {name: [] for name in NAMES}
    spans: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(args.rounds):
        outs = [folder / f"{number}-{name}" for name in NAMES]
        for name, out in zip(NAMES, outs, strict=True):
            call, span = time_prepare(videos, out, args.size, address if name == NAMES[1] else None)
            calls[name].append(call)
            spans[name].append(span)
            print(f"{name:12} {call:7.1f} s, from first to last result {span:7.1f} s", flush=True)
        local, cluster = map(contents, outs)
        assert local == cluster, "the bytes differ"
    for what, seconds in (("whole call", calls), ("first to last result", spans)):
        local, ray = (statistics.median(seconds[name]) for name in NAMES)
        print(f"{what}: Ray has {local / ray:.3f} times the speed of two workers (same bytes)")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, default=128)
    args = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    from ray.cluster_utils import Cluster

    # Ray's sockets lie in the first folder, whose path must be short
    with tempfile.TemporaryDirectory(dir="/tmp") as session, tempfile.TemporaryDirectory() as folder:
        node = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
        head = {**node, "include_dashboard": False, "temp_dir": session}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(**node)
            cluster.wait_for_nodes()
            run_rounds(copy_videos(Path(folder), args), Path(folder), args, cluster.address)
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main()
