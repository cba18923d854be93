"""Time what a user of `portrait` waits for: a person at once, and frames from landmarks to an encoded video.

python -m bench.experiments.portrait_speed anna1.jpg anna2.jpg ...   # up to 32 images; median of three rounds
"""

import argparse
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
import torch

from talkinghead.checkpoint import load_model, save_person
from talkinghead.data.few_shot import read_shots
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.media.video import write_video
from talkinghead.model import Person
from talkinghead.pipelines.animate import BATCH, render
from talkinghead.pipelines.finetune import finetune
from talkinghead.system.prefetch import prefetch

ROUNDS = 4
FRAMES = 300
SWAY = 0.02
"""Motion of the driving landmarks, in fractions of the image."""


def time_video(person: Person, folder: Path) -> float:
    """Return how many frames a second are rendered and encoded."""
    t = np.arange(FRAMES)[:, None, None] / 25
    points = (person.neutral_landmarks + SWAY * np.concatenate([np.sin(t), np.cos(1.3 * t)], 2)).astype(
        np.float32
    )
    size = person.config.networks.image_size
    start = time.perf_counter()
    with write_video(folder / "video.mp4", Fraction(25), (size, size)) as video:
        for frame in prefetch(render(person, points), 2 * BATCH):
            video.write(frame)
    return FRAMES / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model", default="portrait")
    args = parser.parse_args()
    model, detector = load_model(args.model), open_detector("dlib")
    seconds, rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            clip = read_shots(
                args.pictures,
                model.config.networks.image_size,
                len(args.pictures),
                detector,
                convention=model.config.crop,
            )
            person = finetune(model, clip, steps=0)
            save_person(person, Path(folder, "person.safetensors"))
            seconds.append(time.perf_counter() - start)
            rates.append(time_video(person, Path(folder)))
        size = Path(folder, "person.safetensors").stat().st_size
    print(f"{torch.get_num_threads()} threads, {len(args.pictures)} pictures")
    print(f"a person at once: {median(seconds[1:]):.2f} s, a file of {size / 1000:.0f} KB")
    print(f"from landmarks to an encoded video: {median(rates[1:]):.0f} frames a second")


if __name__ == "__main__":
    main()
