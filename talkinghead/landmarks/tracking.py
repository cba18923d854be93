"""Tracks of all faces of a video: faces are detected every few frames and followed from frame to frame in
between, forwards and backwards.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, takewhile
from math import hypot

import numpy as np

from .detector import MIN_CONFIDENCE, Detector, Face, find_faces, follow_face
from .geometry import bounding_boxes

DETECT_EVERY = 8
"""Frames from one detection in the whole frame to the next."""
_MAX_WINDOWS = 4  # of frames, detected in one batch
_MAX_BLOCK_BYTES = 96 * 2**20  # frames in memory; large frames come in fewer windows, but at least one
_REJOIN_DISTANCE = 1.5  # face sides within which a detection continues a lost face
_MAX_SIZE_RATIO = 2.0  # of two detections of one face
_UNDETECTED_CONFIDENCE = 0.5  # factor for a face that is followed where the detection sees none
_SAME_FACE_DISTANCE = 0.5  # face sides within which two detections are one face


@dataclass(frozen=True)
class FaceTrack:
    """One face through a video.

    Attributes:
        numbers: int64 [n], of the frames that show it, rising.
        landmarks: float32 [n, 68, 2] in pixels of the frames.
        confidence: float32 [n], above 0 and up to 1.
        irises: float32 [n, 2, 5, 2] as in `talkinghead.Track`; None where the detector does not see them.
    """

    numbers: np.ndarray
    landmarks: np.ndarray
    confidence: np.ndarray
    irises: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def weight(self) -> float:
        """Its size times its length: the sum of its face sides in pixels."""
        return float(bounding_boxes(self.landmarks)[:, 2].sum())

    def between(self, start: int, end: int) -> "FaceTrack":
        """Return the part in the frames from `start` up to and without `end`."""
        inside = slice(*np.searchsorted(self.numbers, [start, end]).tolist())
        return self.select(inside)

    def select(self, index: slice | np.ndarray) -> "FaceTrack":
        """Return some of its frames, chosen by a slice or a mask."""
        irises = None if self.irises is None else self.irises[index]
        return FaceTrack(self.numbers[index], self.landmarks[index], self.confidence[index], irises)

    @classmethod
    def of_faces(cls, faces: Mapping[int, Face]) -> "FaceTrack":
        """Return the track of one face or more, by their frame numbers, which rise."""
        irises = [face.irises for face in faces.values()]
        return cls(
            numbers=np.array(list(faces), dtype=np.int64),
            landmarks=np.stack([face.landmarks for face in faces.values()]).astype(np.float32),
            confidence=np.array([face.confidence for face in faces.values()], dtype=np.float32),
            irises=None if any(eyes is None for eyes in irises) else np.array(irises, dtype=np.float32),
        )


class _TrackBuilder:
    """A face track that grows: its faces by frame number, rising."""

    def __init__(self) -> None:
        self.faces: dict[int, Face] = {}

    @property
    def last(self) -> tuple[int, Face]:
        number = next(reversed(self.faces))
        return number, self.faces[number]

    def shows(self, number: int, face: Face) -> bool:
        """Return whether this frame of the track shows that face."""
        return number in self.faces and _is_same_face(face, self.faces[number])

    def jump(self, number: int) -> float:
        """Return the distance in pixels that the face moved from the previous frame to this one."""
        before = next(earlier for earlier in reversed(self.faces) if earlier < number)
        return _distance_and_sides(self.faces[before], self.faces[number])[0]


def track_faces(
    frames: Iterable[np.ndarray], detector: Detector, detect_every: int = DETECT_EVERY
) -> tuple[list[FaceTrack], int]:
    """Track all faces of a video; memory grows with its length by the landmarks alone.

    The first frame, then every `detect_every`-th and the last are searched. A detected face is followed
    forwards until it is lost and backwards through the frames since the detection before. A face that is
    lost and detected again near by, of similar size, continues its track.

    Args:
        frames: uint8 [H, W, 3], RGB, of one size.
        detector: detects and follows the faces.
        detect_every: frames from detection to detection; 1 for frames that do not follow each other closely.

    Returns:
        The tracks, those of the largest summed size first, and the number of frames.
    """
    builders: list[_TrackBuilder] = []
    total = 0
    for block in _blocks(iter(frames), detect_every):
        _advance(builders, block, start=total, detector=detector, detect_every=detect_every)
        total += len(block)
    tracks = [FaceTrack.of_faces(builder.faces) for builder in builders]
    return sorted(tracks, key=lambda track: -track.weight), total


def _blocks(frames: Iterator[np.ndarray], detect_every: int) -> Iterator[list[np.ndarray]]:
    """Yield the first frame, then several windows of `detect_every` frames at a time. A block is emptied when
    the next is asked for.
    """
    first = next(frames, None)
    if first is None:
        return
    windows_at_once = int(np.clip(_MAX_BLOCK_BYTES // (detect_every * first.nbytes), 1, _MAX_WINDOWS))
    block = [first]
    del first
    while block:
        yield block
        block.clear()  # before the next is read, so that only one is in memory
        block += islice(frames, detect_every * windows_at_once)


def _advance(
    builders: list[_TrackBuilder],
    block: Sequence[np.ndarray],
    start: int,
    detector: Detector,
    detect_every: int,
) -> None:
    """Extend the tracks through a block of frames that starts at the number `start`.

    Faces are detected in the last frame of each window.
    """
    windows = [block[step : step + detect_every] for step in range(0, len(block), detect_every)]
    for window, faces in zip(windows, find_faces(detector, [window[-1] for window in windows]), strict=True):
        for builder in builders:
            last, face = builder.last
            if start - last <= detect_every:  # a face lost for longer must be detected first
                followed = _track_forward(window, face, detector, is_lost=last < start - 1)
                builder.faces.update((start + step, followed_face) for step, followed_face in followed)
        _resolve_shared(builders, start, start + len(window))
        for face in faces:
            _assign_detection(builders, face, window, start=start, detector=detector)
        for builder in builders:
            _lower_confidence(builder, faces, start, start + len(window) - 1)
        start += len(window)


def _track_forward(
    frames: Sequence[np.ndarray], face: Face, detector: Detector, is_lost: bool = False
) -> Iterator[tuple[int, Face]]:
    """Follow a face through frames, also past frames in which it is lost: yield (frame index, face)."""
    step = 0
    while step < len(frames):
        faces = follow_face(detector, frames[step:], face.landmarks)
        if faces and (not is_lost or faces[0].confidence >= MIN_CONFIDENCE):
            yield from enumerate(faces, step)
            step += len(faces)
            face = faces[-1]
        is_lost = True
        step += 1


def _resolve_shared(builders: list[_TrackBuilder], start: int, end: int) -> None:
    """Resolve a face that two tracks have come to follow in the frames from `start` up to `end`: the one that
    moved further to it leaves it.
    """
    current = [builder for builder in builders if builder.last[0] >= start]
    for first, second in combinations(current, 2):
        shared = [
            number
            for number in range(start, end)
            if number in first.faces and second.shows(number, first.faces[number])
        ]
        if shared:
            guest = max(second, first, key=lambda candidate: candidate.jump(shared[0]))
            for number in shared:
                del guest.faces[number]


def _assign_detection(
    builders: list[_TrackBuilder], face: Face, window: Sequence[np.ndarray], start: int, detector: Detector
) -> None:
    """Assign a face detected in a window's last frame, if no track has it, to a track that was lost near by
    or to a new one.
    """
    end = start + len(window) - 1
    if any(builder.shows(end, face) for builder in builders):
        return
    lost = [
        builder for builder in builders if end not in builder.faces and _can_rejoin(face, builder.last[1])
    ]
    if lost:
        builder = max(lost, key=lambda candidate: (candidate.last[0], len(candidate.faces)))
    else:
        builder = _TrackBuilder()
        builders.append(builder)
    first = max(start, builder.last[0] + 1) if builder.faces else start
    backwards = _track_forward(window[first - start : -1][::-1], face, detector)
    earlier = ((end - 1 - step, earlier_face) for step, earlier_face in backwards)
    # stop where another track already follows the face
    unshared = list(takewhile(lambda item: not any(other.shows(*item) for other in builders), earlier))
    builder.faces.update([*reversed(unshared), (end, face)])


def _lower_confidence(builder: _TrackBuilder, faces: Sequence[Face], start: int, end: int) -> None:
    """Lower the confidence of a face that the detection in a window's last frame does not see: it is in
    profile or covered, however well landmarks seem to fit.
    """
    if end in builder.faces and not any(builder.shows(end, face) for face in faces):
        for number in range(start, end + 1):
            if number in builder.faces:
                face = builder.faces[number]
                builder.faces[number] = replace(face, confidence=face.confidence * _UNDETECTED_CONFIDENCE)


def _is_same_face(face: Face, other: Face) -> bool:
    distance, side, other_side = _distance_and_sides(face, other)
    return distance <= _SAME_FACE_DISTANCE * max(side, other_side)


def _can_rejoin(face: Face, other: Face) -> bool:
    distance, side, other_side = _distance_and_sides(face, other)
    is_similar = other_side / _MAX_SIZE_RATIO <= side <= other_side * _MAX_SIZE_RATIO
    return distance <= _REJOIN_DISTANCE * other_side and is_similar


def _distance_and_sides(face: Face, other: Face) -> tuple[float, float, float]:
    """Return the distance of two faces, and the side of each, in pixels."""
    (x, y, side), (other_x, other_y, other_side) = face.box, other.box
    return hypot(x - other_x, y - other_y), side, other_side
