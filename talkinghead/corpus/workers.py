"""Work in other processes, which may crash or hang: that costs the one job, and a new process takes over."""

import logging
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ..errors import TalkingheadError
from ..interrupt import SIGNALS

Work = Callable[[Any, Callable[[], None]], Any]
"""Called as ``work(job, alive)`` in another process; it is to call `alive` often, and may pickle like its jobs and results."""

PATIENCE = 120.0
"""Seconds that a process may go without a sign of life."""
_AHEAD = 4  # jobs per process that may be under way or wait for one before them
_TICK = 1.0  # seconds between looks at who is silent, and between signs of life
_STARTS = 3  # processes that may fail to start, one after the other


@dataclass(frozen=True)
class Lost:
    """In place of a result: what became of the process."""

    reason: str


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Work, jobs: Iterable[tuple[Any, Any]], workers: int, patience: float | None = None
) -> Generator[tuple[Any, Any], None, None]:
    """The results of jobs done by several processes, in the order of the jobs, whichever is done first.

    Jobs are taken as they are needed, a few for each process ahead of what was yielded. Close the iterator to end the processes; they also
    end when this process does, however it does.

    Args:
        work: does a job; an exception that it raises ends everything.
        jobs: (label, job); a job of None has no work to it, and None for a result.
        workers: how many processes, at most.
        patience: seconds without a sign of life after which a process is ended; `PATIENCE` by default.

    Yields:
        (label, result), where the result of a job whose process crashed or hung is a `Lost`.

    Raises:
        TalkingheadError: the work raised an exception, cannot be handed to another process, or no process can be started.
    """
    patience = PATIENCE if patience is None else patience
    try:
        payload = pickle.dumps(work)
    except Exception as error:
        raise TalkingheadError(
            f"{type(work).__name__}: cannot be handed to worker processes ({error}); give a detector that can be pickled, or its name"
        ) from error
    context = _context()
    crew: list[_Worker] = []
    waiting: deque[tuple[int, Any]] = deque()
    labels: dict[int, Any] = {}
    results: dict[int, Any] = {}
    ahead = enumerate(jobs)
    taken, given, failed, more = 0, 0, 0, True
    before = time.monotonic()
    try:
        while True:
            while more and taken - given < _AHEAD * workers and len(waiting) <= sum(worker.idle for worker in crew):
                following = next(ahead, None)
                if following is None:
                    more = False
                    break
                number, (labels[number], job) = following
                taken = number + 1
                if job is None:
                    results[number] = None
                else:
                    waiting.append((number, job))
            for worker in crew:
                if waiting and worker.idle and worker.give(*waiting[0]):
                    waiting.popleft()
            if waiting and len(crew) < workers and all(worker.ready for worker in crew):
                crew.append(_Worker(context, payload))
            while given in results:
                yield labels.pop(given), results.pop(given)
                given += 1
            if not more and given == taken:
                return
            if more and taken - given < _AHEAD * workers and not waiting:
                continue
            heard = wait([worker.connection for worker in crew], _TICK)
            # a pause of this process itself, stopped or busy with a result, is no one's silence
            now = time.monotonic()
            passed, before = min(now - before, 2 * _TICK), now
            for worker in list(crew):
                job_number, was_ready = worker.number, worker.ready
                outcome = worker.listen() if worker.connection in heard else worker.unheard(passed, patience)
                if worker.ready and not was_ready:
                    failed = 0
                if outcome is None:
                    continue
                if isinstance(outcome, Lost):
                    crew.remove(worker)
                    failed += not was_ready
                    if failed == _STARTS:
                        raise TalkingheadError(
                            f"no worker process can be started ({outcome.reason}); "
                            "a script that calls prepare must do so under: if __name__ == '__main__':"
                        )
                if job_number is not None:
                    results[job_number] = outcome[0] if isinstance(outcome, tuple) else outcome
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process and what is known of it."""

    def __init__(self, context: Any, payload: bytes) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, payload), daemon=True)
        with _uninterrupted():
            self._process.start()
        theirs.close()
        self.number: int | None = None  # of the job under way
        self.ready = False
        self._silent = 0.0

    @property
    def idle(self) -> bool:
        return self.ready and self.number is None

    def give(self, number: int, job: Any) -> bool:
        """Hand over a job; False when the process is gone."""
        try:
            self.connection.send(job)
        except OSError:
            return False
        self.number, self._silent = number, 0.0
        return True

    def listen(self) -> tuple[Any] | Lost | None:
        """What the process says: (its result,), or that it is lost."""
        self._silent = 0.0
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return Lost(self._crash())
        if kind == "failed":
            raise TalkingheadError(value)
        if kind == "ready":
            self.ready = True
        if kind != "done":
            return None
        self.number = None
        return (value,)

    def unheard(self, passed: float, patience: float) -> Lost | None:
        """Note that nothing was heard for so many seconds."""
        self._silent += 0.0 if self.idle else passed
        if self._silent < patience:
            return None
        self.end()
        return Lost(f"its reader hung, for {patience:.0f} s it did not go on")

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _crash(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        self.end()
        if code is None or code >= 0:
            return f"its reader crashed (exit code {code})"
        hint = ", which is what happens when memory runs out" if code == -9 else ""
        return f"its reader crashed (signal {-code}{hint})"


def _context() -> Any:
    """Processes that start clean and quickly: copies of a server that has imported torch and done nothing with it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A process started here never sees Ctrl-C: this process does, and ends the others."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _serve(connection: Connection, payload: bytes) -> None:
    """In the other process: do one job after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        # a terminal or a service manager signals all processes of a group: this one ends when the process that it works for does
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    torch.set_num_threads(1)
    logging.getLogger().addHandler(logging.NullHandler())  # what is worth saying is in the results
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, jobs), daemon=True).start()
    said = time.monotonic()

    def say(kind: str, value: Any = None) -> None:
        try:
            connection.send((kind, value))
        except OSError:
            os._exit(1)

    def alive() -> None:
        nonlocal said
        if time.monotonic() - said >= _TICK:
            said = time.monotonic()
            say("alive")

    try:
        work = pickle.loads(payload)
        say("ready")
        while True:
            say("done", work(jobs.get(), alive))
    except Exception as error:
        say("failed", str(error) if isinstance(error, TalkingheadError) else f"a worker process failed ({type(error).__name__}: {error})")
        jobs.get()  # nothing comes any more but the end


def _receive(connection: Connection, jobs: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            jobs.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)  # the other side is gone, and what is under way is for nobody
