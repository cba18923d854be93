"""Gaze: how far a detector sees irises move in their eyes, and how far those of a rendered person move.

    talkinghead prepare others/ --people clips.tsv --size 256 --landmarks network --out held256
    python -m bench.experiments.gaze held256 --out gaze.json
    python -m bench.experiments.gaze held256 --detector face_landmarker.task --network run/network.safetensors

Irises are moved aside by 0.15 widths of the eye both ways, and up and down by 0.2 openings of the lids: in
the frames themselves, by warping, and by driving a person of the model who was learned from the frame.
Each share is the motion that the detector sees divided by the one made; the people weigh the same.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import talkinghead
from talkinghead.clip import Clip, Track
from talkinghead.dataset.shard_reader import ShardClip, read_index
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.landmarks.gaze import EyeFrames
from talkinghead.landmarks.network_detector import NetworkDetector
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.training.moved_gaze import shift_gaze

SHIFTS = {"aside": (0.15, 0.0), "up and down": (0.0, 0.2)}
FRAMES_EACH = 4


def measure(clips: list[ShardClip], detector: Any, model: str) -> dict[str, dict[str, float]]:
    """Return the shares of the gazes of frames and of rendered people, each of the two directions."""
    shares: dict[str, dict[str, list[float]]] = {kind: defaultdict(list) for kind in ("frames", "rendered")}
    people = {clip.person: clip for clip in reversed(clips)}
    loaded = talkinghead.load_model(model)
    for clip in people.values():
        seen: dict[str, list[np.ndarray]] = {"frames": [], "rendered": []}
        for number in np.unique(np.linspace(0, len(clip) - 1, FRAMES_EACH).astype(int)):
            for kind, row in _seen_motions(clip, int(number), detector, loaded).items():
                seen[kind].append(row)
        for kind, rows in seen.items():
            for direction, share in zip(SHIFTS, np.mean(rows, axis=0), strict=True):
                shares[kind][direction].append(float(share))
        print(clip.person, {kind: np.mean(rows, axis=0).round(2).tolist() for kind, rows in seen.items()})
    return {
        kind: {direction: round(float(np.mean(values)), 3) for direction, values in rows.items()}
        for kind, rows in shares.items()
    }


def _seen_motions(clip: ShardClip, number: int, detector: Any, model: Any) -> dict[str, np.ndarray]:
    """Return the shares [2] of the motions of one frame's irises that are seen, aside and up and down."""
    assert clip.irises is not None
    frame, side = clip.frames([number])[0], clip.size
    landmarks = clip.landmarks[number]
    points = np.concatenate([landmarks, clip.irises[number].reshape(-1, 2)])
    track = Track(landmarks[None], (side, side), irises=clip.irises[number][None])
    convention = model.config.crop
    person = talkinghead.finetune(
        model, Clip(track, frame[None], clip.person, convention=convention), steps=0
    )
    engine = TorchEngine(person)
    shares: dict[str, list[float]] = {"frames": [], "rendered": []}
    for axis, shift in enumerate(SHIFTS.values()):
        ends = [shift_gaze(frame, points, (sign * shift[0], sign * shift[1])) for sign in (-1, 1)]
        driven = np.stack([moved for _, moved in ends]).astype(np.float32) / side
        driven_motion = _difference([moved[68:].reshape(2, 5, 2) for _, moved in ends], landmarks)[axis]
        for kind, pictures in (
            ("frames", [picture for picture, _ in ends]),
            ("rendered", engine.run(driven)),
        ):
            faces = [detector.follow([picture], landmarks)[0] for picture in pictures]
            shares[kind].append(
                float(_difference([face.irises for face in faces], landmarks)[axis] / driven_motion)
            )
    return {kind: np.array(row) for kind, row in shares.items()}


def _difference(irises: list[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
    """Return how far the centres of irises moved from the first to the second, [2], in widths of the eye."""
    eyes = EyeFrames.of(landmarks[None])
    first, second = (eyes.to_frame(points[None].astype(np.float64))[0].mean(axis=(0, 1)) for points in irises)
    return second - first


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="folder that `talkinghead prepare` wrote, with irises")
    parser.add_argument("--detector", help="another detector to see by, such as face_landmarker.task")
    parser.add_argument("--network", type=Path, help="weights of another landmark network to see by")
    parser.add_argument("--model", default="portrait")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    detectors = {"network": NetworkDetector(**({"weights": args.network} if args.network else {}))}
    if args.detector:
        detectors["other"] = open_detector(args.detector)
    clips = [clip for clip in read_index(args.data) if clip.irises is not None]
    result = {name: measure(clips, detector, args.model) for name, detector in detectors.items()}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
