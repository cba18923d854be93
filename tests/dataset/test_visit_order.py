"""Order in which a stream visits the clips of its shards."""

from collections import Counter

import pytest

from talkinghead.dataset.visit_order import BUFFER_CLIPS, DRAWS_PER_VISIT, VisitOrder

SHARDS = [(number, range(10 * number, 10 * number + 8)) for number in range(9)]


@pytest.fixture
def order() -> VisitOrder:
    return VisitOrder(SHARDS, (1, 2))


def clips_of(order: VisitOrder, epoch: int = 0) -> list[int]:
    """Return the clips of an epoch's draws."""
    return [visit.clip for visit in order.visits(epoch)]


def test_epoch_draws_every_clip_equally_often(order):
    counts = Counter(clips_of(order))
    assert counts == dict.fromkeys(order.clips, DRAWS_PER_VISIT) and len(counts) == 72
    assert order.epoch_draws == sum(counts.values())


def test_epoch_reads_one_shard_after_the_other(order):
    entered = [clip for visit in order.visits(0) for clip in visit.entered]
    assert sorted(entered) == sorted(order.clips)
    shards = list(dict.fromkeys(clip // 10 for clip in entered))
    assert entered == [clip for shard in shards for clip in range(10 * shard, 10 * shard + 8)]
    upcoming = order.shards_from(0)
    assert shards == [next(upcoming) for _ in SHARDS] and shards != sorted(shards)
    assert sorted(next(upcoming) for _ in SHARDS) == sorted(shards)


def test_buffer_holds_clips_until_their_last_draw(order):
    held: set[int] = set()
    sizes = []
    for visit in order.visits(0):
        held |= set(visit.entered)
        sizes.append(len(held))
        assert visit.clip in held
        if visit.is_last:
            held.remove(visit.clip)
    assert max(sizes) == BUFFER_CLIPS and not held
    assert sizes[: 56 * DRAWS_PER_VISIT].count(BUFFER_CLIPS) == 56 * DRAWS_PER_VISIT


def test_draws_mix_clips_of_two_shards(order):
    window = clips_of(order)[:BUFFER_CLIPS]
    assert len({clip // 10 for clip in window}) == 2 and len(set(window)) > 6


def test_order_depends_on_seed_and_epoch_alone(order):
    assert clips_of(order) == clips_of(VisitOrder(SHARDS, (1, 2)))
    one_shard = [VisitOrder(SHARDS[:1], (1, seed)) for seed in (2, 3)]
    assert clips_of(one_shard[0]) != clips_of(one_shard[1])
    assert clips_of(order) != clips_of(order, 1) and clips_of(order) != clips_of(VisitOrder(SHARDS, (1, 3)))
