"""Select what a model is evaluated on: clips of people, and in each clip training and held-out frames."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..clip import Clip, Track
from ..data.crop import Crop, crop_around
from ..data.few_shot import evenly_spaced_indices
from ..data.load import frames_at, read_track, valid_pixels
from ..dataset.discover import find_videos
from ..dataset.shard_reader import SHARDS, ShardClip, read_index
from ..errors import TalkingheadError
from ..landmarks.detector import MIN_CONFIDENCE, Detector
from ..landmarks.face_points import join_points, split_points
from ..media.video import VideoReader
from ..system.file_hash import sha256
from ..system.progress import Progress, no_progress


@dataclass(frozen=True)
class EvalClip:
    """A clip of a person.

    Attributes:
        person: name of the person.
        name: of the file, or the clip's key in a data set.
        source: the video's path, or the clip of a data set.
    """

    person: str
    name: str
    source: Path | ShardClip

    @property
    def digest(self) -> str:
        """The SHA-256 of a video; key and size of a data set's clip, whose key has the hash of its source."""
        if isinstance(self.source, Path):
            return sha256(self.source)
        return f"{self.source.key} at {self.source.size}"


@dataclass(frozen=True)
class EvalFrames:
    """The frames of a clip.

    Attributes:
        training: T -> the training frames, a Clip of T square frames.
        held_out: the held-out frames, all later than the training frames.
        frames: how many frames of the clip show the face clearly.
    """

    training: dict[int, Clip]
    held_out: Clip
    frames: int


@dataclass(frozen=True)
class FrameSplit:
    """The numbers of the frames that are learned from and held out.

    Attributes:
        training: T -> T frame numbers, among the candidates.
        held_out: the held-out frame numbers, all later.
        candidates: the frame numbers of the part that may be learned from.
        usable: how many frames of the clip show the face clearly.
    """

    training: dict[int, np.ndarray]
    held_out: np.ndarray
    candidates: np.ndarray
    usable: int


def find_eval_clips(
    paths: Sequence[str | Path],
    people: Mapping[str, str] | None = None,
    only: Collection[str] = (),
    clips_each: int | None = None,
) -> list[EvalClip]:
    """List the clips to evaluate on, sorted by person.

    Args:
        paths: videos, folders of videos, and folders of shards that `prepare` wrote.
        people: file name -> person for videos; else the layout tells, or the file name. A data set stores its
            people.
        only: names of people to evaluate; all when empty.
        clips_each: largest number of clips of each person, the longest ones.

    Raises:
        TalkingheadError: there are no paths, a path does not exist or holds no clips, or one of `only` is in
            no clip.
    """
    clips: list[EvalClip] = []
    datasets = [Path(path) for path in paths if Path(path).is_dir() and any(Path(path).glob(SHARDS))]
    videos = [path for path in paths if Path(path) not in datasets]
    for folder in datasets:
        clips += [EvalClip(clip.person, clip.key, clip) for clip in read_index(folder)]
    if videos or not datasets:
        clips += [
            EvalClip(video.person, video.path.name, video.path)
            for video in find_videos(videos, people)
            if not video.problem
        ]
    absent = sorted(set(only) - {clip.person for clip in clips})
    if absent:
        names = ", ".join(sorted({clip.person for clip in clips}))
        raise TalkingheadError(f"--only {absent[0]}: no clip shows this person; there are: {names}")
    selected = [clip for clip in clips if not only or clip.person in only]
    if clips_each is not None:
        selected = _longest_of_each(selected, clips_each)
    return sorted(selected, key=lambda clip: clip.person)  # stable: the clips of a person keep their order


def _longest_of_each(clips: Sequence[EvalClip], count: int) -> list[EvalClip]:
    """Return the `count` longest clips of every person, in the order of `clips`."""
    kept: list[EvalClip] = []
    for clip in sorted(clips, key=lambda clip: -_length(clip)):
        if sum(other.person == clip.person for other in kept) < count:
            kept.append(clip)
    return [clip for clip in clips if clip in kept]


def _length(clip: EvalClip) -> int:
    if isinstance(clip.source, ShardClip):
        return len(clip.source)
    try:
        return VideoReader(clip.source).count or 0
    except TalkingheadError:
        return 0  # reading the clip later reports the problem


def split(
    usable: np.ndarray, num_training: int, num_held_out: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Split frames into candidates for training and held-out frames.

    The candidates are the first two thirds, or more where T needs it; the held-out frames are evenly spaced
    in the rest.

    Args:
        usable: rising frame numbers.
        num_training: the largest T.
        num_held_out: the number of held-out frames; fewer where the rest has fewer.
        name: of the clip, for messages.

    Raises:
        TalkingheadError: there are fewer than T + 1 frames.
    """
    if len(usable) <= num_training:
        raise TalkingheadError(
            f"{name}: shows a face clearly in {len(usable)} frames, expected {num_training + 1}: "
            f"{num_training} to learn from and one held out; give a longer clip, or fewer --shots"
        )
    cut = min(max(len(usable) * 2 // 3, num_training), len(usable) - 1)
    candidates, rest = usable[:cut], usable[cut:]
    return candidates, rest[evenly_spaced_indices(len(rest), num_held_out)]


def find_landmarks(eval_clip: EvalClip, detector: Detector, progress: Progress = no_progress) -> Track | None:
    """Find the landmarks of a video; None for a clip of a data set, which has them.

    Raises:
        TalkingheadError: the video cannot be read or shows no face.
    """
    if isinstance(eval_clip.source, ShardClip):
        return None
    return read_track(VideoReader(eval_clip.source), detector, progress=progress)


def split_frames(
    eval_clip: EvalClip, track: Track | None, shots: Sequence[int], num_held_out: int
) -> FrameSplit:
    """Split the frames of a clip whose landmarks are known, for every T of `shots`.

    Raises:
        TalkingheadError: the clip is shorter than T + 1 frames.
    """
    if isinstance(eval_clip.source, ShardClip):
        usable = np.arange(len(eval_clip.source))
    else:
        assert track is not None
        usable = np.flatnonzero(track.confidence >= MIN_CONFIDENCE)
    candidates, held_out = split(usable, max(shots), num_held_out, eval_clip.name)
    training = {count: candidates[evenly_spaced_indices(len(candidates), count)] for count in shots}
    return FrameSplit(training, held_out, candidates, len(usable))


def read_split_frames(
    eval_clip: EvalClip, track: Track | None, parts: FrameSplit, size: int, *, convention: int = 1
) -> EvalFrames:
    """Read the frames of a split at `size` pixels.

    A video is cropped around the face of the training candidates, by a convention of `talkinghead.data.crop`;
    a data set's clip is cropped already.

    Raises:
        TalkingheadError: the clip cannot be read.
    """
    source, numbers = eval_clip.source, np.unique(np.concatenate([*parts.training.values(), parts.held_out]))
    if isinstance(source, ShardClip):
        clip = _read_shard_clip(source, numbers, size)
    else:
        assert track is not None
        crop = crop_around(track.landmarks[parts.candidates], track.size, convention)
        reader = VideoReader(source)
        clip = _read_video_clip(reader, track[numbers], numbers, crop, size=size, name=eval_clip.name)

    def at(frame_numbers: np.ndarray) -> Clip:
        return clip[np.searchsorted(numbers, frame_numbers)]

    training = {count: at(chosen) for count, chosen in parts.training.items()}
    return EvalFrames(training, at(parts.held_out), parts.usable)


def read_eval_frames(
    eval_clip: EvalClip,
    size: int,
    shots: Sequence[int],
    num_held_out: int,
    detector: Detector,
    progress: Progress = no_progress,
    convention: int = 1,
) -> EvalFrames:
    """Read the frames of a clip at `size` pixels, evenly spaced, for every T of `shots`.

    All T share the held-out frames; see `read_split_frames`.

    Raises:
        TalkingheadError: the clip cannot be read, shows no face, or is shorter than T + 1 frames.
    """
    track = find_landmarks(eval_clip, detector, progress)
    parts = split_frames(eval_clip, track, shots, num_held_out)
    return read_split_frames(eval_clip, track, parts, size, convention=convention)


def _read_video_clip(
    reader: VideoReader, track: Track, numbers: np.ndarray, crop: Crop, *, size: int, name: str
) -> Clip:
    """Read and crop the frames of these numbers, whose landmarks are in `track`."""
    frames = np.stack([crop.pixels(frame, size) for frame in frames_at(reader, numbers)])
    if len(frames) < len(numbers):
        raise TalkingheadError(f"{name}: fewer frames the second time it was read; copy it again")
    points = crop.track(track, size)
    return Clip(points, frames, name, valid=valid_pixels(crop, track, size))


def _read_shard_clip(clip: ShardClip, numbers: np.ndarray, size: int) -> Clip:
    frames = clip.resized_frames(numbers, size).permute(0, 2, 3, 1)
    points = join_points(clip.landmarks, clip.irises)[numbers] * (size / clip.size)
    landmarks, irises = split_points(points)
    track = Track(landmarks, (size, size), clip.fps, irises=irises)
    inside = clip.info.valid(size)
    valid = None if inside is None else np.repeat(inside[None], len(track), axis=0)
    return Clip(track, frames.contiguous().numpy(), clip.key, person=clip.person, valid=valid)
