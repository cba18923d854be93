"""Stages at work at the same time, each in a thread of its own, with little between them: for what is worth less the later it comes."""

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
_JOIN = 2.0  # seconds that a stage is given to end; one that hangs in a driver is left behind


class Handover(Generic[Item]):
    """The few items on their way from one thread to the next.

    Args:
        waits: whether a full one makes the giver wait; otherwise the oldest item is dropped.
        depth: how many it holds.

    Attributes:
        dropped: how many were.
    """

    def __init__(self, waits: bool, depth: int = 1) -> None:
        self._waits, self._depth = waits, depth
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        with self._changed:
            return self._closed and not self._items

    def put(self, item: Item) -> bool:
        """Hand an item over; False when nobody wants it any more."""
        with self._changed:
            if self._waits:
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
        """The oldest item; None when none came within `timeout` seconds, or none comes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._items, timeout)
            if not self._items:
                return None
            self._changed.notify_all()
            return self._items.popleft()

    def close(self, empty: bool = False) -> None:
        """Nothing more is put in, and with `empty` what is inside is thrown away."""
        with self._changed:
            self._closed = True
            if empty:
                self._items.clear()
            self._changed.notify_all()


class Line:
    """A source and stages one after the other, each in a thread; who uses it takes what comes out. At work within its block.

    Args:
        source: what goes in; iterated over in the first thread.
        stages: of each its name and what it makes of an item.
        end: the name of who takes what comes out.
        waits: whether nothing is dropped: each stage then waits for the one after it.

    Attributes:
        given: how many items the source gave.
    """

    def __init__(self, source: Iterable[Any], stages: Mapping[str, Callable[[Any], Any]], end: str, waits: bool) -> None:
        self._before: dict[str, Handover[Any]] = {name: Handover(waits) for name in (*stages, end)}
        first, *later = self._before.values()
        self._last = self._before[end]
        self._problem: BaseException | None = None
        self.given, self._latest = 0, perf_counter()
        self._threads = [self._thread("source", lambda: self._feed(source, first), first)]
        for (name, stage), after in zip(stages.items(), later, strict=True):
            self._threads.append(self._thread(name, _between(stage, self._before[name], after), after))

    @property
    def dropped(self) -> dict[str, int]:
        """How many items were dropped while they waited for each stage, and for the end."""
        return {name: handover.dropped for name, handover in self._before.items()}

    @property
    def silent(self) -> float:
        """Seconds since the source gave its last item; 0 after its end."""
        return perf_counter() - self._latest if self._threads[0].is_alive() else 0.0

    def get(self, timeout: float | None = None) -> Any:
        """What came out; None when nothing did within `timeout` seconds, or nothing does any more.

        Raises what the source or a stage raised, as `is_over` does.
        """
        item = self._last.get(timeout)
        self._tell()
        return item

    def is_over(self) -> bool:
        """Whether nothing comes out any more."""
        over = self._last.ended
        self._tell()
        return over

    def stop(self) -> None:
        """The source gives no more; what is on its way still comes out."""
        next(iter(self._before.values())).close()

    def __enter__(self) -> "Line":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        for handover in self._before.values():
            handover.close(empty=True)
        until = perf_counter() + _JOIN
        for thread in self._threads:
            thread.join(max(0.0, until - perf_counter()))

    def _thread(self, name: str, work: Callable[[], None], after: Handover[Any]) -> threading.Thread:
        run = contextvars.copy_context().run
        return threading.Thread(target=run, args=(self._run, work, after), name=f"live {name}", daemon=True)

    def _feed(self, source: Iterable[Any], first: Handover[Any]) -> None:
        for item in source:
            self._latest = perf_counter()
            if not first.put(item):
                return
            self.given += 1

    def _run(self, work: Callable[[], None], after: Handover[Any]) -> None:
        try:
            work()
        except BaseException as problem:
            # the first is the cause, others may follow from it
            self._problem = self._problem or problem
        finally:
            after.close()

    def _tell(self) -> None:
        if self._problem is not None:
            raise self._problem


def _between(stage: Callable[[Any], Any], before: Handover[Any], after: Handover[Any]) -> Callable[[], None]:
    def work() -> None:
        while (item := before.get()) is not None:
            if not after.put(stage(item)):
                return

    return work
