"""How far the landmarks of drawn people are from those that dlib finds in their pictures.

    python -m bench.synthetic_landmarks

draws 200 pictures, 100 people in 2 frames each at 256x256, in the crop of `talkinghead prepare`, and writes
bench/results/synthetic_landmarks.json: the mean distance, whole and by part, as a share of that between the outer corners of the eyes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from talkinghead.landmarks.dlib_face import DlibDetector
from talkinghead.landmarks.face import largest_face
from talkinghead.synthetic.actor import Actor
from talkinghead.synthetic.head import load_head
from talkinghead.synthetic.landmarks import Landmarks
from talkinghead.synthetic.motion import draw_motion
from talkinghead.synthetic.person import draw_person
from talkinghead.synthetic.render import frame_of, pictures, track
from talkinghead.synthetic.scene import draw_scene

PARTS = {"jaw": slice(0, 17), "brows": slice(17, 27), "nose": slice(27, 36), "eyes": slice(36, 48), "mouth": slice(48, 68)}
RESULT = Path(__file__).parent / "results/synthetic_landmarks.json"
SIZE, CLIP = 256, 50


def compare(people: int = 100, frames: int = 2, seed: int = 1000) -> dict[str, Any]:
    """The distances of so many pictures, every one with its own pose, expression, light and (of a person) background."""
    head, detector = load_head(), DlibDetector()
    landmarks = Landmarks(head, head.template)
    distances = []
    for number in range(people):
        random = np.random.default_rng((seed, number))
        actor = Actor(head, head.template, draw_person(head, seed, number))
        scene, motion = draw_scene(random), draw_motion(list(head.action), CLIP, random)
        crop = frame_of(track(actor, motion, scene, landmarks))
        motion = motion[np.linspace(0, CLIP - 1, frames + 2).astype(int)[1:-1]]
        points = crop.points(track(actor, motion, scene, landmarks), SIZE)
        for known, picture in zip(points, pictures(actor, motion, scene, crop, SIZE, random), strict=True):
            face = largest_face(detector, picture)
            if face is not None:
                eyes = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
                distances.append(np.linalg.norm(known - face.landmarks, axis=1) / eyes)
    each = np.array(distances)
    return {
        "pictures": people * frames,
        "found": len(each),
        "mean": float(each.mean()),
        "parts": {name: float(each[:, part].mean()) for name, part in PARTS.items()},
        "worst_tenth": float(np.quantile(each.mean(axis=1), 0.9)),
    }


if __name__ == "__main__":
    result = compare()
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
