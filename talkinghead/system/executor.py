"""Executors: where the jobs of a long computation run, in processes of this machine or on a Ray cluster."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import TalkingheadError
from .process_pool import Work, cpu_count, map_ordered
from .ray_cluster import connect_to_ray


class Executor(Protocol):
    """Runner of jobs that yields their results in the order of the jobs.

    Attributes:
        workers: how many jobs run at a time.
    """

    @property
    def workers(self) -> int:
        """Return how many jobs run at a time."""

    def map_ordered(
        self, work: Work, jobs: Iterable[tuple[Any, Any]], *, caller: str
    ) -> Generator[tuple[Any, Any], None, None]:
        """Yield (label, result) as `process_pool.map_ordered` does; closing the iterator ends the work."""


@dataclass(frozen=True)
class LocalExecutor:
    """Processes of this machine.

    Attributes:
        workers: the largest number of processes.
    """

    workers: int

    def map_ordered(
        self, work: Work, jobs: Iterable[tuple[Any, Any]], *, caller: str
    ) -> Generator[tuple[Any, Any], None, None]:
        """Yield (label, result) in the order of the jobs."""
        return map_ordered(work, jobs, self.workers, caller=caller)


def open_executor(
    workers: int | None, ray: str | None, *, staging: Path, out: Path
) -> AbstractContextManager[Executor]:
    """Return the executor that a user chose, as a context manager.

    Args:
        workers: the number of local processes; by default one for each core that this process may use.
        ray: address of a Ray cluster, "auto" for the one that this machine belongs to; None for local
            processes.
        staging: the folder that the jobs write to, which all nodes of a cluster have to share.
        out: the folder that the user named, for messages.

    Raises:
        TalkingheadError: both were chosen; on entering the context, the cluster cannot be used.
    """
    if ray is None:
        return _open_local(workers or cpu_count())
    if workers is not None:
        raise TalkingheadError(
            f"workers {workers}: a Ray cluster runs a video on each of its CPUs; leave out workers or ray"
        )
    return connect_to_ray(ray, staging, out)


@contextmanager
def _open_local(workers: int) -> Iterator[LocalExecutor]:
    yield LocalExecutor(workers)
