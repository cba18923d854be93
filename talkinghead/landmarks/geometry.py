"""Place and size of faces, from their landmarks."""

import numpy as np


def bounding_boxes(landmarks: np.ndarray) -> np.ndarray:
    """Return centre x and y and the longer side of each face's bounding box: [N, P, 2] -> [N, 3]."""
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    return np.concatenate([(low + high) / 2, (high - low).max(axis=1, keepdims=True)], axis=1)


def centre_and_scale(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centroid and root-mean-square radius of faces: [..., P, 2] -> [..., 2] and [...]."""
    centre = landmarks.mean(axis=-2)
    squares = ((landmarks - centre[..., None, :]) ** 2).sum(axis=-1)
    return centre, np.sqrt(squares.mean(axis=-1))
