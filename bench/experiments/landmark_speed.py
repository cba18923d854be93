"""Time the stages of the landmark networks on a clip's frames of 640x480, interleaved.

    python -m bench.experiments.landmark_speed CLIP --threads 1 --seconds 10

Prints the median, the 10% quantile and the minimum in microseconds a frame. Other work on the machine slows
the median first.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.experiments.landmark_detectors import fit_640_480
from talkinghead.landmarks.network import CROP_SIDE, SHIPPED, SIZE, LandmarkRows, load_landmark_network
from talkinghead.landmarks.network_blocks import load_on_device
from talkinghead.landmarks.network_detector import NetworkDetector
from talkinghead.landmarks.oriented_crop import crop_of_landmarks, sample_crops
from talkinghead.media.video import VideoReader

BATCH = 16
QUANTILES = {"median": 0.5, "10%": 0.1, "minimum": 0.0}


def stages(frames: Sequence[np.ndarray]) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return what is timed on the frames, and how many frames it takes."""
    detector = NetworkDetector()
    network = LandmarkRows(load_on_device(load_landmark_network(SHIPPED), "cpu"))
    near = detector.find(frames[:1])[0][0].landmarks
    crop = crop_of_landmarks(near, CROP_SIDE)
    result: dict[str, tuple[Callable[[], Any], int]] = {"find": (lambda: detector.find(frames[:1]), 1)}
    for count in (1, len(frames)):
        part, crops = frames[:count], [crop] * count
        pictures = sample_crops(part, crops, SIZE)
        suffix = "" if count == 1 else f", batch of {count}"
        result[f"follow{suffix}"] = (lambda part=part: detector.follow(part, near)), count
        result[f"crop{suffix}"] = (lambda part=part, crops=crops: sample_crops(part, crops, SIZE)), count
        result[f"network{suffix}"] = (lambda pictures=pictures: network(pictures)), count
    return result


def measure(frames: Sequence[np.ndarray], seconds: float) -> dict[str, dict[str, float]]:
    """Return the quantiles of each stage in microseconds a frame."""
    timed = stages(frames)
    samples: dict[str, list[float]] = {name: [] for name in timed}
    end = time.perf_counter() + seconds
    with torch.inference_mode():
        while time.perf_counter() < end or not samples["find"]:
            for name, (run, count) in timed.items():
                start = time.perf_counter()
                run()
                samples[name].append(1e6 * (time.perf_counter() - start) / count)
    return {
        name: {label: float(np.quantile(values, share)) for label, share in QUANTILES.items()}
        for name, values in samples.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clip", type=Path, help="a video whose first frame shows a face")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    frames = [fit_640_480(frame) for frame in itertools.islice(VideoReader(args.clip), BATCH)]
    for name, values in measure(frames, args.seconds).items():
        print(f"{name:22}", *(f"{label} {value:8.0f}" for label, value in values.items()))


if __name__ == "__main__":
    main()
