"""Sampling of episodes from shards that are read one after the other.

A batch of B episodes has B streams. Each has shards of its own, which it reads whole, and episode e of every
step is of stream e. The rows of W of a stream's videos are those whose numbers are e modulo B. Of N
processes, where N divides B, process r has the streams and the rows whose numbers are r modulo N: it reads
only shards whose rows it holds, and a step has the same episodes for every such N.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import TalkingheadError, quantity
from .episodes import Episodes, EpisodeSource
from .shard_file import ShardFile, read_whole
from .shard_reader import ShardClip, read_into_memory
from .shard_stream import ShardStream
from .visit_order import VisitOrder

_STREAMED = 2  # tells the random numbers of streamed episodes from others


class StreamedEpisodes(EpisodeSource):
    """Samples episodes from shards in sequence.

    Data sets take turns. In a data set all videos are equally likely, where `EpisodeSource` has people
    equally likely. Frames are decoded at the size that is needed.

    Args:
        arguments, options: as for `EpisodeSource`.

    Attributes:
        layout: checksum of the rows of all videos in W.

    Raises:
        TalkingheadError: as for `EpisodeSource`, or a data set has fewer shards than a batch has episodes.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._orders = [self._split(number) for number in range(len(self.sets))]
        """Data set, stream -> order of the visits."""
        self._columns_of_streams = [
            [column for orders in self._orders for clip in orders[stream].clips for column in self._of(clip)]
            for stream in range(self.batch)
        ]
        self._length = max(map(len, self._columns_of_streams))
        self._row_of_column = np.zeros(self._first_column[-1], np.int64)
        for stream, columns in enumerate(self._columns_of_streams):
            self._row_of_column[columns] = stream + self.batch * np.arange(len(columns))
        self.layout = hashlib.sha256(json.dumps(self._row_of_column.tolist()).encode()).hexdigest()[:12]
        self._streams: dict[tuple[int, int], ShardStream] = {}
        self._part = slice(None)
        # consecutive rows are of all streams in turn
        self._read_shard = lru_cache(len(range(self.batch)[self.share]))(self._read_shard_uncached)

    def _of(self, clip: int) -> range:
        """Return the columns of a clip's variants."""
        return range(self._first_column[clip], self._first_column[clip + 1])

    def _split(self, number: int) -> list[VisitOrder]:
        """Split the shards of a data set among the streams, so that these have about as many clips each."""
        shards: dict[int, list[int]] = {}
        for clip in sorted(clip for videos in self.sets[number] for clip in videos):
            shards.setdefault(int(self._shard_numbers[clip]), []).append(clip)
        if len(shards) < self.batch:
            raise _too_few_shards(len(shards), sum(map(len, shards.values())), self.batch)
        streams: list[list[tuple[int, Sequence[int]]]] = [[] for _ in range(self.batch)]
        counts = [0] * self.batch
        for shard, clips in shards.items():
            fewest = counts.index(min(counts))
            streams[fewest].append((shard, clips))
            counts[fewest] += len(clips)
        return [VisitOrder(own, (self.seed, number, stream, _STREAMED)) for stream, own in enumerate(streams)]

    @property
    def columns(self) -> int:
        """The number of rows of W; a stream with fewer videos than another leaves some unused."""
        return self.batch * self._length

    @property
    def own_columns(self) -> Sequence[int]:
        """The videos and variants of this process's rows of W; unused rows stand for the first ones again."""
        rows = range(self.columns)[self.share]
        streams = self._columns_of_streams
        return [streams[row % self.batch][row // self.batch % len(streams[row % self.batch])] for row in rows]

    def deal(self) -> None:
        """Do nothing: every episode of a batch has videos of its own."""

    def take_part(self, number: int, count: int) -> None:
        """Draw only one of `count` parts of this process's episodes, those whose places are `number` modulo
        `count`.
        """
        self._part = slice(number, None, count)

    def draw(self, step: int) -> Episodes:
        """Sample this process's episodes of a step; consecutive steps read each shard once.

        Raises:
            TalkingheadError: more than 1 % of the shards cannot be read.
        """
        self._read_shard.cache_clear()
        episodes = []
        for number in range(self.batch)[self.share][self._part]:
            random = np.random.default_rng((self.seed, step, number, _STREAMED))
            turn = (step + number) % len(self.sets)
            episodes.append(self._draw_from_stream(random, turn, number, step // len(self.sets)))
        return self._join(episodes)

    def _draw_from_stream(
        self, random: np.random.Generator, data_set: int, stream: int, position: int
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """Draw an episode from the clip of a draw, or from another one where its shard is lost."""
        if (data_set, stream) not in self._streams:
            self._streams[data_set, stream] = ShardStream(
                self.clips,
                self._orders[data_set][stream],
                shard_of=lambda clip: int(self._shard_numbers[clip]),
                lost=self.lost,
            )
        for index, clip in self._streams[data_set, stream].draw(position):
            column = self._first_column[index] + int(random.integers(self.variants[index]))
            try:
                frames, points, _, valid = self._episode(random, index, clip, column)
                return frames, points, int(self._row_of_column[column]), valid
            except TalkingheadError as error:
                self.lost.add(int(self._shard_numbers[index]), error)
        raise TalkingheadError(self.lost.reasons[min(self.lost.reasons)])

    def _read_clip(self, index: int) -> ShardClip:
        """Return a clip by its index; of clips in the order of the rows of W each shard is read once."""
        shard = self._read_shard(int(self._shard_numbers[index]))
        return read_into_memory(shard, self.clips.places(index))

    def _read_shard_uncached(self, number: int) -> ShardFile:
        return read_whole(self.clips.shards[number])

    def _read_frames(self, index: int, clip: ShardClip, chosen: np.ndarray) -> Tensor:
        """Return frames uint8 [n, 3, size, size]; none is kept, since few are drawn again soon."""
        return clip.resized_frames(chosen, self.size, scaled=True)


def _too_few_shards(shards: int, clips: int, batch: int) -> TalkingheadError:
    """Return the error of a data set whose shards are fewer than the episodes of a batch."""
    remedy = "leave it out, or set a smaller meta.batch in the preset"
    if clips >= batch:  # two shards each, where there are as many: clips of one video share a shard
        size = max(1, clips // (2 * batch))
        # videos that the same folder holds would be skipped
        remedy = f"prepare the data again into another folder with --shard-clips {size}, {remedy}"
    return TalkingheadError(
        f"--streaming: a data set has {quantity(shards, 'shard')} for a batch of {batch} episodes, each of "
        f"which reads shards of its own; {remedy}"
    )
