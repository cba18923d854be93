"""Blinks: how well the shut eyes of people are rendered from pictures of their open eyes.

    talkinghead prepare others/ --people clips.tsv --size 256 --landmarks network --out held256
    python -m bench.experiments.blinks held256 --out blinks.json

Of each clip whose lids close to 0.62 of their usual opening, up to four frames of the most closed eyes drive
a person made of eight frames of open ones, with the lids closed by `talkinghead.landmarks.eyelids`, and by
the smooth motion field alone. Compared with the frames are boxes around the eyes; the opening is that which
the landmark network sees, as a share of the clip's usual one. Then the same for twelve frames of every clip.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import talkinghead
from talkinghead.clip import Clip, Track
from talkinghead.dataset.shard_reader import ShardClip, read_index
from talkinghead.engines.torch_engine import TorchEngine
from talkinghead.landmarks.face_points import join_points
from talkinghead.landmarks.gaze import EYE_POINTS, EyeFrames
from talkinghead.landmarks.network_detector import NetworkDetector

METHODS = ("smooth field", "lids closed")
_SHUT = 0.62
_OPEN = 0.85
_SHUT_FRAMES, _OPEN_FRAMES, _ALL_FRAMES = 4, 8, 12
_MIN_FRAMES = 20


def measure(clips: list[ShardClip], model: Any, takes_all: bool) -> dict[str, dict[str, float]]:
    """Return the PSNR in dB around the eyes and the opening seen, of the frames and of each method."""
    detector = NetworkDetector()
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ("frames", *METHODS)}
    for clip in clips:
        openings = EyeFrames.of(clip.landmarks).opening.mean(axis=(1, 2))
        usual = float(np.median(openings))
        chosen = _choose(openings / usual, takes_all)
        if len(clip) < _MIN_FRAMES or not chosen:
            continue
        truth, landmarks = clip.frames(chosen), clip.landmarks[chosen]
        renders = _render(clip, np.flatnonzero(openings > _OPEN * usual), chosen, model)
        for name, frames in {"frames": truth, **renders}.items():
            faces = [detector.follow([frame], face)[0] for frame, face in zip(frames, landmarks, strict=True)]
            seen = EyeFrames.of(np.stack([face.landmarks for face in faces])).opening.mean() / usual
            rows[name].append((_eye_error(frames, truth, landmarks), float(seen)))
        print(clip.person, {name: np.round(values[-1], 3).tolist() for name, values in rows.items()})
    result = {}
    for name, values in rows.items():
        errors, seen = np.array(values).T
        result[name] = {"clips": len(values), "opening": round(float(seen.mean()), 3)}
        if name != "frames":
            result[name]["psnr_db"] = round(float((10 * np.log10(255**2 / errors)).mean()), 2)
    return result


def _choose(shares: np.ndarray, takes_all: bool) -> list[int]:
    """Return the numbers of the frames to render, by their share of the usual opening."""
    if takes_all:
        return np.linspace(0, len(shares) - 1, _ALL_FRAMES).astype(int).tolist()
    return [int(number) for number in np.argsort(shares)[:_SHUT_FRAMES] if shares[number] < _SHUT]


def _render(clip: ShardClip, is_open: np.ndarray, chosen: list[int], model: Any) -> dict[str, np.ndarray]:
    """Return the frames of each method, uint8 [N, S, S, 3]."""
    pictured = is_open[np.unique(np.linspace(0, len(is_open) - 1, _OPEN_FRAMES).astype(int))]
    irises = None if clip.irises is None else clip.irises[pictured]
    track = Track(clip.landmarks[pictured], (clip.size, clip.size), irises=irises)
    pictures = Clip(track, clip.frames(pictured), clip.person, convention=model.config.crop)
    engine = TorchEngine(talkinghead.finetune(model, pictures, steps=0))
    points = join_points(clip.landmarks[chosen], None if clip.irises is None else clip.irises[chosen])
    driven = (points / clip.size).astype(np.float32)
    with patch("talkinghead.networks.references.closing_lids", lambda *_: None):
        smooth = engine.run(driven)
    return dict(zip(METHODS, (smooth, engine.run(driven)), strict=True))


def _eye_error(frames: np.ndarray, truth: np.ndarray, landmarks: np.ndarray) -> float:
    """Return the mean squared error in boxes around the eyes, 1.4 widths of the eye wide and 1 high."""
    errors = []
    for frame, true, face in zip(frames.astype(float), truth.astype(float), landmarks, strict=True):
        for eye in face[np.array(EYE_POINTS)]:
            width, (x, y) = np.ptp(eye[:, 0]), eye.mean(axis=0)
            box = (
                slice(int(y - 0.5 * width), int(y + 0.5 * width) + 1),
                slice(int(x - 0.7 * width), int(x + 0.7 * width) + 1),
            )
            errors.append(np.square(frame[box] - true[box]).mean())
    return float(np.mean(errors))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+", type=Path, help="folders that `talkinghead prepare` wrote")
    parser.add_argument("--model", default="portrait")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    model = talkinghead.load_model(args.model)
    result = {
        folder.name: {
            name: measure(read_index(folder), model, takes_all)
            for name, takes_all in (("shut eyes", False), ("all frames", True))
        }
        for folder in args.data
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
