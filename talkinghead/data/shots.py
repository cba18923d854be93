"""The pictures a person is learned from: those given, or a few evenly spaced frames of a video."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..clip import Clip
from ..errors import TalkingheadError
from ..landmarks.face import DOUBTFUL, Detector
from ..media.pictures import is_picture
from ..media.video import VideoReader
from .crop import crop_around
from .read import Progress, cut_out, joined, read_clip, read_track, select, silent

_CANDIDATES = 8  # frames of a video looked at for each one taken


def read_shots(
    paths: Sequence[str | Path],
    size: int,
    shots: int,
    detector: Detector,
    face: int = 1,
    progress: Progress = silent,
    convention: int = 1,
) -> Clip:
    """Pictures to fine-tune on, in constant memory however long a video is.

    Args:
        paths: pictures, folders of pictures, videos; all of one person.
        size: side of the frames in pixels.
        shots: frames to take of each video, evenly spaced over those that show the face clearly (or at all; fewer when it has fewer).
        detector: finds the landmarks.
        face: which of a video's faces, 1 being the largest times longest.
        progress: shows the advance.
        convention: of the crops, one of `talkinghead.data.crop.CONVENTIONS`.

    Returns:
        A Clip of frames uint8 [N, size, size, 3]; a video's share one crop, each picture has its own.

    Raises:
        TalkingheadError: `shots` is below 1, no path is given, or one is missing, damaged, something else, or shows no face.
    """
    if shots < 1:
        raise TalkingheadError(f"shots {shots}: at least 1 was expected; say how many frames of the video to learn from")
    if not paths:
        raise TalkingheadError("no pictures were given, at least one picture or a video was expected; name some")
    clips = []
    for path in map(Path, paths):
        still = os.path.isdir(path) or is_picture(path)
        clips.append(
            read_clip(path, size, detector, progress=progress, convention=convention)
            if still
            else _of_video(path, size, shots, face, detector, progress, convention)
        )
    return clips[0] if len(clips) == 1 else joined(clips, f"{clips[0].name} and {len(clips) - 1} more")


def spread(count: int, wanted: int) -> np.ndarray:
    """int64 [min(count, wanted)]: evenly spaced numbers of 0..count-1, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64)


def _of_video(path: Path, size: int, shots: int, face: int, detector: Detector, progress: Progress, convention: int) -> Clip:
    reader = VideoReader(path)
    stride = max(1, (reader.count or 0) // (_CANDIDATES * shots))
    track = read_track(reader, detector, face, stride=stride, progress=progress)
    sure = track.confidence >= DOUBTFUL
    kept = np.flatnonzero(sure if sure.sum() >= shots else track.seen)
    crop = crop_around(track.landmarks[kept], track.size, convention)
    chosen = kept[spread(len(kept), shots)]
    return cut_out(select(reader, chosen * stride), track[chosen], crop, size, path.name)
