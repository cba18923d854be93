"""Whom a model is measured on: the clips of each person, and in each clip the frames learned from and those held out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F

from ..clip import Clip, Track
from ..corpus.layouts import find_videos
from ..data.crop import crop_around
from ..data.read import Progress, read_track, select, silent, valid_pixels
from ..data.shards import SHARDS, ShardClip, read_index
from ..data.shots import spread
from ..errors import TalkingheadError
from ..files import sha256
from ..landmarks.face import DOUBTFUL, Detector
from ..media.video import VideoReader
from ..torch_state import from_numpy


@dataclass(frozen=True)
class Subject:
    """One clip of a person.

    Attributes:
        person: whom it shows.
        name: the file, or the clip's key in a data set.
        source: the video's path, or the clip of a data set.
    """

    person: str
    name: str
    source: Path | ShardClip

    @property
    def digest(self) -> str:
        """SHA-256 of the video; of a data set's clip its key and size, the key holding the hash of its source."""
        return sha256(self.source) if isinstance(self.source, Path) else f"{self.source.key} at {self.source.size}"


@dataclass(frozen=True)
class Material:
    """The frames of a clip.

    Attributes:
        pictures: for each T the frames to learn from, a Clip of T square frames.
        held: the held-out frames, all later than those.
        frames: how many of the clip show the face clearly.
    """

    pictures: dict[int, Clip]
    held: Clip
    frames: int


def find_subjects(
    given: Sequence[str | Path], people: Mapping[str, str] | None = None, only: Collection[str] = (), clips_each: int | None = None
) -> list[Subject]:
    """The clips to measure on, by person.

    Args:
        given: videos, folders of videos, and folders of shards that `prepare` wrote.
        people: file name -> person for videos; else their layout tells, or the file name. A data set knows its own people.
        only: these people; all when empty.
        clips_each: of each person no more than so many clips, the longest.

    Raises:
        TalkingheadError: nothing is given, a path is not there or holds nothing, or one of `only` is nowhere.
    """
    found: list[Subject] = []
    sets = [Path(path) for path in given if Path(path).is_dir() and any(Path(path).glob(SHARDS))]
    videos = [path for path in given if Path(path) not in sets]
    for folder in sets:
        found += [Subject(clip.person, clip.key, clip) for clip in read_index(folder)]
    if videos or not sets:
        found += [Subject(each.person, each.path.name, each.path) for each in find_videos(videos, people) if not each.problem]
    absent = sorted(set(only) - {subject.person for subject in found})
    if absent:
        there = ", ".join(sorted({subject.person for subject in found}))
        raise TalkingheadError(f"--only {absent[0]}: no clip shows this person; there are: {there}")
    chosen = [subject for subject in found if not only or subject.person in only]
    if clips_each is not None:
        longest = sorted(chosen, key=lambda subject: -_length(subject))
        kept = [subject for n, subject in enumerate(longest) if sum(s.person == subject.person for s in longest[:n]) < clips_each]
        chosen = [subject for subject in chosen if subject in kept]
    return sorted(chosen, key=lambda subject: subject.person)  # stable: a person's clips keep their order


def _length(subject: Subject) -> int:
    if isinstance(subject.source, ShardClip):
        return len(subject.source)
    try:
        return VideoReader(subject.source).count or 0
    except TalkingheadError:
        return 0  # why it cannot be read is told when it is


def split(usable: np.ndarray, most: int, held_out: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames that may be learned from, and those held out: the first two thirds, or more where T needs it, and evenly of the rest.

    Args:
        usable: rising frame numbers.
        most: the largest T.
        held_out: how many to hold out; fewer where there are fewer.
        name: for messages.

    Raises:
        TalkingheadError: fewer than T + 1 frames.
    """
    if len(usable) <= most:
        raise TalkingheadError(
            f"{name}: shows a face clearly in {len(usable)} frames, {most + 1} were expected: {most} to learn from and one held out; "
            "give a longer clip, or fewer --shots"
        )
    cut = min(max(len(usable) * 2 // 3, most), len(usable) - 1)
    first, rest = usable[:cut], usable[cut:]
    return first, rest[spread(len(rest), held_out)]


def read_material(
    subject: Subject,
    size: int,
    shots: Sequence[int],
    held_out: int,
    detector: Detector,
    progress: Progress = silent,
    convention: int = 1,
) -> Material:
    """The frames of a clip at `size` pixels, for every T of `shots`, evenly spaced; all T share the held-out frames.

    A video is cropped around the face as the learnable part shows it, by that convention of `talkinghead.data.crop`; a data set's clip is
    cropped already.

    Raises:
        TalkingheadError: the clip cannot be read, shows no face, or is shorter than T + 1 frames.
    """
    source = subject.source
    if isinstance(source, ShardClip):
        usable = np.arange(len(source))
    else:
        reader = VideoReader(source)
        track = read_track(reader, detector, progress=progress)
        usable = np.flatnonzero(track.confidence >= DOUBTFUL)
    first, held = split(usable, max(shots), held_out, subject.name)
    chosen = {count: first[spread(len(first), count)] for count in shots}
    numbers = np.unique(np.concatenate([*chosen.values(), held]))
    if isinstance(source, ShardClip):
        clip = _resized(source, numbers, size)
    else:
        crop = crop_around(track.landmarks[first], track.size, convention)
        frames = np.stack([crop.pixels(frame, size) for frame in select(reader, numbers)])
        if len(frames) < len(numbers):
            raise TalkingheadError(f"{subject.name}: fewer frames the second time it was read; copy it again")
        there = track[numbers]
        points = Track(crop.points(there.landmarks, size), (size, size), track.fps, there.confidence)
        clip = Clip(points, frames, subject.name, valid=valid_pixels(crop, there, size))

    def taken(which: np.ndarray) -> Clip:
        return clip[np.searchsorted(numbers, which)]

    return Material({count: taken(which) for count, which in chosen.items()}, taken(held), len(usable))


def _resized(clip: ShardClip, numbers: np.ndarray, size: int) -> Clip:
    frames = from_numpy(clip.frames(numbers))
    if clip.size != size:
        planes = F.interpolate(frames.permute(0, 3, 1, 2).float(), size=(size, size), mode="bilinear", antialias=True)
        frames = planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    track = Track(clip.landmarks[numbers] * (size / clip.size), (size, size), clip.fps)
    inside = clip.info.valid(size)
    valid = None if inside is None else np.repeat(inside[None], len(track), axis=0)
    return Clip(track, frames.contiguous().numpy(), clip.key, clip.person, valid)
