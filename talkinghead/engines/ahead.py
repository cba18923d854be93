"""Items made ahead of their use, in a thread: what makes them and what uses them run at the same time."""

import contextvars
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
_POLL = 0.1  # seconds after which the thread looks whether anybody still wants what it makes


def ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """The items, up to `depth` of them made before they are asked for.

    What raises in the thread is raised here, in its place. Closing the iterator, or leaving it, ends the thread after the item it is at.
    """
    made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    left = threading.Event()

    def put(item: Item | None, problem: BaseException | None) -> bool:
        while not left.is_set():
            try:
                made.put((item, problem), timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item, None):
                    return
        except BaseException as problem:
            put(None, problem)
        else:
            put(None, StopIteration())

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, problem = made.get()
            if isinstance(problem, StopIteration):
                return
            if problem is not None:
                raise problem
            yield item  # type: ignore[misc]  # None belongs to a problem
    finally:
        left.set()
        thread.join()
