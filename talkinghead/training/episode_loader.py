"""Episodes of a run's steps, drawn in this process or, ahead of their use, in others."""

import logging
import multiprocessing
import tempfile
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ..dataset.episodes import Episodes, EpisodeSource
from ..dataset.lost_shards import LostShards
from ..dataset.remote import paused_requests
from ..dataset.shard_stream import join_readers
from ..dataset.streamed_episodes import StreamedEpisodes
from ..errors import TalkingheadError
from ..system.process_pool import cpu_count
from .ranks import Ranks

log = logging.getLogger(__name__)

GPU_WORKERS = 4
"""Processes that draw for a GPU, which should not wait for JPEGs; fewer where there are fewer cores."""

_MAX_SOCKET_FOLDER = 107 - len("/pymp-12345678/listener-12345678")
"""Length of the name of a folder in which multiprocessing can open a socket, of at most 107 characters."""

_WorkerResult = tuple[Sequence[Tensor], dict[int, str]] | TalkingheadError
"""Tensors of episodes and the lost shards of a worker; an error is returned, since DataLoader would add a
traceback to its message.
"""


def load_episodes(
    source: EpisodeSource, steps: range, device: torch.device, workers: int | None
) -> Generator[Episodes, None, None]:
    """Yield the episodes of steps on a device, the same for any number of workers.

    Args:
        source: of the episodes.
        steps: their numbers.
        device: of the networks.
        workers: processes that draw; 0 draws here. None is 0 on a CPU, which they would share, and 4 on a
            GPU.

    Raises:
        TalkingheadError: the data cannot be read, a worker was killed, or workers cannot run here.
    """
    obstacle = _obstacle_to_workers()
    if workers is None:
        workers = min(GPU_WORKERS, cpu_count()) if device.type == "cuda" and obstacle is None else 0
    if workers and obstacle is not None:
        raise TalkingheadError(f"--workers: {obstacle}")
    if workers == 0:
        for step in steps:
            yield source.draw(step).to(device)
        return
    parts = 1
    if isinstance(source, StreamedEpisodes):
        parts = workers = min(workers, len(range(source.batch)[source.share]))
    source.share_cache(workers)
    try:
        for episodes in _join_parts(_start_workers(source, steps, device, workers), parts, source.lost):
            yield episodes.to(device)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TalkingheadError(
            "--workers: a process that reads the data was killed, perhaps for lack of memory; start again "
            "with fewer"
        ) from error


def _obstacle_to_workers() -> str | None:
    """Return what keeps workers from running here, with a remedy; None if nothing does."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return "this system cannot fork processes; leave it out"
    folder = tempfile.gettempdir()
    # a worker that cannot open its socket sends nothing, and DataLoader waits for it for ever
    if len(folder) > _MAX_SOCKET_FOLDER:
        return (
            f"the folder of temporary files has a name of {len(folder)} characters, and sockets need at most "
            f"{_MAX_SOCKET_FOLDER}; set TMPDIR to a shorter one"
        )
    return None


def share_lost_shards(lost: LostShards, ranks: Ranks) -> None:
    """Tell all ranks which shards one of them has lost, and log their number.

    Raises:
        TalkingheadError: together they are more than 1 %.
    """
    for reasons in ranks.gather(lost.reasons):
        lost.update(reasons)
    with ranks.agreement():
        lost.check()
    for shard in sorted(lost.reasons.keys() - lost.reported):
        log.warning("%s", lost.reasons[shard].partition("; ")[0])
    log.warning(
        "%d of %d shards cannot be read and are skipped; more than 1 %% end the run",
        len(lost.reasons),
        lost.total,
    )
    lost.reported = set(lost.reasons)


def _start_workers(
    source: EpisodeSource, steps: range, device: torch.device, workers: int
) -> Iterator[_WorkerResult]:
    """Fork the workers of a loader, while no thread reads shards here, and return their results."""
    loader = _loader(source, steps, device, workers)
    join_readers()
    with paused_requests():
        return iter(loader)


def _loader(
    source: EpisodeSource, steps: range, device: torch.device, workers: int
) -> DataLoader[_WorkerResult]:
    """Return a loader whose workers draw steps in turn or, of a streamed source, parts of each step."""
    options: dict[str, Any] = {
        "batch_size": None,
        "num_workers": workers,
        "pin_memory": device.type == "cuda",
        "multiprocessing_context": "fork",  # the index need not be read again
    }
    if isinstance(source, StreamedEpisodes):
        return DataLoader(_Parts(source, steps), **options)
    return DataLoader(_Steps(source), sampler=steps, **options)


def _join_parts(results: Iterator[_WorkerResult], parts: int, lost: LostShards) -> Iterator[Episodes]:
    """Yield the episodes of steps of which each comes in so many parts.

    Raises:
        TalkingheadError: the error of a worker.
    """
    complete = []
    for result in results:
        if isinstance(result, TalkingheadError):
            raise result
        tensors, reasons = result
        lost.update(reasons)
        complete.append(tensors)
        if len(complete) == parts:
            yield Episodes(*(_interleave(same) for same in zip(*complete, strict=True)))
            complete = []


def _interleave(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows of P tensors of which the first one has rows 0, P, ..., the second one 1, P + 1, ..."""
    if len(parts) == 1:
        return parts[0]
    merged = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        merged[number :: len(parts)] = part
    return merged


class _Steps(Dataset[_WorkerResult]):
    """Episodes by their step."""

    def __init__(self, source: EpisodeSource) -> None:
        self._source = source

    def __getitem__(self, step: int) -> _WorkerResult:
        return _draw(self._source, step)


class _Parts(IterableDataset[_WorkerResult]):
    """A worker's part of the episodes of each step, from streams of its own."""

    def __init__(self, source: StreamedEpisodes, steps: range) -> None:
        self._source, self._steps = source, steps

    def __iter__(self) -> Iterator[_WorkerResult]:
        worker = get_worker_info()
        assert worker is not None
        self._source.take_part(worker.id, worker.num_workers)
        for step in self._steps:
            yield _draw(self._source, step)


def _draw(source: EpisodeSource, step: int) -> _WorkerResult:
    """Draw a step in a worker."""
    try:
        return source.draw(step).tensors, source.lost.reasons
    except TalkingheadError as error:
        return error
