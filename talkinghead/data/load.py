"""Readers of Tracks and Clips from videos, GIFs, pictures and folders of pictures."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np

from ..clip import Clip, Track
from ..errors import TalkingheadError, check_whole_number, quantity
from ..landmarks.detector import Detector, find_faces, largest_face
from ..landmarks.face_points import concatenate_irises
from ..landmarks.open_detector import resolve_detector
from ..landmarks.tracking import DETECT_EVERY, FaceTrack, track_faces
from ..media.images import ImageReader, is_image_file, list_images, read_image
from ..media.video import VideoReader
from ..system.progress import Progress, check_callbacks, no_progress
from ..system.stage_timer import StageTimer
from ..system.torch_state import with_default_torch_state
from .crop import Crop, crop_around
from .missing_face import lies_on_its_side, missing_face_error
from .pictures import Picture, Pictures, one_bar, picture_sources

MAX_CLIP_BYTES = 4 << 30
"""Limit of the frames of a Clip; joining those of several sources takes as much again for a moment."""

log = logging.getLogger(__name__)


class FrameReader(Protocol):
    """A source of frames uint8 [H, W, 3] of one size that is read like a video."""

    @property
    def path(self) -> Path:
        """The source, or its name."""

    @property
    def fps(self) -> Fraction:
        """Frames per second; 0 for pictures, which have no order in time."""

    @property
    def count(self) -> int | None:
        """Number of frames, None where it is unknown."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""

    def __iter__(self) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class FaceTracks:
    """Faces of a video, a picture or a folder of pictures.

    Attributes:
        path: the source.
        tracks: one for each face, the largest times longest first; of pictures, the largest face of each,
            then the second largest.
        total: frames read.
        size: (height, width) of the frames in pixels.
        fps: frames read per second of the video; 0 for pictures.
        cuts: numbers of the frames that begin a new shot, if they were detected.
    """

    path: Path
    tracks: tuple[FaceTrack, ...]
    total: int
    size: tuple[int, int]
    fps: float
    cuts: tuple[int, ...] = ()

    def track(self, face: int = 1) -> Track:
        """Return the landmarks of one face in all frames; where it is not seen, its confidence is 0 and the
        landmarks are interpolated in time.

        Args:
            face: 1 for the first of `tracks`.

        Raises:
            TalkingheadError: there is no such face.
        """
        if not self.tracks:
            raise missing_face_error(self.path, self.total)
        if not 1 <= face <= len(self.tracks):
            count = f"{len(self.tracks)} faces" if len(self.tracks) > 1 else "1 face"
            remedy = f"see them with: talkinghead landmarks {self.path} --out faces.png"
            if not os.path.exists(self.path):  # frames in memory
                remedy = "give 1" if len(self.tracks) == 1 else f"give 1 to {len(self.tracks)}"
            raise TalkingheadError(f"{self.path}: shows {count}, number {face} was asked for; {remedy}")
        track = self.tracks[face - 1]
        confidence = np.zeros(self.total)
        confidence[track.numbers] = track.confidence
        return Track(
            landmarks=_interpolate(track.landmarks, track.numbers, self.total),
            size=self.size,
            fps=self.fps,
            confidence=confidence,
            irises=None if track.irises is None else _interpolate(track.irises, track.numbers, self.total),
        )


def _interpolate(points: np.ndarray, numbers: np.ndarray, total: int) -> np.ndarray:
    """Return points [n, ...] of the frames `numbers` for all frames, interpolated in time: [total, ...]."""
    columns = points.reshape(len(points), -1).T
    values = [np.interp(np.arange(total), numbers, column) for column in columns]
    return np.stack(values, axis=1).reshape(total, *points.shape[1:])


@with_default_torch_state
def read_faces(
    path: str | Path | FrameReader,
    detector: Detector,
    limit: int | None = None,
    stride: int = 1,
    find_cuts: bool = False,
    progress: Progress = no_progress,
) -> FaceTracks:
    """Find the faces of a video, GIF, picture or folder of pictures of one size in constant memory.

    Args:
        path: the file or folder, or an open one.
        detector: finds the landmarks.
        limit: read at most this many frames.
        stride: read every `stride`-th frame only.
        find_cuts: detect changes of shot too (of a video).
        progress: shows the advance.

    Raises:
        TalkingheadError: the file is missing, damaged beyond use or something else. That no face is found is
            no error.
    """
    source = open_frames(Path(path), find_cuts) if isinstance(path, (str, os.PathLike)) else path
    frames = islice(source, 0, None if limit is None else (limit - 1) * stride + 1, stride)
    count = None if source.count is None else min(-(-source.count // stride), limit or source.count)
    started = perf_counter()
    reading = StageTimer(f"{source.path.name}: reading")
    watched = progress(reading.waits(frames), desc=f"landmarks of {source.path.name}", total=count)
    if source.fps:
        tracks, total = track_faces(watched, detector, DETECT_EVERY if stride == 1 else 1)
    else:
        tracks, total = _tracks_by_size_rank(watched, detector)
    seconds = perf_counter() - started
    log.debug("%s: landmarks: %.2f s", source.path.name, seconds - reading.seconds)
    log.info(
        "%s: landmarks of %s in %s",
        source.path.name,
        quantity(total, "frame"),
        f"{seconds:.1f} s, {total / seconds:.0f} a second",
    )
    cuts = source.cuts if isinstance(source, VideoReader) else ()
    fps = float(source.fps) / stride
    return FaceTracks(source.path, tuple(tracks), total, size=source.size, fps=fps, cuts=cuts)


@with_default_torch_state
def read_track(
    path: str | Path | FrameReader,
    detector: Detector,
    face: int = 1,
    limit: int | None = None,
    stride: int = 1,
    progress: Progress = no_progress,
) -> Track:
    """Find the landmarks of one face in a video, GIF, picture or folder of pictures, a Track of every frame.

    Args:
        face: which, when there are several: 1 is the largest times longest.
        path, detector, limit, stride, progress: as for `read_faces`.

    Raises:
        TalkingheadError: the file is missing, damaged beyond use or something else, or shows no such face.
    """
    check_whole_number("face", face, minimum=1, example=1)
    faces = read_faces(path, detector, limit, stride, progress=progress)
    track = faces.track(face)
    rivals = [other for other in faces.tracks if other.weight >= faces.tracks[0].weight / 10]
    if len(rivals) > 1 and faces.fps:
        log.warning(
            "%s: shows %d faces, number %d is taken (--face N takes another)",
            faces.path.name,
            len(rivals),
            face,
        )
    return track


@with_default_torch_state
def read_clip(
    pictures: Pictures,
    size: int = 256,
    detector: Detector | str | None = None,
    crop: Crop | None = None,
    limit: int | None = None,
    person: str = "",
    progress: Progress = no_progress,
    convention: int = 1,
) -> Clip:
    """Read square frames of one person with their landmarks, all in memory.

    The frames of a video share one crop, around all of its faces; each picture has its own. Frames of a video
    and pictures of a folder without a face are omitted; a picture that is named itself must show one.

    Args:
        pictures: a video or GIF, pictures, a folder of pictures, images in memory, or several of these.
        size: side of the frames in pixels.
        detector: finds the landmarks; or their name; by default the networks that ship.
        crop: used for all frames, in pixels of the source, in place of the one around the face.
        limit: read at most this many frames of each video and pictures of each folder.
        person: who it shows.
        progress: shows the advance.
        convention: of the crops around the face, one of `talkinghead.data.crop.CONVENTIONS`.

    Returns:
        A Clip of frames uint8 [N, size, size, 3], N >= 1; fps is that of the video, 0 for pictures and for
        more than one video.

    Raises:
        TalkingheadError: no pictures are given, or one is missing, damaged beyond use, something else, or
            without a face; or the frames would take more than `talkinghead.data.load.MAX_CLIP_BYTES`.
    """
    check_callbacks(progress)
    check_whole_number("size", size, minimum=1, example=256)
    if limit is not None:
        check_whole_number("limit", limit, minimum=1, example=100)
    detector = resolve_detector(detector)
    clips: list[Clip] = []
    names: list[str] = []
    sources, progress = one_bar(pictures, picture_sources(pictures, "read_clip"), progress)
    for source in sources:
        names.append(source.name)
        for track, frames in _read_source(source, detector, limit, progress):
            _check_bytes(source.name, sum(map(len, clips)) + len(track), size)
            square = crop or crop_around(track.landmarks, track.size, convention)
            clips.append(cut_out(frames, track, square, size))
    if not names:
        raise TalkingheadError("read_clip: no pictures; give at least one picture or video")
    if len(names) == 1:
        return join_clips(clips, names[0], clips[0].track.fps, person)
    return join_clips(clips, f"{names[0]} and {len(names) - 1} more", 0.0, person)


def _read_source(
    path: Path | Picture, detector: Detector, limit: int | None, progress: Progress
) -> Iterator[tuple[Track, Iterable[np.ndarray]]]:
    """Yield landmarks and frames that show a face: of pictures one by one, of a video all at once."""
    if isinstance(path, Picture):
        track = _picture_track(path.pixels, detector)
        if track is None:
            raise missing_face_error(path.name, 1, detector, path.pixels)
        yield track, [path.pixels]
        return
    if not (os.path.isdir(path) or is_image_file(path)):
        reader = VideoReader(path)
        track = read_track(reader, detector, limit=limit, progress=progress)
        seen = np.flatnonzero(track.seen)
        yield track[seen], frames_at(reader, seen)
        return
    pictures = list_images(path) if os.path.isdir(path) else [path]
    pictures, has_face = pictures[:limit], False
    for picture in progress(pictures, desc=path.name, total=len(pictures)):
        frame = read_image(picture)
        track = _picture_track(frame, detector)
        if track is not None:
            yield track, [frame]
            has_face = True
    if not has_face:
        raise missing_face_error(path, len(pictures), detector, frame if len(pictures) == 1 else None)


def _picture_track(picture: np.ndarray, detector: Detector) -> Track | None:
    """Return the landmarks of a picture's largest face as a Track of one frame, None without an upright
    face.
    """
    face = largest_face(detector, picture)
    if face is None or lies_on_its_side(face, detector, picture):
        return None
    return Track(
        landmarks=face.landmarks[None],
        size=picture.shape[:2],
        confidence=np.array([face.confidence]),
        irises=None if face.irises is None else face.irises[None],
    )


def cut_out(frames: Iterable[np.ndarray], track: Track, crop: Crop, size: int, name: str = "clip") -> Clip:
    """Return a Clip of a square of frames.

    Args:
        frames: uint8 [H, W, 3], as many as the track has.
        track: the landmarks, in pixels of these frames.
        crop: the square.
        size: side of the Clip's frames in pixels.
        name: of the Clip.

    Raises:
        TalkingheadError: there are fewer frames, or more.
    """
    points = crop.track(track, size)
    pixels, count = np.empty((len(track), size, size, 3), np.uint8), 0
    for frame in frames:
        if count < len(track):
            pixels[count] = crop.pixels(frame, size)
        count += 1
    if count != len(track):
        raise TalkingheadError(
            f"{name}: {count} frames do not match {len(track)} landmarks; read the source again"
        )
    valid = valid_pixels(crop, track, size)
    return Clip(points, pixels, name, valid=valid, convention=crop.convention)


def valid_pixels(crop: Crop, track: Track, size: int) -> np.ndarray | None:
    """Return bool [N, size, size]: the pixels of a crop, `size` wide, that each of the N frames of a track
    has; None when that is all.
    """
    inside = crop.valid(track.size, size)
    return None if inside.all() else np.repeat(inside[None], len(track), axis=0)


def join_clips(clips: Sequence[Clip], name: str, fps: float = 0.0, person: str = "") -> Clip:
    """Return the frames of one or more clips of one size as one Clip, in order."""
    if len(clips) == 1:
        return replace(clips[0], track=replace(clips[0].track, fps=fps), name=name, person=person)
    landmarks, confidence = (
        np.concatenate([getattr(clip.track, what) for clip in clips]) for what in ("landmarks", "confidence")
    )
    frames = np.concatenate([clip.frames for clip in clips])
    valid = None
    if any(clip.valid is not None for clip in clips):
        valid = np.concatenate(
            [np.ones(clip.frames.shape[:3], bool) if clip.valid is None else clip.valid for clip in clips]
        )
    track = Track(
        landmarks=landmarks,
        size=clips[0].track.size,
        fps=fps,
        confidence=confidence,
        irises=concatenate_irises([clip.track for clip in clips]),
    )
    return Clip(track, frames, name, person, valid=valid, convention=clips[0].convention)


def frames_at(frames: Iterable[np.ndarray], numbers: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the frames with these rising numbers, stopping after the last."""
    remaining = iter(numbers.tolist())
    following = next(remaining, None)
    if following is None:
        return
    for number, frame in enumerate(frames):
        if number == following:
            yield frame
            following = next(remaining, None)
            if following is None:
                return


def _check_bytes(name: str, frames: int, size: int) -> None:
    total = frames * size * size * 3
    if total > MAX_CLIP_BYTES:
        raise TalkingheadError(
            f"{name}: {frames} frames of {size}x{size} take {total / 2**30:.3g} GiB of memory, expected "
            f"at most {MAX_CLIP_BYTES / 2**30:.3g}; name a shorter video or fewer pictures"
        )


def open_frames(path: Path, find_cuts: bool = False) -> FrameReader:
    """Open a video, a GIF, a picture, or a folder of pictures of one size."""
    if os.path.isdir(path):
        return ImageReader(list_images(path))
    return ImageReader([path]) if is_image_file(path) else VideoReader(path, find_cuts)


def _tracks_by_size_rank(pictures: Iterable[np.ndarray], detector: Detector) -> tuple[list[FaceTrack], int]:
    """Return the faces of unrelated pictures and the number of pictures: the largest face of each picture as
    one track, the second largest as another, and so on.
    """
    faces_of = [find_faces(detector, [picture])[0] for picture in pictures]
    tracks = []
    for rank in range(max(map(len, faces_of), default=0)):
        ranked = {number: faces[rank] for number, faces in enumerate(faces_of) if len(faces) > rank}
        tracks.append(FaceTrack.of_faces(ranked))
    return tracks, len(faces_of)
