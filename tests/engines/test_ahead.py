import threading
import time

import pytest
import talkinghead_kernels as ops
from talkinghead_kernels import backend

from talkinghead.engines.ahead import ahead


def test_items_come_in_order_and_only_so_many_ahead():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    source = ahead(items(), 3)
    assert next(source) == 0
    time.sleep(0.3)
    assert len(made) <= 5  # three waiting, one taken, one in hand
    assert list(source) == list(range(1, 20))


def test_the_two_sides_run_at_the_same_time():
    met = threading.Barrier(2, timeout=10)

    def items():
        yield 0
        met.wait()
        yield 1

    source = ahead(items(), 1)
    assert next(source) == 0
    met.wait()  # would break if items were made only when asked for
    assert next(source) == 1


def test_what_raises_is_raised_in_its_place():
    def items():
        yield 1
        raise OSError("no space")

    source = ahead(items(), 4)
    assert next(source) == 1
    with pytest.raises(OSError, match="no space"):
        next(source)


def test_leaving_ends_the_thread():
    source = ahead(iter(range(10**9)), 2)
    next(source)
    source.close()
    assert not any(thread.name == "ahead" for thread in threading.enumerate())


def test_the_thread_uses_the_callers_backend():
    with ops.use_backend("reference"):
        assert list(ahead((backend.current() for _ in range(2)), 1)) == ["reference"] * 2
