"""Stages in threads: order, dropped items, memory, and how they end."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import talkinghead_kernels as ops
from talkinghead_kernels import backend

from talkinghead.system.stage_pipeline import BoundedQueue, StagePipeline


def drain(pipeline: StagePipeline, pause: float = 0.0) -> list[Any]:
    out = []
    while not pipeline.is_over():
        item = pipeline.get(0.05)
        if item is not None:
            out.append(item)
            time.sleep(pause)
    return out


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("live ")]


def paced(count: int, interval: float) -> Iterator[int]:
    for number in range(1, count + 1):
        time.sleep(interval)
        yield number


def slow(seconds: float) -> Any:
    def stage(item: Any) -> Any:
        time.sleep(seconds)
        return item

    return stage


def test_blocking_pipeline_keeps_all_items_in_order() -> None:
    with StagePipeline(
        range(1, 101), {"double": lambda item: 2 * item, "more": lambda item: item + 1}, "end", blocking=True
    ) as pipeline:
        assert drain(pipeline) == [2 * number + 1 for number in range(1, 101)]
    assert pipeline.dropped == {"double": 0, "more": 0, "end": 0} and pipeline.input_count == 100
    assert threads() == []


@pytest.mark.parametrize("where", ["first", "second", "end"])
def test_slow_stage_drops_oldest_item(where: str) -> None:
    stages = {name: slow(0.06 if name == where else 0) for name in ("first", "second")}
    with StagePipeline(paced(40, 0.01), stages, "end", blocking=False) as pipeline:
        out = drain(pipeline, 0.06 if where == "end" else 0)
    assert out == sorted(out) and out[-1] == 40  # the newest is never dropped
    assert 3 <= len(out) <= 20
    assert pipeline.input_count == 40 == len(out) + sum(pipeline.dropped.values())
    assert pipeline.dropped[where] > 15


def test_pipeline_holds_few_items() -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal most
        for _ in range(200):
            item = np.zeros(1)
            alive.append(weakref.ref(item))
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))
            yield item

    for blocking in (True, False):
        alive.clear()
        with StagePipeline(
            source(), {"one": slow(0.001), "two": slow(0.001)}, "end", blocking=blocking
        ) as pipeline:
            while not pipeline.is_over():
                pipeline.get(0.05)
                time.sleep(0.002)
        # one between each two threads and one in the hands of each
        assert 2 <= most <= 9


def test_full_queue_drops_oldest_or_blocks() -> None:
    dropping: BoundedQueue[int] = BoundedQueue(blocking=False, depth=2)
    assert all(dropping.put(number) for number in range(5))
    assert (len(dropping), dropping.dropped, dropping.get(), dropping.get(), dropping.get(0.01)) == (
        2,
        3,
        3,
        4,
        None,
    )
    waiting: BoundedQueue[int] = BoundedQueue(blocking=True)
    waiting.put(1)
    giver = threading.Thread(target=waiting.put, args=(2,))
    giver.start()
    time.sleep(0.05)
    assert giver.is_alive() and waiting.get() == 1
    giver.join(1)
    assert not giver.is_alive() and waiting.get() == 2 and not waiting.ended
    waiting.close()
    assert waiting.ended and not waiting.put(3) and waiting.get() is None


@pytest.mark.parametrize("who", ["source", "one", "two"])
@pytest.mark.parametrize("blocking", [True, False])
def test_stage_error_ends_pipeline_and_is_raised(who: str, blocking: bool) -> None:
    def fail_at_third(item: int) -> int:
        if item == 3:
            raise OSError(f"the {who} died")
        return item

    source = (
        (fail_at_third(number) for number in paced(10**6, 0.005)) if who == "source" else paced(10**6, 0.005)
    )
    start = time.perf_counter()
    stages = {name: fail_at_third if name == who else slow(0) for name in ("one", "two")}
    with (
        pytest.raises(OSError, match=f"the {who} died"),
        StagePipeline(source, stages, "end", blocking) as pipeline,
    ):
        drain(pipeline)
    assert time.perf_counter() - start < 1 and threads() == []


def test_stopped_pipeline_outputs_remaining_items() -> None:
    with StagePipeline(paced(10**6, 0.002), {"slow": slow(0.05)}, "end", blocking=True) as pipeline:
        first = pipeline.get(1)
        pipeline.stop()
        out = [first, *drain(pipeline)]
    assert out == list(range(1, pipeline.input_count + 1)) and 2 <= len(out) <= 4
    assert threads() == []


def test_pipeline_exit_ends_threads_and_source() -> None:
    closed: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield from paced(10**6, 0.001)
        finally:
            closed.append(threading.current_thread().name)

    with StagePipeline(source(), {"slow": slow(0.02)}, "end", blocking=True) as pipeline:
        pipeline.get(1)
    assert threads() == [] and closed == ["live source"]


def test_seconds_since_input_grows_while_source_waits() -> None:
    def source() -> Iterator[int]:
        yield 1
        time.sleep(0.4)

    with StagePipeline(source(), {}, "end", blocking=True) as pipeline:
        assert pipeline.get(1) == 1
        time.sleep(0.2)
        assert 0.15 < pipeline.seconds_since_input < 0.4
        assert drain(pipeline) == [] and pipeline.seconds_since_input == 0


def test_pipeline_threads_use_caller_backend() -> None:
    with (
        ops.use_backend("reference"),
        StagePipeline([1], {"ask": lambda _: backend.current()}, "end", blocking=True) as pipeline,
    ):
        assert drain(pipeline) == ["reference"]
