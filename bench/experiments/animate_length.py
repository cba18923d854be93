"""Time per frame and memory of animations of 5 to 60 seconds.

    python -m bench.experiments.animate_length     # from the root of the repository

The clip of the demo, played forwards and backwards, drives a feed-forward person of `small`; landmarks are
detected. Every run is a process of its own, and runs of different lengths alternate.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from bench.lib.harness import machine

LENGTHS = 5, 20, 60


def run(video: Path) -> dict[str, float]:
    """Animate once; return milliseconds per frame of each stage, and the peak memory in MiB."""
    from talkinghead import animate_video, finetune, load_model
    from talkinghead.data.load import read_clip
    from talkinghead.pipelines.demo import demo_clip

    model = load_model("small")
    person = finetune(model, read_clip(demo_clip(), model.config.networks.image_size, limit=8), steps=0)
    stages: dict[str, float] = {}

    def progress(items: Iterable[Any], /, *, desc: str, total: int | None) -> Iterator[Any]:
        start = perf_counter()
        yield from items
        stages[desc.split(" of ")[0]] = perf_counter() - start

    animation = animate_video(person, video, video.with_name("out.mp4"), progress=progress)
    results = {what: 1e3 * seconds / animation.frames for what, seconds in stages.items()}
    return results | {
        "whole": 1e3 * animation.seconds / animation.frames,
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def write_long(folder: Path, seconds: int) -> Path:
    """Write a video of the start of the demo's clip, repeated forwards and backwards; return its path.

    Every length then shows the same frames, and the face never jumps.
    """
    from talkinghead.media.video import VideoReader, write_video
    from talkinghead.pipelines.demo import demo_clip

    reader = VideoReader(demo_clip())
    excerpt = list(islice(reader, round(LENGTHS[0] / 2 * reader.fps)))
    excerpt += excerpt[::-1]
    frames = islice(chain.from_iterable(repeat(excerpt)), round(seconds * reader.fps))
    path = folder / f"{seconds}.mp4"
    with write_video(path, reader.fps, excerpt[0].shape[:2]) as video:
        for frame in frames:
            video.write(frame)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(args.one)))
        return
    results: dict[int, list[dict[str, float]]] = {seconds: [] for seconds in LENGTHS}
    with TemporaryDirectory() as folder:
        videos = {seconds: write_long(Path(folder), seconds) for seconds in LENGTHS}
        for _ in range(args.rounds):
            for seconds, video in videos.items():
                command = [sys.executable, "-m", "bench.experiments.animate_length", "--one", str(video)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results[seconds].append(json.loads(done.stdout.splitlines()[-1]))
    about = machine()
    print(
        f"{about['device']}, {about['threads']} threads, torch {about['versions']['torch']}, {about['date']}"
    )
    names = list(results[LENGTHS[0]][0])
    print(
        "| video | "
        + " | ".join("peak memory" if name == "MiB" else f"{name}, ms a frame" for name in names)
        + " |"
    )
    print("|---" * (1 + len(names)) + "|")
    for seconds, runs in results.items():
        cells = [statistics.median(measurement[name] for measurement in runs) for name in names]
        print(
            f"| {seconds} s | "
            + " | ".join(
                f"{cell:.1f}" + (" MiB" if name == "MiB" else "")
                for name, cell in zip(names, cells, strict=True)
            )
            + " |"
        )


if __name__ == "__main__":
    main()
