"""Order in which a stream visits the clips of its shards: shard after shard, through a shuffle buffer.

The order depends on numbers alone, so a run that is resumed finds its place without a stored position.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

import numpy as np

BUFFER_CLIPS = 16
"""Clips in the buffer of a stream: as many as a shard of `prepare` has."""
DRAWS_PER_VISIT = 8
"""Episodes drawn from a clip while it is in the buffer."""


@dataclass(frozen=True)
class Visit:
    """A draw from the buffer.

    Attributes:
        clip: that is drawn.
        entered: clips that came into the buffer before the draw, in their order in the shards.
        is_last: whether the clip leaves the buffer.
    """

    clip: int
    entered: tuple[int, ...]
    is_last: bool


class VisitOrder:
    """The visits of a stream.

    In an epoch every clip is drawn `DRAWS_PER_VISIT` times. Shards follow each other in another order in each
    epoch.

    Args:
        shards: numbers of the shards, with the clips of each in their order.
        seed: of the order.
    """

    def __init__(self, shards: Sequence[tuple[int, Sequence[int]]], seed: Sequence[int]) -> None:
        self._shards, self._seed = shards, tuple(seed)

    @property
    def clips(self) -> list[int]:
        """All clips, in the order of the shards."""
        return [clip for _, clips in self._shards for clip in clips]

    @property
    def epoch_draws(self) -> int:
        """Number of draws of an epoch."""
        return DRAWS_PER_VISIT * sum(len(clips) for _, clips in self._shards)

    def _shards_of(self, epoch: int) -> list[tuple[int, Sequence[int]]]:
        order = np.random.default_rng((*self._seed, epoch, 0)).permutation(len(self._shards))
        return [self._shards[number] for number in order]

    def shards_from(self, epoch: int) -> Iterator[int]:
        """Yield the numbers of the shards in the order of an epoch and of those after it, without end."""
        for later in count(epoch):
            for shard, _ in self._shards_of(later):
                yield shard

    def visits(self, epoch: int) -> Iterator[Visit]:
        """Yield the visits of an epoch."""
        random = np.random.default_rng((*self._seed, epoch, 1))
        coming = chain.from_iterable(clips for _, clips in self._shards_of(epoch))
        buffer: list[int] = []
        draws: dict[int, int] = {}
        while True:
            entered = tuple(islice(coming, BUFFER_CLIPS - len(buffer)))
            buffer += entered
            if not buffer:
                return
            place = int(random.integers(len(buffer)))
            clip = buffer[place]
            draws[clip] = draws.get(clip, 0) + 1
            is_last = draws[clip] == DRAWS_PER_VISIT
            if is_last:
                buffer[place] = buffer[-1]
                buffer.pop()
                del draws[clip]
            yield Visit(clip, entered, is_last)
