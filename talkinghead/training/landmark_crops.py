"""Augmented crops of faces, on which the landmark network learns.

In some the gaze is moved (moved_gaze.py). Crops are moved, turned, scaled and mirrored, then disturbed
(landmark_disturbances.py). Some show no face.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..dataset.shard_reader import ShardClip, read_index
from ..errors import TalkingheadError
from ..landmarks.landmark_image import MIRROR_INDEX, mirror_irises
from ..landmarks.network import CROP_SIDE, NUM_POINTS, SIZE
from ..landmarks.oriented_crop import OrientedCrop, crop_of_landmarks
from .landmark_disturbances import disturb
from .moved_gaze import move_gaze

NEGATIVE_SHARE = 0.12
"""Share of the crops without a face."""
_MOVED_GAZE_SHARE = 0.6  # of the faces with irises
_ROLL_SIGMA, _LARGE_ROLL_SHARE = math.radians(11), 0.15  # of the turn of a crop against its head
_LARGE_ROLL = math.radians(50)
_SCALE_SIGMA, _SHIFT_SIGMA = 0.12, 0.06  # of the logarithm of the size, and in sides


@dataclass(frozen=True)
class CropBatch:
    """A batch of crops with the truth.

    Attributes:
        pictures: float32 [B, 3, 128, 128], 0..1, in channels_last.
        points: float32 [B, 78, 2], fractions of the crop, as in `LandmarkOutput`.
        known: float32 [B, 78], 1 where the point is known, 0 elsewhere.
        presence: float32 [B], 1 where the crop shows a face.
    """

    pictures: Tensor
    points: Tensor
    known: Tensor
    presence: Tensor


class FaceSource:
    """The frames of data sets, in memory, from which batches are drawn.

    Each set is drawn equally often, and of it each person.

    Args:
        data: folders that `talkinghead prepare` wrote.
        exclude_identities: people not to learn from.
        seed: of all that is drawn.

    Raises:
        TalkingheadError: a folder holds no shards, or nobody is left to learn from.
    """

    def __init__(self, data: Sequence[str], exclude_identities: Sequence[str] = (), seed: int = 0) -> None:
        self._seed = seed
        self.clips: list[ShardClip] = []
        self._frames: list[np.ndarray] = []
        self._sets: list[list[list[int]]] = []  # set -> person -> clips
        for folder in data:
            people: dict[str, list[int]] = {}
            for clip in read_index(folder):
                if clip.person not in exclude_identities:
                    people.setdefault(clip.person, []).append(len(self.clips))
                    self.clips.append(clip)
            if people:
                self._sets.append(list(people.values()))
        if not self.clips:
            raise TalkingheadError("train-landmarks: nobody is left to learn from; exclude fewer identities")

    def load(self) -> None:
        """Read all frames into memory: 0.2 MB each at 256 x 256."""
        self._frames = [clip.frames(range(len(clip))) for clip in self.clips]

    def draw(self, step: int, batch: int) -> CropBatch:
        """Draw the batch of a step; the same for the same seed and step."""
        if not self._frames:
            self.load()
        random = np.random.default_rng((self._seed, step))
        chosen = [self._choose(random) for _ in range(batch)]
        has_face = random.random(batch) >= NEGATIVE_SHARE
        crops = [
            _cut(self._frames[clip], self.clips[clip], frame, has_face=bool(face), random=random)
            for (clip, frame), face in zip(chosen, has_face, strict=True)
        ]
        pictures = torch.stack([picture for picture, _, _ in crops])
        points = torch.from_numpy(np.stack([point for _, point, _ in crops]).astype(np.float32))
        known = torch.from_numpy(np.stack([mask for _, _, mask in crops]).astype(np.float32))
        mirrored = torch.from_numpy(random.random(batch) < 0.5)
        pictures[mirrored] = pictures[mirrored].flip(3)
        points[mirrored] = _mirror(points[mirrored])
        pictures = disturb(pictures, points, random)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        return CropBatch(pictures, points, known, torch.from_numpy(has_face.astype(np.float32)))

    def choose_frame(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame uint8 [S, S, 3] and its landmarks float64 [68, 2]."""
        if not self._frames:
            self.load()
        clip, frame = self._choose(random)
        return self._frames[clip][frame], self.clips[clip].landmarks[frame].astype(np.float64)

    def _choose(self, random: np.random.Generator) -> tuple[int, int]:
        """Return the indices of a clip and of a frame of it."""
        people = self._sets[int(random.integers(len(self._sets)))]
        clips = people[int(random.integers(len(people)))]
        clip = clips[int(random.integers(len(clips)))]
        return clip, int(random.integers(len(self.clips[clip])))


def _cut(
    frames: np.ndarray, clip: ShardClip, index: int, *, has_face: bool, random: np.random.Generator
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return a crop: its picture float32 [3, 128, 128], points [78, 2] and which of them are known [78]."""
    points = np.zeros((NUM_POINTS, 2))
    known = np.zeros(NUM_POINTS)
    points[:68] = clip.landmarks[index]
    if clip.irises is not None:
        points[68:] = clip.irises[index].reshape(-1, 2)
    known[:68], known[68:] = has_face, has_face and clip.irises is not None
    crop, frame = crop_of_landmarks(points[:68], CROP_SIDE), frames[index]
    if has_face:
        if clip.irises is not None and random.random() < _MOVED_GAZE_SHARE:
            frame, points = move_gaze(frame, points, random)
        shift = tuple(random.normal(0, _SHIFT_SIGMA, 2).tolist())
        scale = math.exp(random.normal(0, _SCALE_SIGMA))
        is_large = random.random() < _LARGE_ROLL_SHARE
        turn = random.uniform(-_LARGE_ROLL, _LARGE_ROLL) if is_large else random.normal(0, _ROLL_SIGMA)
    else:
        shift, scale, turn = _no_face(random)
    moved = crop.varied((shift[0], shift[1]), scale, math.degrees(turn))
    padding = "zeros" if random.random() < 0.6 else "border"
    return sample_training_crop(frame, moved, SIZE, padding), moved.to_crop(points), known


def sample_training_crop(frame: np.ndarray, crop: OrientedCrop, size: int, padding: str) -> Tensor:
    """Return a crop of a square frame as `sample_crops` does, with a choice of what lies beyond the frame.

    Args:
        frame: uint8 [S, S, 3].
        crop: the crop.
        size: side of the result in pixels.
        padding: "zeros" or "border", what lies beyond the frame.

    Returns:
        float32 [3, size, size], 0..1.
    """
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    shrink = size / crop.side
    if shrink < 0.75:
        shrunk = max(round(len(frame) * shrink), 1)
        pixels = F.interpolate(pixels, (shrunk, shrunk), mode="bilinear", antialias=True)
    corners = crop.to_frame(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    steps = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    origin, across, down = (
        torch.from_numpy((value * 2 / len(frame)).astype(np.float32))
        for value in (corners[0], corners[1] - corners[0], corners[2] - corners[0])
    )
    grid = (origin - 1 + steps[None, :, None] * across + steps[:, None, None] * down)[None]
    values = pixels.float().mul_(1 / 255)
    return F.grid_sample(values, grid, mode="bilinear", padding_mode=padding, align_corners=False)[0]


def _no_face(random: np.random.Generator) -> tuple[tuple[float, float], float, float]:
    """Return shift, scale and turn of a crop that shows no upright face: beside it, a part of it, or upside
    down.
    """
    kind = random.random()
    angle = random.uniform(0, 2 * math.pi)
    direction = math.cos(angle), math.sin(angle)
    if kind < 0.4:
        distance = random.uniform(0.6, 1.0)
        shift = direction[0] * distance, direction[1] * distance
        return shift, random.uniform(0.5, 1.0), random.uniform(-1, 1)
    if kind < 0.75:
        distance = random.uniform(0, 0.5)
        shift = direction[0] * distance, direction[1] * distance
        return shift, random.uniform(0.1, 0.38), random.uniform(-math.pi, math.pi)
    turn = random.choice((-1, 1)) * random.uniform(math.radians(110), math.pi)
    return (0.0, 0.0), random.uniform(0.8, 1.5), float(turn)


def _mirror(points: Tensor) -> Tensor:
    """Return points [N, 78, 2] of mirrored crops."""
    landmarks = points[:, list(MIRROR_INDEX)].clone()
    landmarks[..., 0] = 1 - landmarks[..., 0]
    irises = mirror_irises(points[:, 68:].reshape(-1, 2, 5, 2), 1.0)
    return torch.cat([landmarks, irises.reshape(-1, 10, 2)], dim=1)
