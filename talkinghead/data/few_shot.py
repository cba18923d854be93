"""Pictures that a person is learned from: image files, or a few evenly spaced frames of a video."""

import os
from pathlib import Path

import numpy as np

from ..clip import Clip
from ..errors import TalkingheadError, check_whole_number
from ..landmarks.detector import MIN_CONFIDENCE, Detector
from ..media.images import is_image_file
from ..media.video import VideoReader
from ..system.progress import Progress, check_callbacks, no_progress
from .crop import crop_around
from .load import cut_out, frames_at, join_clips, read_clip, read_track
from .pictures import Picture, Pictures, one_bar, picture_sources

_CANDIDATES = 8  # frames in which landmarks are detected, for each chosen frame of a video


def read_shots(
    pictures: Pictures,
    size: int,
    shots: int,
    detector: Detector,
    face: int = 1,
    progress: Progress = no_progress,
    convention: int = 1,
) -> Clip:
    """Read pictures to fine-tune on, in memory that does not grow with the length of a video.

    Args:
        pictures: pictures, folders of pictures, videos, images in memory; all of one person.
        size: side of the frames in pixels.
        shots: frames to take of each video, evenly spaced over those that show the face clearly (or at all;
            fewer when it has fewer).
        detector: finds the landmarks.
        face: which of a video's faces, 1 being the largest times longest.
        progress: shows the advance.
        convention: of the crops, one of `talkinghead.data.crop.CONVENTIONS`.

    Returns:
        A Clip of frames uint8 [N, size, size, 3]; a video's share one crop, each picture has its own.

    Raises:
        TalkingheadError: `shots` is below 1, no pictures are given, or one is missing, damaged, something
            else, or shows no face.
    """
    check_whole_number("shots", shots, minimum=1, example=8)
    check_callbacks(progress)
    sources, progress = one_bar(pictures, picture_sources(pictures, "finetune"), progress)
    clips = []
    for source in sources:
        if isinstance(source, Picture) or os.path.isdir(source) or is_image_file(source):
            clip = read_clip(source, size, detector, progress=progress, convention=convention)
        else:
            clip = _read_video(
                source, size, shots, detector, face=face, progress=progress, convention=convention
            )
        clips.append(clip)
    if not clips:
        raise TalkingheadError("finetune: no pictures to learn from; give at least one picture or video")
    return clips[0] if len(clips) == 1 else join_clips(clips, f"{clips[0].name} and {len(clips) - 1} more")


def evenly_spaced_indices(count: int, limit: int) -> np.ndarray:
    """Return int64 [min(count, limit)]: evenly spaced indices of 0..count-1, both ends included."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def _read_video(
    path: Path, size: int, shots: int, detector: Detector, *, face: int, progress: Progress, convention: int
) -> Clip:
    """Return evenly spaced frames of a video that show the face clearly."""
    reader = VideoReader(path)
    stride = max(1, (reader.count or 0) // (_CANDIDATES * shots))
    track = read_track(reader, detector, face, stride=stride, progress=progress)
    sure = track.confidence >= MIN_CONFIDENCE
    kept = np.flatnonzero(sure if sure.sum() >= shots else track.seen)
    crop = crop_around(track.landmarks[kept], track.size, convention)
    chosen = kept[evenly_spaced_indices(len(kept), shots)]
    return cut_out(frames_at(reader, chosen * stride), track[chosen], crop, size, name=path.name)
