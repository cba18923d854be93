"""Errors of `--retarget auto`: how often it takes the driver for the person, and the person for another.

    python -m bench.experiments.same_person clips/ --people clips.tsv --out same_person.json

Each person is learned from one clip without fine-tuning, and driven by every clip. Pairs within one studio
are those of clips whose names begin alike, such as grid_. People weigh the same in each rate.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

import talkinghead
from talkinghead.data.load import read_track
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.media.video import VideoReader
from talkinghead.model import Person
from talkinghead.pipelines.animate import (
    MAX_SHAPE_DIFFERENCE,
    distance_to_driver,
    shape_difference,
)
from talkinghead.pipelines.driver import DriverFrames

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.45)
SHOTS = 8


def distances(model: str, clips: list[Path], people: dict[str, str]) -> list[dict[str, object]]:
    """Return the distance of every clip to every person, each learned from their first clip."""
    detector = open_detector("network")
    tracks = {clip: read_track(VideoReader(clip), detector) for clip in clips}
    first = {people[clip.name]: clip for clip in reversed(clips)}
    rows: list[dict[str, object]] = []
    for name, source in sorted(first.items()):
        person: Person = talkinghead.finetune(model, source, steps=0, shots=SHOTS, detector=detector)
        for clip, track in tracks.items():
            if clip == source:
                continue
            distance = distance_to_driver(person, DriverFrames(VideoReader(clip)), track)
            rows.append(
                {
                    "person": name,
                    "driver": people[clip.name],
                    "clip": clip.name,
                    "one_studio": clip.name.split("_")[0] == source.name.split("_")[0],
                    "distance": round(distance, 4),
                    "shape": round(shape_difference(person, track), 4),
                }
            )
        print(f"{name}: {len(rows)} pairs", flush=True)
    return rows


def share_taken_for_same(rows: list[dict[str, object]], threshold: float, shape: float) -> float:
    """Return the share of pairs below both thresholds, each person weighing the same."""
    by_person = defaultdict(list)
    for row in rows:
        same = float(str(row["distance"])) < threshold and float(str(row["shape"])) < shape
        by_person[row["person"]].append(same)
    return float(np.mean([np.mean(values) for values in by_person.values()])) if by_person else float("nan")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--people", type=Path, required=True, help="table with the columns file and person")
    parser.add_argument("--model", default="portrait")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with args.people.open() as table:
        people = {row["file"]: row["person"] for row in csv.DictReader(table, delimiter="\t")}
    clips = sorted(path for path in args.clips.iterdir() if path.name in people)
    rows = distances(args.model, clips, people)
    same = [row for row in rows if row["person"] == row["driver"]]
    others = [row for row in rows if row["person"] != row["driver"]]
    one_studio = [row for row in others if row["one_studio"]]
    print(f"pairs: {len(same)} of one person, {len(others)} of two, {len(one_studio)} of these in one studio")
    print("distance  shape  one person taken for two  two people for one  the same, in one studio")
    for threshold in THRESHOLDS:
        for shape in (MAX_SHAPE_DIFFERENCE, float("inf")):
            hit, *wrong = (
                share_taken_for_same(part, threshold, shape) for part in (same, others, one_studio)
            )
            print(f"{threshold:8.2f}  {shape:5.2f}  {1 - hit:24.1%}  {wrong[0]:18.1%}  {wrong[1]:23.1%}")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
