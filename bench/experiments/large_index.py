"""Memory and start on a data set as large as VoxCeleb2, whose shards are links to one small shard.

python -m bench.experiments.large_index FOLDER

FOLDER is made with 145,000 videos of 6,112 people and 19 million frames. Printed are, of one process, the
seconds from opening the data to its first episodes, and the private memory (USS) that this adds.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from talkinghead.config import preset
from talkinghead.data.crop import Crop
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.dataset.shard_index import FILE, VERSION, build_index
from talkinghead.dataset.shard_reader import ClipInfo
from talkinghead.dataset.shard_writer import ShardWriter
from talkinghead.landmarks.mean_face import MEAN_FACE
from talkinghead.system.tensor_file import write_tensors

VIDEOS, PEOPLE, FRAMES_EACH, SHARD_CLIPS, SIDE = 145_000, 6_112, 131, 16, 64


def private_mb() -> float:
    """Return the private memory of this process in MB (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1000


def noise_frames(number: int) -> list[np.ndarray]:
    """Return the frames of a clip, uint8 [SIDE, SIDE, 3], which are noise."""
    random = np.random.default_rng(number)
    return list(random.integers(0, 255, (FRAMES_EACH, SIDE, SIDE, 3), np.uint8))


def write_shard(
    folder: Path, frames_of: Callable[[int], list[np.ndarray]] = noise_frames, side: int = SIDE
) -> Path:
    """Write one shard of clips of `FRAMES_EACH` frames of `side` pixels."""
    points = np.repeat(((MEAN_FACE[:, :2] * 0.15 + 0.5) * side).astype(np.float32)[None], FRAMES_EACH, 0)
    with ShardWriter(folder, SHARD_CLIPS) as writer:
        for number in range(SHARD_CLIPS):
            info = ClipInfo(
                name=f"{number}.mp4",
                sha256=f"{number:064x}",
                person=f"id{number:05d}",
                fps=25.0,
                frame_size=(side, side),
                crop=Crop(0, 0, side),
                frames=tuple(range(FRAMES_EACH)),
                size=side,
                detector="network",
            )
            writer.write(info, points, frames_of(number))
    return folder / "shard-000000.tar"


def make_data(folder: Path, videos: int = VIDEOS, people: int = PEOPLE) -> None:
    """Make a data set whose shards are links to one, and its index."""
    first = write_shard(folder)
    header, arrays = build_index([first])
    count = videos // SHARD_CLIPS
    shards = [first, *(folder / f"shard-{number:06d}.tar" for number in range(1, count))]
    for shard in shards[1:]:
        os.link(first, shard)
    clips = count * SHARD_CLIPS
    tiled = {name: np.tile(array, (count, *[1] * (array.ndim - 1))) for name, array in arrays.items()}
    tiled["shard"] = np.repeat(np.arange(count, dtype=np.int32), SHARD_CLIPS)
    tiled["person"] = (np.arange(clips) * people // clips).astype(np.int32)
    tiled["first_frame"] = np.arange(clips + 1, dtype=np.int64) * FRAMES_EACH
    header = {
        "kind": "index",
        "version": VERSION,
        "keys": [f"{key}-{number:06d}" for number in range(count) for key in header["keys"]],
        "people": [f"id{number:05d}" for number in range(people)],
        "shards": [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards],
    }
    write_tensors(folder / FILE, {name: torch.from_numpy(array) for name, array in tiled.items()}, header)


def open_data(folder: Path) -> EpisodeSource:
    """Open a data set as preset `tiny` does, without variants, and draw the episodes of a step."""
    meta = preset("tiny").meta
    source = EpisodeSource(folder, SIDE, meta.shots, meta.batch, videos=1, seed=0)
    source.deal()
    source.draw(0)
    return source


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if not (args.folder / FILE).exists():
        make_data(args.folder)
    before, start = private_mb(), time.monotonic()
    source = open_data(args.folder)
    print(f"{len(source.clips)} videos, {int(source.clips.num_frames.sum())} frames")
    print(f"first episodes after {time.monotonic() - start:.1f} s, {private_mb() - before:.0f} MB private")
    for step in range(1, 200):
        source.draw(step)
    print(f"after 200 steps {private_mb() - before:.0f} MB private")


if __name__ == "__main__":
    main()
