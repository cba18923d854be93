"""Ray clusters that cannot be used; those that can are used by tests/dataset/test_prepare_on_ray.py."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.fake_work import work
from support.rank_processes import free_port
from talkinghead.errors import TalkingheadError
from talkinghead.system import ray_cluster
from talkinghead.system.executor import LocalExecutor, open_executor
from talkinghead.system.process_pool import WorkerFailure, pickle_work
from talkinghead.system.ray_cluster import RayExecutor, connect_to_ray
from talkinghead.system.ray_worker import JobError, NodeSetup, check_node, run_job
from talkinghead.version import __version__


@pytest.fixture
def setup(tmp_path: Path) -> NodeSetup:
    token = tmp_path / "token"
    token.touch()
    return NodeSetup(version=__version__, token=token, out=tmp_path, folder=str(tmp_path), timeout=60.0)


def test_missing_ray_names_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TalkingheadError, match=r"pip install 'talkinghead\[cluster\]'"):
        connect_to_ray("auto", tmp_path, tmp_path).__enter__()


@pytest.mark.parametrize("address", ["", "head", "head:x", "ray://head:10001", ":6379", "a/b:1"])
def test_what_is_no_address_reports_user_error(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'talkinghead[cluster]'")
    with pytest.raises(TalkingheadError, match="is no address; write auto, or HOST:PORT of the head"):
        connect_to_ray(address, tmp_path, tmp_path).__enter__()


def test_address_without_cluster_reports_user_error(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'talkinghead[cluster]'")
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(TalkingheadError, match=f"ray {address}: no cluster can be joined there .*refused"):
        connect_to_ray(address, tmp_path, tmp_path).__enter__()


@pytest.mark.parametrize("address, host", [("[::1]:6379", "::1"), ("head:6379", "head")])
def test_brackets_of_ipv6_address_are_not_part_of_host(
    address: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[tuple[str, int]] = []
    monkeypatch.setattr(
        ray_cluster.socket,
        "create_connection",
        lambda place, timeout: hosts.append(place) or SimpleNamespace(close=lambda: None),  # type: ignore[func-returns-value]
    )
    ray_cluster._check_address(address)
    assert hosts == [(host, 6379)]


def test_executor_is_local_without_ray(tmp_path: Path) -> None:
    with open_executor(3, None, staging=tmp_path, out=tmp_path) as executor:
        assert executor == LocalExecutor(3)
    with pytest.raises(TalkingheadError, match="workers 3: a Ray cluster runs .*; leave out workers or ray"):
        open_executor(3, "auto", staging=tmp_path, out=tmp_path)


def test_node_that_does_not_fit_says_why(setup: NodeSetup, tmp_path: Path) -> None:
    assert check_node(setup) == ""
    assert f"has talkinghead {__version__}, expected 0.1 as here" in check_node(replace(setup, version="0.1"))
    other = replace(setup, token=tmp_path / "gone")
    assert f"cannot see {tmp_path}; name an output in a folder that all nodes share" in check_node(other)
    assert isinstance(run_job(b"", b"", other), JobError)


def test_jobs_of_node_run_in_one_process_that_is_replaced(
    setup: NodeSetup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    payload = pickle_work(work)

    def run(kind: str, value: Any) -> Any:
        result = run_job(payload, pickle.dumps((kind, value)), setup)
        return pickle.loads(result) if isinstance(result, bytes) else result

    first = run("sleep", 0)
    assert run("sleep", 0) == first
    assert run("exit", 3) == WorkerFailure("its reader crashed (exit code 3)")
    second = run("sleep", 0)
    assert second[:2] == first[:2] and second[2] != first[2]
    assert run("raise", TalkingheadError("disk: is full")) == JobError("disk: is full")
    assert Path.cwd() == tmp_path


def test_node_imports_no_torch_of_its_own() -> None:
    code = "import sys, talkinghead.system.ray_worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class RayError(Exception):
    """Error of Ray."""


class WorkerCrashedError(RayError):
    """Error of a job whose worker was lost, after all retries."""


class FakeRay:
    """Ray whose tasks have the outcome that their job says, and end in the reverse order."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        WorkerCrashedError=WorkerCrashedError,
        NodeDiedError=WorkerCrashedError,
        OutOfMemoryError=WorkerCrashedError,
    )

    def __init__(self) -> None:
        self.running: dict[int, Any] = {}
        self.cancelled: list[int] = []
        self.most_running = self.submitted = 0

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, value: object) -> object:
        return value

    def remote(self, function: object) -> "FakeRay":
        assert function is run_job
        return self

    def options(self, **options: object) -> SimpleNamespace:
        assert options["num_cpus"] == 1
        return SimpleNamespace(remote=self.submit)

    def submit(self, payload: bytes, job: Any, setup: NodeSetup) -> int:
        self.submitted += 1
        self.running[self.submitted] = pickle.loads(job)
        self.most_running = max(self.most_running, len(self.running))
        return self.submitted

    def wait(self, references: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        return (references[-1:], references[:-1]) if timeout and num_returns == 1 else ([], references)

    def get(self, reference: int) -> Any:
        job = self.running.pop(reference)
        if isinstance(job, Exception):
            raise job
        return job if isinstance(job, JobError) else pickle.dumps(job)

    def cancel(self, reference: int, force: bool) -> None:
        self.cancelled.append(reference)


def numbered(*jobs: Any) -> Iterator[tuple[int, Any]]:
    return enumerate(jobs)


def test_executor_yields_results_in_order_of_jobs(setup: NodeSetup) -> None:
    ray = FakeRay()
    executor = RayExecutor(ray, setup)  # type: ignore[arg-type]
    jobs = [f"result {number}" if number % 3 else None for number in range(40)]
    assert list(executor.map_ordered(work, numbered(*jobs), caller="prepare")) == list(enumerate(jobs))
    assert executor.workers == 2 and ray.most_running <= 8
    assert ray.cancelled == []


def test_job_whose_workers_are_lost_costs_that_job(setup: NodeSetup) -> None:
    executor = RayExecutor(FakeRay(), setup)  # type: ignore[arg-type]
    jobs = numbered("first", WorkerCrashedError("gone"), "last")
    results = [result for _, result in executor.map_ordered(work, jobs, caller="prepare")]
    assert results == ["first", WorkerFailure("its worker was lost 4 times"), "last"]


@pytest.mark.parametrize(
    "outcome, message",
    [
        (JobError("data: cannot be written to"), "^data: cannot be written to$"),
        (
            RayError("\nthe cluster\nis gone"),
            "^ray: a job failed .RayError: is gone.; the same command resumes$",
        ),
    ],
)
def test_error_of_job_ends_run_and_cancels_others(outcome: Any, message: str, setup: NodeSetup) -> None:
    ray = FakeRay()
    executor = RayExecutor(ray, setup)  # type: ignore[arg-type]
    with pytest.raises(TalkingheadError, match=message):
        list(executor.map_ordered(work, numbered("first", "second", outcome), caller="prepare"))
    assert {1, 2} <= set(ray.cancelled)


def test_closed_iterator_cancels_jobs(setup: NodeSetup) -> None:
    ray = FakeRay()
    results = RayExecutor(ray, setup).map_ordered(  # type: ignore[arg-type]
        work, numbered(None, "second", "third", "last"), caller="prepare"
    )
    assert next(results) == (0, None)
    results.close()
    assert ray.cancelled == [1, 2]
