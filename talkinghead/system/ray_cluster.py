"""A Ray cluster as an executor: jobs run on all its CPUs, lost workers and nodes are retried by Ray.

Jobs and results are small records. What jobs write goes to a folder that all nodes share, not through Ray.
"""

import logging
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import TalkingheadError, require, shorten
from ..version import __version__
from . import process_pool
from .process_pool import Work, WorkerFailure, pickle_work
from .ray_worker import JobError, NodeSetup, check_node, run_job

log = logging.getLogger(__name__)

RETRIES = 3
"""Times that Ray runs a job again whose worker or node was lost; Ray sets the limit for lack of memory."""
_JOBS_PER_CPU = 4  # jobs per CPU that may run or wait for an earlier one
_BATCH = 16  # jobs that are submitted between two looks for results
_TICK = 1.0  # seconds between looks at the size of the cluster
_CONNECT_S = 10.0  # seconds that the cluster's port may take to answer
_NODE_S = 120.0  # seconds that a node may take to start its first worker


@contextmanager
def connect_to_ray(address: str, staging: Path, out: Path) -> Iterator["RayExecutor"]:
    """Connect to a Ray cluster, and check that its nodes can take part.

    Args:
        address: HOST:PORT of the cluster's head, or "auto" for the cluster that this machine belongs to.
        staging: the folder that the jobs write to; the nodes have to see it at the same path.
        out: the folder that the user named, for messages.

    Raises:
        TalkingheadError: ray is not installed, there is no cluster at the address, or a node has another
            version of this package or does not see the folder.
    """
    with _keep_sigterm_handler():
        ray = require("ray", "cluster")
    owned = not ray.is_initialized()
    if owned:
        _check_address(address)
        with _keep_sigterm_handler():
            _connect(ray, address)
    try:
        with tempfile.NamedTemporaryFile(dir=staging.absolute(), prefix="token-") as token:
            setup = NodeSetup(
                version=__version__,
                token=Path(token.name),
                out=out.absolute(),
                folder=os.getcwd(),
                timeout=process_pool.DEFAULT_TIMEOUT_S,
            )
            executor = RayExecutor(ray, setup)
            executor.check_nodes()
            yield executor
    finally:
        if owned:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Check that something listens at an address, for which Ray itself would wait minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise TalkingheadError(f"ray {shorten(address)}: is no address; write auto, or HOST:PORT of the head")
    try:
        host = host.removeprefix("[").removesuffix("]")  # of an address of IPv6
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _connect(ray: ModuleType, address: str) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without it, Ray prints a warning
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # it raises many types
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> TalkingheadError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return TalkingheadError(
        f"ray {shorten(address)}: no cluster can be joined there ({shorten(reason, 200)}); start one with "
        "`ray start`, and run this command on one of its nodes"
    )


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces by one that ends the process without cleanup."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Ray sets its own in the main thread only
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


class RayExecutor:
    """Executor on the CPUs of a Ray cluster that this process is connected to.

    Args:
        ray: the module.
        setup: of the nodes.
    """

    def __init__(self, ray: ModuleType, setup: NodeSetup) -> None:
        self._ray, self._setup = ray, setup

    @property
    def workers(self) -> int:
        """Return the number of CPUs of the cluster at present."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def check_nodes(self) -> None:
        """Check every node.

        Raises:
            TalkingheadError: one cannot take part, or the cluster has no CPU.
        """
        strategies = require("ray.util.scheduling_strategies", "cluster")
        strategy = strategies.NodeAffinitySchedulingStrategy
        check = self._ray.remote(check_node)
        checks: dict[Any, Mapping[str, Any]] = {
            check.options(num_cpus=0, scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(
                self._setup
            ): node
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        }
        if not checks:
            raise TalkingheadError("ray: the cluster has no CPUs; start its nodes with `ray start`")
        for reference, node in checks.items():
            try:
                problem = self._ray.get(reference, timeout=_NODE_S)
            except Exception as error:  # one node's lack of this package raises several types
                reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                problem = (
                    f"node {node['NodeManagerHostname']} cannot run talkinghead ({shorten(reason[0], 200)}); "
                    "install the same version on all nodes"
                )
            if problem:
                raise TalkingheadError(f"ray: {problem}")

    def map_ordered(
        self, work: Work, jobs: Iterable[tuple[Any, Any]], *, caller: str
    ) -> Generator[tuple[Any, Any], None, None]:
        """Yield (label, result) in the order of the jobs; jobs that still run are cancelled at the end.

        A job whose worker or node was lost runs again elsewhere, as often as `RETRIES`; then its result is a
        `WorkerFailure`.

        Raises:
            TalkingheadError: the work raised an exception or cannot be pickled, or the cluster was lost.
        """
        tasks = _Tasks(self._ray, pickle_work(work), self._setup, caller)
        try:
            yield from tasks.results(enumerate(jobs))
        finally:
            tasks.cancel()


class _Tasks:
    """Tasks on the cluster, and the results that wait for an earlier one."""

    def __init__(self, ray: ModuleType, payload: bytes, setup: NodeSetup, caller: str) -> None:
        self._ray, self._setup = ray, setup
        self._payload = ray.put(payload)
        self._run = ray.remote(run_job).options(num_cpus=1, max_retries=RETRIES, name=caller)
        self._numbers: dict[Any, int] = {}  # reference of a task -> number of its job
        self._labels: dict[int, Any] = {}
        self._results: dict[int, Any] = {}
        self._fetched = self._yielded = self._limit = 0
        self._exhausted = False
        self._measured = float("-inf")

    def results(self, jobs: Iterator[tuple[int, tuple[Any, Any]]]) -> Iterator[tuple[Any, Any]]:
        """Run the jobs, and yield (label, result) in their order."""
        while not self._exhausted or self._numbers or self._results:
            self._submit(jobs)
            self._collect(timeout=0.0 if self._can_submit() else _TICK)
            while self._yielded in self._results:
                yield self._labels.pop(self._yielded), self._results.pop(self._yielded)
                self._yielded += 1

    def cancel(self) -> None:
        """Cancel the tasks that have no result."""
        for reference in self._numbers:
            self._ray.cancel(reference, force=True)

    def _can_submit(self) -> bool:
        return not self._exhausted and self._fetched - self._yielded < self._limit

    def _submit(self, jobs: Iterator[tuple[int, tuple[Any, Any]]]) -> None:
        """Submit a few jobs, as many as the cluster has room for."""
        now = time.monotonic()
        if now - self._measured >= _TICK:  # nodes come and go
            cpus = self._ray.cluster_resources().get("CPU", 0)
            self._limit, self._measured = max(1, int(_JOBS_PER_CPU * cpus)), now
        for _ in range(_BATCH):
            if not self._can_submit():
                return
            numbered_job = next(jobs, None)
            if numbered_job is None:
                self._exhausted = True
                return
            number, (self._labels[number], job) = numbered_job
            self._fetched = number + 1
            if job is None:
                self._results[number] = None
            else:
                self._numbers[self._run.remote(self._payload, pickle.dumps(job), self._setup)] = number

    def _collect(self, timeout: float) -> None:
        """Wait for a task to end, and store the results of those that have.

        Raises:
            TalkingheadError: the work raised an exception, or the cluster was lost.
        """
        if not self._numbers:
            return
        ready, running = self._ray.wait(list(self._numbers), num_returns=1, timeout=timeout)
        if ready and running:
            ready += self._ray.wait(running, num_returns=len(running), timeout=0)[0]
        for reference in ready:
            result = self._result_of(reference)
            if isinstance(result, JobError):
                raise TalkingheadError(result.message)
            self._results[self._numbers.pop(reference)] = result

    def _result_of(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            result = self._ray.get(reference)
            return pickle.loads(result) if isinstance(result, bytes) else result
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            log.debug("ray: %s", error)
            return WorkerFailure(f"its worker was lost {RETRIES + 1} times")
        except errors.RayError as error:
            reason = (str(error).strip().splitlines() or [""])[-1]
            raise TalkingheadError(
                f"ray: a job failed ({type(error).__name__}: {shorten(reason, 200)}); the same "
                "command resumes"
            ) from error
