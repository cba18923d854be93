"""Columns that are dealt among the episodes of a batch."""

import numpy as np
import pytest
import torch

from support.minimal_training import write_data
from talkinghead.dataset.dealt_columns import DealtColumns
from talkinghead.dataset.episodes import EpisodeSource
from talkinghead.errors import TalkingheadError

BATCH = 6


def source(folder, share=slice(0, None, 1)):
    return EpisodeSource(folder, 32, shots=2, batch=BATCH, videos=20, seed=3, camera_motion=0.5, share=share)


def test_data_sets_and_people_are_as_likely_as_without_dealing():
    """Draw from 400 people with 1 to 8 videos, and from another data set of 20 people with one each."""
    counts = [1 + number % 8 for number in range(400)] + [1] * 20
    first = np.cumsum([0, *counts])
    people = [list(range(start, start + count)) for start, count in zip(first, counts, strict=False)]
    variants = [2] * (first[400]) + [3] * 20
    dealt, random = DealtColumns([people[:400], people[400:]], variants, BATCH), np.random.default_rng(0)
    person_of_column = np.repeat(np.repeat(np.arange(420), counts), variants)
    drawn_people = np.zeros(420)
    draws = 20_000
    for number in range(draws):
        column = dealt.draw(number % BATCH, random)
        assert column % BATCH == number % BATCH
        drawn_people[person_of_column[column]] += 1
    assert abs(drawn_people[:400].sum() / draws - 0.5) < 0.02
    shares = [drawn_people[start:400:8].sum() / drawn_people[:400].sum() for start in range(8)]
    assert np.abs(np.array(shares) - 1 / 8).max() < 0.02, "people with more videos are drawn more often"


@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_episodes_are_those_of_one_process(ranks, tmp_path):
    folder = write_data(tmp_path)
    alone = source(folder)
    alone.deal()
    parts = [source(folder, slice(rank, None, ranks)) for rank in range(ranks)]
    for part in parts:
        part.deal()
    for step in (0, 7):
        expected = alone.draw(step)
        for rank, part in enumerate(parts):
            episodes = part.draw(step)
            share = slice(rank, None, ranks)
            for name in ("frames", "points", "valid"):
                assert torch.equal(getattr(episodes, name), getattr(expected, name)[share]), name
            own = torch.tensor(part.own_columns)[episodes.columns]
            assert torch.equal(own, expected.columns[share])


def test_data_set_of_fewer_columns_than_episodes_is_refused():
    with pytest.raises(TalkingheadError, match="a data set has 5 videos for a batch of 6 episodes"):
        DealtColumns([[[0]], [[1], [2]]], [6, 3, 2], BATCH)
