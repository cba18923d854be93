"""Sampling of episodes, the training examples of meta-learning (paper, section 3.2).

An episode is a target frame and K other frames of the same video, sampled when it is needed. The sample
depends on (seed, step) alone, so a run that is resumed sees the same episodes as an uninterrupted one.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..clip import POINTS
from ..data.few_shot import evenly_spaced_indices
from ..errors import TalkingheadError
from ..landmarks.face_points import fit_points, join_points
from ..media.pixel_range import uint8_to_float
from .augment import sample_augmentation, sample_jitter
from .dealt_columns import DealtColumns
from .lost_shards import LostShards
from .remote import display, is_url, local_path
from .shard_index import Clips, open_index
from .shard_reader import ShardClip

CACHE_BYTES = 2 << 30
"""The largest size of the decoded frames kept in memory."""
_FAR_CANDIDATES = 8
_MAX_DRAWS = 1000  # of an episode, where shards are lost
_DEALT = 1  # tells the random numbers of dealt episodes from those of augmentations
_CAMERA_MOTION = 0.012  # about how far a hand-held camera moves between two frames, as a share of the frame


@dataclass(frozen=True)
class Episodes:
    """A batch of B episodes of 1 + K frames each; the target frame comes first.

    Attributes:
        frames: float32 [B, 1 + K, 3, size, size] in [-1, 1].
        points: float32 [B, 1 + K, 68 or 78, 2] as fractions of the frame, as many as the model shows.
        columns: int64 [B], the row of the embedding W_i of each episode's video (and variant).
        valid: float32 [B, 1, size, size], 1 where the target frame shows pixels of its source, which count in
            the loss, and 0 beyond the source's border. All 1 by default.
    """

    frames: Tensor
    points: Tensor
    columns: Tensor
    valid: Tensor = None  # type: ignore[assignment]  # a tensor after __post_init__

    def __post_init__(self) -> None:
        if self.valid is None:
            object.__setattr__(self, "valid", torch.ones_like(self.frames[:, 0, :1]))

    def to(self, device: torch.device) -> "Episodes":
        """Return the same episodes on a device; pinned ones are copied while others are computed with."""
        return Episodes(*(tensor.to(device, non_blocking=True) for tensor in self.tensors))

    def split(self, parts: int) -> "list[Episodes]":
        """Split the batch into `parts` batches of nearly equal size, or of one episode if there are fewer."""
        pieces = [tensor.tensor_split(min(parts, len(self.columns))) for tensor in self.tensors]
        return [Episodes(*piece) for piece in zip(*pieces, strict=True)]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The attributes in their order."""
        return self.frames, self.points, self.columns, self.valid


class EpisodeSource:
    """Samples episodes from prepared shards.

    Data sets are equally likely, then the people of a data set, their videos, and the variants of a video.

    Several processes share the episodes of a step and the columns of W: a process has those of its `share`.
    Columns are then dealt (`dealt_columns.py`), so that every process draws videos whose columns it holds,
    and the episodes of a step are the same for any number of processes.

    Args:
        folders: one or several data sets that `talkinghead prepare` wrote, or URLs of such; the same name
            in two of them stands for two people.
        size: of the frames in pixels.
        shots: K.
        batch: episodes per step.
        videos: smallest number of videos of a data set; where it has fewer, augmented variants of each video
            are added (`augment.py`).
        seed: of the sampling.
        exclude_identities: names of people to exclude.
        far_targets: share of the episodes whose target is the one of eight frames whose landmarks are
            farthest from those of the others.
        camera_motion: share of the episodes whose other frames, without the target, are moved as by a
            hand-held camera.
        num_points: of a face, 68 or 78; the irises of clips that lack them are hidden.
        share: the episodes of a batch, and the columns, that this process has; its step is the number of
            processes.
        keep_in: folder in which the index of shards behind a URL is kept.

    Attributes:
        dealt: the columns that each episode of a batch draws from; None where all draw from all, as one
            process may.
        lost: the shards that could not be read, from which no more episodes are drawn.

    Raises:
        TalkingheadError: a data set has no clip with 1 + K frames, or is named twice.
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        size: int,
        shots: int,
        batch: int,
        videos: int,
        seed: int,
        exclude_identities: Sequence[str] = (),
        far_targets: float = 0.0,
        camera_motion: float = 0.0,
        num_points: int = POINTS,
        share: slice = slice(0, None, 1),
        keep_in: Path | None = None,
    ) -> None:
        folders = [folders] if isinstance(folders, str | Path) else list(folders)
        names = ", ".join(map(display, folders))
        if len({_resolve(folder) for folder in folders}) < len(folders):
            raise TalkingheadError(f"{names}: a data set is named twice; name each once")
        unknown = set(exclude_identities)
        self.clips = Clips()
        self.sets: list[list[list[int]]] = []  # data set, person -> indices of clips
        self.variants: list[int] = []  # number of variants of each clip
        for folder in folders:
            index = open_index(folder, keep_in)
            unknown.difference_update(index.people)
            excluded = [number for number, name in enumerate(index.people) if name in exclude_identities]
            usable = np.flatnonzero(~np.isin(index.person, excluded) & (index.num_frames > shots))
            if not len(usable):
                raise TalkingheadError(
                    f"{display(folder)}: no clip has the {shots + 1} frames that an episode needs; prepare "
                    "longer videos"
                )
            people: dict[str, list[int]] = {}
            for number, person in enumerate(index.person[usable], len(self.clips)):
                people.setdefault(index.people[person], []).append(number)
            self.sets.append([people[name] for name in sorted(people)])
            self.clips.add(index, usable)
            self.variants += [-(-videos // len(usable))] * len(usable)
        if unknown:
            raise TalkingheadError(
                f"{names}: no person is called {', '.join(sorted(unknown))}; exclude "
                "names of people in the data sets"
            )
        self.size, self.shots, self.batch, self.seed = size, shots, batch, seed
        self.far_targets, self.camera_motion, self.num_points = far_targets, camera_motion, num_points
        self.share = share
        self.dealt: DealtColumns | None = None
        self._first_column = [0, *accumulate(self.variants)]
        self.lost = LostShards(len(self.clips.shards))
        self._shard_numbers = self.clips.shard_numbers
        self._cache: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        num_bytes = 3 * size**2 * int(self.clips.num_frames.sum())
        # of far more frames none would be drawn again before others have replaced it
        self._all_cache_bytes = CACHE_BYTES if num_bytes < 10 * CACHE_BYTES else 0
        self._cache_bytes = self._all_cache_bytes

    @property
    def columns(self) -> int:
        """The number of video embeddings: one for each video and variant."""
        return self._first_column[-1]

    @property
    def own_columns(self) -> Sequence[int]:
        """The columns that this process has, in the order of its rows of W."""
        return range(self.columns)[self.share]

    def deal(self) -> None:
        """Deal the columns among the episodes of a batch.

        Raises:
            TalkingheadError: a data set has fewer columns than a batch has episodes.
        """
        self.dealt = DealtColumns(self.sets, self.variants, self.batch)

    def share_cache(self, processes: int) -> None:
        """Let copies of this source in so many processes together keep as many frames as one."""
        self._cache_bytes = self._all_cache_bytes // processes

    def draw(self, step: int) -> Episodes:
        """Sample this process's episodes of a step.

        Raises:
            TalkingheadError: more than 1 % of the shards cannot be read.
        """
        if self.dealt is None:
            random = np.random.default_rng((self.seed, step))
            episodes = [self._draw_episode(random) for _ in range(self.batch)]
        else:
            episodes = []
            for number in range(self.batch)[self.share]:
                random = np.random.default_rng((self.seed, step, number, _DEALT))
                episodes.append(self._draw_episode(random, number))
        return self._join(episodes)

    def _join(self, episodes: Sequence[tuple[Tensor, Tensor, int, Tensor]]) -> Episodes:
        """Return a batch of episodes with this process's rows of W in place of columns."""
        frames, points, columns, valid = zip(*episodes, strict=True)
        rows = torch.tensor(columns) // self.share.step
        return Episodes(torch.stack(frames), torch.stack(points), rows, torch.stack(valid))

    def _draw_episode(
        self, random: np.random.Generator, number: int | None = None
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """Draw an episode from a shard that can be read; `number` is that of a dealt one in its batch."""
        for _ in range(_MAX_DRAWS):
            if number is None or self.dealt is None:
                index, column = self._draw_clip(random), None
            else:
                column = self.dealt.draw(number, random)
                index = self._clip_of_column(column)
            shard = int(self._shard_numbers[index])
            if shard in self.lost:
                continue
            try:
                return self._episode(random, index, self._read_clip(index), column)
            except TalkingheadError as error:
                self.lost.add(shard, error)
        raise TalkingheadError(self.lost.reasons[min(self.lost.reasons)])

    def _draw_clip(self, random: np.random.Generator) -> int:
        """Draw a data set, a person of it and a video, and return the index of the clip."""
        people = self.sets[random.integers(len(self.sets))]
        videos = people[random.integers(len(people))]
        return videos[random.integers(len(videos))]

    def _episode(
        self, random: np.random.Generator, index: int, clip: ShardClip, column: int | None = None
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """Return an episode's frames, points, column and the valid pixels of its frames.

        Args:
            random: the generator to sample from.
            index: of the clip.
            clip: of that index.
            column: of a variant of the clip; None draws one.
        """
        chosen = self._sample_indices(clip.landmarks, random)
        if column is None:
            column = self._first_column[index] + int(random.integers(self.variants[index]))
        number = column - self._first_column[index]
        frames, points = self._read_augmented(index, clip, number, chosen)
        if self.camera_motion > 0 and random.random() < self.camera_motion:
            _move_camera(frames, points, random)
        return frames, points, column, self._valid_mask(index, clip, number)

    def _sample_indices(self, landmarks: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Sample the indices of a target frame and of K others.

        With probability `far_targets` the target is the one of several candidates farthest from the others.
        """
        far = self.far_targets > 0 and random.random() < self.far_targets
        candidates = min(_FAR_CANDIDATES if far else 1, len(landmarks) - self.shots)
        numbers = random.choice(len(landmarks), candidates + self.shots, replace=False)
        if not far:
            return numbers
        targets, others = landmarks[numbers[:candidates]], landmarks[numbers[candidates:]]
        distance = np.linalg.norm(targets[:, None] - others[None], axis=3).mean(axis=2).min(axis=1)
        return np.concatenate([numbers[[int(distance.argmax())]], numbers[candidates:]])

    def clip_for_column(self, column: int) -> tuple[Tensor, Tensor]:
        """Return K evenly spaced frames [K, 3, size, size] of a video variant, and their points
        [K, num_points, 2].

        Args:
            column: index of the variant's embedding.
        """
        index = self._clip_of_column(column)
        clip = self._read_clip(index)
        chosen = evenly_spaced_indices(len(clip.landmarks), self.shots)
        return self._read_augmented(index, clip, column - self._first_column[index], chosen)

    def _read_clip(self, index: int) -> ShardClip:
        """Return a clip by its index."""
        return self.clips[index]

    def _clip_of_column(self, column: int) -> int:
        """Return the index of the clip of which a column is a variant."""
        return bisect_right(self._first_column, column) - 1

    def _read_augmented(
        self, index: int, clip: ShardClip, number: int, chosen: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return frames of one variant of a clip, and their points."""
        frames = uint8_to_float(self._read_frames(index, clip, chosen))
        irises = None if clip.irises is None else clip.irises[chosen]
        points = fit_points(join_points(clip.landmarks[chosen], irises) / clip.size, self.num_points)
        variant = sample_augmentation(self.seed, index, number)
        tensor = torch.from_numpy(points).float()
        return (frames, tensor) if variant is None else variant.apply(frames, tensor)

    def _valid_mask(self, index: int, clip: ShardClip, number: int) -> Tensor:
        """Return float32 [1, size, size], 1 where frames of a clip's variant show pixels of the source."""
        inside = clip.info.valid(self.size)
        mask = (
            torch.ones(1, self.size, self.size) if inside is None else torch.from_numpy(inside).float()[None]
        )
        variant = sample_augmentation(self.seed, index, number)
        return mask if variant is None else variant.apply_to_mask(mask[None])[0]

    def _read_frames(self, index: int, clip: ShardClip, chosen: np.ndarray) -> Tensor:
        """Return frames uint8 [n, 3, size, size], decoded once while they fit into the cache."""
        missing = [int(i) for i in chosen if (index, int(i)) not in self._cache]
        if missing:
            decoded = clip.resized_frames(missing, self.size)
            for i, frame in zip(missing, decoded, strict=True):
                self._cache[index, i] = frame.clone()
        frames = []
        for i in chosen:
            self._cache.move_to_end((index, int(i)))
            frames.append(self._cache[index, int(i)])
        while len(self._cache) * 3 * self.size**2 > self._cache_bytes:
            self._cache.popitem(last=False)
        return torch.stack(frames)


def _resolve(folder: str | Path) -> str | Path:
    """Return one value for all spellings of a folder."""
    return str(folder).rstrip("/") if is_url(folder) else local_path(folder).resolve()


def _move_camera(frames: Tensor, points: Tensor, random: np.random.Generator) -> None:
    """Move all frames [N, 3, S, S] but the first, and their points [N, P, 2], a little, in place."""
    for number in range(1, len(frames)):
        jitter = sample_jitter(random, _CAMERA_MOTION, warp_share=0)
        moved_frames, moved_points = jitter.apply(frames[number, None], points[number, None])
        frames[number], points[number] = moved_frames[0], moved_points[0]
