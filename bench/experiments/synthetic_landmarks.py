"""Distance between the landmarks of synthetic people and those that dlib finds in their images.

    python -m bench.experiments.synthetic_landmarks

renders 200 images, 100 people in 2 frames each at 256x256, in the crop of `talkinghead prepare`, and writes
bench/results/synthetic_landmarks.json: the mean distance, overall and by part, as a share of the distance
between the outer corners of the eyes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from talkinghead.data.crop import crop_around
from talkinghead.landmarks.detector import largest_face
from talkinghead.landmarks.dlib_detector import DlibDetector
from talkinghead.synthetic.appearance import sample_appearance
from talkinghead.synthetic.face_rig import FaceRig
from talkinghead.synthetic.head import load_head
from talkinghead.synthetic.landmarks import LandmarkLocator
from talkinghead.synthetic.motion import sample_motion
from talkinghead.synthetic.render import project_landmarks, render_frames
from talkinghead.synthetic.scene import sample_scene

PARTS = {
    "jaw": slice(0, 17),
    "brows": slice(17, 27),
    "nose": slice(27, 36),
    "eyes": slice(36, 48),
    "mouth": slice(48, 68),
}
RESULT = Path(__file__).parents[1] / "results/synthetic_landmarks.json"
SIZE, CLIP = 256, 50


def compare(people: int = 100, frames: int = 2, seed: int = 1000) -> dict[str, Any]:
    """Return the distances over images with their own pose, expression and light.

    Args:
        people: number of people; each has its own background.
        frames: frames of each person.
        seed: seed of the people.
    """
    head, detector = load_head(), DlibDetector()
    locator = LandmarkLocator(head, head.template)
    distances = []
    for number in range(people):
        random = np.random.default_rng((seed, number))
        rig = FaceRig(head, head.template, sample_appearance(head, seed, number))
        scene, motion = sample_scene(random), sample_motion(list(head.action), CLIP, random)
        crop = crop_around(project_landmarks(rig, motion, scene, locator))
        motion = motion[np.linspace(0, CLIP - 1, frames + 2).astype(int)[1:-1]]
        points = crop.points(project_landmarks(rig, motion, scene, locator), SIZE)
        images = render_frames(rig, motion, scene, crop=crop, size=SIZE, random=random)
        for expected, image in zip(points, images, strict=True):
            face = largest_face(detector, image)
            if face is not None:
                eyes = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
                distances.append(np.linalg.norm(expected - face.landmarks, axis=1) / eyes)
    shares = np.array(distances)
    return {
        "pictures": people * frames,
        "found": len(shares),
        "mean": float(shares.mean()),
        "parts": {name: float(shares[:, part].mean()) for name, part in PARTS.items()},
        "worst_tenth": float(np.quantile(shares.mean(axis=1), 0.9)),
    }


if __name__ == "__main__":
    result = compare()
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
