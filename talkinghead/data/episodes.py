"""Episodes: what one step of meta-learning sees (paper, section 3.2).

An episode is a target frame and K other frames of the same video, drawn when it is needed. The draw depends on (seed, step) alone, so a run
that goes on after an interruption sees what it would have seen.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TalkingheadError
from .shards import ShardClip, read_index
from .shots import spread
from .variants import draw_jitter, draw_variant

CACHE_BYTES = 2 << 30
"""Decoded frames kept in memory, at most."""
_FAR_CANDIDATES = 8
_CAMERA_MOTION = 0.012  # of a frame: what a hand-held camera moves between two frames of a clip, about


@dataclass(frozen=True)
class Episodes:
    """A batch of B episodes of 1 + K frames each; the target frame comes first.

    Attributes:
        frames: float32 [B, 1 + K, 3, size, size] in [-1, 1].
        points: float32 [B, 1 + K, 68, 2], landmarks as fractions of the frame.
        columns: int64 [B], which column of W each episode's video (and variant) has.
        valid: float32 [B, 1, size, size], 1 where the target frame shows what its source has, which costs loss, and 0 where it shows what
            stands for what lies beyond the source's border. All 1 when it is left out.
    """

    frames: Tensor
    points: Tensor
    columns: Tensor
    valid: Tensor = None  # type: ignore[assignment]  # always a tensor afterwards

    def __post_init__(self) -> None:
        if self.valid is None:
            object.__setattr__(self, "valid", torch.ones_like(self.frames[:, 0, :1]))

    def to(self, device: torch.device) -> "Episodes":
        """The same on a device."""
        return Episodes(*(tensor.to(device) for tensor in self._tensors))

    def split(self, parts: int) -> "list[Episodes]":
        """The same in so many parts, nearly equal; of fewer episodes each is one."""
        pieces = [tensor.tensor_split(min(parts, len(self.columns))) for tensor in self._tensors]
        return [Episodes(*piece) for piece in zip(*pieces, strict=True)]

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.frames, self.points, self.columns, self.valid


class EpisodeSource:
    """Draws episodes from prepared shards: data sets alike often, then their people, then their videos, then their variants.

    Args:
        folders: what `talkinghead prepare` wrote, one or several data sets; a name in two of them is two people.
        size: of the frames in pixels.
        shots: K.
        batch: episodes a step.
        videos: that a data set is to count at least; where it has fewer, each stands for others made of it as well (`variants.py`).
        seed: of the draw.
        leave_out: people not to draw from.
        far_targets: share of the episodes whose target is, of eight frames, the one whose landmarks are farthest from the others'.
        camera_motion: share of the episodes whose other frames are moved as a hand-held camera would have moved them; the target stays.

    Raises:
        TalkingheadError: of a data set no clip is left, or none has 1 + K frames; or one is given twice.
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        size: int,
        shots: int,
        batch: int,
        videos: int,
        seed: int,
        leave_out: Sequence[str] = (),
        far_targets: float = 0.0,
        camera_motion: float = 0.0,
    ) -> None:
        folders = [folders] if isinstance(folders, str | Path) else list(folders)
        if len({Path(folder).resolve() for folder in folders}) < len(folders):
            raise TalkingheadError(f"{', '.join(map(str, folders))}: a data set is named twice; name each once")
        unknown = set(leave_out)
        self.clips: list[ShardClip] = []
        self.sets: list[list[list[int]]] = []  # of each data set, of each person the numbers of the clips
        self.variants: list[int] = []  # of each clip
        for folder in folders:
            people: dict[str, list[int]] = {}
            for clip in read_index(folder):
                unknown.discard(clip.person)
                if clip.person not in leave_out and len(clip.landmarks) > shots:
                    people.setdefault(clip.person, []).append(len(self.clips))
                    self.clips.append(clip)
            if not people:
                raise TalkingheadError(f"{folder}: no clip has the {shots + 1} frames that an episode needs; prepare longer videos")
            self.sets.append([people[name] for name in sorted(people)])
            new = len(self.clips) - len(self.variants)
            self.variants += [-(-videos // new)] * new
        if unknown:
            raise TalkingheadError(f"{', '.join(map(str, folders))}: there is nobody called {', '.join(sorted(unknown))} to leave out")
        self.size, self.shots, self.batch, self.seed = size, shots, batch, seed
        self.far_targets, self.camera_motion = far_targets, camera_motion
        self._first_column = [0, *accumulate(self.variants)]
        self._cache: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    @property
    def columns(self) -> int:
        """How many columns W has: one for each video and variant."""
        return self._first_column[-1]

    def draw(self, step: int) -> Episodes:
        """The episodes of a step."""
        random = np.random.default_rng((self.seed, step))
        frames, points, columns, valid = zip(*(self._episode(random) for _ in range(self.batch)), strict=True)
        return Episodes(torch.stack(frames), torch.stack(points), torch.tensor(columns), torch.stack(valid))

    def _episode(self, random: np.random.Generator) -> tuple[Tensor, Tensor, int, Tensor]:
        """Return an episode's frames, points, column and the valid pixels of its frames."""
        people = self.sets[random.integers(len(self.sets))]
        videos = people[random.integers(len(people))]
        index = videos[random.integers(len(videos))]
        chosen = self._choose(self.clips[index].landmarks, random)
        number = int(random.integers(self.variants[index]))
        frames, points = self._shown(index, number, chosen)
        if self.camera_motion > 0 and random.random() < self.camera_motion:
            _move_camera(frames, points, random)
        return frames, points, self._first_column[index] + number, self._valid(index, number)

    def _choose(self, landmarks: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return numbers of a target frame and of K others; the target is at times the one of several that is farthest from the others."""
        far = self.far_targets > 0 and random.random() < self.far_targets
        candidates = min(_FAR_CANDIDATES if far else 1, len(landmarks) - self.shots)
        numbers = random.choice(len(landmarks), candidates + self.shots, replace=False)
        if not far:
            return numbers
        targets, others = landmarks[numbers[:candidates]], landmarks[numbers[candidates:]]
        distance = np.linalg.norm(targets[:, None] - others[None], axis=3).mean(axis=2).min(axis=1)
        return np.concatenate([numbers[[int(distance.argmax())]], numbers[candidates:]])

    def of_column(self, column: int) -> tuple[Tensor, Tensor]:
        """K frames [K, 3, size, size] of a column's video, as its variant shows them, evenly spaced, and their points [K, 68, 2]."""
        index = bisect_right(self._first_column, column) - 1
        chosen = spread(len(self.clips[index].landmarks), self.shots)
        return self._shown(index, column - self._first_column[index], chosen)

    def _shown(self, index: int, number: int, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """Frames of a clip and their points, as one of its variants shows them."""
        clip = self.clips[index]
        frames = self._frames(index, clip, chosen).float() / 127.5 - 1
        points = torch.from_numpy(clip.landmarks[chosen] / clip.size).float()
        variant = draw_variant(self.seed, index, number)
        return (frames, points) if variant is None else variant.apply(frames, points)

    def _valid(self, index: int, number: int) -> Tensor:
        """Return float32 [1, size, size]: 1 where the frames of a clip, as one of its variants shows them, show what the source has."""
        inside = self.clips[index].info.valid(self.size)
        mask = torch.ones(1, self.size, self.size) if inside is None else torch.from_numpy(inside).float()[None]
        variant = draw_variant(self.seed, index, number)
        return mask if variant is None else variant.apply_to_mask(mask[None])[0]

    def _frames(self, index: int, clip: ShardClip, chosen: np.ndarray) -> Tensor:
        """uint8 [n, 3, size, size], decoded once while they fit in the cache."""
        missing = [int(i) for i in chosen if (index, int(i)) not in self._cache]
        if missing:
            decoded = torch.from_numpy(clip.frames(missing)).permute(0, 3, 1, 2)
            if decoded.shape[2] != self.size:
                wide = F.interpolate(decoded.float(), size=(self.size, self.size), mode="bilinear", antialias=True)
                decoded = wide.round().clamp(0, 255).to(torch.uint8)
            for i, frame in zip(missing, decoded, strict=True):
                self._cache[index, i] = frame.clone()
        frames = []
        for i in chosen:
            self._cache.move_to_end((index, int(i)))
            frames.append(self._cache[index, int(i)])
        while len(self._cache) * 3 * self.size**2 > CACHE_BYTES:
            self._cache.popitem(last=False)
        return torch.stack(frames)


def _move_camera(frames: Tensor, points: Tensor, random: np.random.Generator) -> None:
    """Move all frames [N, 3, S, S] but the first, and their points [N, 68, 2], in place, each by a little of its own."""
    for number in range(1, len(frames)):
        moved, at = draw_jitter(random, _CAMERA_MOTION, bend=0).apply(frames[number, None], points[number, None])
        frames[number], points[number] = moved[0], at[0]
