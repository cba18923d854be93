"""Tracks and Clips from videos, GIFs, pictures and folders of pictures."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..clip import POINTS, Clip, Track
from ..errors import TalkingheadError
from ..landmarks.detect import open_detector
from ..landmarks.face import Detector, find_faces, largest_face
from ..landmarks.follow import EVERY, Chain, follow_faces
from ..media.pictures import Pictures, is_picture, pictures_in, read_picture
from ..media.video import VideoReader
from ..torch_state import with_default_torch_state
from .crop import Crop, crop_around

Progress = Callable[..., Iterable[Any]]
"""Called as ``progress(iterable, total, what)``; returns the iterable whose advance it shows. `total` may be None."""

MAX_CLIP_BYTES = 4 << 30
"""Of the frames of a Clip; joining those of several sources takes as much again for a moment."""

log = logging.getLogger(__name__)


def silent(iterable: Iterable[Any], total: int | None = None, what: str = "") -> Iterable[Any]:
    """A Progress that shows nothing."""
    return iterable


@dataclass(frozen=True)
class Faces:
    """What was found in a video, a picture or a folder of pictures.

    Attributes:
        path: where it was found.
        chains: one for each face, the largest times longest first; of pictures, the largest face of each, then the second largest.
        total: frames looked at.
        size: (height, width) of the frames in pixels.
        fps: frames looked at per second; 0 for pictures.
        cuts: numbers of the frames that begin a new shot, when they were asked for.
    """

    path: Path
    chains: tuple[Chain, ...]
    total: int
    size: tuple[int, int]
    fps: float
    cuts: tuple[int, ...] = ()

    def track(self, face: int = 1) -> Track:
        """The landmarks of one face in all frames; where it was not seen, its confidence is 0 and they lie between those around it in time.

        Args:
            face: 1 for the first of `chains`.

        Raises:
            TalkingheadError: there is no such face.
        """
        if not self.chains:
            raise _no_face(self.path, self.total)
        if not 1 <= face <= len(self.chains):
            raise TalkingheadError(
                f"{self.path}: shows {len(self.chains)} face{'s' * (len(self.chains) > 1)}, number {face} was asked for; see them with: "
                f"talkinghead landmarks {self.path} --out faces.png"
            )
        chain = self.chains[face - 1]
        times, known = np.arange(self.total), chain.landmarks.reshape(len(chain), -1)
        points = np.stack([np.interp(times, chain.numbers, column) for column in known.T], axis=1)
        confidence = np.zeros(self.total)
        confidence[chain.numbers] = chain.confidence
        return Track(points.reshape(-1, POINTS, 2), self.size, self.fps, confidence)


@with_default_torch_state
def read_faces(
    path: str | Path | VideoReader | Pictures,
    detector: Detector,
    limit: int | None = None,
    stride: int = 1,
    find_cuts: bool = False,
    progress: Progress = silent,
) -> Faces:
    """The faces of a video, GIF, picture or folder of pictures of one size, read in constant memory.

    Args:
        path: the file or folder, or an open one.
        detector: finds the landmarks.
        limit: look at no more than this many frames.
        stride: look at every so many-th frame only.
        find_cuts: look for changes of shot as well (of a video).
        progress: shows the advance.

    Raises:
        TalkingheadError: the file is missing, damaged beyond use or something else. That no face is found is no error.
    """
    source = path if isinstance(path, (VideoReader, Pictures)) else _open(Path(path), find_cuts)
    frames = islice(source, 0, None if limit is None else (limit - 1) * stride + 1, stride)
    count = None if source.count is None else min(-(-source.count // stride), limit or source.count)
    started = perf_counter()
    shown = progress(frames, count, f"landmarks of {source.path.name}")
    if source.fps:
        chains, total = follow_faces(shown, detector, EVERY if stride == 1 else 1)
    else:
        chains, total = _ranks(shown, detector)
    seconds = perf_counter() - started
    log.info("%s: landmarks of %d frames in %.1f s, %.0f a second", source.path.name, total, seconds, total / seconds)
    cuts = source.cuts if isinstance(source, VideoReader) else ()
    return Faces(source.path, tuple(chains), total, source.size, float(source.fps) / stride, cuts)


@with_default_torch_state
def read_track(
    path: str | Path | VideoReader | Pictures,
    detector: Detector,
    face: int = 1,
    limit: int | None = None,
    stride: int = 1,
    progress: Progress = silent,
) -> Track:
    """The landmarks of one face in a video, GIF, picture or folder of pictures, a Track of every frame.

    Args:
        face: which, when there are several: 1 is the largest times longest.
        path, detector, limit, stride, progress: as for `read_faces`.

    Raises:
        TalkingheadError: the file is missing, damaged beyond use or something else, or shows no such face.
    """
    faces = read_faces(path, detector, limit, stride, progress=progress)
    track = faces.track(face)
    rivals = [chain for chain in faces.chains if chain.weight >= faces.chains[0].weight / 10]
    if len(rivals) > 1 and faces.fps:
        log.warning("%s: shows %d faces, number %d is taken (--face N takes another)", faces.path.name, len(rivals), face)
    return track


@with_default_torch_state
def read_clip(
    paths: str | Path | Sequence[str | Path],
    size: int = 256,
    detector: Detector | None = None,
    crop: Crop | None = None,
    limit: int | None = None,
    person: str = "",
    progress: Progress = silent,
    convention: int = 1,
) -> Clip:
    """Square pictures of one person with their landmarks, all in memory.

    The frames of a video share one crop, around all of its faces; each picture has its own. Left out are frames of a video that do not show
    the face, and pictures of a folder without one; a picture that is named itself must show one.

    Args:
        paths: a video or GIF, pictures, a folder of pictures, or several of these.
        size: side of the frames in pixels.
        detector: finds the landmarks; ``open_detector()`` by default.
        crop: used for all frames, in pixels of the source, in place of the one around the face.
        limit: look at no more than this many frames of each video and pictures of each folder.
        person: who it shows.
        progress: shows the advance.
        convention: of the crops around the face, one of `talkinghead.data.crop.CONVENTIONS`.

    Returns:
        A Clip of frames uint8 [N, size, size, 3], N >= 1; fps is that of the video, 0 for pictures and for more than one video.

    Raises:
        TalkingheadError: no path is given, or one is missing, damaged beyond use, something else, or without a face; or the frames would
            take more than `MAX_CLIP_BYTES`.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    if not given:
        raise TalkingheadError("read_clip: no pictures given, expected at least one picture or a video; name some")
    detector = detector or open_detector()
    clips: list[Clip] = []

    def add(path: Path, track: Track, frames: Iterable[np.ndarray]) -> None:
        _check_bytes(path, sum(map(len, clips)) + len(track), size)
        clips.append(cut_out(frames, track, crop or crop_around(track.landmarks, track.size, convention), size))

    for path in given:
        if os.path.isdir(path) or is_picture(path):
            pictures = pictures_in(path) if os.path.isdir(path) else [path]
            found = 0
            for picture in progress(pictures[:limit], min(len(pictures), limit or len(pictures)), path.name):
                frame = read_picture(picture)
                face = largest_face(detector, frame)
                if face is not None:
                    add(path, Track(face.landmarks[None], frame.shape[:2], confidence=np.array([face.confidence])), [frame])
                    found += 1
            if not found:
                raise _no_face(path, len(pictures))
        else:
            reader = VideoReader(path)
            track = read_track(reader, detector, limit=limit, progress=progress)
            kept = np.flatnonzero(track.seen)
            add(path, track[kept], select(reader, kept))
    name = given[0].name if len(given) == 1 else f"{given[0].name} and {len(given) - 1} more"
    return joined(clips, name, clips[0].track.fps if len(given) == 1 else 0.0, person)


def cut_out(frames: Iterable[np.ndarray], track: Track, crop: Crop, size: int, name: str = "clip") -> Clip:
    """Return a Clip of the square of frames.

    Args:
        frames: uint8 [H, W, 3], as many as the track has.
        track: the landmarks, in pixels of these frames.
        crop: the square.
        size: side of the Clip's frames in pixels.
        name: of the Clip.

    Raises:
        TalkingheadError: there are fewer frames, or more.
    """
    points = Track(crop.points(track.landmarks, size), (size, size), track.fps, track.confidence)
    pixels, count = np.empty((len(track), size, size, 3), np.uint8), 0
    for frame in frames:
        if count < len(track):
            pixels[count] = crop.pixels(frame, size)
        count += 1
    if count != len(track):
        raise TalkingheadError(f"{name}: {count} frames do not match {len(track)} landmarks; read the source again")
    return Clip(points, pixels, name, "", valid_pixels(crop, track, size), crop.convention)


def valid_pixels(crop: Crop, track: Track, size: int) -> np.ndarray | None:
    """Return bool [N, size, size]: the pixels of a crop, `size` wide, that each of the N frames of a track has; None when that is all."""
    inside = crop.valid(track.size, size)
    return None if inside.all() else np.repeat(inside[None], len(track), axis=0)


def joined(clips: Sequence[Clip], name: str, fps: float = 0.0, person: str = "") -> Clip:
    """Return the frames of one or more clips of one size as one Clip, in order."""
    if len(clips) == 1:
        return replace(clips[0], track=replace(clips[0].track, fps=fps), name=name, person=person)
    landmarks, confidence = (np.concatenate([getattr(clip.track, what) for clip in clips]) for what in ("landmarks", "confidence"))
    frames = np.concatenate([clip.frames for clip in clips])
    valid = None
    if any(clip.valid is not None for clip in clips):
        valid = np.concatenate([np.ones(clip.frames.shape[:3], bool) if clip.valid is None else clip.valid for clip in clips])
    return Clip(Track(landmarks, clips[0].track.size, fps, confidence), frames, name, person, valid, clips[0].convention)


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


def _check_bytes(path: Path, frames: int, size: int) -> None:
    total = frames * size * size * 3
    if total > MAX_CLIP_BYTES:
        raise TalkingheadError(
            f"{path}: {frames} frames of {size}x{size} take {total / 2**30:.3g} GiB of memory, expected at most "
            f"{MAX_CLIP_BYTES / 2**30:.3g}; name a shorter video or fewer pictures"
        )


def _no_face(path: Path, frames: int) -> TalkingheadError:
    where = "it" if frames == 1 else f"any of its {frames} pictures"
    return TalkingheadError(f"{path}: no face was found in {where}, expected one seen from the front; name another")


def _open(path: Path, find_cuts: bool) -> VideoReader | Pictures:
    if os.path.isdir(path):
        return Pictures(pictures_in(path))
    return Pictures([path]) if is_picture(path) else VideoReader(path, find_cuts)


def _ranks(pictures: Iterable[np.ndarray], detector: Detector) -> tuple[list[Chain], int]:
    """The faces of pictures that do not follow each other: the largest of each as one chain, the second largest as another, and so on."""
    found = [find_faces(detector, [picture])[0] for picture in pictures]
    chains = []
    for rank in range(max(map(len, found), default=0)):
        having = [(number, faces[rank]) for number, faces in enumerate(found) if len(faces) > rank]
        points, sure = [face.landmarks for _, face in having], [face.confidence for _, face in having]
        chains.append(Chain(np.array([number for number, _ in having]), np.stack(points), np.array(sure, dtype=np.float32)))
    return chains, len(found)
