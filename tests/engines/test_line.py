"""Stages in threads: order, what is dropped, what is held, and how they end."""

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

from talkinghead.engines.line import Handover, Line


def everything(line: Line, pause: float = 0.0) -> list[Any]:
    out = []
    while not line.is_over():
        item = line.get(0.05)
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


def test_where_stages_wait_all_items_come_out_in_order() -> None:
    with Line(range(1, 101), {"double": lambda item: 2 * item, "more": lambda item: item + 1}, "end", waits=True) as line:
        assert everything(line) == [2 * number + 1 for number in range(1, 101)]
    assert line.dropped == {"double": 0, "more": 0, "end": 0} and line.given == 100
    assert threads() == []


@pytest.mark.parametrize("where", ["first", "second", "end"])
def test_before_the_stage_that_is_slow_the_oldest_is_dropped(where: str) -> None:
    stages = {name: slow(0.06 if name == where else 0) for name in ("first", "second")}
    with Line(paced(40, 0.01), stages, "end", waits=False) as line:
        out = everything(line, 0.06 if where == "end" else 0)
    assert out == sorted(out) and out[-1] == 40  # the newest is never dropped
    assert 3 <= len(out) <= 20
    assert line.given == 40 == len(out) + sum(line.dropped.values())
    assert line.dropped[where] > 15


def test_little_is_held_however_much_comes() -> None:
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

    for waits in (True, False):
        alive.clear()
        with Line(source(), {"one": slow(0.001), "two": slow(0.001)}, "end", waits=waits) as line:
            while not line.is_over():
                line.get(0.05)
                time.sleep(0.002)
        # one between each two threads and one in the hands of each
        assert 2 <= most <= 9


def test_a_handover_that_is_full_gives_up_the_oldest_or_makes_the_giver_wait() -> None:
    dropping: Handover[int] = Handover(waits=False, depth=2)
    assert all(dropping.put(number) for number in range(5))
    assert (len(dropping), dropping.dropped, dropping.get(), dropping.get(), dropping.get(0.01)) == (2, 3, 3, 4, None)
    waiting: Handover[int] = Handover(waits=True)
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
@pytest.mark.parametrize("waits", [True, False])
def test_what_one_raises_ends_all_and_is_raised(who: str, waits: bool) -> None:
    def dying(item: int) -> int:
        if item == 3:
            raise OSError(f"the {who} died")
        return item

    source = (dying(number) for number in paced(10**6, 0.005)) if who == "source" else paced(10**6, 0.005)
    start = time.perf_counter()
    stages = {name: dying if name == who else slow(0) for name in ("one", "two")}
    with pytest.raises(OSError, match=f"the {who} died"), Line(source, stages, "end", waits) as line:
        everything(line)
    assert time.perf_counter() - start < 1 and threads() == []


def test_what_is_on_its_way_still_comes_out_after_a_stop() -> None:
    with Line(paced(10**6, 0.002), {"slow": slow(0.05)}, "end", waits=True) as line:
        first = line.get(1)
        line.stop()
        out = [first, *everything(line)]
    assert out == list(range(1, line.given + 1)) and 2 <= len(out) <= 4
    assert threads() == []


def test_leaving_ends_the_threads_and_closes_the_source_in_its_own() -> None:
    closed: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield from paced(10**6, 0.001)
        finally:
            closed.append(threading.current_thread().name)

    with Line(source(), {"slow": slow(0.02)}, "end", waits=True) as line:
        line.get(1)
    assert threads() == [] and closed == ["live source"]


def test_it_tells_how_long_the_source_is_silent() -> None:
    def source() -> Iterator[int]:
        yield 1
        time.sleep(0.4)

    with Line(source(), {}, "end", waits=True) as line:
        assert line.get(1) == 1
        time.sleep(0.2)
        assert 0.15 < line.silent < 0.4
        assert everything(line) == [] and line.silent == 0


def test_the_threads_use_the_callers_backend() -> None:
    with ops.use_backend("reference"), Line([1], {"ask": lambda _: backend.current()}, "end", waits=True) as line:
        assert everything(line) == ["reference"]
