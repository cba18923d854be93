"""Faces of a whole frame, found by the detection network at one scale or more."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .detection_network import SHIPPED, SIZE, DetectionNetwork, load_detection_network
from .network_blocks import load_on_device
from .oriented_crop import OrientedCrop, sample_crops

MIN_SCORE = 0.3
"""Probability at which a cell counts as a face; the landmark network confirms it."""
MAX_FACES = 32
_TILE_SHARE = 0.55  # of the frame's longer side, the side of a part in which small faces are sought
_MIN_TILED_SIDE = 320  # pixels; smaller frames show no more in tiles
_MIN_DISTANCE = 1.0  # of two faces, in radii of the larger one


class FaceFinder:
    """Finds faces in frames.

    Args:
        device: where the network runs.
        weights: file of the network; the one that ships by default.

    Raises:
        TalkingheadError: the file cannot be read.
    """

    def __init__(self, device: str = "cpu", weights: str | Path = SHIPPED) -> None:
        self._device, self.weights = device, Path(weights)
        network: DetectionNetwork = load_detection_network(self.weights)
        self._network = load_on_device(network, device)

    def find(self, frame: np.ndarray, side: float) -> list[OrientedCrop]:
        """Find the faces of a frame uint8 [H, W, 3], RGB, that are not small in it.

        Args:
            frame: the frame.
            side: of the crops, in root-mean-square radii of the faces' landmarks.

        Returns:
            Crops around the faces, upright as they are, the most certain first.
        """
        height, width = frame.shape[:2]
        whole = OrientedCrop(width / 2, height / 2, float(max(height, width)))
        return self._search(frame, [whole], side)

    def find_small(self, frame: np.ndarray, side: float) -> list[OrientedCrop]:
        """Find the faces in parts of a large frame, as `find` does; none in a small one, of which parts show
        no more.
        """
        height, width = frame.shape[:2]
        if max(height, width) < _MIN_TILED_SIDE:
            return []
        return self._search(frame, _tiles(width, height), side)

    def _search(self, frame: np.ndarray, windows: Sequence[OrientedCrop], side: float) -> list[OrientedCrop]:
        """Return the faces in windows of a frame."""
        pictures = sample_crops([frame] * len(windows), windows, SIZE).to(self._device)
        with torch.inference_mode():
            output = self._network(pictures)
        scores = output.logits.sigmoid().cpu().numpy()
        centres, radii, rolls = (
            values.cpu().numpy() for values in (output.centres, output.log_radii.exp(), output.rolls)
        )
        faces = []
        for window, cell in zip(*np.nonzero(scores >= MIN_SCORE), strict=True):
            x, y = windows[window].to_frame(centres[window, cell]).tolist()
            radius = float(radii[window, cell]) * windows[window].side
            roll = float(np.arctan2(rolls[window, cell, 1], rolls[window, cell, 0]))
            faces.append((float(scores[window, cell]), OrientedCrop(x, y, max(radius, 0.5), roll)))
        chosen: list[OrientedCrop] = []
        for _, face in sorted(faces, key=lambda item: -item[0]):
            if len(chosen) < MAX_FACES and all(_are_apart(face, other) for other in chosen):
                chosen.append(face)
        return [OrientedCrop(face.x, face.y, face.side * side, face.angle) for face in chosen]


def _tiles(width: int, height: int) -> list[OrientedCrop]:
    """Return overlapping squares that cover a frame."""
    side = _TILE_SHARE * max(width, height)

    def centres(length: int) -> np.ndarray:
        count = 1 if length <= side else int(np.ceil((length - 0.2 * side) / (0.8 * side)))
        return np.linspace(side / 2, length - side / 2, count) if count > 1 else np.array([length / 2])

    return [OrientedCrop(float(x), float(y), side) for y in centres(height) for x in centres(width)]


def _are_apart(one: OrientedCrop, other: OrientedCrop) -> bool:
    """Return whether two faces, whose sides are their radii, are not one."""
    distance = float(np.hypot(one.x - other.x, one.y - other.y))
    return distance > _MIN_DISTANCE * max(one.side, other.side)
