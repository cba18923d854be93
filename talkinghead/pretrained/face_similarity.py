"""Similarity of faces: whether pictures show the same person, without a face recogniser of others.

The embedder of a talking-head model describes a person by a vector. Its projection onto the directions in
which people differ more than pictures of one person (linear discriminant analysis, Fisher 1936) is compared
by the cosine. `python -m bench.experiments.face_similarity` fits and measures it.
"""

import logging
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip import Clip
from ..config import preset
from ..landmarks.landmark_image import landmark_image
from ..landmarks.network_blocks import load_weights
from ..media.pixel_range import uint8_to_float
from ..networks.embedder import Embedder

MIN_DIFFERENT_PEOPLE_DISTANCE = 0.75
"""Distance from which pictures are said to show different people: none of the 636 pairs of pictures of one
person left out of the fit are so far apart, and 54% of the pairs of two people are.
"""
KIND = "face similarity network"
SHIPPED = Path(__file__).with_name("face_similarity.safetensors")
"""File of the weights that ship with the package."""
DIMENSIONS = 64
_BATCH = 8
_FOREHEAD = 0.5  # of half the height of the landmarks, which end at the brows

log = logging.getLogger(__name__)


class FaceSimilarityNetwork(nn.Module):
    """An embedder of the shape of preset `portrait`, and the projection of its vectors.

    Attributes:
        embedder: the network.
        mean: [D], the mean vector of people.
        projection: [D, 64].
    """

    mean: Tensor
    projection: Tensor

    def __init__(self) -> None:
        super().__init__()
        networks = preset("portrait").networks
        self.size = networks.layer_size
        self.embedder = Embedder(networks)
        dimensions = networks.encoder[-1]
        self.register_buffer("mean", torch.zeros(dimensions))
        self.register_buffer("projection", torch.zeros(dimensions, DIMENSIONS))

    def embedder_vectors(self, frames: np.ndarray, landmarks: np.ndarray) -> Tensor:
        """Return the embedder's vectors [N, D] of pictures, with all but the face in grey.

        Args:
            frames: uint8 [N, S, S, 3], crops around a face as those of a `Clip`.
            landmarks: [N, 68, 2] in their pixels.
        """
        points = torch.from_numpy(np.asarray(landmarks, np.float32) / frames.shape[1])
        rows = []
        with torch.inference_mode():
            for start in range(0, len(frames), _BATCH):
                images = uint8_to_float(torch.from_numpy(frames[start : start + _BATCH])).permute(0, 3, 1, 2)
                images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
                shapes = points[start : start + _BATCH]
                images = images * _face_mask(shapes, self.size)
                rows.append(self.embedder(images, landmark_image(shapes, self.size)))
        return torch.cat(rows)

    def embed(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Return vectors float32 [N, 64] of length 1, whose cosine says how alike the people are.

        Args:
            frames, landmarks: as for `embedder_vectors`.
        """
        vectors = (self.embedder_vectors(frames, landmarks) - self.mean) @ self.projection
        return F.normalize(vectors, dim=1).numpy()


def _face_mask(points: Tensor, size: int) -> Tensor:
    """Return masks [N, 1, size, size] of faces [N, 68, 2]; one background does not make people alike."""
    low, high = points.amin(dim=1), points.amax(dim=1)
    centre, half = (low + high) / 2, (high - low) / 2
    centre = centre - half * torch.tensor([0.0, _FOREHEAD / 2])
    half = (half * torch.tensor([1.1, 1.05 + _FOREHEAD / 2])).clamp(min=1e-3)
    steps = (torch.arange(size) + 0.5) / size
    across = (steps[None, None, :] - centre[:, 0, None, None]) / half[:, 0, None, None]
    down = (steps[None, :, None] - centre[:, 1, None, None]) / half[:, 1, None, None]
    radius = (across.square() + down.square()).sqrt()
    return ((1.1 - radius) / 0.2).clamp(0, 1)[:, None]


class TwoPeople(NamedTuple):
    """Pictures that look like more than one person.

    Attributes:
        largest_group: numbers of the pictures of the person with the most pictures, from 1 on.
        others: numbers of all other pictures.
        distance: the least distance between a picture of the one and a picture of the others.
    """

    largest_group: list[int]
    others: list[int]
    distance: float


@lru_cache(maxsize=1)
def face_similarity_network() -> FaceSimilarityNetwork:
    """Return the network that ships.

    Raises:
        TalkingheadError: its file is missing or damaged.
    """
    with torch.random.fork_rng(devices=[]):  # leave the caller's random state unchanged
        network = FaceSimilarityNetwork()
    load_weights(network, SHIPPED, KIND, remedy="install talkinghead again")
    return network.eval().requires_grad_(False)


def person_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the distance, 0 to 2, of the people in two sets of vectors [N, 64] and [M, 64]."""
    a, b = first.mean(axis=0), second.mean(axis=0)
    return 1 - float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def looks_like_two_people(clip: Clip) -> TwoPeople | None:
    """Check whether the pictures of a clip look like two people.

    Returns:
        The groups, as for `group_by_person`; None where they look like one person.
    """
    if len(clip.frames) < 2:
        return None
    return group_by_person(face_similarity_network().embed(clip.frames, clip.track.landmarks))


def group_by_person(vectors: np.ndarray) -> TwoPeople | None:
    """Group the vectors [N, 64] of pictures by the person that they look like.

    Pictures nearer than `MIN_DIFFERENT_PEOPLE_DISTANCE` are of one group, and so are those that a chain of
    such pictures connects.

    Returns:
        The groups; None where they look like one person.
    """
    distances = 1 - vectors @ vectors.T
    groups = np.arange(len(vectors))
    for first, second in np.argwhere(distances < MIN_DIFFERENT_PEOPLE_DISTANCE):
        groups[groups == groups[second]] = groups[first]
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) == 1:
        return None
    inside = groups == names[sizes.argmax()]
    numbers = np.arange(1, len(vectors) + 1)
    least = float(distances[inside][:, ~inside].min())
    return TwoPeople(numbers[inside].tolist(), numbers[~inside].tolist(), least)


def warn_if_two_people(clip: Clip) -> None:
    """Log a warning where a person's reference pictures look like two people, because the result would be a
    mixture of them.
    """
    people = looks_like_two_people(clip)
    if people is None:
        return
    first, others = (", ".join(map(str, numbers)) for numbers in (people.largest_group, people.others))
    log.warning(
        f"%s: picture {first} and picture {others} look like different people (distance "
        f"{people.distance:.2f}, {MIN_DIFFERENT_PEOPLE_DISTANCE:g} or more is another): all are learned as "
        "one person; leave some out if they are not",
        clip.name,
    )
