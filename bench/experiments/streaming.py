"""Reading of episodes from single frames and from whole shards, and its share of a training step on a CPU.

python -m bench.experiments.streaming FOLDER [--preset small] [--out streaming.json]

FOLDER is made with shards whose clips are the frames of the demo's video at 256 pixels; all but the first are
links to it, so they are in the disk cache. Both ways of reading take turns, on one thread, without worker
processes. Then a training step of the preset is taken after each drawn batch. Printed are frames of
episodes a second of the core's time, and the share of the time in which a step waits for its data.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.experiments.large_index import FRAMES_EACH, write_shard
from bench.lib.harness import machine
from talkinghead.config import Config, preset
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.dataset.streamed_episodes import StreamedEpisodes
from talkinghead.media.images import resize
from talkinghead.media.video import VideoReader
from talkinghead.model import random_model
from talkinghead.pipelines.demo import demo_clip
from talkinghead.pretrained.perceptual import open_perceptual
from talkinghead.training.meta_learner import MetaLearner

SIDE = 256
KINDS: dict[str, type[EpisodeSource]] = {"random": EpisodeSource, "streaming": StreamedEpisodes}


def make_data(folder: Path, shards: int) -> None:
    """Make a data set whose shards are links to one."""
    images = []
    for frame in VideoReader(demo_clip()):
        side = min(frame.shape[:2])
        images.append(resize(np.ascontiguousarray(frame[:side, :side]), SIDE))
    count = len(images)
    write_shard(folder, lambda clip: [images[(5 * clip + k) % count] for k in range(FRAMES_EACH)], SIDE)
    for number in range(1, shards):
        os.link(folder / "shard-000000.tar", folder / f"shard-{number:06d}.tar")


def open_sources(folder: Path, config: Config) -> dict[str, EpisodeSource]:
    """Open the data in both ways, without variants, and without keeping decoded frames."""
    meta, sources = config.meta, {}
    for name, kind in KINDS.items():
        size = config.networks.image_size
        source = kind(
            folder, size, meta.shots, meta.batch, videos=1, seed=0, num_points=config.networks.num_points
        )
        source.share_cache(1 << 40)  # a large data set draws none of them again
        sources[name] = source
    return sources


def measure_reading(sources: dict[str, EpisodeSource], steps: int, warm_up: int) -> dict[str, float]:
    """Return frames a second of the core's time, which other work changes little."""
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    frames = 0
    for step in range(warm_up + steps):
        for name, source in sources.items():
            start = time.process_time()
            frames = source.draw(step).frames.shape[:2].numel()
            if step >= warm_up:
                seconds[name].append(time.process_time() - start)
    return {name: frames * len(values) / sum(values) for name, values in seconds.items()}


def measure_steps(
    sources: dict[str, EpisodeSource], config: Config, steps: int
) -> dict[str, dict[str, float]]:
    """Return the medians of a training step and of drawing its batch, and the share of the second in both."""
    torch.manual_seed(0)
    learner = MetaLearner(
        random_model(config),
        max(source.columns for source in sources.values()),
        open_perceptual(config.perceptual, None, torch.device("cpu")),
    )
    results: dict[str, dict[str, float]] = {}
    for name, source in sources.items():
        waits, works = [], []
        for step in range(steps + 1):
            start = time.perf_counter()
            batch = source.draw(1000 + step)
            ready = time.perf_counter()
            learner.step(batch)
            if step:
                waits.append(ready - start)
                works.append(time.perf_counter() - ready)
        results[name] = {
            "step_seconds": statistics.median(works),
            "wait_seconds": statistics.mean(waits),
            "wait_percent": 100 * sum(waits) / (sum(waits) + sum(works)),
        }
    return results


def measure(folder: Path, name: str, draws: int, steps: int) -> dict[str, Any]:
    """Return all figures of a preset, whose batch is drawn by one thread."""
    config = preset(name)
    config = dataclasses.replace(config, meta=dataclasses.replace(config.meta, videos=1))
    sources = open_sources(folder, config)
    reading = measure_reading(sources, draws, warm_up=20)
    return {
        "frames_per_second": reading,
        "training": measure_steps(open_sources(folder, config), config, steps),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not list(args.folder.glob("*.tar")):
        make_data(args.folder, args.shards)
    results = measure(args.folder, args.preset, args.draws, args.steps)
    for name in KINDS:
        training = results["training"][name]
        print(
            f"{name:10} {results['frames_per_second'][name]:6.0f} frames/s, "
            f"{1000 * training['wait_seconds']:6.1f} ms of {1000 * training['step_seconds']:6.0f} ms a step, "
            f"{training['wait_percent']:.2f} % waiting"
        )
    if args.out:
        date = time.strftime("%Y-%m-%d")
        settings = {"preset": args.preset, "shards": args.shards, "draws": args.draws, "steps": args.steps}
        report = {"date": date, "machine": machine(), "settings": settings, **results}
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
