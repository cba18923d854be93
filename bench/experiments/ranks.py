"""Steps of meta-learning on two ranks of one thread, against one process of two threads.

python -m bench.experiments.ranks [--steps 30] [--batch 6]

Both take the same steps of preset `tiny`, on random images, in turns: a step of one, then a step of the
other. Printed are the medians of a step, and the episodes a second of the ranks as a share of the process's.
It needs two cores that nothing else uses.
"""

import argparse
import dataclasses
import multiprocessing
import os
import socket
import statistics
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from talkinghead.config import preset
from talkinghead.dataset.episodes import Episodes
from talkinghead.model import random_model
from talkinghead.pretrained.perceptual import EfficientNetLite0
from talkinghead.training.meta_learner import MetaLearner
from talkinghead.training.ranks import joined_ranks

VIDEOS = 600
WARM_UP_STEPS = 3


class Processes:
    """Processes that take steps together.

    Args:
        count: of processes.
        threads: of each.
        batch: episodes of a step of all.
        precision: "bf16" or "fp32".
    """

    def __init__(self, count: int, threads: int, *, batch: int, precision: str) -> None:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self._pipes: list[Connection] = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "TORCHELASTIC_RUN_ID": "bench",
                "OMP_NUM_THREADS": str(threads),
            }
            context.Process(
                target=_take_steps, args=(theirs, variables, threads, batch, precision), daemon=True
            ).start()
            self._pipes.append(ours)

    def step(self) -> float:
        """Take a step, and return its duration in seconds."""
        start = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(None)
        for pipe in self._pipes:
            pipe.recv()
        return time.perf_counter() - start


def _take_steps(
    pipe: Connection, variables: dict[str, str], threads: int, batch: int, precision: str
) -> None:
    """Take a step for every message."""
    os.environ |= variables
    torch.set_num_threads(threads)
    with joined_ranks() as ranks:
        learner, episodes = _build(ranks, batch, precision)
        with suppress(EOFError):  # the bench has ended
            while True:
                pipe.recv()
                learner.step(episodes)
                pipe.send(None)


def _build(ranks: Any, batch: int, precision: str) -> tuple[MetaLearner, Episodes]:
    """Return a learner, and this rank's random episodes."""
    config = preset("tiny")
    config = dataclasses.replace(config, meta=dataclasses.replace(config.meta, batch=batch))
    torch.manual_seed(0)
    learner = MetaLearner(random_model(config), VIDEOS, [EfficientNetLite0()], ranks=ranks)
    learner.precision = precision
    size, own = config.networks.image_size, batch // ranks.count
    frames = torch.rand(own, 1 + config.meta.shots, 3, size, size) * 2 - 1
    points = torch.rand(own, 1 + config.meta.shots, 68, 2)
    return learner, Episodes(frames, points, torch.arange(own))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    args = parser.parse_args()
    settings = {"batch": args.batch, "precision": args.precision}
    kinds = {
        "1 process, 2 threads": Processes(1, 2, **settings),
        "2 ranks, 1 thread": Processes(2, 1, **settings),
    }
    samples: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(WARM_UP_STEPS + args.steps):
        for name, processes in kinds.items():
            seconds = processes.step()
            if number >= WARM_UP_STEPS:
                samples[name].append(seconds)
    process, ranks = (statistics.median(values) for values in samples.values())
    for name, seconds in zip(kinds, (process, ranks), strict=True):
        print(f"{name:22} {1000 * seconds:8.1f} ms a step, {args.batch / seconds:6.2f} episodes/s")
    print(f"ranks / process: {process / ranks:.3f}")


if __name__ == "__main__":
    main()
