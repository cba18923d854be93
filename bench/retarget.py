"""What retargeting keeps of the person and takes of the driver, on pairs of real clips of different people.

python -m bench.retarget clips/ --people people.tsv --out retarget.json   # measure; reads each person's longest clip
python -m bench.retarget --table retarget.json                            # print the tables of README
"""

import argparse
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bench.results_file import Each, Number, Optional, one_line_errors, read_results
from talkinghead import __version__
from talkinghead.animate import map_track
from talkinghead.cli import read_people
from talkinghead.clip import Track
from talkinghead.data.crop import crop_around
from talkinghead.data.read import read_track
from talkinghead.data.shots import spread
from talkinghead.landmarks.detect import open_detector
from talkinghead.landmarks.face import DOUBTFUL
from talkinghead.landmarks.retarget import EYES, LIPS, neutral_face, retarget
from talkinghead.media.video import VIDEO_SUFFIXES

SHOTS = 8
PROPORTIONS = ("eyes to jaw width", "nose length to eyes", "mouth width at rest to eyes")
FRONTAL = 0.15  # of the eyes' distance: how far the nose may lie beside their middle where proportions are measured
BLINKS = 0.6  # of the usual opening: a driver whose eyes close to less blinks
SPEAKS = 0.08  # of the eyes' distance: a driver whose mouth's opening varies by more moves it


_SHARE = Number(-1e9, 1e9)
_PAIR = {
    **dict.fromkeys(("retargeted", "off"), [_SHARE] * len(PROPORTIONS)),
    **dict.fromkeys(("eyes", "shut", "mouth"), Optional(Number(-1e9, 1e9, nan=True))),
}
_RESULTS = {"similarity_pixels": Number(), "pairs": Each(_PAIR, least=1)}


def apart(points: np.ndarray, first: int, second: int) -> np.ndarray:
    return np.linalg.norm(points[:, first] - points[:, second], axis=1)


def mouth_opening(points: np.ndarray) -> np.ndarray:
    return np.mean([apart(points, *pair) for pair in LIPS], axis=0) / apart(points, 36, 45)


def eye_opening(points: np.ndarray) -> np.ndarray:
    return np.mean([apart(points, *lids) for eye in EYES for lids in eye[1:3]], axis=0) / apart(points, 36, 45)


def proportions(points: np.ndarray) -> np.ndarray:
    """Medians over the frames that look ahead (all, when none does), [3]."""
    aside = (points[:, 30, 0] - points[:, [36, 45], 0].mean(axis=1)) / apart(points, 36, 45)
    points = points[np.abs(aside) < FRONTAL] if (np.abs(aside) < FRONTAL).any() else points
    eyes, opening = apart(points, 36, 45), mouth_opening(points)
    calm = opening <= np.percentile(opening, 30)
    return np.array(
        [np.median(eyes / apart(points, 2, 14)), np.median(apart(points, 27, 33) / eyes), np.median((apart(points, 48, 54) / eyes)[calm])]
    )


def clear(track: Track) -> Track:
    return track[np.flatnonzero(track.confidence >= DOUBTFUL)]


def person_of(track: Track) -> np.ndarray:
    """Landmarks [8, 68, 2] of pictures of the person, in fractions of their crop."""
    pictures = track[spread(len(track), SHOTS)]
    return crop_around(pictures.landmarks).points(pictures.landmarks, 1)


def pair(person: Track, driver: Track) -> dict[str, Any]:
    """Deviation of the proportions from the person's own, with and without retargeting, and how the expression follows."""
    face = neutral_face(person_of(person))
    result, plain = retarget(driver, face), map_track(driver, face.points)
    own = proportions(face.points[None])
    eyes, mouth = eye_opening(driver.landmarks), mouth_opening(driver.landmarks)
    found: dict[str, Any] = {
        "retargeted": np.abs(proportions(result) / own - 1).round(4).tolist(),
        "off": np.abs(proportions(plain) / own - 1).round(4).tolist(),
    }
    if np.percentile(eyes, 1) < BLINKS * np.median(eyes):
        found["eyes"] = round(float(np.corrcoef(eye_opening(result), eyes)[0, 1]), 4)
        found["shut"] = round(float(eye_opening(result).min() / eye_opening(face.points[None])[0]), 4)
    if np.ptp(np.percentile(mouth, [1, 99])) > SPEAKS:
        found["mouth"] = round(float(np.corrcoef(mouth_opening(result), mouth)[0, 1]), 4)
    return found


def similarity(person: Track, driver: Track) -> float:
    """The most, in pixels of a 256 wide crop, that a scaled, rolled or shifted driver moves the result by otherwise."""
    face, own = neutral_face(person_of(person)), neutral_face(driver.landmarks)
    before = retarget(driver, face, own).astype(np.float64)
    worst = 0.0
    for scale, degrees, shift in ((1.3, 0, 0), (0.7, 0, 0), (1, 20, 0), (1, -20, 0), (1, 0, 0.05), (0.8, 10, -0.05)):
        angle, travel = np.radians(degrees), np.array([shift, -shift]) * np.ptp(driver.landmarks[0])
        turned = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = Track((driver.landmarks - own.place) @ turned.T + own.place + travel, driver.size, driver.fps)
        after, wanted = retarget(moved, face, own), (before - face.place) @ turned.T + face.place
        wanted += np.median(after - wanted, axis=(0, 1)) if shift else 0
        inside = [((each > 0.021) & (each < 0.979)).all(axis=(1, 2)) for each in (before, wanted)]
        worst = max(worst, float(np.abs(after - wanted)[inside[0] & inside[1]].max(initial=0)) * 256)
    return worst


def measure(clips: Path, people: Mapping[str, str]) -> dict[str, Any]:
    detector = open_detector("dlib")
    tracks: dict[str, Track] = {}
    for path in sorted(path for path in clips.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES):
        track, person = clear(read_track(path, detector)), people.get(path.name, path.stem)
        if len(track) >= SHOTS and len(track) > len(tracks.get(person, ())):
            tracks[person] = track
    pairs = {f"{who} by {driver}": pair(tracks[who], tracks[driver]) for who in tracks for driver in tracks if who != driver}
    worst = max(similarity(tracks[who], tracks[driver]) for who in tracks for driver in tracks if who != driver)
    versions = {"talkinghead": __version__, "numpy": np.__version__, "landmarks": detector.name}
    return {"date": str(date.today()), "versions": versions, "people": len(tracks), "similarity_pixels": worst, "pairs": pairs}


def table(found: Mapping[str, Any]) -> str:
    pairs = list(found["pairs"].values())
    lines = [
        "| deviation from the person's own | retargeted: median | 95% of pairs | worst | off: median | worst |",
        "|---|---|---|---|---|---|",
    ]
    for number, name in enumerate(PROPORTIONS):
        with_, without = (np.array([each[key][number] for each in pairs]) for key in ("retargeted", "off"))
        figures = np.median(with_), np.percentile(with_, 95), with_.max(), np.median(without), without.max()
        lines.append(f"| {name} | " + " | ".join(f"{figure:.1%}" for figure in figures) + " |")
    lines += ["", "| follows the driver (correlation) | median | 5% of pairs below | least | pairs |", "|---|---|---|---|---|"]
    for key, name in (("mouth", "mouth opening"), ("eyes", "eye closing")):
        values = np.array([each[key] for each in pairs if key in each])
        if len(values):
            lines.append(f"| {name} | {np.median(values):.3f} | {np.percentile(values, 5):.3f} | {values.min():.3f} | {len(values)} |")
    lines.append("")
    shut = np.array([each["shut"] for each in pairs if "shut" in each])
    if len(shut):
        lines.append(f"In a blink the eyes close to {np.median(shut):.0%} of their own opening (worst {shut.max():.0%}).")
    lines.append(
        "A driver scaled by 30%, rolled by 20 degrees or shifted moves the result alike within "
        f"{found['similarity_pixels']:.4f} pixels of 256."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("bench.retarget", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="?", type=Path)
    parser.add_argument("--people", help="table with the columns file and person")
    parser.add_argument("--out", type=Path, default=Path("retarget.json"))
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    with one_line_errors(parser.prog):
        if given.table is None:
            found = measure(given.clips, read_people(given.people) if given.people else {})
            given.out.write_text(json.dumps(found, indent=1) + "\n")
        found = read_results(given.table or given.out, _RESULTS)
    print(table(found))


if __name__ == "__main__":
    main()
