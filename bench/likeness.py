"""Measure how like a person a model's pictures are, beside both copies of the person's pictures, and how still the background stands.

python -m bench.likeness MODEL CLIPS --people clips.tsv --only anna bob --out likeness.json   # measure people kept apart from training
python -m bench.likeness --table likeness.json                                                # print the tables of docs

Of each person the longest clip: T evenly spaced frames of its first two thirds are the person's pictures, frames of the rest are held out
and drive. `--steps 0,40` measures a person at once and after 40 steps of fine-tuning.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.results_file import Each, Number, one_line_errors, read_results
from talkinghead import __version__
from talkinghead.animate import render
from talkinghead.checkpoint import Model, load_model
from talkinghead.cli import read_people
from talkinghead.clip import Clip
from talkinghead.evaluation.judge import Judge
from talkinghead.evaluation.material import Material, find_subjects, read_material
from talkinghead.landmarks.detect import open_detector
from talkinghead.metrics import nearest_frames, warp_to_landmarks
from talkinghead.perceptual import open_perceptual
from talkinghead.training.finetune import finetune_stages

METRICS = {"ssim": 1, "psnr": 1, "identity": -1, "landmark_error": -1, "perceptual": -1}
"""Name -> 1 where more is better, -1 where less is."""
HULL_GROWTH = 1.6
"""How much larger than the landmarks' box the part of the picture is that belongs to the person, where the background is measured."""
COPIES = ("nearest", "warped")
STRIP_FRAMES = 6


def background_change(frames: np.ndarray, landmarks: np.ndarray) -> float:
    """Return the mean change from one frame to the next outside the person, in grey levels.

    Args:
        frames: uint8 [N, H, W, 3], in order of time; those of `main` are spread over the last third of a clip.
        landmarks: [N, 68, 2] in pixels; what lies within the box around all of them, enlarged, is the person.
    """
    low, high = landmarks.min((0, 1)), landmarks.max((0, 1))
    centre, half = (low + high) / 2, HULL_GROWTH * (high - low) / 2
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]]
    outside = (np.abs(columns + 0.5 - centre[0]) > half[0]) | (np.abs(rows + 0.5 - centre[1]) > half[1])
    grey = frames.astype(np.float32).mean(axis=3)
    return float(np.abs(np.diff(grey, axis=0))[:, outside].mean())


def copies(pictures: Clip, held: Clip) -> dict[str, np.ndarray]:
    """Return what needs no model: the nearest of the pictures, and the same warped to the landmarks."""
    nearest = nearest_frames(pictures, held.track)
    pairs = zip(nearest, held.track.landmarks, strict=True)
    warped = [warp_to_landmarks(pictures.frames[i], pictures.track.landmarks[i], target) for i, target in pairs]
    return {"nearest": pictures.frames[nearest], "warped": np.stack(warped)}


def results(model: Model, pictures: Clip, held: Clip, steps: Sequence[int]) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield the name, frames and seconds of learning of the model's rows."""
    points = (held.track.landmarks / held.frames.shape[1]).astype(np.float32)
    networks = open_perceptual(model.config.perceptual) if any(steps) else ()
    start = time.perf_counter()
    for count, person in zip(steps, finetune_stages(model, pictures, steps, perceptual=networks), strict=True):
        seconds = time.perf_counter() - start
        yield f"{count} steps", np.stack(list(render(person, points, "fp32"))), seconds


def measure(model: Model, material: Material, judge: Judge, steps: Sequence[int]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the figures of all rows of one clip, and the frames of each."""
    figures: dict[str, Any] = {}
    shown = {"truth": material.held.frames}
    truth = judge.truth(material.held)
    for shots, pictures in material.pictures.items():
        rows = [(name, frames, 0.0) for name, frames in copies(pictures, material.held).items()]
        for name, frames, seconds in (*rows, *results(model, pictures, material.held, steps)):
            verdict = judge.verdict(frames, truth)
            figures[f"T={shots} {name}"] = {
                **{metric: round(verdict.figures[metric], 4) for metric in METRICS},
                "background": round(background_change(frames, material.held.track.landmarks), 3),
                "seconds": round(seconds, 2),
            }
            shown[f"T={shots} {name}"] = frames
    figures["truth"] = {"background": round(background_change(material.held.frames, material.held.track.landmarks), 3)}
    return figures, shown


def write_strips(shown: dict[str, np.ndarray], path: Path) -> None:
    """Write a few frames of each row under one another."""
    chosen = np.linspace(0, len(shown["truth"]) - 1, STRIP_FRAMES).round().astype(int)
    Image.fromarray(np.concatenate([np.concatenate(list(frames[chosen]), 1) for frames in shown.values()])).save(path)


def table(found: dict[str, Any]) -> str:
    """Return the means over the people as a table in Markdown, and on how many people each row of ours beats both copies."""
    people = found["people"]
    names = [name for name in next(iter(people.values())) if name != "truth"]
    lines = ["| | SSIM | PSNR | identity distance | landmark error | perceptual | background change |", "|---|---|---|---|---|---|---|"]
    for name in names:
        means = [np.nanmean([figures[name][metric] for figures in people.values()]) for metric in (*METRICS, "background")]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    for name in names:
        if name.endswith("steps"):
            shots = name.split()[0]
            wins = {
                metric: sum(
                    all(sign * (row[name][metric] - row[f"{shots} {copy}"][metric]) > 0 for copy in COPIES) for row in people.values()
                )
                for metric, sign in METRICS.items()
            }
            lines.append(
                f"\n{name}: better than both copies on "
                + ", ".join(f"{count} ({metric})" for metric, count in wins.items())
                + f" of {len(people)} people"
            )
    return "\n".join(lines)


def read_likeness(path: Path) -> dict[str, Any]:
    """Return the figures of a file that `main` wrote.

    Raises:
        TalkingheadError: the file cannot be read, or holds something else.
    """
    found: dict[str, Any] = read_results(path, {"people": Each(Each(dict), least=1)})
    names = [name for name in next(iter(found["people"].values())) if name != "truth"]
    copies = [f"{name.split()[0]} {copy}" for name in names if name.endswith("steps") for copy in COPIES]
    figures = dict.fromkeys((*METRICS, "background"), Number(-1e9, 1e9, nan=True))
    return dict(read_results(path, {"people": Each(dict.fromkeys([*names, *copies], figures))}))


def main() -> None:
    parser = argparse.ArgumentParser("bench.likeness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--people")
    parser.add_argument("--only", nargs="+", default=())
    parser.add_argument("--shots", default="1,8")
    parser.add_argument("--steps", default="0")
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    chosen = parser.parse_args()
    if chosen.table:
        with one_line_errors(parser.prog):
            found = read_likeness(chosen.table)
        print(table(found))
        return
    with one_line_errors(parser.prog):
        measure_people(chosen)


def measure_people(chosen: argparse.Namespace) -> None:
    """Measure the people of some clips, and write and print what was found."""
    model, detector = load_model(chosen.model), open_detector("dlib")
    judge = Judge(detector)
    shots, steps = ([int(number) for number in text.split(",")] for text in (chosen.shots, chosen.steps))
    people = None if chosen.people is None else read_people(chosen.people)
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "talkinghead": __version__,
        "torch": torch.__version__,
        "model": {"name": Path(chosen.model).name, "digest": model.digest, **{key: model.provenance.get(key) for key in ("steps", "seed")}},
        "people": {},
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    for subject in find_subjects(chosen.clips, people, chosen.only, 1):
        networks = model.config.networks
        material = read_material(subject, networks.image_size, shots, chosen.held_out, detector, convention=model.config.crop)
        figures, shown = measure(model, material, judge, steps)
        found["people"][subject.person] = figures
        write_strips(shown, chosen.out.with_name(f"{chosen.out.stem}_{subject.person}.png"))
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")
        print(subject.person, subject.name, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
