"""Scenes of faces of all sizes, on which the detection network learns: pictures pasted on pictures.

A scene has a background without faces, up to eight pictures with a face each, and a few parts of pictures
without one, whose borders look alike, so that a border says nothing of a face.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..landmarks.detection_network import SIZE
from ..landmarks.geometry import centre_and_scale
from ..landmarks.oriented_crop import OrientedCrop, head_roll
from .landmark_crops import FaceSource, sample_training_crop
from .landmark_disturbances import add_occluder, disturb_scene
from .whole_frames import WholeFrames

MAX_FACES = 8
_MIN_RADIUS, _MAX_RADIUS = 0.013, 0.33  # of the landmarks, in sides of the scene
_MAX_OVERLAP = 0.25
_WHOLE_FRAME_SHARE = 0.35  # of the scenes, where there are whole frames
_OCCLUDED_SHARE = 0.3  # of the faces


@dataclass(frozen=True)
class SceneBatch:
    """A batch of scenes with the truth.

    Attributes:
        pictures: float32 [B, 3, 160, 160], 0..1, in channels_last.
        faces: float32 [B, 8, 4], centre x and y and radius in fractions of the scene, and roll in radians.
        count: int64 [B], how many of the 8 faces there are.
    """

    pictures: Tensor
    faces: Tensor
    count: Tensor


class SceneSource:
    """Scenes drawn from the frames of data sets.

    Args:
        faces: the data sets.
        seed: of all that is drawn.
        whole_frames: frames of which a part is the background of some scenes.
    """

    def __init__(self, faces: FaceSource, seed: int = 0, whole_frames: WholeFrames | None = None) -> None:
        self._faces, self._seed, self._whole_frames = faces, seed, whole_frames

    def draw(self, step: int, batch: int) -> SceneBatch:
        """Draw the batch of a step; the same for the same seed and step."""
        random = np.random.default_rng((self._seed, step, 1))
        scenes = [self._scene(random) for _ in range(batch)]
        faces = np.zeros((batch, MAX_FACES, 4), np.float32)
        for row, (_, rows) in zip(faces, scenes, strict=True):
            row[: len(rows)] = np.reshape(rows, (-1, 4))
        pictures = torch.stack([picture for picture, _ in scenes]).contiguous(
            memory_format=torch.channels_last
        )
        count = torch.tensor([len(rows) for _, rows in scenes])
        return SceneBatch(pictures, torch.from_numpy(faces), count)

    def _scene(self, random: np.random.Generator) -> tuple[Tensor, list[list[float]]]:
        """Return a picture [3, 160, 160] and its faces."""
        faces: list[list[float]] = []
        if self._whole_frames is not None and random.random() < _WHOLE_FRAME_SHARE:
            picture, face = self._whole_frames.draw_window(SIZE, random)
            faces.append(face)
            number = int(random.choice(3, p=(0.8, 0.1, 0.1)))
        else:
            picture = self._background(random)
            for _ in range(int(random.choice(4, p=(0.2, 0.4, 0.25, 0.15)))):
                self._paste_part(picture, random)
            number = int(
                random.choice(MAX_FACES + 1, p=(0.12, 0.45, 0.15, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02))
            )
        for _ in range(number):
            self._paste_face(picture, faces, random)
        if random.random() < 0.5:
            picture = picture.flip(2)
            faces = [[1 - x, y, radius, -roll] for x, y, radius, roll in faces]
        return disturb_scene(picture, random), faces

    def _background(self, random: np.random.Generator) -> Tensor:
        """Return a background: shaded colours, noise, or an enlarged part of a picture without a face."""
        kind = random.random()
        if kind < 0.25:
            colours = torch.from_numpy(random.random((1, 3, 2, 2)).astype(np.float32))
            return F.interpolate(colours, (SIZE, SIZE), mode="bilinear", align_corners=True)[0]
        if kind < 0.45:
            cells = int(random.choice((3, 6, 12, 40)))
            noise = torch.from_numpy(random.random((1, 3, cells, cells)).astype(np.float32))
            return F.interpolate(noise, (SIZE, SIZE), mode="bicubic")[0].clamp(0, 1)
        return self._part_without_face(SIZE, random)

    def _part_without_face(self, size: int, random: np.random.Generator) -> Tensor:
        """Return a part of a picture beside the face or far inside it, float32 [3, size, size]."""
        frame, landmarks = self._faces.choose_frame(random)
        side = len(frame)
        centre, radius = centre_and_scale(landmarks)
        if random.random() < 0.2:  # skin, an eye or a mouth alone, too near to be a face
            x, y = (centre + random.normal(0, 0.5, 2) * radius).tolist()
            part = OrientedCrop(x, y, float(radius * random.uniform(0.3, 0.9)), random.uniform(-3, 3))
            return sample_training_crop(frame, part, size, "border")
        low, high = landmarks.min(axis=0), landmarks.max(axis=0)
        strips = (  # left of the face, right of it, below and above
            (0.0, 0.0, float(low[0]), float(side)),
            (float(high[0]), 0.0, float(side), float(side)),
            (0.0, float(high[1]), float(side), float(side)),
            (0.0, 0.0, float(side), float(low[1] - 0.7 * radius)),
        )
        left, top, right, bottom = strips[int(random.integers(4))]
        shorter = min(right - left, bottom - top)
        if shorter < 12:
            return torch.full((3, size, size), float(random.random()))
        width = shorter * random.uniform(0.5, 1.0)
        x = random.uniform(left + width / 2, right - width / 2)
        y = random.uniform(top + width / 2, bottom - width / 2)
        return sample_training_crop(frame, OrientedCrop(x, y, width), size, "border")

    def _paste_part(self, picture: Tensor, random: np.random.Generator) -> None:
        """Paste a part without a face."""
        size = int(random.uniform(0.1, 0.7) * SIZE)
        x, y = (random.uniform(0, SIZE - size, 2)).astype(int).tolist()
        picture[:, y : y + size, x : x + size] = self._part_without_face(size, random)

    def _paste_face(self, picture: Tensor, faces: list[list[float]], random: np.random.Generator) -> None:
        """Paste a picture with a face, unless it would hide another face."""
        frame, landmarks = self._faces.choose_frame(random)
        scale = math.exp(random.uniform(math.log(_MIN_RADIUS), math.log(_MAX_RADIUS)))
        centre, radius = centre_and_scale(landmarks)
        turn = random.normal(0, 0.2) if random.random() < 0.85 else random.uniform(-1.2, 1.2)
        # the part of the picture that is shown, and its size in the scene
        reach = random.uniform(3.4, 6.0)
        size = int(np.clip(round(reach * scale * SIZE), 8, 1.6 * SIZE))
        middle = centre + random.normal(0, 0.25, 2) * radius
        crop = OrientedCrop(float(middle[0]), float(middle[1]), float(reach * radius), turn)
        x, y = random.uniform(-0.2 * size, SIZE - 0.8 * size, 2).tolist()
        if size > SIZE:
            x, y = random.uniform(SIZE - size - 0.1 * size, 0.1 * size, 2).tolist()
        left, top = round(x), round(y)
        offset = crop.to_crop(centre[None])[0] * size + [left, top]
        face = [
            *(offset / SIZE).tolist(),
            float(radius * size / crop.side / SIZE),
            head_roll(landmarks) - turn,
        ]
        if not (0.02 < face[0] < 0.98 and 0.02 < face[1] < 0.98) or len(faces) == MAX_FACES:
            return
        box = np.array([left, top, left + size, top + size]) / SIZE
        for other in faces:
            reach_x = min(box[2], other[0] + 1.4 * other[2]) - max(box[0], other[0] - 1.4 * other[2])
            reach_y = min(box[3], other[1] + 1.4 * other[2]) - max(box[1], other[1] - 1.4 * other[2])
            if reach_x > 0 and reach_y > 0 and reach_x * reach_y > _MAX_OVERLAP * (2.8 * other[2]) ** 2:
                return
        patch = sample_training_crop(frame, crop, size, "border")
        if random.random() < _OCCLUDED_SHARE:
            texture = self._part_without_face(size, random)
            patch = add_occluder(patch, crop.to_crop(landmarks), texture, random)
        a, b = max(left, 0), max(top, 0)
        c, d = min(left + size, SIZE), min(top + size, SIZE)
        picture[:, b:d, a:c] = patch[:, b - top : d - top, a - left : c - left]
        faces.append(face)
