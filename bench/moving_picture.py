"""Draw README's moving picture: somebody's only picture, the landmarks of another person that drive, and what is made of them.

python -m bench.moving_picture portrait anna.mp4 bob.mp4 out.webp   # anna's first clear frame does what bob does
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from talkinghead.animate import driving_points, landmark_frame, render
from talkinghead.checkpoint import load_model
from talkinghead.data.read import read_track
from talkinghead.data.shots import read_shots
from talkinghead.landmarks.detect import open_detector
from talkinghead.landmarks.smooth import smooth
from talkinghead.training.finetune import finetune

SIDE_PIXELS = 192
FRAME_STRIDE = 2
MILLISECONDS = 80
"""Of every frame: 12.5 a second, of a driver of 25."""
QUALITY = 70


def panel(frame: np.ndarray) -> Image.Image:
    """Return a frame uint8 [H, W, 3] at the size of the panels."""
    return Image.fromarray(frame).resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "person", "driver", "out"):
        parser.add_argument(name)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    model, detector = load_model(chosen.model), open_detector("dlib")
    pictures = read_shots([chosen.person], model.config.networks.image_size, 1, detector, convention=model.config.crop)
    person = finetune(model, pictures, steps=0)
    track = smooth(read_track(chosen.driver, detector))[::FRAME_STRIDE]
    points = driving_points(person, track)
    frames = []
    for position, result in zip(points, render(person, points), strict=True):
        row = Image.new("RGB", (3 * SIDE_PIXELS, SIDE_PIXELS))
        for column, shown in enumerate((pictures.frames[0], landmark_frame(position, 2 * SIDE_PIXELS), result)):
            row.paste(panel(shown), (column * SIDE_PIXELS, 0))
        frames.append(row)
    Path(chosen.out).parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(chosen.out, save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, quality=QUALITY)


if __name__ == "__main__":
    main()
