"""Run jobs in other processes; one that crashes or hangs costs its current job, and a new one replaces it."""

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

from ..errors import TalkingheadError
from .signals import SIGNALS

Work = Callable[[Any, Callable[..., None]], Any]
"""Called as ``work(job, heartbeat)`` in another process; it calls `heartbeat` often, with a value to report
something before the result. Work, jobs, results and reports must be picklable.
"""
OnReport = Callable[[Any, Any], None]
"""Called as ``on_report(label, value)`` with the label of a job and a value that its work has reported."""

DEFAULT_TIMEOUT_S = 120.0
"""Seconds that a process may run without a heartbeat."""
_JOBS_PER_WORKER = 4  # jobs per process that may run or wait for an earlier one
_TICK = 1.0  # seconds between checks for silent processes, and between heartbeats
_MAX_FAILED_STARTS = 3  # consecutive processes that may fail to start


@dataclass(frozen=True)
class WorkerFailure:
    """The result of a job whose process crashed or hung: the reason."""

    reason: str


@dataclass(frozen=True)
class _Report:
    """A value that the work reports before its result."""

    value: Any


def ignore_report(label: Any, value: Any) -> None:
    """Do nothing with a report."""


def cpu_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_ordered(
    work: Work,
    jobs: Iterable[tuple[Any, Any]],
    workers: int,
    timeout: float | None = None,
    on_report: OnReport = ignore_report,
    caller: str = "this function",
) -> Generator[tuple[Any, Any], None, None]:
    """Yield the results of jobs run in several processes, in the order of the jobs.

    Jobs are taken from the iterable as they are needed, a few for each process ahead of the results. Close
    the iterator to end the processes; they also end when this process does, however it ends.

    Args:
        work: runs a job; an exception that it raises ends everything.
        jobs: (label, job); a job of None is not run, its result is None.
        workers: the largest number of processes.
        timeout: seconds without a heartbeat after which a process is killed; `DEFAULT_TIMEOUT_S` by default.
        on_report: called with each report as soon as it arrives, while this iterator waits for a result.
        caller: public function that needs the processes, for the message where none can be started.

    Yields:
        (label, result), where the result of a job whose process crashed or hung is a `WorkerFailure`.

    Raises:
        TalkingheadError: the work raised an exception, cannot be pickled, or no process can be started.
    """
    pool = ProcessPool(pickle_work(work), workers, timeout=timeout, on_report=on_report, caller=caller)
    try:
        yield from pool.map_ordered(jobs)
    finally:
        pool.close()


def pickle_work(work: Work) -> bytes:
    """Return the pickled work, for the processes that run it.

    Raises:
        TalkingheadError: it cannot be pickled.
    """
    try:
        return pickle.dumps(work)
    except Exception as error:
        raise TalkingheadError(
            f"{type(work).__name__}: cannot be handed to worker processes ({error}); give a detector that "
            "can be pickled, or its name"
        ) from error


class ProcessPool:
    """Processes that stay for several calls of `map_ordered`, the jobs that wait or run, and results that
    wait for an earlier one.

    Args:
        payload: the work, from `pickle_work`.
        workers, timeout, on_report, caller: as for the function `map_ordered`.
    """

    def __init__(
        self,
        payload: bytes,
        workers: int,
        *,
        timeout: float | None = None,
        on_report: OnReport = ignore_report,
        caller: str = "this function",
    ) -> None:
        self._payload, self._max_workers = payload, workers
        self._timeout = DEFAULT_TIMEOUT_S if timeout is None else timeout
        self._on_report, self._caller = on_report, caller
        self._context = _context()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._start(())

    def _start(self, jobs: Iterable[tuple[Any, Any]]) -> None:
        self._jobs = enumerate(jobs)
        self._waiting: deque[tuple[int, Any]] = deque()
        self._labels: dict[int, Any] = {}
        self._results: dict[int, Any] = {}
        self._fetched = self._yielded = 0
        self._exhausted = False
        self._last_check = time.monotonic()

    def map_ordered(self, jobs: Iterable[tuple[Any, Any]]) -> Generator[tuple[Any, Any], None, None]:
        """Yield (label, result) in the order of the jobs; iterate to the end before the next call.

        Raises:
            TalkingheadError: the work raised an exception, or no process can be started.
        """
        self._start(jobs)
        while True:
            self._fetch_jobs()
            self._submit_jobs()
            yield from self._ordered_results()
            if self._is_done:
                return
            if not self._needs_jobs:
                self._receive()

    @property
    def _is_done(self) -> bool:
        """Return whether the results of all jobs were yielded."""
        return self._exhausted and self._yielded == self._fetched

    @property
    def _needs_jobs(self) -> bool:
        """Return whether more jobs can be fetched before the next result arrives."""
        return self._can_fetch and not self._waiting

    @property
    def _can_fetch(self) -> bool:
        in_flight = self._fetched - self._yielded
        return not self._exhausted and in_flight < _JOBS_PER_WORKER * self._max_workers

    def _fetch_jobs(self) -> None:
        """Take jobs from the iterable while there are idle workers or room to look ahead."""
        while self._can_fetch and len(self._waiting) <= sum(worker.idle for worker in self._workers):
            numbered_job = next(self._jobs, None)
            if numbered_job is None:
                self._exhausted = True
                return
            number, (self._labels[number], job) = numbered_job
            self._fetched = number + 1
            if job is None:
                self._results[number] = None
            else:
                self._waiting.append((number, job))

    def _submit_jobs(self) -> None:
        """Submit waiting jobs to idle workers; start another worker where all are busy."""
        for worker in self._workers:
            if self._waiting and worker.idle and worker.submit(*self._waiting[0]):
                self._waiting.popleft()
        has_room = len(self._workers) < self._max_workers
        if self._waiting and has_room and all(worker.ready for worker in self._workers):
            self._workers.append(_Worker(self._context, self._payload))

    def _ordered_results(self) -> Iterator[tuple[Any, Any]]:
        """Yield the results that are next in the order of the jobs."""
        while self._yielded in self._results:
            yield self._labels.pop(self._yielded), self._results.pop(self._yielded)
            self._yielded += 1

    def _receive(self) -> None:
        """Wait for messages of the workers, and replace those that crashed or hung.

        Raises:
            TalkingheadError: the work raised an exception, or several workers in a row failed to start.
        """
        readable = wait([worker.connection for worker in self._workers], _TICK)
        # cap the elapsed time: a pause of this process itself must not count as silence of the workers
        now = time.monotonic()
        elapsed, self._last_check = min(now - self._last_check, 2 * _TICK), now
        for worker in list(self._workers):
            job_number, was_ready = worker.job_number, worker.ready
            if worker.connection in readable:
                outcome = worker.poll()
            else:
                outcome = worker.check_timeout(elapsed, self._timeout)
            if worker.ready and not was_ready:
                self._failed_starts = 0
            if outcome is None:
                continue
            if isinstance(outcome, _Report) and job_number is not None:
                self._on_report(self._labels[job_number], outcome.value)
                continue
            if isinstance(outcome, WorkerFailure):
                self._remove(worker, outcome, was_ready)
            if job_number is not None:
                self._results[job_number] = outcome[0] if isinstance(outcome, tuple) else outcome

    def _remove(self, worker: "_Worker", failure: WorkerFailure, was_ready: bool) -> None:
        self._workers.remove(worker)
        self._failed_starts += not was_ready
        if self._failed_starts == _MAX_FAILED_STARTS:
            raise TalkingheadError(
                f"no worker process can be started ({failure.reason}); "
                f"a script that calls {self._caller} must do so under: if __name__ == '__main__':"
            )

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end()


class _Worker:
    """A process, and the job that it runs."""

    def __init__(self, context: Any, payload: bytes) -> None:
        self.connection, child_connection = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_connection, payload), daemon=True)
        with _block_sigint():
            self._process.start()
        child_connection.close()
        self.job_number: int | None = None
        self.ready = False
        self._silent_s = 0.0

    @property
    def idle(self) -> bool:
        """Return whether the process has started and has no job."""
        return self.ready and self.job_number is None

    def submit(self, number: int, job: Any) -> bool:
        """Send a job to the process; return False when the process has ended."""
        try:
            self.connection.send(job)
        except OSError:
            return False
        self.job_number, self._silent_s = number, 0.0
        return True

    def poll(self) -> tuple[Any] | _Report | WorkerFailure | None:
        """Receive a message: return (result,), a report, a failure, or None for a heartbeat.

        Raises:
            TalkingheadError: the work raised an exception.
        """
        self._silent_s = 0.0
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return WorkerFailure(self._crash_reason())
        if kind == "failed":
            raise TalkingheadError(value)
        if kind == "report":
            return _Report(value)
        if kind == "ready":
            self.ready = True
        if kind != "done":
            return None
        self.job_number = None
        return (value,)

    def check_timeout(self, elapsed: float, timeout: float) -> WorkerFailure | None:
        """Add seconds without a message; kill the process and return a failure after the timeout."""
        self._silent_s += 0.0 if self.idle else elapsed
        if self._silent_s < timeout:
            return None
        self.end()
        return WorkerFailure(f"its reader hung: no progress for {timeout:.0f} s")

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _crash_reason(self) -> str:
        self._process.join(10)
        code = self._process.exitcode
        self.end()
        if code is None or code >= 0:
            return f"its reader crashed (exit code {code})"
        hint = ", which is what happens when memory runs out" if code == -9 else ""
        return f"its reader crashed (signal {-code}{hint})"


def _context() -> Any:
    """Return a context whose processes start clean and quickly.

    They are forked from a server that has imported torch and not used it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch"])
    return context


@contextmanager
def _block_sigint() -> Iterator[None]:
    """Block SIGINT in processes started in the block; this process ends them itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _serve(connection: Connection, payload: bytes) -> None:
    """Run jobs one after the other, in the worker process."""
    import torch  # not at the top: the process that starts workers may need none of it

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        # a terminal or a service manager signals all processes of a group, but this process has to end only
        # when its parent does
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    torch.set_num_threads(1)
    logging.getLogger().addHandler(logging.NullHandler())  # results contain all warnings that matter
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, jobs), daemon=True).start()
    last_message = time.monotonic()

    def send(kind: str, value: Any = None) -> None:
        try:
            connection.send((kind, value))
        except OSError:
            os._exit(1)

    def heartbeat(report: Any = None) -> None:
        nonlocal last_message
        if report is not None:
            send("report", report)
        elif time.monotonic() - last_message >= _TICK:
            last_message = time.monotonic()
            send("alive")

    try:
        work = pickle.loads(payload)
        send("ready")
        while True:
            send("done", work(jobs.get(), heartbeat))
    except Exception as error:
        message = f"a worker process failed ({type(error).__name__}: {error})"
        send("failed", str(error) if isinstance(error, TalkingheadError) else message)
        jobs.get()  # wait to be ended


def _receive(connection: Connection, jobs: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            jobs.put(connection.recv())
    except (EOFError, OSError):
        os._exit(1)  # the parent has ended, so that nobody reads the result of the current job
