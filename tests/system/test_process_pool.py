import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.fake_work import Unreadable, work
from talkinghead.errors import TalkingheadError
from talkinghead.system import process_pool
from talkinghead.system.process_pool import WorkerFailure, map_ordered


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_pool, "_TICK", 0.1)  # of this process; the others give a sign once a second


def numbered(*jobs: Any) -> Iterator[tuple[int, Any]]:
    return iter(list(enumerate(jobs)))


def test_map_ordered_yields_results_in_order() -> None:
    jobs = [("sleep", 2.0), None, *(("sleep", 0.0),) * 4, None]
    done = list(map_ordered(work, numbered(*jobs), 2))
    assert [label for label, _ in done] == list(range(7))
    assert [result and result[:2] for _, result in done] == jobs
    pids = {result[2] for _, result in done if result}
    assert len(pids) == 2 and os.getpid() not in pids


def test_map_ordered_passes_reports_on_before_results() -> None:
    events: list[tuple[int, Any]] = []
    jobs = numbered(("report", ["a", {"b": 1}]), ("sleep", 0.0), ("report", [3]))
    for label, result in map_ordered(work, jobs, 1, on_report=lambda *report: events.append(report)):
        events.append((label, result[0]))
    assert events == [(0, "a"), (0, {"b": 1}), (0, "report"), (1, "sleep"), (2, 3), (2, "report")]


def test_map_ordered_limits_worker_count() -> None:
    pids = {result[2] for _, result in map_ordered(work, numbered(*[("sleep", 0.0)] * 6), 1)}
    assert len(pids) == 1


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (("signal", signal.SIGSEGV), "its reader crashed (signal 11)"),
        (
            ("signal", signal.SIGKILL),
            "its reader crashed (signal 9, which is what happens when memory runs out)",
        ),
        (("exit", 3), "its reader crashed (exit code 3)"),
    ],
)
def test_worker_crash_costs_one_job(job: Any, reason: str) -> None:
    done = [
        result
        for _, result in map_ordered(work, numbered(("sleep", 0), job, ("sleep", 0), job, ("sleep", 0)), 1)
    ]
    assert [isinstance(result, WorkerFailure) for result in done] == [False, True, False, True, False]
    assert done[1] == done[3] == WorkerFailure(reason)


def test_worker_hang_costs_one_job() -> None:
    started = time.monotonic()
    done = [
        result
        for _, result in map_ordered(
            work, numbered(("sleep", 600), ("alive", 25), ("sleep", 0)), 2, timeout=2.0
        )
    ]
    assert done[0] == WorkerFailure("its reader hung: no progress for 2 s")
    # longer than the timeout, but with heartbeats
    assert done[1][:2] == ("alive", 25)
    assert done[2][:2] == ("sleep", 0)
    assert time.monotonic() - started < 30


def test_pause_of_parent_is_no_worker_timeout() -> None:
    results = map_ordered(work, numbered(("sleep", 0), ("sleep", 2.5)), 1, timeout=2.0)
    assert next(results)[1][0] == "sleep"
    time.sleep(1.8)  # as when it is stopped, or a disk is slow
    assert [result[:2] for _, result in results] == [("sleep", 2.5)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TalkingheadError("the disk is full"), "^the disk is full$"),
        (IndexError("3"), r"^a worker process failed \(IndexError: 3\)$"),
    ],
)
def test_exception_of_work_ends_all_workers(error: Exception, message: str) -> None:
    with pytest.raises(TalkingheadError, match=message):
        list(map_ordered(work, numbered(("sleep", 0), ("raise", error), ("sleep", 0)), 1))


def test_unpicklable_work_reports_user_error() -> None:
    with pytest.raises(TalkingheadError, match="cannot be handed to worker processes"):
        list(map_ordered(lambda job, heartbeat: None, numbered(("sleep", 0)), 1))


def test_failed_worker_starts_report_user_error() -> None:
    problem = r"no worker process can be started .*exit code 7.*a script that calls evaluate must .*__main__"
    with pytest.raises(TalkingheadError, match=problem):
        list(map_ordered(Unreadable(), numbered(("sleep", 0)), 2, caller="evaluate"))


def test_map_ordered_fetches_few_jobs_ahead() -> None:
    fetched = 0

    def counting() -> Iterator[tuple[int, Any]]:
        nonlocal fetched
        for fetched in range(1, 101):
            yield fetched, None if fetched % 2 else ("sleep", 0.3 if fetched == 2 else 0)

    results = map_ordered(work, counting(), 2)
    for expected in range(1, 101):
        assert next(results)[0] == expected
        assert fetched - expected <= 8
    assert list(results) == []


def test_map_ordered_closed_ends_workers() -> None:
    results = map_ordered(work, numbered(("sleep", 0), ("sleep", 600)), 1)
    pid = next(results)[1][2]
    os.kill(pid, 0)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_cpu_count_respects_process_affinity() -> None:
    assert process_pool.cpu_count() == len(os.sched_getaffinity(0))
