"""Faces through a video: searched for every few frames, followed from frame to frame in between, forwards and backwards."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, takewhile
from math import hypot

import numpy as np

from .face import DOUBTFUL, Detector, Face, boxes_of, find_faces, follow_face

EVERY = 8
"""Frames from one search of the whole frame to the next."""
_WINDOWS = 4  # searched in one batch
_BLOCK = 96 * 2**20  # bytes of frames held at once; of large frames fewer windows, but always one
_FAR = 1.5  # face sides from where a face was lost: it is not taken for another before
_UNLIKE = 2.0  # times as large or as small: likewise
_UNSEEN = 0.5  # of its confidence is left of a face that is followed where the search sees none
_SAME = 0.5  # face sides within which two finds in one frame are one face


@dataclass(frozen=True)
class Chain:
    """One face through a video.

    Attributes:
        numbers: int64 [n], of the frames that show it, rising.
        landmarks: float32 [n, 68, 2] in pixels of the frames.
        confidence: float32 [n], above 0 and up to 1.
    """

    numbers: np.ndarray
    landmarks: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def weight(self) -> float:
        """Its size times its length: the sum of its face sides in pixels."""
        return float(boxes_of(self.landmarks)[:, 2].sum())

    def between(self, start: int, end: int) -> "Chain":
        """What of it lies in the frames from `start` up to and without `end`."""
        inside = slice(*np.searchsorted(self.numbers, [start, end]).tolist())
        return Chain(self.numbers[inside], self.landmarks[inside], self.confidence[inside])


class _Growing:
    """A chain that may get longer: its faces by frame number, put in as they rise."""

    def __init__(self) -> None:
        self.faces: dict[int, Face] = {}

    @property
    def last(self) -> tuple[int, Face]:
        number = next(reversed(self.faces))
        return number, self.faces[number]

    def shows(self, number: int, face: Face) -> bool:
        """Whether this frame of the chain shows that face."""
        return number in self.faces and _same(face, self.faces[number])

    def jump(self, number: int) -> float:
        """How far it came to where it is in this frame, in pixels."""
        before = next(each for each in reversed(self.faces) if each < number)
        return _compare(self.faces[before], self.faces[number])[0]

    def chain(self) -> Chain:
        points, sure = zip(*((face.landmarks, face.confidence) for face in self.faces.values()), strict=True)
        numbers = np.array(list(self.faces), dtype=np.int64)
        return Chain(numbers, np.stack(points).astype(np.float32), np.array(sure, dtype=np.float32))


def follow_faces(frames: Iterable[np.ndarray], detector: Detector, every: int = EVERY) -> tuple[list[Chain], int]:
    """All faces of a video, each as one chain; memory does not grow with its length but for the landmarks.

    The first frame, then every `every`-th and the last are searched. A face is followed from where it was found, forwards until it is lost
    and backwards through the frames since the search before. One that is lost and found again near by, of like size, goes on as the same.

    Args:
        frames: uint8 [H, W, 3], RGB, of one size.
        detector: finds and follows the faces.
        every: frames from search to search; 1 for frames that do not follow each other closely.

    Returns:
        The chains, the largest times longest first, and how many frames there were.
    """
    chains: list[_Growing] = []
    total = 0
    for block in _blocks(iter(frames), every):
        _advance(chains, block, total, detector, every)
        total += len(block)
    return sorted((grown.chain() for grown in chains), key=lambda chain: -chain.weight), total


def _blocks(frames: Iterator[np.ndarray], every: int) -> Iterator[list[np.ndarray]]:
    """The first frame, then several windows of `every` frames at a time. A block is emptied when the next is asked for."""
    first = next(frames, None)
    if first is None:
        return
    at_once = int(np.clip(_BLOCK // (every * first.nbytes), 1, _WINDOWS))
    block = [first]
    del first
    while block:
        yield block
        block.clear()  # or two would be held while the next is read
        block += islice(frames, every * at_once)


def _advance(chains: list[_Growing], block: Sequence[np.ndarray], start: int, detector: Detector, every: int) -> None:
    """Take the chains through the frames of a block, the first of which has the number `start`: its windows are searched at their ends."""
    windows = [block[step : step + every] for step in range(0, len(block), every)]
    for window, faces in zip(windows, find_faces(detector, [window[-1] for window in windows]), strict=True):
        for grown in chains:
            last, face = grown.last
            if start - last <= every:  # one lost for longer waits to be found by a search
                grown.faces.update((start + step, each) for step, each in _through(window, face, detector, last < start - 1))
        _part(chains, start, start + len(window))
        for face in faces:
            _place(chains, face, window, start, detector)
        for grown in chains:
            _doubt(grown, faces, start, start + len(window) - 1)
        start += len(window)


def _through(frames: Sequence[np.ndarray], face: Face, detector: Detector, lost: bool = False) -> Iterator[tuple[int, Face]]:
    """Follow a face through frames, past those in which it is lost for a moment: pairs of how many frames further, and the face there."""
    step = 0
    while step < len(frames):
        found = follow_face(detector, frames[step:], face.landmarks)
        if found and (not lost or found[0].confidence >= DOUBTFUL):
            yield from enumerate(found, step)
            step += len(found)
            face = found[-1]
        lost = True
        step += 1


def _part(chains: list[_Growing], start: int, end: int) -> None:
    """Of two chains that have come to follow one face in the frames from `start` up to `end`, the one that came further to it leaves it."""
    here = [grown for grown in chains if grown.last[0] >= start]
    for one, other in combinations(here, 2):
        shared = [number for number in range(start, end) if number in one.faces and other.shows(number, one.faces[number])]
        if shared:
            guest = max(other, one, key=lambda each: each.jump(shared[0]))
            for number in shared:
                del guest.faces[number]


def _place(chains: list[_Growing], face: Face, window: Sequence[np.ndarray], start: int, detector: Detector) -> None:
    """Give a face found in a window's last frame, if no chain has it, to a chain that was lost near by or to a new one."""
    end = start + len(window) - 1
    if any(grown.shows(end, face) for grown in chains):
        return
    lost = [grown for grown in chains if end not in grown.faces and _alike(face, grown.last[1])]
    if lost:
        grown = max(lost, key=lambda each: (each.last[0], len(each.faces)))
    else:
        grown = _Growing()
        chains.append(grown)
    since = max(start, grown.last[0] + 1) if grown.faces else start
    before = ((end - 1 - step, each) for step, each in _through(window[since - start : -1][::-1], face, detector))
    # as far as it does not run onto a face that is followed already
    own = list(takewhile(lambda each: not any(other.shows(*each) for other in chains), before))
    grown.faces.update([*reversed(own), (end, face)])


def _doubt(grown: _Growing, faces: Sequence[Face], start: int, end: int) -> None:
    """A face that the search of a window's last frame does not see is in profile or covered, however well landmarks seem to fit."""
    if end in grown.faces and not any(grown.shows(end, face) for face in faces):
        for number in range(start, end + 1):
            if number in grown.faces:
                face = grown.faces[number]
                grown.faces[number] = replace(face, confidence=face.confidence * _UNSEEN)


def _same(face: Face, other: Face) -> bool:
    away, side, its = _compare(face, other)
    return away <= _SAME * max(side, its)


def _alike(face: Face, other: Face) -> bool:
    away, side, its = _compare(face, other)
    return away <= _FAR * its and its / _UNLIKE <= side <= its * _UNLIKE


def _compare(face: Face, other: Face) -> tuple[float, float, float]:
    """How far they are apart, and the side of each, in pixels."""
    (x, y, side), (u, v, its) = face.box, other.box
    return hypot(x - u, y - v), side, its
