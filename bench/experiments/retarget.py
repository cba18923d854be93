"""Accuracy of retargeting on pairs of real clips of different people.

python -m bench.experiments.retarget clips/ --people people.tsv --out retarget.json   # measure
python -m bench.experiments.retarget --table retarget.json   # print the tables
"""

import argparse
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bench.lib.results_file import MappingOf, Number, Optional, one_line_errors, read_results
from talkinghead import __version__
from talkinghead.clip import Track
from talkinghead.data.crop import crop_around
from talkinghead.data.few_shot import evenly_spaced_indices
from talkinghead.data.load import read_track
from talkinghead.dataset.people_table import read_people
from talkinghead.landmarks.detector import MIN_CONFIDENCE
from talkinghead.landmarks.gaze import EYES
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.landmarks.retarget import LIPS, neutral_face, retarget
from talkinghead.media.video import VIDEO_SUFFIXES
from talkinghead.pipelines.animate import align_track

SHOTS = 8
PROPORTIONS = ("eyes to jaw width", "nose length to eyes", "mouth width at rest to eyes")
FRONTAL = (
    0.15  # of the eyes' distance: how far the nose may lie beside their middle where proportions are measured
)
BLINKS = 0.6  # of the usual opening: a driver whose eyes close to less blinks
SPEAKS = 0.08  # of the eyes' distance: a driver whose mouth's opening varies by more moves it


_SHARE = Number(-1e9, 1e9)
_PAIR = {
    **dict.fromkeys(("retargeted", "off"), [_SHARE] * len(PROPORTIONS)),
    **dict.fromkeys(("eyes", "shut", "mouth"), Optional(Number(-1e9, 1e9, nan=True))),
}
_RESULTS = {"similarity_pixels": Number(), "pairs": MappingOf(_PAIR, least=1)}


def distance(points: np.ndarray, first: int, second: int) -> np.ndarray:
    return np.linalg.norm(points[:, first] - points[:, second], axis=1)


def mouth_opening(points: np.ndarray) -> np.ndarray:
    return np.mean([distance(points, *lips) for lips in LIPS], axis=0) / distance(points, 36, 45)


def eye_opening(points: np.ndarray) -> np.ndarray:
    return np.mean([distance(points, *lids) for eye in EYES for lids in eye[1:3]], axis=0) / distance(
        points, 36, 45
    )


def proportions(points: np.ndarray) -> np.ndarray:
    """Return the medians [3] over the frames that look ahead, or over all frames when none does."""
    aside = (points[:, 30, 0] - points[:, [36, 45], 0].mean(axis=1)) / distance(points, 36, 45)
    points = points[np.abs(aside) < FRONTAL] if (np.abs(aside) < FRONTAL).any() else points
    eyes, opening = distance(points, 36, 45), mouth_opening(points)
    calm = opening <= np.percentile(opening, 30)
    return np.array(
        [
            np.median(eyes / distance(points, 2, 14)),
            np.median(distance(points, 27, 33) / eyes),
            np.median((distance(points, 48, 54) / eyes)[calm]),
        ]
    )


def keep_confident(track: Track) -> Track:
    return track[np.flatnonzero(track.confidence >= MIN_CONFIDENCE)]


def person_of(track: Track) -> np.ndarray:
    """Return landmarks [8, 68, 2] of evenly spaced frames of the person, in fractions of their crop."""
    pictures = track[evenly_spaced_indices(len(track), SHOTS)]
    return crop_around(pictures.landmarks).points(pictures.landmarks, 1)


def measure_pair(person: Track, driver: Track) -> dict[str, Any]:
    """Return how far proportions deviate from the person's own, with and without retargeting, and how
    well the expression follows the driver.
    """
    face = neutral_face(person_of(person))
    result, plain = retarget(driver, face), align_track(driver, face.points)
    own = proportions(face.points[None])
    eyes, mouth = eye_opening(driver.landmarks), mouth_opening(driver.landmarks)
    results: dict[str, Any] = {
        "retargeted": np.abs(proportions(result) / own - 1).round(4).tolist(),
        "off": np.abs(proportions(plain) / own - 1).round(4).tolist(),
    }
    if np.percentile(eyes, 1) < BLINKS * np.median(eyes):
        results["eyes"] = round(float(np.corrcoef(eye_opening(result), eyes)[0, 1]), 4)
        results["shut"] = round(float(eye_opening(result).min() / eye_opening(face.points[None])[0]), 4)
    if np.ptp(np.percentile(mouth, [1, 99])) > SPEAKS:
        results["mouth"] = round(float(np.corrcoef(mouth_opening(result), mouth)[0, 1]), 4)
    return results


def similarity(person: Track, driver: Track) -> float:
    """Return the largest error when the driver is scaled, rolled or shifted, in pixels of a 256 pixel crop.

    The result should be scaled, rolled or shifted alike.
    """
    face, own = neutral_face(person_of(person)), neutral_face(driver.landmarks)
    before = retarget(driver, face, own).astype(np.float64)
    worst = 0.0
    for scale, degrees, shift in (
        (1.3, 0, 0),
        (0.7, 0, 0),
        (1, 20, 0),
        (1, -20, 0),
        (1, 0, 0.05),
        (0.8, 10, -0.05),
    ):
        angle, travel = np.radians(degrees), np.array([shift, -shift]) * np.ptp(driver.landmarks[0])
        turned = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = Track((driver.landmarks - own.place) @ turned.T + own.place + travel, driver.size, driver.fps)
        after, expected = retarget(moved, face, own), (before - face.place) @ turned.T + face.place
        expected += np.median(after - expected, axis=(0, 1)) if shift else 0
        inside = [((item > 0.021) & (item < 0.979)).all(axis=(1, 2)) for item in (before, expected)]
        worst = max(worst, float(np.abs(after - expected)[inside[0] & inside[1]].max(initial=0)) * 256)
    return worst


def measure(clips: Path, people: Mapping[str, str]) -> dict[str, Any]:
    detector = open_detector("dlib")
    tracks: dict[str, Track] = {}
    for path in sorted(path for path in clips.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES):
        track, person = keep_confident(read_track(path, detector)), people.get(path.name, path.stem)
        if len(track) >= SHOTS and len(track) > len(tracks.get(person, ())):
            tracks[person] = track
    pairs = {
        f"{who} by {driver}": measure_pair(tracks[who], tracks[driver])
        for who in tracks
        for driver in tracks
        if who != driver
    }
    worst = max(
        similarity(tracks[who], tracks[driver]) for who in tracks for driver in tracks if who != driver
    )
    versions = {"talkinghead": __version__, "numpy": np.__version__, "landmarks": detector.name}
    return {
        "date": str(date.today()),
        "versions": versions,
        "people": len(tracks),
        "similarity_pixels": worst,
        "pairs": pairs,
    }


def table(results: Mapping[str, Any]) -> str:
    pairs = list(results["pairs"].values())
    lines = [
        "| deviation from the person's own | retargeted: median | 95% of pairs | worst | off: median | "
        "worst |",
        "|---|---|---|---|---|---|",
    ]
    for number, name in enumerate(PROPORTIONS):
        retargeted, aligned = (
            np.array([item[key][number] for item in pairs]) for key in ("retargeted", "off")
        )
        figures = (
            np.median(retargeted),
            np.percentile(retargeted, 95),
            retargeted.max(),
            np.median(aligned),
            aligned.max(),
        )
        lines.append(f"| {name} | " + " | ".join(f"{figure:.1%}" for figure in figures) + " |")
    lines += [
        "",
        "| follows the driver (correlation) | median | 5% of pairs below | least | pairs |",
        "|---|---|---|---|---|",
    ]
    for key, name in (("mouth", "mouth opening"), ("eyes", "eye closing")):
        values = np.array([item[key] for item in pairs if key in item])
        if len(values):
            lines.append(
                f"| {name} | {np.median(values):.3f} | {np.percentile(values, 5):.3f} | {values.min():.3f} "
                f"| {len(values)} |"
            )
    lines.append("")
    shut = np.array([item["shut"] for item in pairs if "shut" in item])
    if len(shut):
        lines.append(
            f"In a blink the eyes close to {np.median(shut):.0%} of their own opening (worst "
            f"{shut.max():.0%})."
        )
    lines.append(
        "A driver scaled by 30%, rolled by 20 degrees or shifted moves the result alike within "
        f"{results['similarity_pixels']:.4f} pixels of 256."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        "bench.experiments.retarget",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", nargs="?", type=Path)
    parser.add_argument("--people", help="table with the columns file and person")
    parser.add_argument("--out", type=Path, default=Path("retarget.json"))
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    with one_line_errors(parser.prog):
        if args.table is None:
            if args.clips is None:
                parser.error("no clips; name a folder of videos, or results to print by --table")
            results = measure(args.clips, read_people(args.people) if args.people else {})
            args.out.write_text(json.dumps(results, indent=1) + "\n")
        results = read_results(args.table or args.out, _RESULTS)
    print(table(results))


if __name__ == "__main__":
    main()
