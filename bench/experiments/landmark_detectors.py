"""Compare the landmark detectors on frames of people that trained none of ours.

    python -m bench.experiments.landmark_detectors CLIPS PORTRAITS.tar face_landmarker.task --out RESULTS.json

CLIPS is a folder with a table clips.tsv beside it, as `talkinghead prepare --people` takes one; PORTRAITS.tar
holds one picture a person. 450 frames of the clips of `HELD_OUT` and every 15th portrait are compared. Errors
are distances from the mean of dlib's and MediaPipe's points, the jaw from dlib's, in percent of the distance
of the outer corners of the eyes, on frontal faces.
"""

import argparse
import json
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import skimage

from bench.lib.harness import machine
from talkinghead.data.load import read_faces
from talkinghead.dataset.people_table import read_people
from talkinghead.landmarks.detector import Detector, Face, find_faces
from talkinghead.landmarks.face_landmarker_detector import FaceLandmarkerDetector
from talkinghead.landmarks.head_pose import head_pose
from talkinghead.landmarks.open_detector import open_detector
from talkinghead.media.images import decode_jpeg, read_image
from talkinghead.media.video import VideoReader
from talkinghead.synthetic.scene import sample_scene

HELD_OUT = ("p03", "p10", "p13", "p17", "p23", "p24", "p28", "p29", "p30", "p31")
"""People of the clips who are in no training."""
PORTRAIT_STEP = 15
"""Distance of the portraits that are in no training, from the first on."""
FRAMES_OF_CLIPS = 450
PARTS = {
    "eyes": range(36, 48),
    "brows": range(17, 27),
    "nose": range(27, 36),
    "mouth": range(48, 68),
    "jaw": range(17),
}
SHOWS_TWO = ("webcam_p31_two_people.mp4",)
"""Clips of which a part without the main face shows another, whom no detector may see in the whole frame."""
FACELESS = 1000
"""Number of pictures without a face."""
_FRONTAL_DEGREES = 15.0
_JITTER_COPIES, _JITTER_SIGMA = 16, 3.0
_TIMED_FRAMES = 40


def held_out_clips(folder: Path, table: Path) -> list[Path]:
    """Return the clips of the people left out, in order."""
    people = read_people(str(table))
    return sorted(path for path in folder.iterdir() if people.get(path.name) in HELD_OUT)


def held_out_frames(clips: list[Path], portraits: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the sources and frames that are compared: evenly spaced ones of each clip, then portraits."""
    share = FRAMES_OF_CLIPS / len(clips)
    for index, path in enumerate(clips):
        count = round((index + 1) * share) - round(index * share)
        frames = list(VideoReader(path))
        for number in np.linspace(0, len(frames) - 1, count).round().astype(int):
            yield path.name, frames[number]
    with tarfile.open(portraits) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        for name in names[::PORTRAIT_STEP]:
            member = archive.extractfile(name)
            assert member is not None
            yield name, decode_jpeg(member.read())


def outer_eye_distance(points: np.ndarray) -> float:
    """Return the distance of the outer corners of the eyes of landmarks [68, 2]."""
    return float(np.linalg.norm(points[45] - points[36]))


def find_all(detector: Detector, frames: Sequence[np.ndarray]) -> list[list[Face]]:
    """Return the faces of each frame, the largest first."""
    return [find_faces(detector, [frame])[0] for frame in frames]


def errors(faces: list[Face | None], references: list[tuple[Face | None, Face | None]]) -> dict[str, Any]:
    """Return mean and median error of each part in percent, and the number of frontal frames compared."""
    rows = []
    for face, (dlib, mesh) in zip(faces, references, strict=True):
        if face is None or dlib is None or mesh is None:
            continue
        size = outer_eye_distance(dlib.landmarks)
        middle = (dlib.landmarks + mesh.landmarks) / 2
        if np.linalg.norm(dlib.landmarks - mesh.landmarks, axis=1).mean() > 0.15 * size:
            continue  # they fit different faces
        if abs(head_pose(middle).yaw) > _FRONTAL_DEGREES:
            continue
        truth = middle.copy()
        truth[:17] = dlib.landmarks[:17]
        distance = 100 * np.linalg.norm(face.landmarks - truth, axis=1) / size
        rows.append([distance[list(part)].mean() for part in PARTS.values()])
    if not rows:
        return {"frames": 0}
    means, medians = np.mean(rows, axis=0).round(2).tolist(), np.median(rows, axis=0).round(2).tolist()
    values = {part: [mean, median] for part, mean, median in zip(PARTS, means, medians, strict=True)}
    return {**values, "frames": len(rows)}


def faceless_pictures(frames: Sequence[np.ndarray], faces: Sequence[list[list[Face]]]) -> list[np.ndarray]:
    """Return 1,000 pictures without a face: parts of the frames, synthetic rooms, and those of scikit-image.

    Args:
        frames: the frames that are compared.
        faces: of each detector, the faces of each frame, which the parts avoid.
    """
    random = np.random.default_rng(0)
    pictures = [read_image(path) for path in _faceless_samples()]
    for _ in range(100):
        room = sample_scene(random).background.clip(0, 1) ** (1 / 2.2)
        pictures.append((255 * room).astype(np.uint8))
    while len(pictures) < FACELESS:
        index = int(random.integers(len(frames)))
        frame = frames[index]
        side = int(random.uniform(0.25, 0.8) * min(frame.shape[:2]))
        x, y = (int(random.integers(limit - side + 1)) for limit in (frame.shape[1], frame.shape[0]))
        if not _agree([of_detector[index] for of_detector in faces]):
            continue  # one of them may have missed a face
        boxes = [face.box for of_detector in faces for face in of_detector[index]]
        if all(_is_beside((x, y, side), box) for box in boxes):
            pictures.append(np.ascontiguousarray(frame[y : y + side, x : x + side]))
    return pictures


def _faceless_samples() -> list[Path]:
    """Return the colour pictures of scikit-image that show no face."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("chelsea.png", "coffee.png", "color.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg")
    names += ("rocket.jpg", "motorcycle_left.png", "motorcycle_right.png", "chessboard_RGB.png", "logo.png")
    names += ("brick.png", "grass.png", "gravel.png", "horse.png", "moon.png", "page.png")
    return [folder / name for name in names]


def _agree(faces: list[list[Face]]) -> bool:
    """Return whether all detectors see the same one face."""
    if any(len(row) != 1 for row in faces):
        return False
    boxes = np.array([row[0].box for row in faces])
    return bool(np.ptp(boxes[:, :2], axis=0).max() < boxes[:, 2].min() / 2)


def _is_beside(square: tuple[int, int, int], box: tuple[float, float, float]) -> bool:
    """Return whether a square [left, top, side] shows nothing of a face's box, enlarged by a third."""
    left, top, side = square
    x, y, half = box[0], box[1], box[2] * 2 / 3
    return x + half < left or x - half > left + side or y + half < top or y - half > top + side


def jitter(detector: Detector, frames: Sequence[np.ndarray], faces: list[Face | None]) -> float:
    """Return how far points of a still face move under a camera's noise, in percent as the errors."""
    random = np.random.default_rng(0)
    values = []
    for frame, face in zip(frames, faces, strict=True):
        if face is None:
            continue
        copies = [
            np.clip(frame + random.normal(0, _JITTER_SIGMA, frame.shape), 0, 255).astype(np.uint8)
            for _ in range(_JITTER_COPIES)
        ]
        followed = detector.follow(copies, face.landmarks)
        if len(followed) == len(copies):
            points = np.stack([other.landmarks for other in followed])
            size = outer_eye_distance(face.landmarks)
            values.append(100 * np.sqrt(points.var(axis=0).sum(axis=-1)).mean() / size)
    return float(np.mean(values))


def speed(detector: Detector, clip: Path) -> dict[str, float]:
    """Return milliseconds a frame of 640x480: of the first detection, following one by one, and by 16."""
    frames = []
    for frame in VideoReader(clip):
        frames.append(fit_640_480(frame))
        if len(frames) == _TIMED_FRAMES:
            break
    face = next(iter(detector.find(frames[:1])[0]))
    result = {}
    for name, size in (("find", 0), ("follow", 1), ("follow 16", 16)):
        samples = []
        for _ in range(5):
            start, near = time.perf_counter(), face.landmarks
            if not size:
                detector.find(frames[:4])
                samples.append((time.perf_counter() - start) / 4)
                continue
            for index in range(0, len(frames), size):
                near = detector.follow(frames[index : index + size], near)[-1].landmarks
            samples.append((time.perf_counter() - start) / len(frames))
        result[name] = round(1000 * float(np.median(samples)), 2)
    return result


def fit_640_480(frame: np.ndarray) -> np.ndarray:
    """Return a frame cut or padded to 640x480."""
    result = np.zeros((480, 640, 3), np.uint8)
    part = frame[:480, :640]
    result[: part.shape[0], : part.shape[1]] = part
    return result


def coverage(detector: Detector, clips: list[Path]) -> dict[str, float]:
    """Return the share of the frames of each clip in which the main face is seen."""
    shares = {}
    for clip in clips:
        faces = read_faces(clip, detector)
        seen = len(faces.tracks[0]) if faces.tracks else 0
        shares[clip.name] = round(seen / faces.total, 3)
    return shares


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("task", help="MediaPipe's face_landmarker.task")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fast", action="store_true", help="leave out the coverage of whole clips")
    args = parser.parse_args()
    clips = held_out_clips(args.clips, args.clips.with_name("clips.tsv"))
    sources, frames = zip(*held_out_frames(clips, args.portraits), strict=True)
    detectors = {name: open_detector(name) for name in ("dlib", args.task, "network")}
    every_face = {name: find_all(detector, frames) for name, detector in detectors.items()}
    faces = {name: [next(iter(row), None) for row in rows] for name, rows in every_face.items()}
    of_one = [index for index, source in enumerate(sources) if source not in SHOWS_TWO]
    faceless = faceless_pictures(
        [frames[index] for index in of_one],
        [[rows[index] for index in of_one] for rows in every_face.values()],
    )
    references = list(zip(faces["dlib"], faces[args.task], strict=True))
    one_crop = FaceLandmarkerDetector(args.task, num_crops=1)
    rows: dict[str, Any] = {}
    for name, detector in detectors.items():
        rows[detector.name] = {
            "found": sum(face is not None for face in faces[name]),
            "errors": errors(faces[name], references),
            "false faces": sum(map(len, find_all(detector, faceless))),
            "jitter": jitter(detector, frames[::25], faces[name][::25]),
            "milliseconds": speed(detector, clips[0]),
            **({"one crop": speed(one_crop, clips[0])} if name == args.task else {}),
            "coverage": {} if args.fast else coverage(detector, clips),
        }
        print(detector.name, json.dumps(rows[detector.name]))
    results = {**machine(), "frames": len(frames), "rows": rows}
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
