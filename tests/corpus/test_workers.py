import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from odd_work import Unreadable, work

from talkinghead.corpus import workers
from talkinghead.corpus.workers import Lost, in_order
from talkinghead.errors import TalkingheadError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_TICK", 0.1)  # of this process; the others give a sign once a second


def numbered(*jobs: Any) -> Iterator[tuple[int, Any]]:
    return iter(list(enumerate(jobs)))


def test_results_come_in_order_whatever_is_done_first() -> None:
    jobs = [("sleep", 2.0), None, *(("sleep", 0.0),) * 4, None]
    done = list(in_order(work, numbered(*jobs), 2))
    assert [label for label, _ in done] == list(range(7))
    assert [result and result[:2] for _, result in done] == jobs
    pids = {result[2] for _, result in done if result}
    assert len(pids) == 2 and os.getpid() not in pids


def test_no_more_processes_than_asked_for() -> None:
    pids = {result[2] for _, result in in_order(work, numbered(*[("sleep", 0.0)] * 6), 1)}
    assert len(pids) == 1


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (("signal", signal.SIGSEGV), "its reader crashed (signal 11)"),
        (("signal", signal.SIGKILL), "its reader crashed (signal 9, which is what happens when memory runs out)"),
        (("exit", 3), "its reader crashed (exit code 3)"),
    ],
)
def test_a_crash_costs_one_job(job: Any, reason: str) -> None:
    done = [result for _, result in in_order(work, numbered(("sleep", 0), job, ("sleep", 0), job, ("sleep", 0)), 1)]
    assert [isinstance(result, Lost) for result in done] == [False, True, False, True, False]
    assert done[1] == done[3] == Lost(reason)


def test_a_hang_costs_one_job() -> None:
    started = time.monotonic()
    done = [result for _, result in in_order(work, numbered(("sleep", 600), ("alive", 25), ("sleep", 0)), 2, patience=2.0)]
    assert done[0] == Lost("its reader hung, for 2 s it did not go on")
    # longer than the patience, but with signs of life
    assert done[1][:2] == ("alive", 25)
    assert done[2][:2] == ("sleep", 0)
    assert time.monotonic() - started < 30


def test_a_pause_of_this_process_is_no_ones_silence() -> None:
    results = in_order(work, numbered(("sleep", 0), ("sleep", 2.5)), 1, patience=2.0)
    assert next(results)[1][0] == "sleep"
    time.sleep(1.8)  # as when it is stopped, or a disk is slow
    assert [result[:2] for _, result in results] == [("sleep", 2.5)]


@pytest.mark.parametrize(
    ("error", "message"),
    [(TalkingheadError("the disk is full"), "^the disk is full$"), (IndexError("3"), r"^a worker process failed \(IndexError: 3\)$")],
)
def test_an_exception_of_the_work_ends_everything(error: Exception, message: str) -> None:
    with pytest.raises(TalkingheadError, match=message):
        list(in_order(work, numbered(("sleep", 0), ("raise", error), ("sleep", 0)), 1))


def test_work_that_cannot_be_handed_over() -> None:
    with pytest.raises(TalkingheadError, match="cannot be handed to worker processes"):
        list(in_order(lambda job, alive: None, numbered(("sleep", 0)), 1))


def test_processes_that_cannot_start_are_told() -> None:
    with pytest.raises(TalkingheadError, match=r"no worker process can be started .*exit code 7.*__main__"):
        list(in_order(Unreadable(), numbered(("sleep", 0)), 2))


def test_it_takes_few_jobs_ahead() -> None:
    taken = 0

    def counting() -> Iterator[tuple[int, Any]]:
        nonlocal taken
        for taken in range(1, 101):
            yield taken, None if taken % 2 else ("sleep", 0.3 if taken == 2 else 0)

    results = in_order(work, counting(), 2)
    for expected in range(1, 101):
        assert next(results)[0] == expected
        assert taken - expected <= 8
    assert list(results) == []


def test_closing_ends_the_processes() -> None:
    results = in_order(work, numbered(("sleep", 0), ("sleep", 600)), 1)
    pid = next(results)[1][2]
    os.kill(pid, 0)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_cores_are_those_this_process_may_use() -> None:
    assert workers.cores() == len(os.sched_getaffinity(0))
