"""What a frame takes, in time and memory, from 5 seconds of video to 60: `python -m bench.animate_length`, from the root.

The demo's clip, to and fro, drives a feed-forward person of `small`, from pixels, landmarks detected. Every run is a process of its own,
and the lengths take turns.
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

from bench.harness import machine

LENGTHS = 5, 20, 60


def run(video: Path) -> dict[str, float]:
    """Animate once, in this process: milliseconds a frame of each stage, and the most memory held, in MiB."""
    from talkinghead import animate_video, finetune, load_model
    from talkinghead.data.read import read_clip
    from talkinghead.demo import demo_clip

    model = load_model("small")
    person = finetune(model, read_clip(demo_clip(), model.config.networks.image_size, limit=8), steps=0)
    stages: dict[str, float] = {}

    def progress(items: Iterable[Any], total: int | None, what: str) -> Iterator[Any]:
        start = perf_counter()
        yield from items
        stages[what.split(" of ")[0]] = perf_counter() - start

    made = animate_video(person, video, video.with_name("out.mp4"), progress=progress)
    found = {what: 1e3 * seconds / made.frames for what, seconds in stages.items()}
    return found | {"whole": 1e3 * made.seconds / made.frames, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def write_long(folder: Path, seconds: int) -> Path:
    """The first seconds of the demo's clip, to and fro, so that every length shows the same and the face never jumps."""
    from talkinghead.demo import demo_clip
    from talkinghead.media.video import VideoReader, write_video

    reader = VideoReader(demo_clip())
    shown = list(islice(reader, round(LENGTHS[0] / 2 * reader.fps)))
    shown += shown[::-1]
    frames = islice(chain.from_iterable(repeat(shown)), round(seconds * reader.fps))
    path = folder / f"{seconds}.mp4"
    with write_video(path, reader.fps, shown[0].shape[:2]) as video:
        for frame in frames:
            video.write(frame)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(given.one)))
        return
    found: dict[int, list[dict[str, float]]] = {seconds: [] for seconds in LENGTHS}
    with TemporaryDirectory() as folder:
        videos = {seconds: write_long(Path(folder), seconds) for seconds in LENGTHS}
        for _ in range(given.rounds):
            for seconds, video in videos.items():
                command = [sys.executable, "-m", "bench.animate_length", "--one", str(video)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[seconds].append(json.loads(done.stdout.splitlines()[-1]))
    about = machine()
    print(f"{about['device']}, {about['threads']} threads, torch {about['versions']['torch']}, {about['date']}")
    names = list(found[LENGTHS[0]][0])
    print("| video | " + " | ".join("peak memory" if name == "MiB" else f"{name}, ms a frame" for name in names) + " |")
    print("|---" * (1 + len(names)) + "|")
    for seconds, runs in found.items():
        cells = [statistics.median(each[name] for each in runs) for name in names]
        print(
            f"| {seconds} s | "
            + " | ".join(f"{cell:.1f}" + (" MiB" if name == "MiB" else "") for name, cell in zip(names, cells, strict=True))
            + " |"
        )


if __name__ == "__main__":
    main()
