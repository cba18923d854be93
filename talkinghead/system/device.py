"""Choice of the device on which networks run, and of the precision that is fast there."""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from time import perf_counter

import torch
import torch.nn.functional as F
from talkinghead_kernels import use_backend
from talkinghead_kernels.backend import current as chosen_backend
from talkinghead_kernels.cpu_features import cpu_features

from ..constants import DEVICES
from ..errors import TalkingheadError

log = logging.getLogger(__name__)


def choose_device(
    device: str | torch.device = "auto", fast: bool = False, placed: torch.device | None = None
) -> torch.device:
    """Return the device to run networks on; the choice of "auto" is logged once.

    Args:
        device: "cpu", "cuda" (also "cuda:1" and so on), or "auto", a GPU where torch sees one.
        fast: whether this package's own kernels run on a GPU, for the log.
        placed: where the user has moved the networks, which "auto" takes then.

    Raises:
        TalkingheadError: torch knows no such device, or sees none.
    """
    if str(device) == "auto":
        if placed is not None:
            return placed
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        _log_choice(chosen, fast)
        _log_useless_fast(chosen, fast)
        return chosen
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise TalkingheadError(
            f"device {device!r}: is unknown to torch; choose one of {', '.join(DEVICES)}"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise TalkingheadError(
            f"device {str(device)!r}: networks run on cpu or cuda; choose one of {', '.join(DEVICES)}"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        gpus = f"{torch.cuda.device_count()} GPUs" if torch.version.cuda else "no GPU, for it is a CPU build"
        raise TalkingheadError(
            f"device {str(device)!r}: torch {torch.__version__} sees {gpus}; choose cpu, or install a CUDA "
            "build"
        )
    _log_useless_fast(device, fast)
    return device


@cache
def _log_choice(device: torch.device, fast: bool) -> None:
    """Log once where networks run, and by whose kernels."""
    if device.type == "cpu":
        log.info("networks run on the CPU: torch sees no GPU")
        return
    if fast:
        kernels = "this package's kernels and CUDA graphs, which no committed measurement supports yet"
    else:
        kernels = "torch's own kernels (--fast: this package's and CUDA graphs, unmeasured so far)"
    log.info("networks run on the GPU %s, by %s", torch.cuda.get_device_name(device), kernels)


@cache
def _log_useless_fast(device: torch.device, fast: bool) -> None:
    """Log once that `fast` has no effect on a CPU."""
    if fast and device.type == "cpu":
        log.warning("fast: has no effect on the CPU, which runs this package's kernels anyway")


def ops_on(device: torch.device, fast: bool) -> AbstractContextManager[None]:
    """Return a context in which this package's ops run on torch's own kernels, on a GPU without `fast`.

    A backend that the caller has chosen by `talkinghead_kernels.use_backend` stays.
    """
    if device.type != "cuda" or fast or chosen_backend() is not None:
        return nullcontext()
    return use_backend("reference")


def bfloat16_is_faster(device: torch.device) -> bool:
    """Return whether networks are faster in bfloat16 than in float32.

    They always are on a GPU; on a CPU convolutions are measured once a process. CPUs with instructions for
    bfloat16 differ: of two servers with AVX-512 and without AMX, one was 2.1 times as fast with it, the other
    0.6 times. The threshold is a speedup of 1.5, since Winograd's convolution exists for float32 alone.
    """
    return device.type != "cpu" or (has_bfloat16() and _bfloat16_speedup(torch.get_num_threads()) > 1.5)


def training_precision(device: torch.device, requested: str) -> str:
    """Return the precision of training, "bf16" or "fp32": "fp32" on a CPU slower in bfloat16."""
    return "bf16" if requested == "bf16" and bfloat16_is_faster(device) else "fp32"


def has_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 instructions; otherwise it is emulated, several times slower."""
    return bool(cpu_features() & {"avx512_bf16", "amx_bf16"})


@cache
@torch.inference_mode()
def _bfloat16_speedup(threads: int) -> float:
    """Measure how many times as fast this CPU convolves in bfloat16 as in float32 with so many threads.

    Takes about 0.1 s: the best of some interleaved runs of each.
    """
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    x, weight = (
        torch.zeros(shape).to(memory_format=torch.channels_last)
        for shape in ((1, 128, 48, 48), (128, 128, 3, 3))
    )
    runs = {dtype: partial(F.conv2d, x.to(dtype), weight.to(dtype), padding=1) for dtype in seconds}
    for _ in range(6):
        for dtype, run in runs.items():
            start = perf_counter()
            run()
            seconds[dtype] = min(seconds[dtype], perf_counter() - start)
    return seconds[torch.float32] / seconds[torch.bfloat16]
