"""Fit the network that says whether pictures show the same person, and measure it.

    python -m bench.experiments.face_similarity fit clips256 portraits256 --out face_similarity.safetensors
    python -m bench.experiments.face_similarity measure held256 --weights face_similarity.safetensors

The arguments are data sets of `talkinghead prepare`, of videos that may train what is published, and, for
`measure`, of other people. The embedder is that of a model, by default `portrait`. Half of the covariance of
pictures of one person is that of filmed people, half that of all. Each picture is also seen at a lower
resolution. The errors are those of single pictures, each person weighing the same, and half of a person's
pairs being of one recording where there are several.
"""

import argparse
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

import talkinghead
from talkinghead.dataset.shard_reader import ShardClip, read_index
from talkinghead.landmarks.network_blocks import load_weights, save_network
from talkinghead.media.images import resize
from talkinghead.pretrained.face_similarity import (
    DIMENSIONS,
    KIND,
    SHIPPED,
    FaceSimilarityNetwork,
)

_FRAMES_OF_A_CLIP = 6
_RIDGE = 1.0  # of the covariance within people, in its mean variance
_FILMED_SHARE = 0.5
_LOW_SIZES = (40, 56, 80)


def _frames(clip: ShardClip) -> tuple[np.ndarray, np.ndarray]:
    """Return some frames of a clip and their landmarks."""
    chosen = np.unique(np.linspace(0, len(clip) - 1, _FRAMES_OF_A_CLIP).astype(int))
    return clip.frames(chosen), clip.landmarks[chosen]


def vectors_of_people(
    network: FaceSimilarityNetwork, folder: str, exclude_identities: list[str]
) -> dict[str, np.ndarray]:
    """Return person -> vectors [N, D] of some of the person's frames, and of small copies of them."""
    people: dict[str, list[np.ndarray]] = {}
    for number, clip in enumerate(read_index(folder)):
        if clip.person in exclude_identities:
            continue
        frames, landmarks = _frames(clip)
        size = _LOW_SIZES[number % len(_LOW_SIZES)]
        small = np.stack([resize(frame, size) for frame in frames[::2]])
        rows = people.setdefault(clip.person, [])
        rows.append(network.embedder_vectors(frames, landmarks).numpy())
        rows.append(network.embedder_vectors(small, landmarks[::2] * (size / frames.shape[1])).numpy())
    return {person: np.concatenate(rows).astype(np.float64) for person, rows in people.items()}


def _within(people: list[np.ndarray]) -> np.ndarray:
    """Return the mean covariance [D, D] of the vectors of one person."""
    centred = [rows - rows.mean(axis=0) for rows in people]
    return np.mean([rows.T @ rows / len(rows) for rows in centred], axis=0)


def fit(network: FaceSimilarityNetwork, sets: list[dict[str, np.ndarray]]) -> None:
    """Set mean and projection of a network: the first data set is the one of filmed people."""
    people = [rows for vectors in sets for rows in vectors.values()]
    means = np.stack([rows.mean(axis=0) for rows in people])
    mean = means.mean(axis=0)
    covariance = (1 - _FILMED_SHARE) * _within(people) + _FILMED_SHARE * _within(list(sets[0].values()))
    covariance += _RIDGE * np.trace(covariance) / len(mean) * np.eye(len(mean))
    values, axes = np.linalg.eigh(covariance)
    whiten = axes / np.sqrt(values)
    between = whiten.T @ ((means - mean).T @ (means - mean) / len(means)) @ whiten
    directions = np.linalg.eigh(between)[1][:, -DIMENSIONS:]
    projection = whiten @ directions
    projection /= np.abs(projection).max()  # the cosine does not depend on it, and it is stored in 16 bits
    network.mean.copy_(torch.from_numpy(mean))
    network.projection.copy_(torch.from_numpy(projection))


def error_rates(network: FaceSimilarityNetwork, folder: str) -> None:
    """Print how often two pictures of one person, or of two, are taken for the other, by the distance."""
    rows: list[tuple[str, int, np.ndarray]] = []
    for number, clip in enumerate(read_index(folder)):
        rows += [(clip.person, number, vector) for vector in network.embed(*_frames(clip))]
    pairs = list(combinations(rows, 2))
    distances = np.array([1 - a[2] @ b[2] for a, b in pairs])
    kinds = [(a[0], a[1] == b[1]) if a[0] == b[0] else ("", False) for a, b in pairs]
    for title, same_clip in (("all", (True, False)), ("different recordings", (False,))):
        keep = np.array([not person or other in same_clip for person, other in kinds])
        counts = Counter(kind for kind, kept in zip(kinds, keep, strict=True) if kept)
        weights = np.array(
            [1 / counts[kind] if kept else 0.0 for kind, kept in zip(kinds, keep, strict=True)]
        )
        same = np.array([bool(person) for person, _ in kinds])
        print(f"{title}: {int((same & keep).sum())} pairs of one person, {int((~same).sum())} of two")
        for limit in np.arange(0.05, 1.0, 0.05):
            far = distances >= limit
            missed, caught = (np.average(far[one], weights=weights[one]) for one in (same & keep, ~same))
            print(f"  {limit:.2f}: one person taken for two {missed:.3f}, two for one {1 - caught:.3f}")


def main() -> None:
    """Parse the arguments, and fit or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=("fit", "measure"))
    parser.add_argument("data", nargs="+")
    parser.add_argument("--model", default="portrait")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--exclude-identities", nargs="*", default=[])
    args = parser.parse_args()
    network = FaceSimilarityNetwork().eval().requires_grad_(False)
    if args.action == "measure":
        for folder in args.data:
            error_rates(load_weights(network, args.weights, KIND), folder)
        return
    model = talkinghead.load_model(args.model)
    network.embedder.load_state_dict(model.embedder.state_dict())
    sets = [vectors_of_people(network, folder, args.exclude_identities) for folder in args.data]
    fit(network, sets)
    people = sum(len(vectors) for vectors in sets)
    save_network(network, args.out, KIND, {"people": people, "embedder": args.model})


if __name__ == "__main__":
    main()
