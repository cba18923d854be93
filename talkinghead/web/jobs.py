"""Queues of jobs: the jobs of all sessions, one at a time, each in the worker process of its queue."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import TalkingheadError, quantity
from .sessions import Session
from .settings import Limits
from .worker_process import WorkerProcess

_STOP_GRACE_S = 60.0  # for a job that was asked to stop, which then saves what it has
_NUM_KEPT_JOBS = 12  # ended jobs of a session that are remembered
ENDED = ("done", "failed", "stopped")

log = logging.getLogger(__name__)

OnDone = Callable[["Job", dict[str, Any]], None]
"""Called with a job and its result."""


@dataclass(eq=False)
class Job:
    """A job that waits or runs.

    Attributes:
        session: whose job it is.
        entry: its plain values in the session's state, which the page shows.
        request: fields for the worker.
        on_done: called with the result when it has succeeded.
        on_end: called with the error, empty without one, however it ends.
    """

    session: Session
    entry: dict[str, Any]
    request: dict[str, Any]
    on_done: OnDone
    on_end: Callable[["Job", str], None] = lambda job, error: None
    stopping_since: float = field(default=0.0)

    @property
    def number(self) -> str:
        """Its id."""
        return self.entry["id"]


class JobQueue:
    """Jobs that run one after another.

    Args:
        name: for the log.
        limits: of their time and number.
        warm_up: fields of a job that loads what the first job needs.
    """

    def __init__(self, name: str, limits: Limits, warm_up: dict[str, Any]) -> None:
        self._name, self._limits, self._warm_up = name, limits, warm_up
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._has_job = asyncio.Event()
        self._worker = WorkerProcess(f"worker {name}")

    def submit(self, job: Job) -> None:
        """Append a job.

        Raises:
            TalkingheadError: its session has too many.
        """
        mine = sum(other.session is job.session for other in [*self._waiting, self._running] if other)
        if mine >= self._limits.session_jobs:
            raise TalkingheadError(
                f"jobs: {quantity(mine, 'job')} of yours wait already; try again when one of them is done"
            )
        job.entry["state"] = "waiting"
        self._waiting.append(job)
        self._number_waiting()
        self._has_job.set()

    def stop(self, session: Session, number: str) -> bool:
        """Stop a job of a session; return whether there was one."""
        for job in self._waiting:
            if job.session is session and job.number == number:
                self._waiting.remove(job)
                self._end(job, "stopped", "")
                return True
        job_now = self._running
        if job_now is None or job_now.session is not session or job_now.number != number:
            return False
        if not job_now.stopping_since:
            job_now.stopping_since = time.monotonic()
            job_now.entry["stopping"] = True
            self._worker.send({"stop": number})
            session.notify()
        return True

    def forget(self, session: Session) -> None:
        """Stop all jobs of a session that is removed."""
        for job in [*self._waiting, *([self._running] if self._running else [])]:
            if job.session is session:
                self.stop(session, job.number)

    async def run(self) -> None:
        """Run jobs until it is cancelled."""
        try:
            await self._start_worker()
            while True:
                while not self._waiting:
                    self._has_job.clear()
                    await self._has_job.wait()
                self._running = self._waiting.pop(0)
                self._number_waiting()
                try:
                    await self._run_job(self._running)
                except Exception:
                    log.exception("%s: job %s", self._name, self._running.number)
                    self._end(self._running, "failed", "the server made a mistake; its log has more")
                finally:
                    self._running = None
        finally:
            await self._worker.kill()

    async def _start_worker(self) -> None:
        if not self._worker.is_running:
            await self._worker.start()
            self._worker.send({"job": "warm-up", "kind": "warm-up", **self._warm_up})

    async def _run_job(self, job: Job) -> None:
        """Run a job in the worker process, within its time."""
        await self._start_worker()
        job.entry.update(state="running", position=0)
        job.session.save()
        self._worker.send({"job": job.number, **job.request})
        deadline = time.monotonic() + self._limits.job_seconds
        while True:
            end = deadline
            if job.stopping_since:
                end = min(deadline, job.stopping_since + _STOP_GRACE_S)
            try:
                message = await asyncio.wait_for(self._worker.receive(), min(1.0, end - time.monotonic()))
            except asyncio.TimeoutError:
                if time.monotonic() >= end:
                    await self._worker.kill()
                    minutes = self._limits.job_seconds / 60
                    error = "" if job.stopping_since else f"it took longer than {minutes:.0f} minutes"
                    self._end(job, "failed" if error else "stopped", error)
                    return
                continue
            if message is None:
                await self._worker.kill()
                self._end(
                    job, "failed", "the process that did it has ended, perhaps out of memory; try again"
                )
                return
            if message[0].get("job") == job.number and self._handle(job, message[0]):
                return

    def _handle(self, job: Job, fields: dict[str, Any]) -> bool:
        """Use a message of the worker; return whether the job has ended."""
        if "progress" in fields:
            job.entry["progress"] = fields["progress"]
        if "preview" in fields:
            job.entry["preview"] = job.entry.get("preview", 0) + 1
        if "note" in fields and len(job.entry.setdefault("notes", [])) < 5:
            job.entry["notes"].append(job.session.hide_paths(fields["note"]))
        if "result" in fields:
            job.on_done(job, fields["result"])
            self._end(job, "done", "")
        elif "stopped" in fields:
            self._end(job, "stopped", "")
        elif "error" in fields:
            self._end(job, "failed", job.session.hide_paths(fields["error"]))
        elif "failure" in fields:
            number = fields["failure"]
            self._end(job, "failed", f"something went wrong; the server's log has more under {number}")
        else:
            job.session.notify()
            return False
        return True

    def _end(self, job: Job, state: str, error: str) -> None:
        job.entry.update(state=state, error=error, ended=time.time())
        if error:
            log.info("%s: job %s: %s", self._name, job.number, error)
        job.on_end(job, error)
        jobs = job.session.entries("jobs")
        for old in [entry for entry in jobs if entry["state"] in ENDED][:-_NUM_KEPT_JOBS]:
            jobs.remove(old)
        if job.session.is_removed:
            job.session.delete_files()
        else:
            job.session.save()
        self._number_waiting()

    def _number_waiting(self) -> None:
        """Tell each waiting job how many are before it."""
        for position, job in enumerate(self._waiting, 1 if self._running else 0):
            if job.entry.get("position") != position:
                job.entry["position"] = position
                job.session.notify()
