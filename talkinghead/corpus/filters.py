"""What a shot of a video must have to be learned from."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from ..data.crop import Crop, crop_around
from ..data.read import Faces
from ..errors import TalkingheadError
from ..landmarks.face import DOUBTFUL, boxes_of
from ..landmarks.follow import Chain

_RIVAL = 0.5  # of the face's side: a second face is as large at least
_PATCH, _MARGIN = 64, 1.25  # the face is judged at 64x64 pixels, a quarter wider than its landmarks
_LOOKS = 16  # frames of a shot whose sharpness is measured


@dataclass(frozen=True)
class Filters:
    """What a shot must have to be taken.

    Attributes:
        min_face: longer side of its median landmark box in pixels of the source.
        min_frames: frames with a face, in profile or hidden not counted: 8 to learn from and some others to predict is the least.
        min_sharpness: median of its face's `sharpness`. Of 48 real clips the least has 0.08 and half have 0.39; blurred by 2% of the
            face's side (sigma) half have 0.053, by 3% all are below 0.036.
        second_face: share of its frames that may show a second face, half as large or larger, within or at the edge of the crop.
    """

    min_face: float = 48.0
    min_frames: int = 16
    min_sharpness: float = 0.05
    second_face: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (np.isfinite(value) and value >= 0):
                raise TalkingheadError(f"filter {field.name}: a number of 0 or more was expected, got {value}")


class Shot:
    """The frames from `start` up to and without `end`, and the face that is largest times longest in them.

    Args:
        faces: of the whole video.
        start, end: numbers of frames.
        convention: of the crop, one of `talkinghead.data.crop.CONVENTIONS`.
    """

    def __init__(self, faces: Faces, start: int, end: int, convention: int = 1) -> None:
        self.start, self.end = start, end
        self._frame_size, self._convention = faces.size, convention
        chains = sorted((chain.between(start, end) for chain in faces.chains), key=lambda chain: -chain.weight)
        self._chains = [chain for chain in chains if len(chain)]

    @cached_property
    def kept(self) -> Chain:
        """Of the face, the frames to learn from."""
        face = self._chains[0]
        sure = face.confidence >= DOUBTFUL
        return Chain(face.numbers[sure], face.landmarks[sure], face.confidence[sure])

    @cached_property
    def crop(self) -> Crop:
        return crop_around(self.kept.landmarks, self._frame_size, self._convention)

    @cached_property
    def side(self) -> float:
        return float(np.median(boxes_of(self.kept.landmarks)[:, 2])) if len(self.kept) else 0.0

    def figures(self) -> dict[str, Any]:
        """What the report says of it; frame numbers from 0, `last` included."""
        figures = {"first": self.start, "last": self.end - 1}
        if not self._chains:
            return {**figures, "seen": 0, "kept": 0}
        face = self._chains[0]
        confidence = round(float(face.confidence.mean()), 3)
        return {**figures, "seen": len(face), "kept": len(self.kept), "face": round(self.side, 1), "confidence": confidence}

    def reason(self, filters: Filters) -> str:
        """Why it cannot be taken, as far as its landmarks tell; empty when it can."""
        frames = self.end - self.start
        if not self._chains:
            return f"no face was found in any of its {frames} frames, expected one seen from the front"
        if len(self.kept) < max(filters.min_frames, 1):
            doubtful = len(self._chains[0]) - len(self.kept)
            more = f", and in {doubtful} in profile, hidden or badly fitted" if doubtful else ""
            return f"shows a face in {len(self.kept)} of its {frames} frames{more}, expected at least {filters.min_frames}"
        if self.side < filters.min_face:
            return f"its face is {self.side:.0f} pixels large, expected at least {filters.min_face:g}"
        beside = self._with_second_face()
        if beside > filters.second_face * frames:
            return f"a second face is beside it in {beside} of its {frames} frames, expected one person"
        return ""

    def pictures(self, frames: Iterator[np.ndarray], size: int, looks: list[float]) -> Iterator[np.ndarray]:
        """The crops of the kept frames, of which the sharpness of some is noted."""
        looked_at = set(np.linspace(0, len(self.kept) - 1, _LOOKS).round().astype(int).tolist())
        for index, frame in enumerate(islice(frames, len(self.kept))):
            if index in looked_at:
                looks.append(sharpness(frame, self.kept.landmarks[index]))
            yield self.crop.pixels(frame, size)

    def _with_second_face(self) -> int:
        """In how many frames another face, large enough, reaches into the crop beside this one."""
        crop, found = self.crop, set()
        middle = np.array([crop.x, crop.y]) + crop.side / 2
        for other in self._chains[1:]:
            boxes = boxes_of(other.landmarks)
            near = (np.abs(boxes[:, :2] - middle) < (boxes[:, 2:] + crop.side) / 2).all(axis=1)
            found.update(other.numbers[near & (boxes[:, 2] >= _RIVAL * self.side)].tolist())
        return len(found & set(self._chains[0].numbers.tolist()))


def sharpness(frame: np.ndarray, landmarks: np.ndarray) -> float:
    """How sharp a face is: the variance of the Laplacian over that of the brightness, on the face at 64x64 pixels; 0 for a flat one.

    Light and contrast do not change it, nor does the size of the face unless it is below 51 pixels.

    Args:
        frame: uint8 [H, W, 3], RGB.
        landmarks: float [68, 2] in pixels of the frame.
    """
    x, y, side = boxes_of(landmarks[None])[0].tolist()
    patch = Crop(x - _MARGIN * side / 2, y - _MARGIN * side / 2, _MARGIN * side).pixels(frame, _PATCH) @ np.array([0.299, 0.587, 0.114])
    laplacian = patch[:-2, 1:-1] + patch[2:, 1:-1] + patch[1:-1, :-2] + patch[1:-1, 2:] - 4 * patch[1:-1, 1:-1]
    brightness = float(patch.var())
    return float(laplacian.var()) / brightness if brightness > 0 else 0.0
