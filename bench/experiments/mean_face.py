"""Fit the mean face again, and print it as `talkinghead/landmarks/mean_face.py` has it.

    python -m bench.experiments.mean_face clips256 people256

The arguments are data sets of `talkinghead prepare`: of videos that may train what is published, made with
`--landmarks face_landmarker.task`, and of synthetic people with `--poses wide`, whose turns show the depths.
Each set weighs the same, and of it each person. Shape and poses are fitted in turn: a scaled orthographic
projection for each frame, then the symmetric shape that all frames fit best. Pictures do not show which pitch
of a head is none: the mean of real heads is. Of portraits the first frame alone is used, because the others
were moved by a mean face.
"""

import argparse

import numpy as np

from talkinghead.dataset.shard_reader import MESH as SYNTHETIC
from talkinghead.dataset.shard_reader import read_index
from talkinghead.landmarks.landmark_image import MIRROR_INDEX
from talkinghead.landmarks.mean_face import MEAN_FACE

_ITERATIONS = 100
_FRAMES_OF_A_PERSON = 40
_MAX_ERROR = 0.2  # in radii: frames that fit worse have other landmarks, as the jaw of a profile


def read_faces(folders: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the faces of all sets.

    Returns:
        Landmarks [N, 68, 2], each face centred and of radius 1; weights [N]; and bool [N], of real people.
    """
    faces, weights, is_real = [], [], []
    for folder in folders:
        people: dict[str, list[np.ndarray]] = {}
        synthetic = False
        for clip in read_index(folder):
            step = max(len(clip) // _FRAMES_OF_A_PERSON, 1)
            synthetic = clip.info.detector == SYNTHETIC
            still = not synthetic and clip.info.name.endswith(".jpg")
            people.setdefault(clip.person, []).append(clip.landmarks[: 1 if still else None : step])
        for rows in people.values():
            points = np.concatenate(rows).astype(np.float64)
            centred = points - points.mean(axis=1, keepdims=True)
            radius = np.sqrt((centred**2).sum(axis=2).mean(axis=1))
            faces.append(centred / radius[:, None, None])
            weights.append(np.full(len(points), 1 / len(points) / len(people)))
            is_real.append(np.full(len(points), not synthetic))
    return np.concatenate(faces), np.concatenate(weights), np.concatenate(is_real)


def level(shape: np.ndarray, projections: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return a shape turned about the axis to the right so that the heads are pitched by 0 on average."""
    forward = np.cross(projections[:, 0], projections[:, 1])
    pitch = np.average(np.arctan2(forward[:, 1], forward[:, 2]), weights=weights)
    c, s = np.cos(pitch), np.sin(pitch)
    return shape @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


def fit(faces: np.ndarray, weights: np.ndarray, is_real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean face [68, 3] and the root-mean-square error of each frame [N] in radii."""
    shape = MEAN_FACE.copy()
    for _ in range(_ITERATIONS):
        projections = _project(shape, faces)
        error = np.sqrt(((shape @ projections.transpose(0, 2, 1) - faces) ** 2).sum(axis=2).mean(axis=1))
        trusted = weights * (error < _MAX_ERROR)
        normal = np.einsum("n,nij,nik->jk", trusted, projections, projections)
        target = np.einsum("n,nij,npi->pj", trusted, projections, faces)
        shape = np.linalg.solve(normal, target.T).T
        shape = level(shape, projections, trusted * is_real if (trusted * is_real).any() else trusted)
        shape = (shape + shape[list(MIRROR_INDEX)] * [-1, 1, 1]) / 2
        shape -= shape.mean(axis=0)
        shape /= np.sqrt((shape[:, :2] ** 2).sum(axis=1).mean())
    return shape, error


def _project(shape: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the scaled orthographic projection of the shape to each face, [N, 2, 3]."""
    affine = np.einsum("jp,npi->nij", np.linalg.pinv(shape), faces)
    left, values, right = np.linalg.svd(affine, full_matrices=False)
    return left @ right * values.mean(axis=1)[:, None, None]


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", nargs="+")
    faces, weights, is_real = read_faces(parser.parse_args().data)
    shape, error = fit(faces, weights, is_real)
    print(f"# {len(faces)} frames, median error {np.median(error):.3f} radii, from the last one:")
    print(f"# largest change {np.abs(shape - MEAN_FACE).max():.2f} radii")
    for x, y, z in shape + 0.0:
        print(f"    ({x:.2f}, {y:.2f}, {z:.2f}),")


if __name__ == "__main__":
    main()
