"""Ranks: the processes of one training run, which torchrun starts, and what they exchange.

Rank r of N computes the episodes r, r + N, ... of a step's batch, and holds the rows r, r + N, ... of W, the
video embeddings. All else is replicated: every rank has the same weights, and the gradients are averaged. A
run of one process is rank 0 of 1 and exchanges nothing.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import TalkingheadError
from ..system import torchrun

JOIN_S = 600
"""Time that the first rank waits for the others to start."""
BUCKET_BYTES = 25 << 20
"""Gradients that are sent together: as many as torch's DistributedDataParallel sends."""


@dataclass(frozen=True)
class Ranks:
    """Number of this process, and of all processes of the run.

    Attributes:
        rank: of this process, from 0 on.
        count: of the processes.
        launched: whether torchrun started them, be it only one.
    """

    rank: int = 0
    count: int = 1
    launched: bool = False

    @property
    def is_first(self) -> bool:
        """True of the rank that writes what only one may write, and reports."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """The episodes of a batch, and the rows of W, that are this rank's."""
        return slice(self.rank, None, self.count)

    def local_device(self, device: torch.device) -> torch.device:
        """Return this rank's GPU where `device` is any GPU.

        Raises:
            TalkingheadError: this machine has fewer GPUs than ranks.
        """
        if not self.launched or device.type != "cuda" or device.index is not None:
            return device
        number, gpus = torchrun.local_rank(), torch.cuda.device_count()
        if number >= gpus:
            raise TalkingheadError(
                f"torchrun: starts more processes than this machine has GPUs; start --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(number)
        return torch.device("cuda", number)

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank."""
        if self.count == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int32)
        with _report_lost_ranks(self):
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return [bool(value) for value in values]

    @contextmanager
    def agreement(self) -> Iterator[None]:
        """Raise an error that the block raises on one rank on all ranks, so that none waits for another.

        Raises:
            TalkingheadError: the error of the first rank that has one; of its type on every rank.
        """
        error = None
        try:
            yield
        except TalkingheadError as raised:
            if self.count == 1:
                raise
            error = raised
        if self.any(error is not None)[0]:
            self._raise_first(error)

    def _raise_first(self, error: TalkingheadError | None) -> None:
        """Raise the error of the first rank that has one; `reported` on all ranks but the first."""
        number, first = next(
            (number, other) for number, other in enumerate(self.gather(error)) if other is not None
        )
        first.reported = not self.is_first
        raise first from (error if number == self.rank else None)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _report_lost_ranks(self):
            dist.all_gather_object(values, value)
        return values

    def check_equal(self, values: dict[str, str]) -> None:
        """Check that all ranks have the same values.

        Args:
            values: by names that a message can say, such as "version".

        Raises:
            TalkingheadError: they differ.
        """
        first, *others = self.gather(values)
        for number, other in enumerate(others, 1):
            for name, value in first.items():
                if other[name] != value:
                    error = TalkingheadError(
                        f"torchrun: {name} of rank {number} is {other[name]}, of rank 0 {value}; start the "
                        "same version with the same data and options on all machines"
                    )
                    error.reported = not self.is_first
                    raise error

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Set tensors to those of the first rank."""
        if self.count > 1:
            with _report_lost_ranks(self):
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the ranks, in float32 at least; of one rank the values themselves."""
        if self.count == 1:
            return values
        total = values.detach().to(torch.promote_types(values.dtype, torch.float32), copy=True)
        with _report_lost_ranks(self):
            dist.all_reduce(total)
        return total / self.count


ONE_RANK = Ranks()
"""A run of one process."""


class GradientReducer:
    """Averages gradients over the ranks, while backward computes further ones.

    Buckets of gradients are sent in the order in which backward completes them: from the last parameters to
    the first. All ranks send them in the same order.

    Args:
        ranks: of the run.
        parameters: replicated ones; those without a gradient have none on any rank.
        sharded: parameters of which every rank holds other rows, so that nothing is sent; their gradients
            become those of the mean over all ranks' episodes.
    """

    def __init__(
        self, ranks: Ranks, parameters: Sequence[nn.Parameter], sharded: Sequence[nn.Parameter] = ()
    ) -> None:
        self._ranks, self._sharded = ranks, sharded
        self._buckets: list[_Bucket] = []
        self._num_sent = 0
        if ranks.count > 1:
            self._buckets = [_Bucket(group) for group in _groups(list(parameters)[::-1])]
            for bucket in self._buckets:
                for parameter in bucket.parameters:
                    parameter.register_post_accumulate_grad_hook(partial(self._count, bucket))

    def begin(self, passes: int) -> None:
        """Expect `passes` backward passes, of which the last one completes the gradients."""
        self._num_sent = 0
        for bucket in self._buckets:
            bucket.num_missing = passes * len(bucket.parameters)

    def _count(self, bucket: "_Bucket", _: Tensor) -> None:
        """Count a gradient that was added, and send all buckets that are complete."""
        bucket.num_missing -= 1
        while self._num_sent < len(self._buckets) and self._buckets[self._num_sent].num_missing == 0:
            self._send_next()

    def _send_next(self) -> None:
        with _report_lost_ranks(self._ranks):
            self._buckets[self._num_sent].send()
        self._num_sent += 1

    def finish(self) -> None:
        """Wait until the gradients are the averages."""
        while self._num_sent < len(self._buckets):  # some parameters have no gradient
            self._send_next()
        with _report_lost_ranks(self._ranks):
            for bucket in self._buckets:
                bucket.receive(self._ranks.count)
        if self._ranks.count > 1:
            for parameter in self._sharded:
                if parameter.grad is not None:
                    parameter.grad /= self._ranks.count


class _Bucket:
    """Parameters whose gradients are sent together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.num_missing = 0
        self._gradients: list[Tensor] = []
        self._flat = torch.empty(0)
        self._work: dist.Work | None = None

    def send(self) -> None:
        """Start to add up the gradients of all ranks."""
        self._gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if self._gradients:
            self._flat = torch.cat([gradient.reshape(-1) for gradient in self._gradients])
            self._work = dist.all_reduce(self._flat, async_op=True)

    def receive(self, count: int) -> None:
        """Wait for the sums, and set the gradients to them divided by `count`."""
        if self._work is None:
            return
        self._work.wait()
        self._flat /= count
        parts = self._flat.split([gradient.numel() for gradient in self._gradients])
        for gradient, part in zip(self._gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        self._work, self._gradients, self._flat = None, [], torch.empty(0)


def _groups(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield consecutive parameters of one type, together of about `BUCKET_BYTES`."""
    group: list[nn.Parameter] = []
    num_bytes = 0
    for parameter in parameters:
        if group and (num_bytes >= BUCKET_BYTES or parameter.dtype != group[0].dtype):
            yield group
            group, num_bytes = [], 0
        group.append(parameter)
        num_bytes += parameter.numel() * parameter.element_size()
    if group:
        yield group


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the ranks that torchrun started, or be the only one.

    Where the caller has set up torch.distributed, its ranks are used.

    Raises:
        TalkingheadError: this torch cannot join processes, or another process could not be reached.
    """
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), launched=True)
        return
    if not torchrun.is_launched():
        yield ONE_RANK
        return
    if not dist.is_available():
        raise TalkingheadError(
            "torchrun: this torch was built without torch.distributed; install another build"
        )
    ranks = _join()
    try:
        yield ranks
    except TalkingheadError as error:
        if error.reported is None:
            error.reported = False  # it is of this rank alone
        raise
    finally:
        with suppress(RuntimeError):  # ranks that have gone
            dist.destroy_process_group()


def _join() -> Ranks:
    """Set up torch.distributed as torchrun's variables say: Gloo, and NCCL on GPUs."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, count = next(dist.rendezvous("env://"))
        # torchrun keeps one store for all restarts, with the addresses of processes that have ended
        store = dist.PrefixStore(_agree_on_prefix(store, rank, count), store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TalkingheadError(
            f"torchrun: the processes cannot be joined ({reason}); start all again"
        ) from error
    return Ranks(rank, count, launched=True)


def _agree_on_prefix(store: Any, rank: int, count: int) -> str:
    """Return a word that this start's ranks alone have, whatever earlier starts left in the store.

    The first rank answers every greeting, old ones too, until all ranks have repeated its word.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"greeting/{rank}", own)
        word = store.get(f"answer/{own}").decode()
        store.set(f"joined/{word}/{rank}", "")
        return word
    missing, end = set(range(1, count)), time.monotonic() + JOIN_S
    while missing:
        for other in sorted(missing):
            if store.check([f"greeting/{other}"]):
                store.set(f"answer/{store.get(f'greeting/{other}').decode()}", own)
            if store.check([f"joined/{own}/{other}"]):
                missing.remove(other)
        if time.monotonic() > end:
            raise RuntimeError(f"rank {min(missing)} did not come within {JOIN_S} s")
        time.sleep(0.01)
    return own


@contextmanager
def _report_lost_ranks(ranks: Ranks) -> Iterator[None]:
    """Raise an error for the user where a rank cannot be reached."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        lost = TalkingheadError(
            f"torchrun: another process has ended ({str(error).splitlines()[0]}); start the same command, "
            "which resumes from the last save"
        )
        lost.reported = not ranks.is_first
        raise lost from error
