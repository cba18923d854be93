"""Time what a user of `portrait` waits for: a person at once, and frames from landmarks to an encoded video.

python -m bench.portrait_speed anna1.jpg anna2.jpg ...   # up to 32 pictures; medians of three rounds after one
"""

import argparse
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from statistics import median

import numpy as np
import torch

from talkinghead.animate import BATCH, render
from talkinghead.checkpoint import Person, load_model, save_person
from talkinghead.data.shots import read_shots
from talkinghead.engines.ahead import ahead
from talkinghead.landmarks.detect import open_detector
from talkinghead.media.video import write_video
from talkinghead.training.finetune import finetune

ROUNDS = 4
FRAMES = 300
SWAY = 0.02
"""How far the driving landmarks move, in fractions of the picture."""


def time_video(person: Person, folder: Path) -> float:
    """Return how many frames a second are rendered and encoded."""
    t = np.arange(FRAMES)[:, None, None] / 25
    points = (person.reference + SWAY * np.concatenate([np.sin(t), np.cos(1.3 * t)], 2)).astype(np.float32)
    size = person.config.networks.image_size
    start = time.perf_counter()
    with write_video(folder / "video.mp4", Fraction(25), (size, size)) as video:
        for frame in ahead(render(person, points), 2 * BATCH):
            video.write(frame)
    return FRAMES / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model", default="portrait")
    chosen = parser.parse_args()
    model, detector = load_model(chosen.model), open_detector("dlib")
    seconds, rates = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            start = time.perf_counter()
            clip = read_shots(
                chosen.pictures, model.config.networks.image_size, len(chosen.pictures), detector, convention=model.config.crop
            )
            person = finetune(model, clip, steps=0)
            save_person(person, Path(folder, "person.safetensors"))
            seconds.append(time.perf_counter() - start)
            rates.append(time_video(person, Path(folder)))
        size = Path(folder, "person.safetensors").stat().st_size
    print(f"{torch.get_num_threads()} threads, {len(chosen.pictures)} pictures")
    print(f"a person at once: {median(seconds[1:]):.2f} s, a file of {size / 1000:.0f} KB")
    print(f"from landmarks to an encoded video: {median(rates[1:]):.0f} frames a second")


if __name__ == "__main__":
    main()
