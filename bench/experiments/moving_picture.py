"""Draw README's animation: the only reference image of a person, the driving landmarks of another person, and
the rendered frames.

# anna's first clear frame does what bob does
python -m bench.experiments.moving_picture portrait anna.mp4 bob.mp4 out.webp
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from talkinghead.checkpoint import load_model
from talkinghead.data.few_shot import read_shots
from talkinghead.data.load import read_track
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.landmarks.smoothing import smooth
from talkinghead.pipelines.animate import driving_points, render, render_landmarks_uint8
from talkinghead.pipelines.finetune import finetune

SIDE_PIXELS = 192
FRAME_STRIDE = 2
MILLISECONDS = 80
"""Duration of a frame: every second frame of a driver of 25 frames per second is shown."""
QUALITY = 70


def panel(frame: np.ndarray) -> Image.Image:
    """Return a frame uint8 [H, W, 3] at the size of the panels."""
    return Image.fromarray(frame).resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "person", "driver", "out"):
        parser.add_argument(name)
    args = parser.parse_args()
    torch.manual_seed(0)
    model, detector = load_model(args.model), open_detector("dlib")
    pictures = read_shots(
        [args.person], model.config.networks.image_size, 1, detector, convention=model.config.crop
    )
    person = finetune(model, pictures, steps=0)
    track = smooth(read_track(args.driver, detector))[::FRAME_STRIDE]
    points = driving_points(person, track)
    frames = []
    for position, result in zip(points, render(person, points), strict=True):
        row = Image.new("RGB", (3 * SIDE_PIXELS, SIDE_PIXELS))
        for column, image in enumerate(
            (pictures.frames[0], render_landmarks_uint8(position, 2 * SIDE_PIXELS), result)
        ):
            row.paste(panel(image), (column * SIDE_PIXELS, 0))
        frames.append(row)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(
        args.out, save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, quality=QUALITY
    )


if __name__ == "__main__":
    main()
