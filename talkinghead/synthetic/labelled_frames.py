"""Single frames of synthetic people with their landmarks and irises, to train landmark networks on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..data.crop import Crop, crop_around
from .face_rig import FaceRig
from .landmarks import LandmarkLocator
from .motion import sample_motion
from .render import project_irises, project_landmarks, render_frames
from .scene import sample_scene


@dataclass(frozen=True)
class LabelledFrame:
    """A frame of a synthetic person.

    Attributes:
        image: uint8 [size, size, 3], RGB.
        landmarks: float32 [68, 2] in pixels of the image.
        irises: float32 [2, 5, 2] in pixels of the image, as in `talkinghead.Track`.
        turn: float32 [3], degrees that the head turns: yaw, pitch, roll, as in `motion.Motion`.
    """

    image: np.ndarray
    landmarks: np.ndarray
    irises: np.ndarray
    turn: np.ndarray


def render_labelled_frames(
    rig: FaceRig,
    count: int,
    random: np.random.Generator,
    *,
    size: int = 256,
    poses: str = "wide",
    crop: Callable[[np.ndarray], Crop] = crop_around,
) -> Iterator[LabelledFrame]:
    """Yield frames of a person, each with its own light, background, pose, expression and crop.

    Args:
        rig: the person, `FaceRig(head, head.template, sample_appearance(head, seed, number))`.
        count: number of frames.
        random: the random number generator.
        size: side of the images in pixels.
        poses: one of `head_pose.POSES`.
        crop: returns the crop of a frame for its landmarks [1, 68, 2], such as a random one about the face.

    Raises:
        TalkingheadError: `poses` are unknown.
    """
    locator = LandmarkLocator(rig.head, rig.head.template, poses)
    for _ in range(count):
        scene = sample_scene(random)
        motion = sample_motion(list(rig.head.action), 1, random, poses=poses)
        landmarks = project_landmarks(rig, motion, scene, locator)
        square = crop(landmarks)
        [image] = render_frames(rig, motion, scene, crop=square, size=size, random=random)
        yield LabelledFrame(
            image=image,
            landmarks=square.points(landmarks[0], size),
            irises=square.points(project_irises(rig, motion, scene)[0], size),
            turn=motion.turn[0],
        )
