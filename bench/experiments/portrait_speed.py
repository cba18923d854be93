"""Time what a user of `portrait` waits for: a person at once, and frames from landmarks to an encoded video.

    python -m bench.experiments.portrait_speed                           # 8 frames of the demo's clip
    python -m bench.experiments.portrait_speed anna1.jpg anna2.jpg ...   # up to 32 pictures of one person

Prints medians of three rounds, after a short one that is not counted.

A person at once: pictures are read, the detector `network` finds the face, the references are made, and the
person's file is written. The models are open already.

Frames a second: landmark images or motion fields, the network, conversion to uint8, and H.264 encoding, which
runs beside the next frames. The landmarks are 68 points of a face that sways, without irises, and with lids
as they are. So the figure includes no decoding and landmark detection of a driver, and no retargeting, gaze
or blinks.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from talkinghead.checkpoint import load_model, save_person
from talkinghead.data.few_shot import read_shots
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.media.video import VideoReader, write_video
from talkinghead.model import Person
from talkinghead.pipelines.animate import BATCH, render
from talkinghead.pipelines.demo import demo_clip
from talkinghead.pipelines.finetune import finetune
from talkinghead.system.prefetch import prefetch

ROUNDS, FRAMES = 3, 300
WARM_UP_FRAMES = 50
DEMO_PICTURES = 8
SWAY = 0.02
"""Motion of the driving landmarks, in fractions of the image."""


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds.

    Attributes:
        person_s: seconds from pictures to the file of a person.
        person_bytes: size of that file.
        frames_per_second: from landmarks to an encoded video.
    """

    person_s: float
    person_bytes: int
    frames_per_second: float


def time_video(person: Person, folder: Path, frames: int) -> float:
    """Return how many frames a second are rendered and encoded."""
    t = np.arange(frames)[:, None, None] / 25
    points = (person.neutral_landmarks + SWAY * np.concatenate([np.sin(t), np.cos(1.3 * t)], 2)).astype(
        np.float32
    )
    size = person.config.networks.image_size
    start = time.perf_counter()
    with write_video(folder / "video.mp4", Fraction(25), (size, size)) as video:
        for frame in prefetch(render(person, points), 2 * BATCH):
            video.write(frame)
    return frames / (time.perf_counter() - start)


def measure(pictures: Sequence[Any], name: str, rounds: int, frames: int) -> Speed:
    """Time rounds of learning a person from pictures and rendering frames by the model of a name."""
    model, detector = load_model(name), open_detector()
    size, convention = model.config.networks.image_size, model.config.crop
    seconds, rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "person.safetensors")
        for count in [WARM_UP_FRAMES] + [frames] * rounds:
            start = time.perf_counter()
            clip = read_shots(pictures, size, len(pictures), detector, convention=convention)
            person = finetune(model, clip, steps=0)
            save_person(person, path)
            seconds.append(time.perf_counter() - start)
            rates.append(time_video(person, Path(folder), count))
        return Speed(median(seconds[1:]), path.stat().st_size, median(rates[1:]))


def demo_pictures() -> list[np.ndarray]:
    """Return evenly spaced frames of the demo's clip, uint8 [H, W, 3]."""
    frames = list(VideoReader(demo_clip()))
    return [frames[number] for number in np.linspace(0, len(frames) - 1, DEMO_PICTURES).astype(int)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="*", help="of one person (default: frames of the demo's clip)")
    parser.add_argument("--model", default="portrait")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--frames", type=int, default=FRAMES, help="of each round")
    args = parser.parse_args(arguments)
    pictures = args.pictures or demo_pictures()
    speed = measure(pictures, args.model, args.rounds, args.frames)
    print(
        f"{args.model}, {torch.get_num_threads()} threads, {len(pictures)} pictures, landmarks by network, "
        f"medians of {args.rounds} rounds"
    )
    print(
        f"a person at once, from reading pictures to its file of {speed.person_bytes / 1000:.0f} KB: "
        f"{speed.person_s:.2f} s"
    )
    print(
        f"from 68 landmarks to an encoded video of {args.frames} frames, without reading a driver: "
        f"{speed.frames_per_second:.0f} frames a second"
    )


if __name__ == "__main__":
    main()
