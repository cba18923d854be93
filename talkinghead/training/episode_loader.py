"""Episodes of a run's steps, drawn in this process or, ahead of their use, in others."""

import multiprocessing
from collections.abc import Generator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..dataset.episodes import Episodes, EpisodeSource
from ..errors import TalkingheadError
from ..system.process_pool import cpu_count

GPU_WORKERS = 4
"""Processes that draw for a GPU, which should not wait for JPEGs; fewer where there are fewer cores."""

_Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


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
        TalkingheadError: the data cannot be read, a worker was killed, or this system has none.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    if workers is None:
        workers = min(GPU_WORKERS, cpu_count()) if device.type == "cuda" and can_fork else 0
    if workers and not can_fork:
        raise TalkingheadError("--workers: this system cannot fork processes; leave it out")
    if workers == 0:
        for step in steps:
            yield source.draw(step).to(device)
        return
    source.share_cache(workers)
    loader = DataLoader(
        _Steps(source),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context="fork",  # the index need not be read again
    )
    try:
        for result in loader:
            if isinstance(result, TalkingheadError):
                raise result
            yield Episodes(*result).to(device)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TalkingheadError(
            "--workers: a process that reads the data was killed, perhaps for lack of memory; start again "
            "with fewer"
        ) from error


class _Steps(Dataset[_Tensors | TalkingheadError]):
    """Episodes by their step; an error is returned, since DataLoader would add a traceback to its message."""

    def __init__(self, source: EpisodeSource) -> None:
        self._source = source

    def __getitem__(self, step: int) -> _Tensors | TalkingheadError:
        try:
            return self._source.draw(step).tensors
        except TalkingheadError as error:
            return error
