import threading
import time

import pytest
import talkinghead_kernels as ops
from talkinghead_kernels import backend

from talkinghead.system.prefetch import prefetch


def test_prefetch_keeps_order_and_limits_depth():
    produced = []

    def items():
        for number in range(20):
            produced.append(number)
            yield number

    source = prefetch(items(), 3)
    assert next(source) == 0
    time.sleep(0.3)
    assert len(produced) <= 5  # three waiting, one taken, one in hand
    assert list(source) == list(range(1, 20))


def test_prefetch_runs_producer_and_consumer_together():
    met = threading.Barrier(2, timeout=10)

    def items():
        yield 0
        met.wait()
        yield 1

    source = prefetch(items(), 1)
    assert next(source) == 0
    met.wait()  # would break if items were produced only on request
    assert next(source) == 1


def test_prefetch_raises_producer_error_in_order():
    def items():
        yield 1
        raise OSError("no space")

    source = prefetch(items(), 4)
    assert next(source) == 1
    with pytest.raises(OSError, match="no space"):
        next(source)


def test_prefetch_closed_ends_thread():
    source = prefetch(iter(range(10**9)), 2)
    next(source)
    source.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_prefetch_thread_uses_caller_backend():
    with ops.use_backend("reference"):
        assert list(prefetch((backend.current() for _ in range(2)), 1)) == ["reference"] * 2
