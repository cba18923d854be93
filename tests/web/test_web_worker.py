"""Worker processes of the page: messages, errors of a job, a worker that dies, a job that takes too long."""

import asyncio
import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from talkinghead.errors import TalkingheadError
from talkinghead.web import tasks, worker, worker_process
from talkinghead.web.jobs import Job, JobQueue
from talkinghead.web.protocol import pack_message, read_message
from talkinghead.web.report import JobReport
from talkinghead.web.sessions import Session, SessionStore
from talkinghead.web.settings import Limits

WAIT_S = 120.0


def run_task(monkeypatch: pytest.MonkeyPatch, task: Any) -> dict[str, Any]:
    """Run a task in a worker without a process; return its last message."""
    monkeypatch.setitem(tasks.TASKS, "made up", task)
    sink = io.BytesIO()
    worker.Worker(io.BytesIO(), sink)._run_job({"job": "1", "kind": "made up"})
    sink.seek(0)
    messages = []
    while (message := read_message(sink)) is not None:
        messages.append(message[0])
    return messages[-1]


def fail_with(error: BaseException) -> Any:
    """Return a task that raises an error."""

    def task(*_: object) -> dict[str, Any]:
        raise error

    return task


def test_expected_error_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run_task(monkeypatch, fail_with(TalkingheadError("a.png: is no picture; name another")))
    assert outcome == {"job": "1", "error": "a.png: is no picture; name another"}


def test_unexpected_error_gets_number_and_traceback_in_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run_task(monkeypatch, fail_with(ValueError("secret")))
    assert set(outcome) == {"job", "failure"} and "secret" not in str(outcome)
    log = capfd.readouterr().err
    assert f"failure {outcome['failure']}" in log and "ValueError: secret" in log and "Traceback" in log


def test_interrupted_task_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_task(monkeypatch, fail_with(KeyboardInterrupt())) == {"job": "1", "stopped": True}


def test_warnings_become_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    report = JobReport(lambda fields, payload=b"": sent.append(fields))
    with report.warnings():
        logging.getLogger("talkinghead.media.video").warning("bob.mp4: is cut\nshort")
    logging.getLogger("talkinghead.media.video").warning("after the end")
    assert sent == [{"note": "bob.mp4: is cut\\nshort"}]


def test_message_survives_pipe_and_cut_one_ends_it() -> None:
    data = pack_message({"a": "ü"}, b"\x00payload")
    stream = io.BytesIO(data + data[:-1])
    assert read_message(stream) == ({"a": "ü"}, b"\x00payload")
    assert read_message(stream) is None
    with pytest.raises(ValueError, match="too long"):
        read_message(io.BytesIO(b"\xff" * 16))


class FakeWorker(worker_process.WorkerProcess):
    """Worker whose process runs other code."""

    code = ""

    async def start(self) -> None:
        if not self.is_running:
            await self._start([sys.executable, "-c", self.code])


ECHO = """
import sys
sys.path[:0] = {path!r}
from talkinghead.web.protocol import pack_message, read_message
while (message := read_message(sys.stdin.buffer)) is not None:
    fields = message[0]
    if fields["kind"] == "die":
        sys.exit(1)
    if fields["kind"] != "sleep":
        sys.stdout.buffer.write(pack_message({{"job": fields["job"], "result": {{}}}}))
        sys.stdout.buffer.flush()
"""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Return a session; workers are processes that do nothing but die, sleep or answer."""
    FakeWorker.code = ECHO.format(path=[entry for entry in sys.path if entry])
    monkeypatch.setattr("talkinghead.web.jobs.WorkerProcess", FakeWorker)
    return SessionStore(tmp_path / "sessions", Limits()).create()[1]


def run_jobs(session: Session, kinds: list[str], **limits: float) -> list[dict[str, Any]]:
    """Run jobs one after another; return their entries when all have ended."""

    async def main() -> list[dict[str, Any]]:
        queue = JobQueue("made up", Limits(**limits), {})  # type: ignore[arg-type]
        entries = [session.add("jobs", job="learn", name=kind) for kind in kinds]
        ended = asyncio.Event()
        left = len(kinds)

        def on_end(job: Job, error: str) -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.set()

        for entry in entries:
            queue.submit(
                Job(session, entry, {"kind": entry["name"]}, lambda job, result: None, on_end=on_end)
            )
        runner = asyncio.create_task(queue.run())
        await asyncio.wait_for(ended.wait(), WAIT_S)
        runner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runner
        return entries

    return asyncio.run(main())


def test_worker_that_dies_fails_its_job_alone(session: Session) -> None:
    first, second, third = run_jobs(session, ["answer", "die", "answer"])
    assert (first["state"], second["state"], third["state"]) == ("done", "failed", "done")
    assert second["error"].startswith("the process that did it has ended")


def test_job_that_takes_too_long_is_ended(session: Session) -> None:
    first, second = run_jobs(session, ["sleep", "answer"], job_seconds=3.0)
    assert first["state"] == "failed" and "took longer than" in first["error"]
    assert second["state"] == "done"


def test_too_many_jobs_of_one_session_are_refused(session: Session) -> None:
    queue = JobQueue("made up", Limits(session_jobs=2), {})

    def submit() -> None:
        queue.submit(Job(session, session.add("jobs", job="learn"), {}, lambda job, result: None))

    submit()
    submit()
    assert [job["position"] for job in session.entries("jobs")] == [0, 1]
    with pytest.raises(TalkingheadError, match="^jobs: 2 jobs of yours wait already; try again when"):
        submit()


def test_worker_ends_with_its_server(tmp_path: Path) -> None:
    async def main() -> int:
        process = worker_process.WorkerProcess("worker")
        await process.start()
        running = process._process
        assert running is not None and running.stdin is not None
        running.stdin.close()
        return await asyncio.wait_for(running.wait(), WAIT_S)

    assert asyncio.run(main()) == 0
