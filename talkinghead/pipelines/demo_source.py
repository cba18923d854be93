"""The video of a demo: its frames, landmarks and crop, cut in time into a part to learn from and a held-out
part.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from ..clip import Clip, Track
from ..constants import DEFAULT_SHOTS
from ..data.crop import Crop, crop_around
from ..data.few_shot import evenly_spaced_indices
from ..data.load import read_track, valid_pixels
from ..errors import TalkingheadError
from ..landmarks.detector import Detector
from ..media.video import VideoReader
from ..model import Model
from ..system.progress import Progress


@dataclass(frozen=True)
class Split:
    """A video cut in time: frames up to `cut` may be learned from, those from it on are held out.

    Attributes:
        cut, total: frame numbers.
        first: frames with a face before the cut, among them `shots`.
        shots: the frames to learn from, evenly spaced.
        held: frames with a face from the cut on.
    """

    cut: int
    total: int
    first: np.ndarray
    shots: np.ndarray
    held: np.ndarray


def split(kept: np.ndarray, total: int, name: str = "video") -> Split:
    """Split in time: the first two thirds, with 8 frames to learn from, and the last third.

    Args:
        kept: numbers of the frames that show a face, rising.
        total: frames there are.
        name: for messages.

    Raises:
        TalkingheadError: fewer than 8 frames of the first part, or of the held-out part, show a face.
    """
    cut = total * 2 // 3
    first, held = kept[kept < cut], kept[kept >= cut]
    if min(len(first), len(held)) < DEFAULT_SHOTS:
        raise TalkingheadError(
            f"{name}: a face is in {len(first)} frames of the first two thirds and in {len(held)} of the "
            f"last, expected at least {DEFAULT_SHOTS} of each; give a longer video that shows a face "
            "throughout"
        )
    shots = first[evenly_spaced_indices(len(first), DEFAULT_SHOTS)]
    return Split(cut, total, first=first, shots=shots, held=held)


@dataclass(frozen=True)
class DemoSource:
    """Video of a demo: `track` is in pixels of the video, `points` and `frames` are of the crop."""

    parts: Split
    crop: Crop
    track: Track
    points: Track
    frames: np.ndarray
    pictures: Clip
    fps: Fraction


def read_source(video: Path, detector: Detector, model: Model, limit: int, progress: Progress) -> DemoSource:
    """Read at most `limit` frames of a video and split them."""
    reader = VideoReader(video)
    track = read_track(reader, detector, limit=limit, progress=progress)
    total = len(track)
    parts = split(np.flatnonzero(track.seen), total, video.name)
    # Only the first two thirds decide on the crop: the held-out frames stay unseen.
    crop = crop_around(track.landmarks[parts.first], track.size, model.config.crop)
    side = model.config.networks.image_size
    frames = np.stack([crop.pixels(frame, side) for frame in islice(reader, total)])
    points = crop.track(track, side)
    valid = valid_pixels(crop, track[parts.shots], side)
    pictures = Clip(points[parts.shots], frames[parts.shots], video.name, valid=valid)
    return DemoSource(
        parts=parts, crop=crop, track=track, points=points, frames=frames, pictures=pictures, fps=reader.fps
    )
