"""Whole frames of the videos behind a data set: faces among all that surrounds them, such as hands."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.load import frames_at
from ..dataset.discover import find_videos
from ..dataset.shard_reader import ShardClip
from ..errors import TalkingheadError
from ..landmarks.geometry import centre_and_scale
from ..landmarks.oriented_crop import OrientedCrop, head_roll, sample_crops
from ..media.video import VideoReader

_LONGER_SIDE = 400  # pixels to which frames are made smaller, to hold them in memory
_FRAME_STRIDE = 4
_MIN_RADIUS, _MAX_RADIUS = 0.015, 0.3  # of the landmarks, in sides of a window
_WHOLE_SHARE = 0.4  # of the windows that are the whole frame


class WholeFrames:
    """Frames of videos, with the face that a data set knows in each.

    Args:
        clips: of data sets; those whose video is not in the folder are left out.
        videos: the folder of the videos, searched with its subfolders.

    Raises:
        TalkingheadError: the folder has none of the videos, or other videos of these names.
    """

    def __init__(self, clips: Sequence[ShardClip], videos: Path) -> None:
        files = {video.path.name: video.path for video in find_videos([videos])}
        self._people: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for clip in clips:
            if clip.info.name in files:
                self._people.setdefault(clip.person, []).extend(_read(clip, files[clip.info.name]))
        if not self._people:
            raise TalkingheadError(
                f"{videos}: holds none of the videos that the data was prepared from; name their folder"
            )

    def draw_window(self, size: int, random: np.random.Generator) -> tuple[Tensor, list[float]]:
        """Draw a square part of a frame with its face, black beyond the frame.

        Returns:
            The picture float32 [3, size, size], 0..1, and the face: centre x and y and radius in sides of
            the picture, and roll in radians.
        """
        frames = list(self._people.values())[int(random.integers(len(self._people)))]
        frame, landmarks = frames[int(random.integers(len(frames)))]
        centre, radius = centre_and_scale(landmarks)
        height, width = frame.shape[:2]
        window = OrientedCrop(width / 2, height / 2, float(max(width, height)))
        if random.random() >= _WHOLE_SHARE:
            share = np.exp(random.uniform(np.log(_MIN_RADIUS), np.log(_MAX_RADIUS)))
            side = float(np.clip(radius / share, radius / _MAX_RADIUS, 1.5 * window.side))
            x, y = (centre + random.uniform(-0.42, 0.42, 2) * side).tolist()
            window = OrientedCrop(x, y, side, float(random.normal(0, 0.1)))
        place = window.to_crop(centre[None])[0].tolist()
        face = [*place, float(radius / window.side), head_roll(landmarks) - window.angle]
        return sample_crops([frame], [window], size)[0], face


def _read(clip: ShardClip, path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return every `_FRAME_STRIDE`th frame of a clip, whole, and its landmarks float64 [68, 2]."""
    info = clip.info
    chosen = np.arange(0, len(info.frames), _FRAME_STRIDE)
    height, width = info.frame_size
    scale = min(1.0, _LONGER_SIDE / max(height, width))
    landmarks = clip.landmarks[chosen].astype(np.float64) * (info.crop.side / info.size)
    landmarks += [info.crop.x, info.crop.y]
    frames = list(frames_at(VideoReader(path), np.asarray(info.frames)[chosen]))
    if len(frames) != len(chosen) or frames[0].shape[:2] != (height, width):
        raise TalkingheadError(f"{path}: is not the video that the data was prepared from; name its folder")
    return [(_shrink(frame, scale), points * scale) for frame, points in zip(frames, landmarks, strict=True)]


def _shrink(frame: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1:
        return frame
    size = [round(side * scale) for side in frame.shape[:2]]
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    return (
        F.interpolate(pixels, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).contiguous().numpy()
    )
