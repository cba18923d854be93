"""Measure how similar a model's frames are to a person, compared with two baselines that copy the person's
reference images, and how still the background is.

python -m bench.experiments.likeness MODEL CLIPS --people clips.tsv --only anna bob --out likeness.json
python -m bench.experiments.likeness --table likeness.json  # print the tables of docs

The longest clip of each person is used: T evenly spaced frames of its first two thirds are the reference
images, frames of its last third are held out and drive the person. `--steps 0,40` measures a person without
fine-tuning and after 40 steps of it.
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

from bench.lib.results_file import MappingOf, Number, one_line_errors, read_results
from talkinghead import __version__
from talkinghead.checkpoint import load_model
from talkinghead.clip import Clip
from talkinghead.dataset.people_table import read_people
from talkinghead.evaluation.baselines import nearest_frames, warp_to_landmarks
from talkinghead.evaluation.scorer import Scorer
from talkinghead.evaluation.split import EvalFrames, find_eval_clips, read_eval_frames
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.model import Model
from talkinghead.pipelines.animate import render
from talkinghead.pretrained.perceptual import open_perceptual
from talkinghead.training.finetune import finetune_at_steps

METRICS = {"ssim": 1, "psnr": 1, "identity": -1, "landmark_error": -1, "perceptual": -1}
"""Name -> 1 where higher is better, -1 where lower is better."""
HULL_GROWTH = 1.6
"""The person is the landmarks' box enlarged by this factor; the background is everything outside of it."""
COPIES = ("nearest", "warped")
STRIP_FRAMES = 6


def background_change(frames: np.ndarray, landmarks: np.ndarray) -> float:
    """Return the mean change from one frame to the next outside the person, in grey levels.

    Args:
        frames: uint8 [N, H, W, 3], in order of time; `main` passes frames spread over the last third of
            a clip.
        landmarks: [N, 68, 2] in pixels; the enlarged box around all of them is the person.
    """
    low, high = landmarks.min((0, 1)), landmarks.max((0, 1))
    centre, half = (low + high) / 2, HULL_GROWTH * (high - low) / 2
    rows, columns = np.mgrid[: frames.shape[1], : frames.shape[2]]
    outside = (np.abs(columns + 0.5 - centre[0]) > half[0]) | (np.abs(rows + 0.5 - centre[1]) > half[1])
    grey = frames.astype(np.float32).mean(axis=3)
    return float(np.abs(np.diff(grey, axis=0))[:, outside].mean())


def copies(pictures: Clip, held: Clip) -> dict[str, np.ndarray]:
    """Return the frames of both baselines: nearest reference images, and these warped to the landmarks."""
    nearest = nearest_frames(pictures, held.track)
    pairs = zip(nearest, held.track.landmarks, strict=True)
    warped = [
        warp_to_landmarks(pictures.frames[i], pictures.track.landmarks[i], target) for i, target in pairs
    ]
    return {"nearest": pictures.frames[nearest], "warped": np.stack(warped)}


def results(
    model: Model, pictures: Clip, held: Clip, steps: Sequence[int]
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield the name, the frames and the seconds of fine-tuning of each row of the model."""
    points = (held.track.landmarks / held.frames.shape[1]).astype(np.float32)
    networks = open_perceptual(model.config.perceptual) if any(steps) else ()
    start = time.perf_counter()
    for count, person in zip(
        steps, finetune_at_steps(model, pictures, steps, perceptual=networks), strict=True
    ):
        seconds = time.perf_counter() - start
        yield f"{count} steps", np.stack(list(render(person, points, "fp32"))), seconds


def measure(
    model: Model, eval_frames: EvalFrames, scorer: Scorer, steps: Sequence[int]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metrics and the frames of every row of one clip."""
    figures: dict[str, Any] = {}
    frames_by_method = {"truth": eval_frames.held_out.frames}
    truth = scorer.truth(eval_frames.held_out)
    for shots, pictures in eval_frames.training.items():
        rows = [(name, frames, 0.0) for name, frames in copies(pictures, eval_frames.held_out).items()]
        for name, frames, seconds in (*rows, *results(model, pictures, eval_frames.held_out, steps)):
            scores = scorer.score(frames, truth)
            figures[f"T={shots} {name}"] = {
                **{metric: round(scores.figures[metric], 4) for metric in METRICS},
                "background": round(background_change(frames, eval_frames.held_out.track.landmarks), 3),
                "seconds": round(seconds, 2),
            }
            frames_by_method[f"T={shots} {name}"] = frames
    figures["truth"] = {
        "background": round(
            background_change(eval_frames.held_out.frames, eval_frames.held_out.track.landmarks), 3
        )
    }
    return figures, frames_by_method


def write_strips(frames_by_method: dict[str, np.ndarray], path: Path) -> None:
    """Write an image with a few frames of every row."""
    indices = np.linspace(0, len(frames_by_method["truth"]) - 1, STRIP_FRAMES).round().astype(int)
    Image.fromarray(
        np.concatenate([np.concatenate(list(frames[indices]), 1) for frames in frames_by_method.values()])
    ).save(path)


def table(report: dict[str, Any]) -> str:
    """Return a Markdown table of means over people, and on how many people the model beats both baselines."""
    people = report["people"]
    names = [name for name in next(iter(people.values())) if name != "truth"]
    lines = [
        "| | SSIM | PSNR | identity distance | landmark error | perceptual | background change |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        means = [
            np.nanmean([figures[name][metric] for figures in people.values()])
            for metric in (*METRICS, "background")
        ]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    for name in names:
        if name.endswith("steps"):
            shots = name.split()[0]
            wins = {
                metric: sum(
                    all(sign * (row[name][metric] - row[f"{shots} {copy}"][metric]) > 0 for copy in COPIES)
                    for row in people.values()
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
    report: dict[str, Any] = read_results(path, {"people": MappingOf(MappingOf(dict), least=1)})
    names = [name for name in next(iter(report["people"].values())) if name != "truth"]
    copies = [f"{name.split()[0]} {copy}" for name in names if name.endswith("steps") for copy in COPIES]
    figures = dict.fromkeys((*METRICS, "background"), Number(-1e9, 1e9, nan=True))
    return dict(read_results(path, {"people": MappingOf(dict.fromkeys([*names, *copies], figures))}))


def main() -> None:
    parser = argparse.ArgumentParser(
        "bench.experiments.likeness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--people")
    parser.add_argument("--only", nargs="+", default=())
    parser.add_argument("--shots", default="1,8")
    parser.add_argument("--steps", default="0")
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.table:
        with one_line_errors(parser.prog):
            report = read_likeness(args.table)
        print(table(report))
        return
    if not (args.model and args.clips and args.out):
        parser.error("name a model, clips and --out, or results to print by --table")
    with one_line_errors(parser.prog):
        measure_people(args)


def measure_people(args: argparse.Namespace) -> None:
    """Measure the people of some clips, and write and print what was found."""
    model, detector = load_model(args.model), open_detector("dlib")
    scorer = Scorer(detector)
    shots, steps = ([int(number) for number in text.split(",")] for text in (args.shots, args.steps))
    people = None if args.people is None else read_people(args.people)
    report: dict[str, Any] = {
        "date": date.today().isoformat(),
        "talkinghead": __version__,
        "torch": torch.__version__,
        "model": {
            "name": Path(args.model).name,
            "digest": model.digest,
            **{key: model.provenance.get(key) for key in ("steps", "seed")},
        },
        "people": {},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for subject in find_eval_clips(args.clips, people, args.only, 1):
        networks = model.config.networks
        eval_frames = read_eval_frames(
            subject, networks.image_size, shots, args.held_out, detector, convention=model.config.crop
        )
        figures, frames_by_method = measure(model, eval_frames, scorer, steps)
        report["people"][subject.person] = figures
        write_strips(frames_by_method, args.out.with_name(f"{args.out.stem}_{subject.person}.png"))
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        print(subject.person, subject.name, flush=True)
    print(table(report))


if __name__ == "__main__":
    main()
