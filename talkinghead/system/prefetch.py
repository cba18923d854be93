"""Compute items ahead of their use, in a thread, so that producer and consumer run at the same time."""

import contextvars
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
_POLL_S = 0.1  # how often the thread checks whether the consumer has gone


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield the items, computing up to `depth` of them in advance in a thread.

    An exception in the thread is raised here, at its place in the order. Closing the iterator, or leaving it,
    ends the thread after its current item.
    """
    results: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: Item | None, problem: BaseException | None) -> bool:
        while not closed.is_set():
            try:
                results.put((item, problem), timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
        except BaseException as problem:
            put(None, problem)
        else:
            put(None, StopIteration())

    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(produce,), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, problem = results.get()
            if isinstance(problem, StopIteration):
                return
            if problem is not None:
                raise problem
            yield item  # type: ignore[misc]  # None only comes with a problem
    finally:
        closed.set()
        thread.join()
