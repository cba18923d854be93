"""Clips of a stream's shards, read one after the other and held in memory while they are drawn from."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

from ..errors import TalkingheadError
from .lost_shards import LostShards
from .shard_file import ShardFile, read_whole
from .shard_index import Clips
from .shard_reader import ShardClip, read_into_memory
from .visit_order import Visit, VisitOrder

_THREAD = "next shard"
"""Name of the threads that read shards."""


class ShardStream:
    """The clips of a stream by the number of the draw; consecutive numbers read each shard once.

    Args:
        clips: of the data.
        order: of the visits.
        shard_of: returns the shard of a clip, as an index of the data's shards.
        lost: shards that cannot be read; more are added. Their clips are replaced when they are drawn.
    """

    def __init__(
        self, clips: Clips, order: VisitOrder, *, shard_of: Callable[[int], int], lost: LostShards
    ) -> None:
        self._clips, self._order, self._shard_of, self._lost = clips, order, shard_of, lost
        self._reader = _ShardReader(clips.shards)
        self._position: int | None = None
        self._epoch = 0
        self._visits: Iterator[Visit] = iter(())
        self._held: dict[int, ShardClip | None] = {}
        self._replacement: tuple[int, ShardClip] | None = None

    def draw(self, position: int) -> Iterator[tuple[int, ShardClip]]:
        """Yield the clip of a draw, with its index, and then others that can replace it.

        Args:
            position: number of the draw; the next one, or any other, for which the buffer is read again.

        Raises:
            TalkingheadError: more than 1 % of the shards cannot be read.
        """
        if position != self._position:
            self._seek(position)
        visit = next(self._visits, None)
        if visit is None:
            self._epoch += 1
            self._visits = self._order.visits(self._epoch)
            visit = next(self._visits)
        self._position = position + 1
        for clip in visit.entered:
            self._held[clip] = self._read(clip)
        chosen = self._held.pop(visit.clip) if visit.is_last else self._held[visit.clip]
        return self._candidates(visit.clip, chosen)

    def _candidates(self, index: int, chosen: ShardClip | None) -> Iterator[tuple[int, ShardClip]]:
        """Yield a clip if it can be read, the one drawn before, those of the buffer, then all others."""
        if chosen is not None and self._shard_of(index) not in self._lost:
            self._replacement = index, chosen
            yield index, chosen
        if self._replacement is not None and self._shard_of(self._replacement[0]) not in self._lost:
            yield self._replacement
        for other, clip in list(self._held.items()):
            if clip is not None and self._shard_of(other) not in self._lost:
                yield other, clip
        for other in self._order.clips:
            clip = self._read(other)
            if clip is not None:
                self._replacement = other, clip
                yield other, clip

    def _seek(self, position: int) -> None:
        """Fill the buffer as it is before a draw."""
        self._epoch, offset = divmod(position, self._order.epoch_draws)
        self._visits = self._order.visits(self._epoch)
        held: dict[int, None] = {}
        for visit in islice(self._visits, offset):
            held |= dict.fromkeys(visit.entered)
            if visit.is_last:
                del held[visit.clip]
        self._reader.follow(self._order.shards_from(self._epoch))
        self._held = {clip: self._read(clip) for clip in held}

    def _read(self, clip: int) -> ShardClip | None:
        """Return a clip, None where its shard is lost."""
        shard = self._shard_of(clip)
        if shard in self._lost:
            return None
        try:
            return read_into_memory(self._reader.get(shard), self._clips.places(clip))
        except TalkingheadError as error:
            self._lost.add(shard, error)
            return None


class _ShardReader:
    """Gets one shard after the other; one behind a URL is read in a thread while the one before is used.

    Args:
        shards: of the data.
    """

    def __init__(self, shards: list[ShardFile]) -> None:
        self._shards = shards
        self._upcoming: Iterator[int] = iter(())
        self._current: tuple[int, ShardFile] | None = None
        self._next: tuple[int, Future[ShardFile]] | None = None

    def follow(self, upcoming: Iterator[int]) -> None:
        """Set the endless order in which shards will be read."""
        self._upcoming, self._next = upcoming, None

    def get(self, number: int) -> ShardFile:
        """Return a shard that can be read at any place without waiting.

        Raises:
            TalkingheadError: it cannot be read.
        """
        if isinstance(self._shards[number], Path):
            return self._shards[number]
        if self._current is not None and self._current[0] == number:
            return self._current[1]
        coming, self._next, self._current = self._next, None, None
        if coming is None or coming[0] != number:  # the first one, or those before it are lost
            coming = number, _start(self._shards[number])
            next(shard for shard in self._upcoming if shard == number)
        whole = coming[1].result()
        following = next(self._upcoming)
        self._next, self._current = (following, _start(self._shards[following])), (number, whole)
        return whole


def _start(shard: ShardFile) -> Future[ShardFile]:
    """Read a shard in a thread that does not keep the process from ending."""
    future: Future[ShardFile] = Future()

    def run() -> None:
        try:
            future.set_result(read_whole(shard))
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    return future


def join_readers() -> None:
    """Wait for the threads of this process that read shards, because none may run while it forks."""
    for thread in threading.enumerate():
        if thread.name == _THREAD:
            thread.join()
