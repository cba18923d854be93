"""Filters that decide which shots of a video are good enough for training."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from ..constants import MAX_SECOND_FACE_RATIO, MIN_FACE_PIXELS, MIN_SHARPNESS, MIN_SHOT_FRAMES
from ..data.crop import Crop, crop_around
from ..data.load import FaceTracks
from ..errors import TalkingheadError
from ..landmarks.detector import MIN_CONFIDENCE
from ..landmarks.geometry import bounding_boxes
from ..landmarks.tracking import FaceTrack

_MIN_SECOND_FACE_RATIO = 0.5  # of the face's side: smaller second faces are ignored
_PATCH_SIZE = 64  # pixels of a face whose sharpness is measured
_PATCH_MARGIN = 1.25  # side of the patch as a multiple of the landmark box
_SHARPNESS_FRAMES = 16  # frames of a shot whose sharpness is measured


@dataclass(frozen=True)
class Filters:
    """Thresholds for a shot.

    Attributes:
        min_face: smallest longer side of the median landmark box, in pixels of the source.
        min_frames: smallest number of frames with a face, without those in profile or with a hidden face; an
            episode needs 8 frames to learn from and others to predict.
        min_sharpness: smallest median of the face's `sharpness`. Of 48 real clips the blurriest has 0.08 and
            the median is 0.39; after a blur of 2% of the face's side (sigma) the median is 0.053, after 3%
            all are below 0.036.
        second_face: largest share of frames that show a second face, half as large or larger, within or at
            the edge of the crop.
    """

    min_face: float = MIN_FACE_PIXELS
    min_frames: int = MIN_SHOT_FRAMES
    min_sharpness: float = MIN_SHARPNESS
    second_face: float = MAX_SECOND_FACE_RATIO

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (np.isfinite(value) and value >= 0):
                raise TalkingheadError(
                    f"filter {field.name}: {value} is no limit; give a number of 0 or more"
                )


class VideoShot:
    """The frames from `start` up to and without `end`, and their main face, the largest times longest.

    Args:
        faces: the faces of the whole video.
        start, end: frame numbers.
        convention: of the crop, one of `talkinghead.data.crop.CONVENTIONS`.
    """

    def __init__(self, faces: FaceTracks, start: int, end: int, convention: int = 1) -> None:
        self.start, self.end = start, end
        self._frame_size, self._convention = faces.size, convention
        tracks = [track.between(start, end) for track in faces.tracks]
        tracks.sort(key=lambda track: -track.weight)
        self._tracks = [track for track in tracks if len(track)]

    @cached_property
    def kept(self) -> FaceTrack:
        """The frames of the main face that are good enough for training."""
        face = self._tracks[0]
        return face.select(face.confidence >= MIN_CONFIDENCE)

    @cached_property
    def crop(self) -> Crop:
        """The crop around the kept frames' landmarks."""
        return crop_around(self.kept.landmarks, self._frame_size, self._convention)

    @cached_property
    def side(self) -> float:
        return float(np.median(bounding_boxes(self.kept.landmarks)[:, 2])) if len(self.kept) else 0.0

    def figures(self) -> dict[str, Any]:
        """Return what the report says of it; frame numbers from 0, `last` included."""
        figures = {"first": self.start, "last": self.end - 1}
        if not self._tracks:
            return {**figures, "seen": 0, "kept": 0}
        face = self._tracks[0]
        confidence = round(float(face.confidence.mean()), 3)
        return {
            **figures,
            "seen": len(face),
            "kept": len(self.kept),
            "face": round(self.side, 1),
            "confidence": confidence,
        }

    def rejection_reason(self, filters: Filters) -> str:
        """Return why the landmarks rule the shot out; empty for a good shot."""
        frames = self.end - self.start
        if not self._tracks:
            return f"no face was found in any of its {frames} frames, expected one seen from the front"
        if len(self.kept) < max(filters.min_frames, 1):
            doubtful = len(self._tracks[0]) - len(self.kept)
            more = f", and in {doubtful} in profile, hidden or badly fitted" if doubtful else ""
            return (
                f"shows a face in {len(self.kept)} of its {frames} frames{more}, expected at least "
                f"{filters.min_frames}"
            )
        if self.side < filters.min_face:
            return f"its face is {self.side:.0f} pixels large, expected at least {filters.min_face:g}"
        shared = self._count_second_face_frames()
        if shared > filters.second_face * frames:
            return f"a second face is close to it in {shared} of its {frames} frames, expected one person"
        return ""

    def crops(
        self, frames: Iterator[np.ndarray], size: int, sharpness_values: list[float]
    ) -> Iterator[np.ndarray]:
        """Yield the crops of the kept frames, and append the sharpness of some of them to a list."""
        last = len(self.kept) - 1
        measured = set(np.linspace(0, last, _SHARPNESS_FRAMES).round().astype(int).tolist())
        for index, frame in enumerate(islice(frames, len(self.kept))):
            if index in measured:
                sharpness_values.append(sharpness(frame, self.kept.landmarks[index]))
            yield self.crop.pixels(frame, size)

    def _count_second_face_frames(self) -> int:
        """Count the frames in which another face of sufficient size reaches into the crop."""
        crop, numbers = self.crop, set()
        middle = np.array([crop.x, crop.y]) + crop.side / 2
        for other in self._tracks[1:]:
            boxes = bounding_boxes(other.landmarks)
            near = (np.abs(boxes[:, :2] - middle) < (boxes[:, 2:] + crop.side) / 2).all(axis=1)
            large = boxes[:, 2] >= _MIN_SECOND_FACE_RATIO * self.side
            numbers.update(other.numbers[near & large].tolist())
        return len(numbers & set(self._tracks[0].numbers.tolist()))


def sharpness(frame: np.ndarray, landmarks: np.ndarray) -> float:
    """Measure how sharp a face is: the variance of the Laplacian over that of the brightness.

    It is measured on the face at 64x64 pixels, and is 0 for a flat image. It depends neither on light and
    contrast nor on the size of the face, unless that is below 51 pixels.

    Args:
        frame: uint8 [H, W, 3], RGB.
        landmarks: float [68, 2] in pixels of the frame.
    """
    x, y, side = bounding_boxes(landmarks[None])[0].tolist()
    margin, patch_side = _PATCH_MARGIN * side / 2, _PATCH_MARGIN * side
    patch = Crop(x - margin, y - margin, patch_side).pixels(frame, _PATCH_SIZE)
    patch = patch @ np.array([0.299, 0.587, 0.114])
    laplacian = (
        patch[:-2, 1:-1] + patch[2:, 1:-1] + patch[1:-1, :-2] + patch[1:-1, 2:] - 4 * patch[1:-1, 1:-1]
    )
    brightness = float(patch.var())
    return float(laplacian.var()) / brightness if brightness > 0 else 0.0
