"""Functions that run on the nodes of a Ray cluster: jobs in a supervised process, and checks of a node.

Ray's worker process hands each job to a process of `process_pool`, so that a job that crashes or hangs costs
that job alone, with the same reason as on one machine. What is left to Ray are lost workers and nodes. Jobs
and results pass through Ray's process as bytes, so that it imports neither torch nor what they are made of.
"""

import functools
import os
import pickle
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import TalkingheadError
from ..version import __version__
from .process_pool import ProcessPool, Work, WorkerFailure, pickle_work


@dataclass(frozen=True)
class NodeSetup:
    """Values that a node of the cluster has to share with the driver.

    Attributes:
        version: of this package.
        token: a file that the driver has written into the shared folder.
        out: the folder that the user named, for messages.
        folder: the driver's current folder, which relative paths start from.
        timeout: seconds without a heartbeat after which a job's process is killed.
    """

    version: str
    token: Path
    out: Path
    folder: str
    timeout: float


@dataclass(frozen=True)
class JobError:
    """The result of a job that must end the whole run: a line for the user."""

    message: str


def check_node(setup: NodeSetup) -> str:
    """Return why this node cannot take part; empty when it can."""
    node = socket.gethostname()
    if setup.version != __version__:
        return (
            f"node {node} has talkinghead {__version__}, expected {setup.version} as here; install the same "
            "version on all nodes"
        )
    if not os.path.isfile(setup.token):
        return (
            f"node {node} cannot see {setup.out}; name an output in a folder that all nodes share, at the "
            "same path"
        )
    return ""


@dataclass(frozen=True)
class PickledWork:
    """Work for a `ProcessPool`, from a pickled job to a pickled result.

    Attributes:
        payload: the work, from `process_pool.pickle_work`.
    """

    payload: bytes

    def __call__(self, job: bytes, heartbeat: Callable[..., None]) -> bytes:
        """Run the work on a job."""
        return pickle.dumps(self._work(pickle.loads(job), heartbeat))

    @functools.cached_property
    def _work(self) -> Work:
        work: Work = pickle.loads(self.payload)
        return work


def run_job(payload: bytes, job: bytes, setup: NodeSetup) -> bytes | WorkerFailure | JobError:
    """Run a job in a supervised process of this node.

    Args:
        payload: the work, from `process_pool.pickle_work`.
        job: for the work, pickled.
        setup: of the nodes.

    Returns:
        What the work returned, pickled; a `WorkerFailure` when its process crashed or hung; or a `JobError`.
    """
    problem = _problem_of_node(setup)
    if problem:
        return JobError(problem)
    pool = _open_pool(payload, setup.timeout)
    try:
        [(_, result)] = pool.map_ordered([(None, job)])
    except TalkingheadError as error:
        pool.close()
        _open_pool.cache_clear()
        return JobError(str(error))
    outcome: bytes | WorkerFailure = result
    return outcome


@functools.cache
def _problem_of_node(setup: NodeSetup) -> str:
    """Check this node and enter the driver's folder, once in this process."""
    problem = check_node(setup)
    if not problem:
        with suppress(OSError):  # where it is not shared, paths have to be absolute
            os.chdir(setup.folder)
    return problem


@functools.lru_cache(maxsize=1)
def _open_pool(payload: bytes, timeout: float) -> ProcessPool:
    """Return the process that stays for all jobs of a run; it ends when Ray ends this process."""
    return ProcessPool(pickle_work(PickledWork(payload)), 1, timeout=timeout, caller="prepare")
