"""Tracks and Clips from videos, GIFs, pictures and folders of pictures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..clip import Clip, Track
from ..errors import TalkingheadError
from ..landmarks.detect import Detector, open_detector
from .crop import Crop, crop_around
from .pictures import Pictures, is_picture, pictures_in, read_picture
from .video import VideoReader

Progress = Callable[..., Iterable[Any]]
"""Called as ``progress(iterable, total, what)``; returns the iterable whose advance it shows. `total` may be None."""

_FAR = 1.5  # face sides from the clip's usual place: no longer the same face
_UNLIKE = 2.0  # times as large or as small as usual: likewise


def silent(iterable: Iterable[Any], total: int | None = None, what: str = "") -> Iterable[Any]:
    """A Progress that shows nothing."""
    return iterable


def read_track(path: str | Path, detector: Detector, progress: Progress = silent) -> tuple[Track, np.ndarray, int]:
    """The landmarks of a video, GIF, picture or folder of pictures, read in constant memory.

    Left out are frames without a face, and frames in which what was found is far from the face of the rest: more than 1.5 of its sides
    away, or of less than half or more than twice its size (a poster, a second person, a mistake of the detector behind a hand).

    Args:
        path: the file, or a folder of pictures of one size.
        detector: finds the landmarks.
        progress: shows the advance.

    Returns:
        The Track of the frames with a face, in pixels of the source; the numbers of these frames, int64 [len(track)]; how many
        frames there are.

    Raises:
        TalkingheadError: the file is missing, damaged or something else, or shows no face.
    """
    return _track(_open(Path(path)), detector, None, progress)


def read_clip(
    paths: str | Path | Sequence[str | Path],
    size: int = 256,
    detector: Detector | None = None,
    crop: Crop | None = None,
    limit: int | None = None,
    person: str = "",
    progress: Progress = silent,
) -> Clip:
    """Square pictures of one person with their landmarks, all in memory.

    The frames of a video share one crop, around all of its faces; each picture has its own. Left out are frames of a video as
    `read_track` does, and pictures of a folder without a face; a picture that is named itself must show one.

    Args:
        paths: a video or GIF, pictures, a folder of pictures, or several of these.
        size: side of the frames in pixels.
        detector: finds the landmarks; ``open_detector()`` by default.
        crop: used for all frames, in pixels of the source, in place of the one around the face.
        limit: read no further than this many frames with a face.
        person: who it shows.
        progress: shows the advance.

    Returns:
        A Clip of frames uint8 [N, size, size, 3], N >= 1; fps is that of the video, 0 for pictures and for more than one video.

    Raises:
        TalkingheadError: no path is given, or one is missing, damaged, something else, or without a face.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not given:
        raise TalkingheadError("read_clip: no pictures given, expected at least one picture or a video; name some")
    detector = detector or open_detector()
    landmarks: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    rates: list[float] = []

    def add(found: np.ndarray, frame: np.ndarray, square: Crop) -> None:
        landmarks.append(square.points(found, size))
        frames.append(square.pixels(frame, size))

    for path in given:
        left = None if limit is None else limit - len(frames)
        if left == 0:
            break
        if path.is_dir() or is_picture(path):
            before = len(frames)
            pictures = pictures_in(path) if path.is_dir() else [path]
            for picture in progress(pictures, len(pictures), path.name):
                frame = read_picture(picture)
                found = detector(frame)
                if found is not None and len(frames) - before != left:
                    add(found, frame, crop or crop_around(found[None]))
            if len(frames) == before:
                raise _no_face(path, len(pictures))
            rates.append(0.0)
        else:
            reader = VideoReader(path)
            track, kept, _ = _track(reader, detector, left, progress)
            square = crop or crop_around(track.landmarks)
            for found, frame in zip(track.landmarks, select(reader, kept), strict=True):
                add(found, frame, square)
            rates.append(track.fps)
    name = given[0].name if len(given) == 1 else f"{given[0].name} and {len(given) - 1} more"
    track = Track(np.stack(landmarks), (size, size), rates[0] if len(rates) == 1 else 0.0)
    return Clip(track, np.stack(frames), name, person)


def select(frames: Iterable[np.ndarray], numbers: np.ndarray) -> Iterator[np.ndarray]:
    """The frames with these rising numbers, stopping after the last."""
    wanted = iter(numbers.tolist())
    following = next(wanted, None)
    for number, frame in enumerate(frames):
        if following is None:
            return
        if number == following:
            yield frame
            following = next(wanted, None)


def _open(path: Path) -> VideoReader | Pictures:
    if path.is_dir():
        return Pictures(pictures_in(path))
    return Pictures([path]) if is_picture(path) else VideoReader(path)


def _track(source: VideoReader | Pictures, detector: Detector, limit: int | None, progress: Progress) -> tuple[Track, np.ndarray, int]:
    landmarks: list[np.ndarray] = []
    numbers: list[int] = []
    total = 0
    near: np.ndarray | None = None
    for frame in progress(source, source.count, f"landmarks of {source.path.name}"):
        found = detector(frame, near)
        if found is not None:
            landmarks.append(found)
            numbers.append(total)
            # pictures do not follow each other; and what is far from the face is not to be followed
            if source.fps and (near is None or _alike(_boxes(found[None]), _boxes(near[None])[0])[0]):
                near = found
        total += 1
        if len(numbers) == limit:
            break
    if not numbers:
        raise _no_face(source.path, total)
    points, kept = np.stack(landmarks), np.array(numbers)
    if source.fps:
        boxes = _boxes(points)
        # the frame next to the median, for the median itself may lie between two faces, near neither
        usual = boxes[np.linalg.norm(boxes - np.median(boxes, axis=0), axis=1).argmin()]
        same = _alike(boxes, usual)
        points, kept = points[same], kept[same]
    return Track(points, source.size, float(source.fps)), kept, total


def _boxes(landmarks: np.ndarray) -> np.ndarray:
    """[N, 68, 2] -> [N, 3]: centre x and y of each face's box, and its longer side."""
    low, high = landmarks.min(axis=1), landmarks.max(axis=1)
    return np.concatenate([(low + high) / 2, (high - low).max(axis=1, keepdims=True)], axis=1)


def _alike(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """bool [N]: which of [N, 3] may be the same face as [3], by place and size."""
    near = np.linalg.norm(boxes[:, :2] - box[:2], axis=1) <= _FAR * box[2]
    return near & (boxes[:, 2] <= _UNLIKE * box[2]) & (boxes[:, 2] * _UNLIKE >= box[2])


def _no_face(path: Path, frames: int) -> TalkingheadError:
    where = "it" if frames == 1 else f"any of its {frames} pictures"
    return TalkingheadError(f"{path}: no face was found in {where}, expected one seen from the front; name another")
