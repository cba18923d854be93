"""Columns of W dealt among the episodes of a batch, so that processes need not exchange rows of W.

Column c belongs to episode c mod B of every batch of B episodes, which draws from its columns alone. Of N
processes, where N divides B, process r has the episodes and the columns whose numbers are r modulo N. It
holds every column that it draws, and a step has the same episodes for every such N.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import TalkingheadError


class DealtColumns:
    """Draws the columns of the episodes of a batch.

    An episode draws each of its columns in proportion to the probability that it has without dealing, where
    data sets are equally likely, then people, videos and variants.

    Args:
        sets: data set, person -> indices of clips; the clips of a data set follow each other.
        variants: number of columns of each clip.
        batch: B.

    Raises:
        TalkingheadError: a data set has fewer than B columns.
    """

    def __init__(self, sets: Sequence[Sequence[Sequence[int]]], variants: Sequence[int], batch: int) -> None:
        self._batch = batch
        self._sets: list[tuple[int, np.ndarray]] = []
        counts, first = np.asarray(variants), 0
        for people in sets:
            weights = np.zeros(len(counts))
            for videos in people:
                weights[videos] = 1 / len(videos)
            indices = np.sort(np.concatenate([np.asarray(videos) for videos in people]))
            columns = np.repeat(weights[indices] / counts[indices], counts[indices])
            if len(columns) < batch:
                raise TalkingheadError(
                    f"torchrun: a data set has {len(columns)} videos for a batch of {batch} episodes, which "
                    "draw from different videos; add videos, or set a larger meta.videos or a smaller "
                    "meta.batch in the preset"
                )
            self._sets.append((first, columns))
            first += len(columns)

    def draw(self, episode: int, random: np.random.Generator) -> int:
        """Draw a column of the episode of that number in a batch."""
        first, weights = self._sets[random.integers(len(self._sets))]
        start = (episode - first) % self._batch
        sums = np.cumsum(weights[start :: self._batch])
        chosen = int(np.searchsorted(sums, random.random() * sums[-1], side="right"))
        return first + start + min(chosen, len(sums) - 1) * self._batch
