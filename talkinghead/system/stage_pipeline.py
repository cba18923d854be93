"""A pipeline of stages, each in a thread, with short queues between them: for live input."""

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
_JOIN = 2.0  # seconds that a stage has to end; one that hangs in a driver is abandoned


class BoundedQueue(Generic[Item]):
    """A queue of few items between two threads.

    Args:
        blocking: whether `put` waits while the queue is full; otherwise the oldest item is dropped.
        depth: its capacity.

    Attributes:
        dropped: how many items were dropped.
    """

    def __init__(self, blocking: bool, depth: int = 1) -> None:
        self._blocking, self._depth = blocking, depth
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ended(self) -> bool:
        """Return whether the queue is closed and empty."""
        with self._changed:
            return self._closed and not self._items

    def put(self, item: Item) -> bool:
        """Add an item; return False when the queue is closed."""
        with self._changed:
            if self._blocking:
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if self._closed:
                return False
            if len(self._items) == self._depth:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> Item | None:
        """Remove and return the oldest item; None after `timeout` seconds or after the last item."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items, timeout)
            if not self._items:
                return None
            self._changed.notify_all()
            return self._items.popleft()

    def close(self, discard: bool = False) -> None:
        """Accept no more items; with `discard`, also drop those in the queue."""
        with self._changed:
            self._closed = True
            if discard:
                self._items.clear()
            self._changed.notify_all()


class StagePipeline:
    """A source and the stages after it, each in a thread; the caller takes the outputs with `get`.

    Use as a context manager: the threads run within its block.

    Args:
        source: the inputs; iterated over in the first thread.
        stages: name of each stage -> function from an item to its result.
        end: the name of the consumer of the outputs.
        blocking: whether each stage waits for the next one; otherwise items are dropped.

    Attributes:
        input_count: how many items the source has produced.
    """

    def __init__(
        self, source: Iterable[Any], stages: Mapping[str, Callable[[Any], Any]], end: str, blocking: bool
    ) -> None:
        self._queues: dict[str, BoundedQueue[Any]] = {name: BoundedQueue(blocking) for name in (*stages, end)}
        first, *later = self._queues.values()
        self._last = self._queues[end]
        self._problem: BaseException | None = None
        self.input_count, self._last_input_time = 0, perf_counter()
        self._threads = [self._thread("source", lambda: self._feed(source, first), first)]
        for (name, stage), output in zip(stages.items(), later, strict=True):
            work = _stage_loop(stage, self._queues[name], output)
            self._threads.append(self._thread(name, work, output))

    @property
    def dropped(self) -> dict[str, int]:
        """Return the number of items dropped in front of each stage and of the end."""
        return {name: queue.dropped for name, queue in self._queues.items()}

    @property
    def seconds_since_input(self) -> float:
        """Return the seconds since the last item of the source; 0 after its end."""
        return perf_counter() - self._last_input_time if self._threads[0].is_alive() else 0.0

    def get(self, timeout: float | None = None) -> Any:
        """Return the next output; None after `timeout` seconds or after the last output.

        Raises what the source or a stage raised, as `is_over` does.
        """
        item = self._last.get(timeout)
        self._reraise()
        return item

    def is_over(self) -> bool:
        """Return whether all outputs have been taken."""
        over = self._last.ended
        self._reraise()
        return over

    def stop(self) -> None:
        """Stop the source; items already in the pipeline still come out."""
        next(iter(self._queues.values())).close()

    def __enter__(self) -> "StagePipeline":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for queue in self._queues.values():
            queue.close(discard=True)
        deadline = perf_counter() + _JOIN
        for thread in self._threads:
            thread.join(max(0.0, deadline - perf_counter()))

    def _thread(self, name: str, work: Callable[[], None], output: BoundedQueue[Any]) -> threading.Thread:
        run = contextvars.copy_context().run
        return threading.Thread(target=run, args=(self._run, work, output), name=f"live {name}", daemon=True)

    def _feed(self, source: Iterable[Any], first: BoundedQueue[Any]) -> None:
        for item in source:
            self._last_input_time = perf_counter()
            if not first.put(item):
                return
            self.input_count += 1

    def _run(self, work: Callable[[], None], output: BoundedQueue[Any]) -> None:
        try:
            work()
        except BaseException as problem:
            # keep the first problem: later ones may be its consequences
            self._problem = self._problem or problem
        finally:
            output.close()

    def _reraise(self) -> None:
        if self._problem is not None:
            raise self._problem


def _stage_loop(
    stage: Callable[[Any], Any], source: BoundedQueue[Any], output: BoundedQueue[Any]
) -> Callable[[], None]:
    """Return the function that a stage's thread runs."""

    def work() -> None:
        while (item := source.get()) is not None:
            if not output.put(stage(item)):
                return

    return work
